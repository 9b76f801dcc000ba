"""Evidence that a blanket keeps of its instances (trust.evidence): what its agent does about it if asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final, Protocol

from supercloud.model.limits import Limits
from supercloud.model.memory import Span
from supercloud.model.names import Id, Nonce

#: What the control plane notes of one that was removed: `evidence`, `incident`, `instance`, and `by` whom.
REMOVED: Final = "evidence.removed"


class Memory(Protocol):
    """Of an instance that has a process: blanket.guest_memory.GuestMemory."""

    descriptor: int

    @property
    def parts(self) -> tuple[Span, ...]: ...

    def executed_ns(self) -> int: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceReport:
    """One piece. `incident`: as its blanket names it. `at`: by the blanket's clock, seconds since the epoch.
    `whole`: nothing wrote to the memory while it was copied; else it is of several moments. `digest`: SHA-256
    of what the blanket signed, hexadecimal; None: nobody noted it."""

    evidence: Id
    incident: Id
    instance: Id
    at: float
    size_bytes: Annotated[int, Limits(ge=0)]
    memory_bytes: Annotated[int, Limits(ge=0)]
    whole: bool
    digest: Annotated[str, Limits(pattern=r"^[0-9a-f]{64}$")] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceRef:
    evidence: Id


@dataclass(frozen=True, slots=True, kw_only=True)
class SendEvidence:
    """Dial back with `stream` and send the file from `offset` on."""

    stream: Nonce
    evidence: Id
    offset: Annotated[int, Limits(ge=0)]


class EvidenceAgent(Protocol):
    """A group that an agent may lack: one without a loop, or older than this."""

    async def list(self) -> list[EvidenceReport]:
        """Of what is whole on the disk: what was being written when an agent ended is gone."""
        ...

    async def send(self, request: SendEvidence) -> None:
        """Raises: NotFound, InvalidInput (`offset` is beyond its end), Exhausted."""
        ...

    async def remove(self, request: EvidenceRef) -> None:
        """Gone already: fine."""
        ...
