"""The instances' processes in one blanket, and their disks: guests write and sync."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum

from supercloud.keeper.rights import Seen
from supercloud.model.names import Id
from supercloud.ports.agent import RunState


class Shows(StrEnum):
    """What a QEMU says of itself."""

    RUNNING = "running"
    PAUSED = "paused"
    INCOMING = "incoming"
    HANDING_OVER = "handing over"  # a source that has sent everything and waits for its libvirt


RUN_STATE = {
    Shows.RUNNING: RunState.RUNNING,
    Shows.PAUSED: RunState.PAUSED,
    Shows.INCOMING: RunState.INCOMING,
    Shows.HANDING_OVER: RunState.PAUSED,
}
SEEN = {
    Shows.RUNNING: Seen.RUNNING,
    Shows.PAUSED: Seen.PAUSED,
    Shows.INCOMING: Seen.IDLE,
    Shows.HANDING_OVER: Seen.SENT,
}


@dataclass
class DiskFile:
    """One copy of a volume: what guests synced to it. `undone`: an L0 put an older state in its place."""

    volume: Id
    copy: Id
    synced: list[int] = field(default_factory=list)
    undone: bool = False


@dataclass
class Qemu:
    instance: Id
    disks: list[DiskFile]
    shows: Shows
    began_at: float  # true time of the last change
    undone: bool = False  # its memory is an older state, put back by an L0
    held: bool = False  # the keeper has locked its disks, which it has given back

    def copy(self, files: dict[Id, DiskFile]) -> Qemu:
        """As a snapshot of its machine holds it."""
        return replace(self, disks=[files.get(disk.copy, disk) for disk in self.disks])


class Processes:
    """All QEMUs of one blanket. `changed` is told of every change; that is what an observer may hear."""

    def __init__(self, now: Callable[[], float], changed: Callable[[Qemu, str], None]) -> None:
        self._now = now
        self._changed = changed
        self.present: dict[Id, Qemu] = {}

    def begin(self, instance: Id, disks: list[DiskFile], shows: Shows, why: str) -> Qemu:
        qemu = self.present[instance] = Qemu(instance, disks, shows, self._now())
        self._changed(qemu, why)
        return qemu

    def show(self, qemu: Qemu, shows: Shows, why: str) -> None:
        if qemu.held and shows is Shows.RUNNING:
            return  # it cannot open its disks for writing: `cont` fails
        if self.present.get(qemu.instance) is qemu and qemu.shows is not shows:
            qemu.shows, qemu.began_at = shows, self._now()
            self._changed(qemu, why)

    def end(self, qemu: Qemu, why: str) -> None:
        if self.present.get(qemu.instance) is qemu:
            del self.present[qemu.instance]
            self._changed(qemu, why)

    def alive(self, qemu: Qemu) -> bool:
        return self.present.get(qemu.instance) is qemu
