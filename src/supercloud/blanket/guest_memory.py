"""The memory of a running instance, to be looked at from its blanket and never written.

libvirt has QEMU keep it in a memfd (domain_xml): a file without a name, which ends with its process. Nobody
reaches it but who may look into that process, here root. Who opens it here gets a descriptor that reads; and
the file itself is closed to everybody but QEMU's own user, so that a process which the descriptor is handed
to cannot open it anew for more.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from supercloud.blanket.domain_xml import domain_name, instance_of
from supercloud.model.errors import Unavailable
from supercloud.model.memory import Span
from supercloud.model.names import GIB, Id

PID_FILES: Final = Path("/run/libvirt/qemu")
#: What QEMU calls its memfd: the type of the object that has it made.
_LINK: Final = "/memfd:memory-backend-memfd (deleted)"
#: q35 (QEMU's pc_q35_init): a guest that would reach into the addresses of PCI has what is above 2 GiB moved
#: to 4 GiB.
_REACHES_PCI: Final = 0xB000_0000
_LOW: Final = 2 * GIB
_HIGH_AT: Final = 4 * GIB
#: Descriptors of one QEMU that are looked at: more than `max_files` lets it have (recipe/blanket/customize).
_DESCRIPTORS: Final = 5000


@dataclass(slots=True, kw_only=True)
class GuestMemory:
    """`key`: of this QEMU's memory and no other's. Close it."""

    descriptor: int
    size: int
    key: str
    pid: int

    @property
    def parts(self) -> tuple[Span, ...]:
        return parts_of(self.size)

    def executed_ns(self) -> int:
        """For how long its processors have run so far. Of one that is being received, or is paused, it
        stands."""
        total = 0
        with contextlib.suppress(OSError, ValueError, IndexError):  # it is ending
            for thread in Path(f"/proc/{self.pid}/task").iterdir():
                if (thread / "comm").read_text().startswith("CPU "):
                    total += int((thread / "schedstat").read_text().split()[0])
        return total

    def close(self) -> None:
        os.close(self.descriptor)


def parts_of(size: int) -> tuple[Span, ...]:
    """Where a q35 of so much memory has it."""
    if size < _REACHES_PCI:
        return (Span(address=0, offset=0, length=size),)
    return (
        Span(address=0, offset=0, length=_LOW),
        Span(address=_HIGH_AT, offset=_LOW, length=size - _LOW),
    )


def running(pid_files: Path = PID_FILES) -> tuple[Id, ...]:
    """Instances that have a QEMU."""
    found = (instance_of(path.stem) for path in sorted(pid_files.glob("*.pid")))
    return tuple(one for one in found if one is not None)


def open_memory(instance: Id, pid_files: Path = PID_FILES) -> GuestMemory:
    """
    Raises:
        Unavailable: it has no QEMU now, or one that was started before its memory could be looked at.
    """
    try:
        pid = int((pid_files / f"{domain_name(instance)}.pid").read_text())
        # Held open it stays that very process's, and is empty once that has ended.
        process = os.open(f"/proc/{pid}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise Unavailable(f"instance {instance} has no QEMU now") from error
    try:
        return _of_process(process, pid, instance)
    except OSError as error:
        raise Unavailable(f"the QEMU of instance {instance} cannot be looked at: {error.strerror}") from error
    finally:
        os.close(process)


def _of_process(process: int, pid: int, instance: Id) -> GuestMemory:
    with open(os.open("cmdline", os.O_RDONLY | os.O_CLOEXEC, dir_fd=process), "rb") as line:  # noqa: PTH123
        if f"guest={domain_name(instance)},".encode() not in line.read(1 << 20):
            raise Unavailable(f"instance {instance} has no QEMU now")
    folder = os.open("fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=process)
    try:
        for name in os.listdir(folder)[:_DESCRIPTORS]:  # noqa: PTH208 - by a descriptor, which stays its own
            with contextlib.suppress(OSError):  # closed meanwhile
                if os.readlink(name, dir_fd=folder) == _LINK:
                    return _opened(folder, name, pid)
    finally:
        os.close(folder)
    raise Unavailable(
        f"instance {instance} keeps its memory where it cannot be looked at", hint="stop and start it once"
    )


def _opened(folder: int, name: str, pid: int) -> GuestMemory:
    descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder)
    try:
        os.fchmod(descriptor, 0o400)
        found = os.fstat(descriptor)
    except OSError:
        os.close(descriptor)
        raise
    return GuestMemory(descriptor=descriptor, size=found.st_size, key=f"{pid}-{found.st_ino}", pid=pid)


def allow_huge_pages(
    switch: Path = Path("/sys/kernel/mm/transparent_hugepage/shmem_enabled"),
) -> None:
    """Memory that can be shared gets huge pages only where a blanket's kernel is told so; QEMU asks for them,
    as it does for memory of its own. A kernel that has no such switch goes without."""
    with contextlib.suppress(OSError):
        switch.write_text("advise")
