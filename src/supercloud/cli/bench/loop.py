"""`supercloud bench loop`: from a detector's process to a reaction that is acknowledged, and what gets lost.

Everything is real but the instances: processes of their own, TLS with certificates on both ends, SQLite
that waits for the disk, nftables in a network namespace of the bench's own. `nft monitor`, which knows
nothing of the loop, counts what was done to the kernel.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from supercloud.cli.output import Bar
from supercloud.model.errors import Failed, Unavailable

P50_AIM_MS, P99_AIM_MS, RATE_AIM = 2.0, 5.0, 4000.0
#: The aim beside a measure of the same run: so many times a durable commit and a round trip over mutual TLS.
LIMIT_TIMES = 3
_LONGEST_S = 900


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopResult:
    """Milliseconds from the detector's send to its hearing that the kernel was changed. `limit_ms`: three
    times a commit and a round trip, of this run. `verified_p50_ms`: from the decision to the proof that the
    effect is there. `lost`, `duplicate_effects`: over a run in which each process was killed with SIGKILL,
    `kills` times in all.
    """

    reactions: int
    p50_ms: float
    p99_ms: float
    limit_ms: float
    commit_ms: float
    round_trip_ms: float
    verified_p50_ms: float
    findings: int
    findings_per_s: float
    kills: int
    acknowledged: int
    lost: int
    effects: int
    duplicate_effects: int

    def public(self) -> dict[str, Any]:
        return {
            name: round(value, 3) if isinstance(value, float) else value
            for name, value in asdict(self).items()
        }


def measure(bar: Bar, *, reactions: int = 500, findings: int = 20_000, kills: int = 10) -> LoopResult:
    """
    Raises:
        Unavailable: no network namespace can be had; Failed: anything else that is in the way.
    """
    bar("the loop, in a namespace of its own", None)
    own = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--net"]
    with tempfile.TemporaryDirectory(prefix="supercloud-bench-") as scratch:
        wanted = {"reactions": reactions, "findings": findings, "kills": kills}
        module = "supercloud.cli.bench.loop_inside"
        argv = [*own, sys.executable, "-m", module, scratch, json.dumps(wanted)]
        try:
            ended = subprocess.run(argv, capture_output=True, text=True, timeout=_LONGEST_S, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Failed(f"the bench did not end: {error}") from error
        if ended.returncode:
            said = ended.stderr.strip().splitlines()[-1:] or ["it said nothing"]
            kind = Unavailable if "unshare" in said[0] else Failed
            raise kind(f"the bench ended: {said[0][:300]}", hint="it needs unshare(1), ip(8) and nft(8)")
        result = Path(scratch) / "result.json"
        return LoopResult(**json.loads(result.read_text()))
