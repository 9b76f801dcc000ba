"""What this machine has left: memory and disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import psutil

from supercloud.model.errors import Exhausted
from supercloud.model.names import MIB

#: A data disk is sparse; below this much free space a new blanket would soon stop for lack of it.
DISK_FLOOR_BYTES = 1 << 30
_CGROUP = Path("/sys/fs/cgroup")


class Host(Protocol):
    """The part of a machine's state that decides whether another blanket fits."""

    def free_memory_bytes(self) -> int: ...

    def free_disk_bytes(self, path: Path) -> int: ...


@dataclass(frozen=True, slots=True)
class ThisHost:
    """Host over this machine and the control group we are in."""

    def free_memory_bytes(self) -> int:
        """What can be had without swapping, within our control group's limit."""
        free = int(psutil.virtual_memory().available)
        limit = cgroup_memory_left()
        return free if limit is None else min(free, limit)

    def free_disk_bytes(self, path: Path) -> int:
        """Free for this user on the file system of `path`."""
        return int(psutil.disk_usage(str(path)).free)


def cgroup_memory_left() -> int | None:
    """Bytes below the limit of our control group (version 2); None if it has no limit."""
    try:
        own = Path("/proc/self/cgroup").read_text().splitlines()[-1].rpartition(":")[2].lstrip("/")
        limit = (_CGROUP / own / "memory.max").read_text().strip()
        used = int((_CGROUP / own / "memory.current").read_text())
        return None if limit == "max" else max(0, int(limit) - used)
    except (OSError, ValueError, IndexError):
        return None


def require_room(host: Host, *, memory_mib: int, disk_bytes: int, path: Path) -> None:
    """Refuse what clearly does not fit.

    Raises:
        Exhausted: with what is wanted and what is there.
    """
    memory = host.free_memory_bytes()
    if memory < memory_mib * MIB:
        raise Exhausted(
            f"not enough memory: {memory_mib} MiB wanted, {memory // MIB} MiB available",
            hint="stop a blanket, or ask for a smaller one",
        )
    wanted = min(disk_bytes, DISK_FLOOR_BYTES)
    disk = host.free_disk_bytes(path)
    if disk < wanted:
        raise Exhausted(f"not enough disk: {wanted // MIB} MiB wanted in {path}, {disk // MIB} MiB free")
