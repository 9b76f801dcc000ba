"""Asking an HTTP API over and over, and the times that its answers took."""

from __future__ import annotations

import itertools
import queue
import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from supercloud.client import Access, Client
from supercloud.model.errors import Failed

_CONNECT_S = 30.0
_CHANGES = 50
_TOLD_S = 30.0


@dataclass(frozen=True, slots=True)
class Target:
    """Somewhere to ask, and what: `path(chosen)` is the path for one of the instances."""

    access: Access
    list_path: str
    show_path: Callable[[str], str]


def latencies_ms(target: Target, paths: Sequence[str]) -> list[float]:
    """One request after another over one connection."""
    client = Client(target.access)
    client.get(paths[0])  # connects
    return [_timed_ms(client, path) for path in paths]


def requests_per_s(target: Target, names: Sequence[str], *, connections: int, seconds: float) -> float:
    """How many shows of random instances are answered over several connections, each always busy."""
    ready = threading.Barrier(connections, timeout=_CONNECT_S)

    def ask(seed: int) -> int:
        client, choose = Client(target.access), random.Random(seed)  # noqa: S311 - the same choice each run
        client.get(target.show_path(names[0]))  # connects
        ready.wait()
        end, count = time.perf_counter() + seconds, 0
        while time.perf_counter() < end:
            client.get(target.show_path(choose.choice(names)))
            count += 1
        return count

    with ThreadPoolExecutor(connections) as pool:
        return sum(pool.map(ask, range(connections))) / seconds


def told_ms(watching: Client, changing: Client, cloud: str) -> list[float]:
    """Between each of some changes and its being told to a client that watches, on this machine's clock.

    It is taken as it arrives, by a thread that does nothing else: who changes waits for more than the commit.

    Raises:
        Failed: a change was not told.
    """
    watched = watching.events(kind=["network"])
    next(watched)  # ready
    arrived: queue.SimpleQueue[float] = queue.SimpleQueue()

    def listen() -> None:
        for said in itertools.islice(watched, 2 * _CHANGES):
            arrived.put((time.time() - said.data["at"]) * 1000)

    threading.Thread(target=listen, daemon=True).start()
    found: list[float] = []
    for number in range(_CHANGES):
        request = {"name": f"told{number}", "cloud": cloud, "cidr": f"10.{128 + number}.0.0/24"}
        changing.post("/networks", request)
        found.append(_next(arrived))
        changing.delete(f"/networks/told{number}", cloud=cloud)
        _next(arrived)
    return found


def _next(arrived: queue.SimpleQueue[float]) -> float:
    try:
        return arrived.get(timeout=_TOLD_S)
    except queue.Empty:
        raise Failed(f"a change was not told within {_TOLD_S:.0f} s") from None


def _timed_ms(client: Client, path: str) -> float:
    began = time.perf_counter()
    client.get(path)
    return (time.perf_counter() - began) * 1000
