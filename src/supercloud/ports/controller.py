"""Controller port: what an agent asks of the control plane over the connection that it dialled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from supercloud.model.names import Epoch, Id, Nonce
from supercloud.model.right import Renewal, RunRight


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewRights:
    """All of a blanket's renewals in one heartbeat. The blanket is the connection's certificate's."""

    renewals: tuple[Renewal, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewalAnswer:
    """One of `right` and `refused` is set, for each renewal asked, in the same order."""

    instance: Id
    right: RunRight | None = None
    refused: str | None = None  # the code of the refusal ("right-refused", "cloned")


@dataclass(frozen=True, slots=True, kw_only=True)
class RightsRenewed:
    answers: tuple[RenewalAnswer, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Surrender:
    instance: Id
    epoch: Epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened in a blanket. `id` makes repeats harmless; `seq` orders a blanket's events."""

    id: Id
    seq: int
    kind: str  # "instance.paused", "right.expired", "agent.started", …
    at: float  # the blanket's wall clock, seconds since the epoch; for people, never for decisions
    data: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Events:
    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Acknowledged:
    """Everything up to and including `seq` is durable in the store."""

    seq: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """First words of a connection: lets the control plane see clones, upgrades and the highest epochs."""

    agent_version: str
    boot_id: str
    connection: Nonce
    epochs: dict[Id, Epoch]
    sealing_key: str  # base64 X25519 public key, also bound into the agent's certificate


@dataclass(frozen=True, slots=True, kw_only=True)
class Welcome:
    blanket: Id
    cloud: Id


class Controller(Protocol):
    """Wire names are `controller.<method>`."""

    async def hello(self, request: Hello) -> Welcome: ...

    async def renew(self, request: RenewRights) -> RightsRenewed: ...

    async def surrender(self, request: Surrender) -> None:
        """Give a right up; the holder has already made sure that nothing runs."""
        ...

    async def report(self, request: Events) -> Acknowledged: ...

    async def renew_certificate(self, request: CertificateRequest) -> CertificateAnswer: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateRequest:
    csr_pem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateAnswer:
    certificate_pem: str
    authority_pem: str
