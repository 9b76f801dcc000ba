"""`supercloud bench api`: the API under a thousand running instances, beside a listener that does nothing."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from supercloud.cli.bench.children import child, free_port
from supercloud.cli.bench.estate import CLOUD, Estate
from supercloud.cli.bench.load import Target, latencies_ms, requests_per_s, told_ms
from supercloud.cli.bench.statistics import median, percentile
from supercloud.cli.output import Bar
from supercloud.client import Access
from supercloud.model.errors import Failed

_CONNECTIONS = 4
_SECONDS = 10.0
_LISTS = 100
_SHOWS = 1000
_STARTS = 10
_CLI = [sys.executable, "-m", "supercloud.cli"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiResult:
    """The `limit_` values are the same requests, answered with as many fixed bytes and no work at all;
    for the CLI, an interpreter that does nothing."""

    instances: int
    blankets: int
    requests_per_s: float
    limit_requests_per_s: float
    list_p50_ms: float
    list_p99_ms: float
    limit_list_p99_ms: float
    show_p50_ms: float
    show_p99_ms: float
    limit_show_p99_ms: float
    cli_start_s: float
    cli_show_s: float
    limit_cli_start_s: float
    event_p50_ms: float  # from a change's commit until a client that watches has it
    event_p99_ms: float
    agent_kb: float  # resident in the control plane, for each connected agent

    def public(self) -> dict[str, Any]:
        """With the ratios to the limits."""
        return {
            **{key: _rounded(value) for key, value in asdict(self).items()},
            "requests_ratio": _rounded(self.requests_per_s / self.limit_requests_per_s),
            "list_p99_ratio": _rounded(self.list_p99_ms / self.limit_list_p99_ms),
            "show_p99_ratio": _rounded(self.show_p99_ms / self.limit_show_p99_ms),
            "cli_start_ratio": _rounded(self.cli_start_s / self.limit_cli_start_s),
        }


@dataclass(frozen=True, slots=True)
class _Measured:
    per_s: float
    lists_ms: list[float]
    shows_ms: list[float]


def measure(estate: Estate, bar: Bar) -> ApiResult:
    """
    Raises:
        SupercloudError: something did not answer.
    """
    client = estate.client()
    names = [one["name"] for one in client.all("/instances")]
    blankets = len(client.all("/blankets"))
    instances = client.get("/instances")  # a page, which is what a list's latency is of
    ours = Target(estate.place.access(), "/instances", lambda name: f"/instances/{name}")
    bar("measuring the API", None)
    api = _measure(ours, names)
    bar("measuring events", None)
    events = told_ms(estate.client(), estate.client(), CLOUD)
    bar("measuring the limit", None)
    with _limit(_compact(instances), _compact(instances[0])) as target:
        limit = _measure(target, names)
    bar("measuring the command line", None)
    show = [*_CLI, "vm", "show", names[0], "-o", "json"]
    return ApiResult(
        instances=len(names),
        blankets=blankets,
        requests_per_s=api.per_s,
        limit_requests_per_s=limit.per_s,
        list_p50_ms=median(api.lists_ms),
        list_p99_ms=percentile(api.lists_ms, 99),
        limit_list_p99_ms=percentile(limit.lists_ms, 99),
        show_p50_ms=median(api.shows_ms),
        show_p99_ms=percentile(api.shows_ms, 99),
        limit_show_p99_ms=percentile(limit.shows_ms, 99),
        cli_start_s=_start_s([*_CLI, "vm", "--help"]),
        cli_show_s=_start_s(show, home=estate.place.home),
        limit_cli_start_s=_start_s([sys.executable, "-c", "pass"]),
        event_p50_ms=median(events),
        event_p99_ms=percentile(events, 99),
        agent_kb=estate.agent_bytes / 1024,
    )


def _measure(target: Target, names: list[str]) -> _Measured:
    choose = random.Random(0)  # noqa: S311 - the same choice each run
    shows = [target.show_path(choose.choice(names)) for _ in range(_SHOWS)]
    return _Measured(
        per_s=requests_per_s(target, names, connections=_CONNECTIONS, seconds=_SECONDS),
        lists_ms=latencies_ms(target, [target.list_path] * _LISTS),
        shows_ms=latencies_ms(target, shows),
    )


@contextmanager
def _limit(list_bytes: int, show_bytes: int) -> Iterator[Target]:
    with (
        tempfile.TemporaryDirectory(prefix="sc-bench-") as folder,
        child("supercloud.cli.bench.limit", folder, str(free_port())) as process,
    ):
        said = process.stdout.readline() if process.stdout else ""
        if not said:
            raise Failed("the listener to compare with did not come up")
        access = Access(**json.loads(said))
        yield Target(access, f"/{list_bytes}", lambda _: f"/{show_bytes}")


def _start_s(argv: list[str], home: Path | None = None) -> float:
    """From starting a command to its end: the median of ten, of programs that are compiled as installed ones
    are, wherever they are run from here."""
    taken = []
    with tempfile.TemporaryDirectory(prefix="sc-bench-") as compiled:
        env = {**os.environ, "PYTHONPYCACHEPREFIX": compiled}
        env.pop("PYTHONDONTWRITEBYTECODE", None)
        if home is not None:
            env["SUPERCLOUD_HOME"] = str(home)
        for _ in range(1 + _STARTS):
            began = time.perf_counter()
            subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, env=env)
            taken.append(time.perf_counter() - began)
    return median(taken[1:])


def _compact(value: object) -> int:
    """Bytes of the API's JSON."""
    return len(json.dumps(value, separators=(",", ":")).encode())


def _rounded(value: float) -> float:
    return value if isinstance(value, int) else round(value, 3)
