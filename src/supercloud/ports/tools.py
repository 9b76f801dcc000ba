"""The user's own libvirt tools (virsh, virt-install, …) in a blanket, and what they make there.

What the control plane asks of an agent about them, and an agent of its blanket's driver. What tools make is
called a foreign VM: no right of ours is needed to run it, and nothing of ours counts its copies.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Annotated, Protocol

from supercloud.model.limits import Limits
from supercloud.model.names import Id, Nonce, SizeBytes
from supercloud.ports.agent import BackupReport, RunState, SealedKey, VolumeReport
from supercloud.ports.hypervisor import Watch

#: Of the foreign VMs of one blanket, so many are told.
FOREIGN_VMS = 1000
#: Whatever its maker called it, which libvirt lets be nearly anything.
HandedNumber = Annotated[int, Limits(ge=0, lt=1 << 31)]
ForeignName = Annotated[str, Limits(pattern=r"^[^\x00-\x1f\x7f/]+$", max_length=255)]


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignVm:
    """One as it is now. `obstacle`: why it cannot be adopted, or nothing."""

    id: Id
    name: ForeignName
    state: RunState
    vcpus: Annotated[int, Limits(ge=1, le=1 << 16)]
    memory_mib: Annotated[int, Limits(ge=0, le=1 << 40)]
    disk_bytes: SizeBytes = 0  # of its one disk
    obstacle: Annotated[str, Limits(max_length=1000)] = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignRef:
    vm: Id


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectTools:
    """Dial back with a stream named `stream` that is a connection to libvirt, as the tools' user.

    `connection`: by what `OpenHanded` names it.
    """

    stream: Nonce
    connection: Nonce | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenHanded:
    """Dial back with a stream that is the socket which libvirt handed over in a connection, as its
    `number`th from 0: a VM's screen.
    """

    stream: Nonce
    connection: Nonce
    number: HandedNumber


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeDisk:
    """Make of a foreign VM's disk the copy `into` of a volume: whole, fit to be an image."""

    vm: Id
    volume: Id
    into: Id
    into_key: SealedKey


class ToolsAgent(Protocol):
    """Agents of before lack this group, and so does one whose blanket's image has no place for tools."""

    async def open(self) -> None:
        """Let tools in, from now on and after each boot. Raises: Conflict, while an instance moves."""
        ...

    async def connect(self, request: ConnectTools) -> None:
        """Returns once the stream is open."""
        ...

    async def open_handed(self, request: OpenHanded) -> None:
        """Once for each. Returns once the stream is open.

        Raises: NotFound, where there is no such connection or socket.
        """
        ...

    async def list(self) -> list[ForeignVm]: ...

    async def take(self, request: TakeDisk) -> BackupReport:
        """As VolumesAgent.back_up. Raises: Conflict, with the obstacle."""
        ...

    async def forget(self, request: ForeignRef) -> None:
        """Remove a definition, not the disk. Not there: fine. Raises: Conflict, where it runs."""
        ...


# ---------------------------------------------------------------- of the blanket's driver


class Duplex(Protocol):
    """Bytes both ways. Raises OSError."""

    async def read(self, most: int) -> bytes:
        """What is there, up to so many bytes; nothing at the end."""
        ...

    async def write(self, data: bytes) -> None: ...


class ToolsConnection(Duplex, Protocol):
    """To libvirt; and what libvirt hands over in it, as to a client on its own machine."""

    def handed(self, number: int) -> AbstractAsyncContextManager[Duplex]:
        """The socket that it handed over as its `number`th from 0, for once. Raises: NotFound."""
        ...


class Tools(Protocol):
    """A blanket's place for tools. Raises NotFound, Conflict, Unavailable, OutcomeUnknown, Failed."""

    def there(self) -> bool:
        """Whether this blanket's image has one."""
        ...

    def let_in(self) -> bool:
        """Whether they are, since this blanket booted."""
        ...

    async def open(self) -> None:
        """Let them in to libvirt, by the rules for them. In already: fine."""
        ...

    def connection(self) -> AbstractAsyncContextManager[ToolsConnection]:
        """One to libvirt, of the tools' user."""
        ...

    async def list(self) -> list[ForeignVm]: ...

    async def take(self, vm: Id, *, volume: Id, into: Id, into_key: bytes, watch: Watch) -> VolumeReport: ...

    async def forget(self, vm: Id) -> None: ...
