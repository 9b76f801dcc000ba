"""The rest of what a blanket is made of: volumes, forwards, overlay, and the keeper's eyes and hands."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from supercloud.blanket.overlay.simulated import SimulatedOverlay
from supercloud.keeper.rights import Seen
from supercloud.model.errors import NotFound, Unavailable
from supercloud.model.names import Digest, Id, Ipv4, Name, SizeBytes
from supercloud.ports.agent import Landing, VolumeReport
from supercloud.ports.hypervisor import Reading, Route, VolumeSource, Watch
from supercloud.ports.overlay import Location
from supercloud.simulator.qemu import SEEN, DiskFile, Qemu, Shows

if TYPE_CHECKING:
    from supercloud.simulator.blanket import SimBlanket

_EVENT_S = 0.02


class SimVolumes:
    """Files survive a reboot of the blanket; which of them are open does not."""

    def __init__(self, blanket: SimBlanket) -> None:
        self._blanket = blanket

    async def make(
        self,
        volume: Id,
        copy: Id,
        size_bytes: SizeBytes,
        key: bytes,
        *,
        base: Digest | None,
        base_key: bytes | None,
    ) -> VolumeReport:
        await self._blanket.trace.step("volume", "make")
        file = self._blanket.files.setdefault(copy, DiskFile(volume, copy))
        return _report(file)

    async def open(
        self, volume: Id, copy: Id, key: bytes, *, base: Digest | None, base_key: bytes | None
    ) -> VolumeSource:
        await self._blanket.trace.step("volume", "open")
        if copy not in self._blanket.files:
            raise NotFound(f"copy {copy} of volume {volume} is not in this blanket")
        self._blanket.open[volume] = copy
        return VolumeSource(volume=volume, path=Path(copy), secret=volume)

    async def remove(self, volume: Id, copy: Id) -> None:
        await self._blanket.trace.step("volume", "remove")
        if self._blanket.open.get(volume) == copy:
            del self._blanket.open[volume]
        self._blanket.files.pop(copy, None)

    async def resize(self, volume: Id, size_bytes: SizeBytes) -> VolumeReport:
        return _report(self._blanket.opened(volume))

    async def snapshot(self, volume: Id, snapshot: Name) -> VolumeReport:
        return _report(self._blanket.opened(volume))

    async def restore(
        self,
        volume: Id,
        copy: Id,
        size_bytes: SizeBytes,
        key: bytes,
        *,
        snapshot: Name | None,
        base: Digest | None,
    ) -> VolumeReport:
        raise Unavailable("not simulated")

    async def back_up(
        self,
        volume: Id,
        copy: Id,
        key: bytes,
        *,
        base: Digest | None,
        base_key: bytes | None,
        into: Id,
        into_key: bytes,
        watch: Watch,
        reading: Reading | None = None,
    ) -> VolumeReport:
        raise Unavailable("not simulated")

    def copy_path(self, volume: Id, copy: Id) -> Path:
        return Path(copy)

    async def list(self) -> list[VolumeReport]:
        return [_report(file) for file in self._blanket.files.values()]

    def image_path(self, digest: Digest) -> Path:
        return Path(digest)


def _report(file: DiskFile) -> VolumeReport:
    return VolumeReport(volume=file.volume, copy=file.copy, size_bytes=1 << 20, allocated_bytes=0)


class SimForwards:
    """Sockets carried through the mesh: they live in the agent, and end with it."""

    def __init__(self, blanket: SimBlanket) -> None:
        self._blanket = blanket
        self.open: dict[Id, str] = {}

    async def land(self, operation: Id, *, address: Ipv4, source: Ipv4, expires_s: float) -> Landing:
        await self._blanket.trace.step("forwards", "land")
        self.open[operation] = "landing"
        return Landing(
            operation=operation, address=address, libvirt_port=1001, memory_port=1002, disk_port=1003
        )

    async def depart(self, operation: Id, *, landing: Landing, expires_s: float) -> Route:
        await self._blanket.trace.step("forwards", "depart")
        self.open[operation] = "departing"
        return Route(libvirt=Path(operation), address=landing.address, memory_port=1002, disk_port=1003)

    async def close(self, operation: Id) -> None:
        self.open.pop(operation, None)


class SimOverlay(SimulatedOverlay):
    """Keys are in memory: another boot has others."""

    def __init__(self, blanket: SimBlanket, boot: int) -> None:
        super().__init__(blanket=blanket.id, now=blanket.machine.now)
        self._trace = blanket.trace
        self._number = boot * 1000

    async def locate(self, location: Location) -> None:
        await self._trace.step("overlay", "locate")
        await super().locate(location)

    async def unplug(self, instance: Id) -> None:
        await self._trace.step("overlay", "unplug")
        await super().unplug(instance)


class SimMonitor:
    """The keeper's monitor of one QEMU. Each act ends once its effect is seen."""

    def __init__(self, blanket: SimBlanket, qemu: Qemu, look: Callable[[], None]) -> None:
        self._blanket = blanket
        self._qemu = qemu
        self._look = look

    async def pause(self) -> bool:
        await self._blanket.trace.step("qmp", "stop")
        if self._qemu.shows is Shows.RUNNING:
            self._blanket.processes.show(self._qemu, Shows.PAUSED, "paused by the keeper")
        self._look()
        return False

    async def park(self) -> bool:
        await self._blanket.trace.step("qmp", "query-status")
        self._look()
        return self._qemu.shows is Shows.HANDING_OVER and self.hold()

    @property
    def holds(self) -> bool:
        return self._qemu.held

    def hold(self) -> bool:
        self._qemu.held = not self._blanket.bugs.holds_no_disks
        return True

    async def resume(self) -> None:
        await self._blanket.trace.step("qmp", "cont")
        was_parked, self._qemu.held = self._qemu.held, False
        if self._qemu.shows is Shows.PAUSED or (was_parked and self._qemu.shows is Shows.HANDING_OVER):
            self._blanket.processes.show(self._qemu, Shows.RUNNING, "resumed by the keeper")
        self._look()

    async def kill(self) -> None:
        await self._blanket.trace.step("qmp", "kill")
        self._blanket.processes.end(self._qemu, "killed by the keeper")
        self._look()


class SimMonitors:
    """keeper.monitors.Monitors: hears of every change a moment late, and looks each second besides."""

    def __init__(self, blanket: SimBlanket, changed: Callable[[], None], random: Random) -> None:
        self._blanket = blanket
        self._changed = changed
        self._random = random
        self._seen: dict[Id, Seen] = {}
        self._process = blanket.keeper_process

    def seen(self) -> dict[Id, Seen]:
        return dict(self._seen)

    def monitor(self, instance: Id) -> SimMonitor | None:
        qemu = self._blanket.processes.present.get(instance)
        if qemu is None:
            self._look()
            return None
        return SimMonitor(self._blanket, qemu, self._look)

    async def look(self) -> None:
        self._look()

    def _look(self) -> None:
        seen = {instance: SEEN[qemu.shows] for instance, qemu in self._blanket.processes.present.items()}
        if seen != self._seen:
            self._seen = seen
            self._changed()

    async def run(self) -> None:
        self._look()
        await asyncio.Event().wait()

    def told(self) -> None:
        self._blanket.network.later(self._random.random() * _EVENT_S, lambda: self._process.call(self._look))


class NoStreams:
    """Dialling back with streams and images is not simulated."""

    def image(self, digest: Digest, offset: int) -> object:
        raise Unavailable("not simulated")

    def stream(self, stream: str) -> object:
        raise Unavailable("not simulated")
