"""Machines of a blanket's own: what it does as a platform for blankets inside it (see ports.platform).

A group of the agent's of its own, apart from its instances: a machine has no run right, is in no
network of its parent's cloud, and does not migrate. An agent may lack the group; then nothing can be inside
its blanket.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Annotated, Protocol

from supercloud.model.limits import Limits
from supercloud.model.names import Digest, Endpoint, Id, MemoryMib, SizeBytes, Vcpus
from supercloud.ports.platform import Declaration, MachineState, Platform

#: UDP port on which a parent hears what is for the WireGuard of the machine in slot 0; the next for slot 1, …
FIRST_INNER_PORT = 51821
#: How many of its machines a blanket forwards such a port to.
INNER_PORTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineFile:
    """A part of a blanket image, fetched by its digest like a base image."""

    digest: Digest
    size_bytes: SizeBytes


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineImage:
    """A blanket image as a parent needs it: ports.platform.BlanketFiles, by digest."""

    kernel: MachineFile
    initrd: MachineFile
    root: MachineFile
    bundle: MachineFile
    cmdline: Annotated[str, Limits(max_length=1000)]


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeMachine:
    """ports.platform.BlanketMachine, its image's files placed before."""

    machine: Id
    image: MachineImage
    vcpus: Vcpus
    memory_mib: MemoryMib
    disk_bytes: SizeBytes
    #: First-boot data in base64. Empty where one that exists is asked for again: it is not known any more.
    birth: Annotated[str, Limits(max_length=88_000)] = field(default="", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineRef:
    machine: Id


@dataclass(frozen=True, slots=True, kw_only=True)
class StopMachine:
    machine: Id
    force: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineReport:
    machine: Id
    state: MachineState
    memory_mib: int
    #: Its place among its parent's machines, which decides its addresses and its port; stays as it is.
    slot: Annotated[int, Limits(ge=0)]
    reason: str = ""


class MachinesAgent(Protocol):
    """As ports.platform.Platform, whose words these are."""

    async def place(self, request: MachineImage) -> None:
        """Fetch what of it is not here yet."""
        ...

    async def create(self, request: MakeMachine) -> MachineReport: ...

    async def start(self, request: MachineRef) -> MachineReport: ...

    async def stop(self, request: StopMachine) -> MachineReport: ...

    async def destroy(self, request: MachineRef) -> None: ...

    async def inspect(self, request: MachineRef) -> MachineReport: ...

    async def list(self) -> list[MachineReport]: ...


# ---------------------------------------------------------------- the control plane's side


@dataclass(frozen=True, slots=True, kw_only=True)
class Inside:
    """What being inside a blanket means, as its own platform and the store have it."""

    declaration: Declaration  # of the parent as a platform
    inner: tuple[Endpoint, ...]  # ports.platform.Machine.inner of the parent
    endpoint: Callable[[int], Endpoint]  # of its platform: the control plane, as everything there sees it


#: The files of a blanket image, by its digest.
#: Raises: NotFound.
MachineImages = Callable[[Digest], Awaitable[MachineImage]]
#: The driver over a parent's agent.
NestedDriver = Callable[[Inside, MachinesAgent, MachineImages], Platform]
