"""Blankets inside blankets: how deep it goes, and what of its parent a nested one takes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from supercloud.model.errors import Exhausted, Refused
from supercloud.model.names import MIB, Name
from supercloud.model.units import format_size

#: What a parent needs for itself: its own programs, and a QEMU's for each machine.
SPARE_MEMORY_MIB = 384
SPARE_DISK_BYTES = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Of a blanket's machine, or (no disk, no processor of its own) of an instance beside it."""

    vcpus: int = 0
    memory_mib: int = 0
    disk_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """How deep a platform lets it go: so many blankets inside one of its own."""

    platform: Name
    levels: int
    reason: str

    def left(self, depth: int) -> int:
        """How many levels there are below a blanket that is `depth` blankets deep itself."""
        return max(0, self.levels - depth)


def check_depth(parent: Name, depth: int, limit: Limit) -> None:
    """Whether another one may be in `parent`, which is itself `depth` blankets deep (0: in none).

    Raises:
        Refused: with the limit.
    """
    if limit.left(depth):
        return
    where = "is in no other blanket" if depth == 0 else f"is {depth} deep itself"
    most = "no blanket inside another" if not limit.levels else f"blankets {limit.levels} deep at most"
    raise Refused(
        f"no blanket can be in {parent}, which {where}: platform {limit.platform} has {most}: {limit.reason}",
        hint="supercloud provider show says how deep each goes",
    )


def check_room(parent: Name, has: Size, taken: Iterable[Size], asked: Size) -> None:
    """Whether a parent that `has` so much can give `asked` besides what is `taken`. Processors are shared in
    time, so that each machine may have as many as there are; memory and disk are given once.

    Raises:
        Exhausted: with what is left.
    """
    if asked.vcpus > has.vcpus:
        raise Exhausted(
            f"blanket {parent} has {has.vcpus} vCPUs, so that one in it cannot have {asked.vcpus}",
            hint=f"--vcpus {has.vcpus}",
        )
    others = list(taken)
    memory = has.memory_mib - SPARE_MEMORY_MIB - sum(one.memory_mib for one in others)
    if asked.memory_mib > memory:
        raise Exhausted(
            f"blanket {parent} has {format_size(max(0, memory) * MIB)} of memory left for one in it, "
            f"{format_size(asked.memory_mib * MIB)} are asked for",
            hint="--memory takes less; what is in it, and what it needs for itself, has the rest",
        )
    disk = has.disk_bytes - SPARE_DISK_BYTES - sum(one.disk_bytes for one in others)
    if asked.disk_bytes > disk:
        raise Exhausted(
            f"blanket {parent} has {format_size(max(0, disk))} of disk left for one in it, "
            f"{format_size(asked.disk_bytes)} are asked for",
            hint="--disk takes less",
        )
