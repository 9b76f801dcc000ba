"""`supercloud bench microhypervisor`: what it costs to have it below, beside nothing and beside Debian's KVM.

Instructions are counted one by one, by a plugin in QEMU (microhypervisor/bench/meter.c), between marks that
the workloads execute. The same machine twice gives the same counts, whatever else the host is doing; seconds
do not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from supercloud.cli.bench.microhypervisor_sides import Side, parts, run
from supercloud.cli.bench.statistics import interval, median
from supercloud.cli.output import Bar
from supercloud.model.errors import Failed

#: At most so many instructions for each without L0, for L1's and L2's processor and memory.
RATIO_AIM = 1.02
EXITS_AIM = 3.0
_END = 0x80
_FIELDS = 6


class Workload(StrEnum):
    """In the order of their numbers in microhypervisor/bench/marks.h, from 1."""

    L1_CPU = "l1_cpu"
    L1_MEMORY = "l1_memory"
    L2_BOOT = "l2_boot"
    L2_CPU = "l2_cpu"
    L2_MEMORY = "l2_memory"
    L2_DISK = "l2_disk"
    L2_NETWORK = "l2_network"


#: Of which L0 may cost two hundredths.
TIGHT = (Workload.L1_CPU, Workload.L1_MEMORY, Workload.L2_CPU, Workload.L2_MEMORY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Of workloads: instructions of all layers, those of the micro-hypervisor among them, and how often the
    outermost hypervisor and the one inside it (0: there is none) entered a guest: as often one came back."""

    instructions: int
    own: int
    entries: int
    inner_entries: int
    seconds: float

    def __add__(self, other: Cost) -> Cost:
        return Cost(**{name: getattr(self, name) + getattr(other, name) for name in self.__slots__})


Costs = Mapping[Workload, Sequence[Cost]]


def read(text: str) -> dict[Workload, list[Cost]]:
    """What the meter wrote: at each mark its number, and all counts since the machine's start.

    Raises:
        Failed: a workload has no end, or it is no such text.
    """
    found: dict[Workload, list[Cost]] = {one: [] for one in Workload}
    began: dict[int, list[int]] = {}
    for line in text.splitlines():
        values = [int(word) for word in line.split() if word.isdecimal()]
        if len(values) != _FIELDS or not 1 <= values[0] & ~_END <= len(Workload):
            raise Failed("the meter wrote something else than counts")
        number, counts = values[0] & ~_END, values[1:]
        if not values[0] & _END:
            began[number] = counts
            continue
        if number not in began:
            raise Failed("a workload of the bench ended before it began")
        *differ, nanoseconds = (now - then for now, then in zip(counts, began.pop(number), strict=True))
        instructions, own, entries, inner = differ
        found[list(Workload)[number - 1]].append(
            Cost(
                instructions=instructions,
                own=own,
                entries=entries,
                inner_entries=inner,
                seconds=nanoseconds / 1e9,
            )
        )
    missing = [str(workload) for workload, costs in found.items() if not costs]
    if missing or began:
        raise Failed(f"workloads of the bench have no end: {', '.join(missing) or 'the last one'}")
    return found


def total(costs: Sequence[Cost]) -> Cost:
    """Of all times that a workload ran."""
    return sum(costs[1:], start=costs[0])


def _beside(costs: Costs, bare: Costs) -> dict[str, Any]:
    """A machine with an L0 beside the one without: ratios of instructions, exits, and ratios of seconds."""
    found: dict[str, Any] = {
        f"{one}_ratio": round(total(costs[one]).instructions / total(bare[one]).instructions, 4)
        for one in Workload
    }
    nested = total([total(costs[one]) for one in Workload if one.startswith("l2")])
    added = sum(total(costs[one]).instructions - total(bare[one]).instructions for one in Workload)
    exits = sum(total(costs[one]).entries for one in Workload)
    found["exits_per_l2_exit"] = round(nested.entries / nested.inner_entries, 3)
    found["instructions_per_exit"] = round(added / exits)
    found["wall_clock"] = {str(one): _seconds(costs[one], bare[one]) for one in Workload}
    return found


def _seconds(costs: Sequence[Cost], bare: Sequence[Cost]) -> dict[str, float]:
    ratios = [with_l0.seconds / without.seconds for with_l0, without in zip(costs, bare, strict=True)]
    low, high = interval(ratios)
    return {"ratio": round(median(ratios), 3), "low": round(low, 3), "high": round(high, 3)}


def _counts(costs: Costs) -> dict[str, dict[str, int]]:
    found = {}
    for workload in Workload:
        of = total(costs[workload])
        found[str(workload)] = {
            "instructions": of.instructions,
            "exits": of.entries,
            "inner_exits": of.inner_entries,
            "own_instructions": of.own,
        }
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class MicrohypervisorResult:
    """`three_level`: of KVM as L0; None: not measured. `counts`: by machine and workload, of all `times`."""

    times: int
    microhypervisor: dict[str, Any]
    three_level: dict[str, Any] | None
    counts: dict[str, dict[str, dict[str, int]]]

    def public(self) -> dict[str, Any]:
        """With the micro-hypervisor's figures at the top."""
        return {
            **self.microhypervisor,
            "three_level": self.three_level,
            "times": self.times,
            "counts": self.counts,
        }


def result(found: Mapping[Side, Costs], times: int) -> MicrohypervisorResult:
    """
    Args:
        found: `bare` and `microhypervisor`; `kvm` if it was measured.
    """
    bare, ours, kvm = found[Side.BARE], found[Side.MICROHYPERVISOR], found.get(Side.KVM)
    beside = _beside(ours, bare)
    all_own, all_exits = (
        sum(getattr(total(ours[one]), name) for one in Workload) for name in ("own", "entries")
    )
    beside["own_instructions_per_exit"] = round(all_own / all_exits)
    return MicrohypervisorResult(
        times=times,
        microhypervisor=beside,
        three_level=None if kvm is None else _beside(kvm, bare),
        counts={str(side): _counts(costs) for side, costs in found.items()},
    )


def measure(bar: Bar, *, times: int = 5, quick: bool = False) -> MicrohypervisorResult:
    """
    Args:
        times: how often each workload runs; L2 boots once.
        quick: each once, and without the machine of three levels.

    Raises:
        NotFound: this is no checkout with the micro-hypervisor's sources.
        Failed: something could not be built, or a machine did not get to its end.
    """
    sides = [Side.BARE, Side.MICROHYPERVISOR] if quick else list(Side)
    times = 1 if quick else times
    bar("kernels, and what they run", None)
    with parts(times, with_kvm=Side.KVM in sides) as made:
        found = {}
        for done, side in enumerate(sides):
            bar(f"L1 and L2 over {side}", done / len(sides))
            found[side] = read(run(side, made))
    return result(found, times)
