"""Platform port: an L0 that runs blankets (L1) for their owners.

Seven methods. What only some platforms can do is a port of its own below, listed in `Declaration.abilities`
by the driver that has it; what is not declared is refused with the reason before anything starts.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol, runtime_checkable

from supercloud.model.acts import Operation
from supercloud.model.names import Digest, Endpoint, Id, MemoryMib, Name, PublicKey, SizeBytes, Vcpus
from supercloud.model.placement import Confidentiality


class Flavour(StrEnum):
    """What runs instances in a blanket. Live migration needs equal flavours."""

    KVM = "kvm"  # hardware-assisted, nested
    XEN = "xen"  # paravirtual
    TCG = "tcg"  # binary translation


class Ability(StrEnum):
    CONSOLE = "console"
    SNAPSHOT = "snapshot"
    FREEZE = "freeze"
    LINK = "link"
    CONSENT = "consent"


class MachineState(StrEnum):
    ABSENT = "absent"
    RUNNING = "running"
    STOPPED = "stopped"  # exists, not running (its disk is kept)
    FROZEN = "frozen"


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """What a platform says of itself. Placement and key release honour it."""

    kind: str  # "qemu", "simulated", …
    accelerator: str  # "kvm", "tcg", …: what was proven to work, not what is installed
    nesting: bool  # a blanket can get a working /dev/kvm
    flavours: frozenset[Flavour]
    confidentiality: Confidentiality
    abilities: frozenset[Ability]
    reason: str  # why this accelerator, in one line
    #: How many blankets deep it goes inside a blanket of this platform (0: none), and why no deeper.
    nested_levels: int = 0
    nested_reason: str = "its driver says of none"


@dataclass(frozen=True, slots=True, kw_only=True)
class BlanketMachine:
    """One typed request: the VM that becomes a blanket."""

    id: Id
    name: Name
    image: Digest  # of the blanket image; the driver finds kernel, initrd and root by it
    vcpus: Vcpus = 2
    memory_mib: MemoryMib = 2048
    disk_bytes: SizeBytes = 20 << 30  # sparse data disk for volumes, journals and identity
    #: First-boot data, written to a file only the machine can read (fw_cfg), never to argv. It holds the
    #: control plane's endpoint as the blanket sees it, the pinned authority and the single-use join token.
    birth: bytes = b""
    #: Whose consent an act on its memory needs, where the platform enforces that (Ability.CONSENT): its
    #: cloud's consent key. None: nobody's, so that nobody can consent.
    tenant: PublicKey | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What the platform reports of one blanket's VM."""

    id: Id
    state: MachineState
    #: Where other domains' WireGuard reaches it, as seen from *inside* another blanket; None while unknown.
    wireguard: Endpoint | None
    memory_mib: int
    reason: str = ""
    #: The same of blankets inside this one: it leads to this one's UDP ports 51821, 51822, … in this order.
    inner: tuple[Endpoint, ...] = ()


class Platform(Protocol):
    """Runs blankets. Every method may be repeated with the same argument without harm.

    Raises (all methods): Unavailable, Exhausted, Failed; NotFound where the machine never existed.
    """

    async def declare(self) -> Declaration: ...

    async def create(self, machine: BlanketMachine) -> Machine:
        """Make and start it; adopt it if it already runs. Cancelled or failed, it leaves nothing behind."""
        ...

    async def inspect(self, machine: Id) -> Machine: ...

    async def list(self) -> list[Machine]: ...

    async def start(self, machine: Id) -> Machine:
        """Start a stopped machine again from its kept disk."""
        ...

    async def stop(self, machine: Id, *, force: bool = False) -> Machine:
        """Power down (or off with `force`); the disk is kept."""
        ...

    async def destroy(self, machine: Id) -> None:
        """End the machine and delete its disk. Absent already: fine."""
        ...

    def blanket_endpoint(self, port: int) -> Endpoint:
        """How a blanket on this platform reaches TCP `port` of the control plane's machine."""
        ...


@runtime_checkable
class ConsolePlatform(Protocol):
    """Ability.CONSOLE: the blanket's serial console."""

    async def console(self, machine: Id) -> AsyncIterator[bytes]: ...

    async def console_write(self, machine: Id, data: bytes) -> None:
        """Refused where nobody but whoever is inside can type."""
        ...


@runtime_checkable
class FreezePlatform(Protocol):
    """Ability.FREEZE: stop and continue a machine from outside (what a hostile or paused L0 looks like)."""

    async def freeze(self, machine: Id) -> None: ...

    async def thaw(self, machine: Id) -> None: ...


@runtime_checkable
class SnapshotPlatform(Protocol):
    """Ability.SNAPSHOT: roll memory and disk back (an attack that run rights must survive).

    Both want a machine that runs or is frozen (else Conflict) and leave it in that state.
    """

    async def snapshot(self, machine: Id, label: Name) -> None:
        """Keep memory and disk as they are now. A label that exists already is kept as it is."""
        ...

    async def rollback(self, machine: Id, label: Name) -> None:
        """Go back to a label; NotFound if there is none."""
        ...


@runtime_checkable
class LinkPlatform(Protocol):
    """Ability.LINK: pull a machine's network cable, and plug it in (a domain that is cut off)."""

    async def link(self, machine: Id, *, up: bool) -> None:
        """Conflict unless the machine runs or is frozen. It starts, and starts again, with its link up."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """For one act on a machine's memory, as the platform's monitor issued it, and what it signed for a nonce
    of whoever asked: docs/spec/microhypervisor-channel.md."""

    partition: str  # what the monitor calls the machine
    launch: int
    challenge: bytes
    clock_khz: int  # in whose ticks a consent's time is counted
    attestation: bytes


@dataclass(frozen=True, slots=True)
class SealedPage:
    version: int
    sealed: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedExport:
    """An act's pages, in order; only the machine's tenant opens them: docs/spec/microhypervisor-export.md."""

    header: bytes
    pages: tuple[SealedPage, ...]


@runtime_checkable
class ConsentPlatform(Protocol):
    """Ability.CONSENT: acts on a machine's memory, which a monitor below the platform's admin allows or not.

    Both want a machine that was launched, also if it has ended since (else Conflict).
    """

    async def challenge(self, machine: Id, nonce: bytes) -> Challenge:
        """What its tenant's consent to the next act has to answer; none issued before is good any more."""
        ...

    async def export(
        self, machine: Id, operation: Operation, *, page: int, pages: int, consent: bytes
    ) -> SealedExport:
        """Do the act. `page` and `pages` are of 4 KiB; `consent` is presented as it is.

        Raises:
            Refused: the monitor's answer: no consent to this by the machine's tenant, or used, or too late.
        """
        ...


class BlanketImages(Protocol):
    """Where a platform driver finds the files of a blanket image."""

    def current(self) -> Digest:
        """The image that new blankets are made of; NotFound if none is built yet."""
        ...

    def files(self, image: Digest) -> BlanketFiles: ...


@runtime_checkable
class MicrohypervisorImages(BlanketImages, Protocol):
    """The same where a micro-hypervisor of our own is to run on this machine."""

    def microhypervisor(self) -> Path:
        """Its image, for a multiboot loader; NotFound if it is not built yet."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class BlanketFiles:
    """A blanket image on this machine: direct kernel boot, read-only root."""

    kernel: Path
    initrd: Path
    root: Path  # read-only root file system image; its digest does not depend on our code
    bundle: Path  # read-only image of the agent's and keeper's code: replaced alone when they are upgraded
    cmdline: str
