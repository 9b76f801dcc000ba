"""`supercloud bench introspect`: how long a look into a live guest takes, and what it costs the guest.

A guest of the blankets' own kernel in a plain QEMU works at checksums and says after each round that it is
done; processes begin and end in it meanwhile. Turn by turn it is looked at, by the process that does it in a
blanket, and left alone. Both share this machine's processors, as in a blanket.
"""

from __future__ import annotations

import asyncio
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from supercloud.agent.guests import EVERY_S, Eyes
from supercloud.blanket.guest_memory import GuestMemory, open_memory
from supercloud.cli.bench.plain_guest import PlainGuest, plain_guest
from supercloud.cli.bench.statistics import interval, median, percentile
from supercloud.cli.output import Bar
from supercloud.model.errors import Failed
from supercloud.security.introspection.look import Seen

RATIO_AIM: Final = 1.02
_WORK: Final = (
    "(while :; do $b ls /proc >/dev/null; $b sleep 1; done) & echo ready;"
    " while :; do $b sha256sum /bin/busybox >/dev/null; echo round; done"
)
#: What it says at the end of each.
_ROUND: Final = "round"
_ROUND_S: Final = 300.0
#: From one look's beginning to the next one's, while the guest is looked at.
_PACE_S: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class IntrospectResult:
    """Of looks at processes, sockets, modules, system calls and the whole of the kernel's code. `first_ms`:
    of the first, which finds the kernel, once for each boot. `guest_ratio`: what a round of work takes the
    guest while it is looked at `looks_per_s` times a second, to what it takes when left alone: the median of
    pairs, and the interval that the median is in with 95 %. A blanket looks every `every_s` seconds.
    """

    passes: int
    pass_ms: float
    pass_p99_ms: float
    first_ms: float
    processes: int
    code_kib: int
    looks_per_s: float
    every_s: float
    pairs: int
    guest_ratio: float
    guest_ratio_low: float
    guest_ratio_high: float

    def public(self) -> dict[str, Any]:
        return {
            name: round(value, 4) if isinstance(value, float) else value
            for name, value in asdict(self).items()
        }


class _Rounds:
    """Counts what the guest says it has done."""

    def __init__(self, guest: PlainGuest) -> None:
        self.done = 0
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._count, args=(guest,), daemon=True)
        self._thread.start()

    def _count(self, guest: PlainGuest) -> None:
        for line in guest.lines():
            if line == _ROUND:
                with self._changed:
                    self.done += 1
                    self._changed.notify_all()
        with self._changed:
            self.done = -1
            self._changed.notify_all()

    def seconds_each(self, many: int) -> float:
        """Of a round, over `many` whole ones, from the end of the one that is under way.

        Raises:
            Failed: the guest ended.
        """
        self._next()
        began = time.monotonic()
        for _ in range(many):
            self._next()
        return (time.monotonic() - began) / many

    def _next(self) -> None:
        with self._changed:
            before = self.done
            if not self._changed.wait_for(lambda: self.done != before, _ROUND_S) or self.done < 0:
                raise Failed("the guest does not work any more")


def measure(bar: Bar, *, passes: int = 50, pairs: int = 40, rounds: int = 8) -> IntrospectResult:
    """
    Raises:
        Failed: the guest does not boot, or cannot be looked at.
    """
    bar("a guest of the blankets' kernel", None)
    with tempfile.TemporaryDirectory(prefix="supercloud-bench-") as scratch:
        folder = Path(scratch)
        with plain_guest(folder, _WORK) as guest:
            guest.wait_for("ready")
            memory = open_memory(guest.instance, folder)
            try:
                return asyncio.run(_measured(bar, _Rounds(guest), memory, passes, pairs, rounds))
            finally:
                memory.close()


async def _measured(  # noqa: PLR0917 - inside this module, from one place
    bar: Bar, working: _Rounds, memory: GuestMemory, passes: int, pairs: int, rounds: int
) -> IntrospectResult:
    eyes = Eyes()
    try:
        began = time.perf_counter()
        seen = await eyes.look(memory, ())
        first_ms = (time.perf_counter() - began) * 1000
        bar("passes", None)
        took = [(await eyes.look(memory, ())).ms for _ in range(passes)]
        ratios = []
        for pair in range(pairs):
            bar("what they cost the guest", pair / pairs)
            took_s = {}
            for looked in (False, True) if pair % 2 else (True, False):  # so that what drifts cancels out
                took_s[looked] = await (
                    _while_looking(eyes, memory, working, rounds)
                    if looked
                    else asyncio.to_thread(working.seconds_each, rounds)
                )
            ratios.append(took_s[True] / took_s[False])
    finally:
        await eyes.close()
    return _result(seen, took, first_ms, ratios)


async def _while_looking(eyes: Eyes, memory: GuestMemory, working: _Rounds, rounds: int) -> float:
    """A round's seconds, with a look at the beginning of each second."""
    over = asyncio.Event()

    async def look_on() -> None:
        while not over.is_set():
            began = time.monotonic()
            await eyes.look(memory, ())
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, _PACE_S - (time.monotonic() - began))):
                    await over.wait()

    async with asyncio.TaskGroup() as group:
        group.create_task(look_on())
        took = await asyncio.to_thread(working.seconds_each, rounds)
        over.set()
    return took


def _result(seen: Seen, took: list[float], first_ms: float, ratios: list[float]) -> IntrospectResult:
    low, high = interval(ratios)
    return IntrospectResult(
        passes=len(took),
        pass_ms=median(took),
        pass_p99_ms=percentile(took, 99),
        first_ms=first_ms,
        processes=len(seen.processes),
        code_kib=seen.pages * 4,
        looks_per_s=1 / _PACE_S,
        every_s=EVERY_S,
        pairs=len(ratios),
        guest_ratio=median(ratios),
        guest_ratio_low=low,
        guest_ratio_high=high,
    )
