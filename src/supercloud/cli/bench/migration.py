"""`supercloud bench migration`: the same guest between the same blankets, by plain virsh and by us in turn.

Both are timed by this machine's clock, and both downtimes are taken from what the QEMUs themselves say, as
the observer hears it: from the source's last STOP to the target's first RESUME.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from supercloud.cli.bench.pair import Pair
from supercloud.cli.bench.plain import Plain, Side
from supercloud.cli.bench.statistics import median, ratio
from supercloud.cli.output import Bar
from supercloud.model.errors import Failed
from supercloud.model.names import Id
from supercloud.observer.timeline import Fact, runs

TOTAL_RATIO_AIM = 1.25
ADDED_DOWNTIME_AIM = 3.0  # times (round trip + commit)
_HEARD_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """One migration. `prepare_s` is what had to be made at the target beforehand; ours has it in `total_s`.

    `hypervisor_downtime_ms`: libvirt's own figure, if it gives one. `switch_ms`: from when the control plane
    had seen both sides ready until the target acknowledged that the guest runs.
    """

    by: str  # "virsh" or "supercloud"
    source: str
    target: str
    total_s: float
    downtime_ms: float
    clocks_uncertain_ms: float
    prepare_s: float | None = None
    hypervisor_downtime_ms: float | None = None
    switch_ms: float | None = None
    commit_ms: float | None = None
    round_trip_ms: float | None = None

    def public(self) -> dict[str, Any]:
        said = {"by": self.by, "from": self.source, "to": self.target}
        said |= {
            name: value for name, value in asdict(self).items() if name not in ("by", "source", "target")
        }
        return {
            name: round(value, 3) if isinstance(value, float) else value
            for name, value in said.items()
            if value is not None
        }


@dataclass(frozen=True, slots=True)
class MigrationResult:
    """All ratios are of medians, ours over virsh's."""

    moves: tuple[Move, ...]
    agent_rss_mb: dict[str, float] = field(default_factory=dict)  # by blanket, after all of it

    def _of(self, by: str) -> list[Move]:
        return [move for move in self.moves if move.by == by]

    @property
    def total_ratio(self) -> float:
        """Our whole operation over `virsh migrate` alone, whose target somebody had prepared before."""
        return ratio(_totals(self._of("supercloud")), _totals(self._of("virsh")))

    @property
    def total_ratio_prepared(self) -> float:
        """The same, with the preparation of virsh's target counted, as ours counts it."""
        plain = [move.total_s + (move.prepare_s or 0.0) for move in self._of("virsh")]
        return ratio(_totals(self._of("supercloud")), plain)

    @property
    def downtime_ratio(self) -> float:
        return ratio(_downtimes(self._of("supercloud")), _downtimes(self._of("virsh")))

    @property
    def added_downtime_ms(self) -> float:
        return median(_downtimes(self._of("supercloud"))) - median(_downtimes(self._of("virsh")))

    @property
    def round_trip_plus_commit_ms(self) -> float:
        return median(
            [
                move.round_trip_ms + move.commit_ms
                for move in self._of("supercloud")
                if move.round_trip_ms is not None and move.commit_ms is not None
            ]
        )

    def public(self) -> dict[str, Any]:
        return {
            "total_ratio": round(self.total_ratio, 3),
            "total_ratio_prepared": round(self.total_ratio_prepared, 3),
            "downtime_ratio": round(self.downtime_ratio, 3),
            "added_downtime_ms": round(self.added_downtime_ms, 1),
            "round_trip_plus_commit_ms": round(self.round_trip_plus_commit_ms, 1),
            "agent_rss_mb": self.agent_rss_mb,
            "runs": [move.public() for move in self.moves],
        }


def measure(pair: Pair, *, times: int, bar: Bar) -> MigrationResult:
    """Each way moves its own guest from one blanket to the other and back, `times` times, in turn.

    Raises:
        SupercloudError: a move failed, or could not be observed.
    """
    with pair.shells() as shells:
        addresses = pair.addresses()
        plain = Plain({name: Side(shell, addresses[name]) for name, shell in shells.items()})
        bar("booting the guest for plain virsh", None)
        plain.make(pair.instance, at=pair.where(), size_bytes=pair.disk_bytes())
        moves: list[Move] = []
        try:
            for number in range(times):
                for move in (_plainly, _ours):
                    bar(f"migration {len(moves) + 1} of {2 * times}", number / times)
                    moves.append(move(pair, plain))
        finally:
            plain.end()
        return MigrationResult(tuple(moves), pair.agents_mb(shells))


def _plainly(pair: Pair, plain: Plain) -> Move:
    source = plain.where
    target = pair.other(source)
    prepare_s = plain.prepare(target)
    began = time.monotonic()
    total_s = plain.move(target)
    downtime_ms, uncertain_ms = _observed(pair, plain.id, source, target, began)
    return Move(
        by="virsh",
        source=source,
        target=target,
        total_s=total_s,
        downtime_ms=downtime_ms,
        clocks_uncertain_ms=uncertain_ms,
        prepare_s=prepare_s,
    )


def _ours(pair: Pair, _plain: Plain) -> Move:
    source = pair.where()
    target = pair.other(source)
    began = time.monotonic()
    result = pair.migrate(target)
    total_s = time.monotonic() - began
    downtime_ms, uncertain_ms = _observed(pair, pair.instance, source, target, began)
    return Move(
        by="supercloud",
        source=source,
        target=target,
        total_s=total_s,
        downtime_ms=downtime_ms,
        clocks_uncertain_ms=uncertain_ms,
        hypervisor_downtime_ms=result["downtime_ms"],
        switch_ms=result["switch_ms"],
        commit_ms=result["commit_ms"],
        round_trip_ms=result["round_trip_ms"],
    )


def _observed(pair: Pair, guest: Id, source: str, target: str, since_s: float) -> tuple[float, float]:
    """Downtime and the clocks' uncertainty, once the target's RESUME was heard."""
    ids = pair.ids()
    deadline = time.monotonic() + _HEARD_S
    while True:
        facts = pair.facts()
        found = downtime_ms(facts, guest, source=ids[source], target=ids[target], since_s=since_s)
        if found is not None:
            return found, 1000 * uncertain_s(facts, guest)
        if time.monotonic() > deadline:
            raise Failed(f"nobody saw {target}'s QEMU go on with the guest")
        time.sleep(0.05)  # the witness has its own thread and no event for us


def downtime_ms(facts: Sequence[Fact], guest: Id, *, source: Id, target: Id, since_s: float) -> float | None:
    """From the end of the guest's last stretch at `source` to the start of its first one at `target`.

    None while that is not to be seen. Below zero, if ever, means that two copies ran.
    """
    stretches = runs(facts).get(guest, [])
    ends = [run.end_s for run in stretches if run.blanket == source and run.end_s and run.end_s > since_s]
    starts = [run.start_s for run in stretches if run.blanket == target and run.start_s > since_s]
    if not ends or not starts:
        return None
    return (min(starts) - max(ends)) * 1000


def uncertain_s(facts: Iterable[Fact], guest: Id) -> float:
    """How far two blankets' clocks may be from each other, at worst."""
    return 2 * max((fact.uncertain_s for fact in facts if fact.instance == guest), default=0.0)


def _totals(moves: Sequence[Move]) -> list[float]:
    return [move.total_s for move in moves]


def _downtimes(moves: Sequence[Move]) -> list[float]:
    return [move.downtime_ms for move in moves]
