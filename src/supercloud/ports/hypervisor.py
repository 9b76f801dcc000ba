"""Blanket-side driver ports: the hypervisor, volumes and overlay of the machine the agent runs on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from supercloud.model.names import Digest, Id, Ipv4, Name, Port, SizeBytes
from supercloud.ports.agent import Disk, InstanceSpec, Progress, RunState, VolumeReport
from supercloud.ports.machines import MachineReport, MakeMachine
from supercloud.ports.overlay import Location, Mesh, MeshReport
from supercloud.ports.platform import Flavour

#: Hears the share done, from 0 to 1.
Watch = Callable[[float], None]
#: Writes a volume that is in use into a file, whose key the hypervisor knows as that secret.
Reading = Callable[[Path, Id, Watch], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainEvent:
    """The hypervisor's own word that an instance's state changed.

    `leaving`: it stands still for the last part of its transfer to another blanket. To look at it now would
    only hold that up; what comes of it is told as well. `paused`: it stands still, complete, because somebody
    wants it to: that is also how a copy arrives whose migration leaves it so.
    """

    instance: Id
    state: RunState
    detail: str
    leaving: bool = False
    paused: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferStatus:
    """Of an outgoing transfer. `over` is set only once the hypervisor's call has returned.

    `ended`: its source's process has ended, or is certain to without executing anything more, which may be
    known before the hypervisor says so. `sent`: everything has been sent, and the process is there still.
    """

    over: bool
    sent: bool = False
    ended: bool = False
    failed: str | None = None
    progress: Progress = field(default_factory=Progress)


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """How a source's hypervisor reaches its target's for one operation: a UNIX socket here that leads to the
    target's libvirt, and where the target's QEMU listens inside the mesh."""

    libvirt: Path
    address: Ipv4
    memory_port: Port
    disk_port: Port


class Machines(Protocol):
    """Runs blankets inside this one. As ports.machines.MachinesAgent, but for what has to be fetched."""

    async def why_not(self) -> str:
        """Empty where it can."""
        ...

    def file(self, digest: Digest) -> Path:
        """Where a part of a blanket image belongs."""
        ...

    async def create(self, wanted: MakeMachine) -> MachineReport: ...

    async def start(self, machine: Id) -> MachineReport: ...

    async def stop(self, machine: Id, *, force: bool) -> MachineReport: ...

    async def destroy(self, machine: Id) -> None: ...

    async def inspect(self, machine: Id) -> MachineReport: ...

    async def list(self) -> list[MachineReport]: ...


class Hypervisor(Protocol):
    """Runs instances on this blanket. Raises NotFound, Conflict, Unavailable, OutcomeUnknown, Failed."""

    async def flavour(self) -> Flavour: ...

    async def start(self, spec: InstanceSpec, user_data: bytes | None, *, paused: bool = False) -> None:
        """Boot from its own disk, with a seed of `spec` and `user_data`; `paused`: once it is resumed. So
        already: fine."""
        ...

    async def pause(self, instance: Id) -> None: ...

    async def resume(self, instance: Id) -> None: ...

    async def shutdown(self, instance: Id) -> None:
        """Ask the guest (ACPI); returns at once."""
        ...

    async def reboot(self, instance: Id) -> None: ...

    async def destroy(self, instance: Id) -> None:
        """End the process and wait until it has ended. Absent: fine."""
        ...

    async def state(self, instance: Id) -> RunState: ...

    async def list(self) -> dict[Id, RunState]: ...

    def events(self) -> AsyncIterator[DomainEvent]: ...


class MigratingHypervisor(Protocol):
    """Live migration with storage copy inside the mesh; the target ends paused."""

    async def receive(self, spec: InstanceSpec, user_data: bytes | None) -> None:
        """On the target: make what an incoming copy needs besides its volumes and ports (its seed)."""
        ...

    async def send(self, instance: Id, spec: InstanceSpec, route: Route) -> None:
        """Start and return; the transfer belongs to the hypervisor, not to the caller."""
        ...

    async def transfer(self, instance: Id) -> TransferStatus: ...

    async def cancel(self, instance: Id) -> None: ...


class DiskHypervisor(Protocol):
    """Disks of a running instance."""

    async def attach(self, instance: Id, disk: Disk) -> None: ...

    async def detach(self, instance: Id, disk: Disk) -> None: ...

    async def resize(self, instance: Id, disk: Disk) -> None: ...

    async def back_up(self, instance: Id, volume: Id, into: Path, secret: Id, watch: Watch) -> None:
        """Write what the disk held when this began into the file `into`; the guest goes on meanwhile.

        The file is there and as large, and the hypervisor knows its key as `secret`. `watch` hears the share
        done. Cancelled, nothing writes to the file any more.
        """
        ...


class Console(Protocol):
    async def console(self, instance: Id) -> tuple[AsyncIterator[bytes], ConsoleInput]: ...


class ConsoleInput(Protocol):
    async def write(self, data: bytes) -> None: ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeSource:
    """How the hypervisor opens a volume: file, secret ids, chain. The keys are with the secrets."""

    volume: Id
    path: Path
    secret: Id
    base_path: Path | None = None
    base_secret: Id | None = None


class Volumes(Protocol):
    """LUKS qcow2 files of this blanket. Keys are bytes handed in, kept in memory (tmpfs) only."""

    async def make(
        self,
        volume: Id,
        copy: Id,
        size_bytes: SizeBytes,
        key: bytes,
        *,
        base: Digest | None,
        base_key: bytes | None,
    ) -> VolumeReport: ...

    async def open(
        self, volume: Id, copy: Id, key: bytes, *, base: Digest | None, base_key: bytes | None
    ) -> VolumeSource: ...

    async def remove(self, volume: Id, copy: Id) -> None: ...

    async def resize(self, volume: Id, size_bytes: SizeBytes) -> VolumeReport: ...

    async def snapshot(self, volume: Id, snapshot: Name) -> VolumeReport: ...

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
        """See ports.agent.VolumesAgent.restore. Nothing has it open."""
        ...

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
        """Make the copy `into` of what `copy` holds now, flattened; `watch` hears the share done.

        `reading` reads a copy that a running instance has open.
        """
        ...

    async def list(self) -> list[VolumeReport]: ...

    def copy_path(self, volume: Id, copy: Id) -> Path:
        """Where a copy is, or will be once it is whole."""
        ...

    def image_path(self, digest: Digest) -> Path:
        """Where a base image is, or will be once its digest has been verified."""
        ...


class Bundles(Protocol):
    """The code that this blanket's programs run from. Raises Failed."""

    def path(self, digest: Digest) -> Path:
        """Where a bundle has to be for the rest."""
        ...

    async def running(self) -> Digest | None:
        """What programs that start now would run; None where it is not known."""
        ...

    async def try_out(self, digest: Digest) -> None:
        """See that its programs start, without starting them."""
        ...

    async def switch(self, digest: Digest) -> None:
        """Have keeper and agent restart on it, and on the former one again unless somebody confirms."""
        ...

    async def confirm(self) -> None:
        """What runs now works; what is not needed any more is removed."""
        ...


class Overlay(Protocol):
    """WireGuard, VXLAN, bridges, DHCP, DNS and packet filter of this blanket."""

    async def apply(self, mesh: Mesh) -> MeshReport: ...

    async def locate(self, location: Location) -> None: ...

    def expect(self, instance: Id, devices: Sequence[str]) -> None:
        """How its ports will be called, so that what is in force about them can be before they are there."""
        ...

    async def plug(self, instance: Id, device: str, network: Id, mac: str, ip: str) -> None:
        """Let the instance's port speak with exactly this MAC and IP."""
        ...

    async def unplug(self, instance: Id) -> None: ...

    async def permit(self, instance: Id, seconds: float) -> None:
        """Let its traffic out for so long; the kernel itself stops it afterwards. 0 stops it now."""
        ...

    async def grant_tcp(self, peer: Ipv4, ports: Sequence[Port], seconds: float) -> None:
        """Let that blanket (a mesh address) connect to these TCP ports of ours; 0 ends the grant.

        The kernel itself ends it after `seconds`; connections that were made meanwhile stay.
        """
        ...

    async def prepare_key(self) -> MeshReport: ...

    async def switch_key(self) -> MeshReport: ...

    async def report(self) -> MeshReport: ...
