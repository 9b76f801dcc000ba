"""What this blanket has and how much of it is free."""

from __future__ import annotations

import os
from pathlib import Path

from supercloud.model.errors import Failed
from supercloud.model.names import MIB

_MEMINFO = Path("/proc/meminfo")


def memory_mib(meminfo: Path = _MEMINFO) -> tuple[int, int]:
    """Total and available memory. Raises: Failed."""
    try:
        fields = dict(line.split(":", 1) for line in meminfo.read_text(encoding="ascii").splitlines())
        total_kib, free_kib = (int(fields[name].split()[0]) for name in ("MemTotal", "MemAvailable"))
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise Failed(f"cannot read {meminfo}: {error}") from error
    return total_kib * 1024 // MIB, free_kib * 1024 // MIB


def disk_free_bytes(folder: Path) -> int:
    """Raises: Failed."""
    try:
        have = os.statvfs(folder)
    except OSError as error:
        raise Failed(f"cannot look at {folder}: {error}") from error
    return have.f_bavail * have.f_frsize
