"""Findings, orders and privileged acts: what users and providers ask about them, and what each is shown.

What a provider is shown has no field for a cloud, for who asked, or for any word that a user chose.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from supercloud.model.acts import MOST_PAGES, NO_ARGUMENTS, ActKind, ActState, Statement
from supercloud.model.findings import Layer, ObjectKind, Severity, Source
from supercloud.model.names import Digest, Id, Name, Text
from supercloud.model.orders import LONGEST_S, SHORTEST_S, USUAL_S, Command, OrderState, Reaction
from supercloud.services.requests import Ref

#: 32 bytes in hexadecimal.
Hex32 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

# ---------------------------------------------------------------- findings


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingView:
    """One, to who has a cloud that it concerns, or whom such a cloud trusts with it. `title`, `rule` and
    `evidence` are the detector's words."""

    id: Id
    layer: Layer
    source: Source
    domain: Name
    domain_id: Id
    object_kind: ObjectKind
    object: Id
    object_name: (
        Name | None
    )  # what its user calls it; None: of the domain itself, or it is gone, or another's
    clouds: tuple[Name, ...]  # of those that it concerns, those whose findings the reader may read
    cloud_ids: tuple[Id, ...]
    severity: Severity
    title: str
    rule: str | None
    at: float  # by the detector's clock, seconds since the epoch
    received_at: float
    evidence: tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveredView:
    """A finding as its provider delivered it."""

    id: Id
    uid: str  # of its event
    domain: Name
    domain_id: Id
    machine: Id | None  # None: of the domain as a whole
    severity: Severity
    title: str
    rule: str | None
    at: float
    received_at: float


# ---------------------------------------------------------------- orders


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceOrder:
    """`blanket`: whose machine it is about; another's, where that one's cloud trusts one of the caller's with
    it, by its id. The provider has `lasts_s` to have it done."""

    blanket: Ref
    cloud: Ref | None = None
    command: Command
    lasts_s: Annotated[float, Field(ge=SHORTEST_S, le=LONGEST_S, allow_inf_nan=False)] = USUAL_S


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderView:
    id: Id
    reaction: Reaction
    meaning: str
    domain: Name
    domain_id: Id
    blanket: Name | None  # None: it is gone, or another's
    blanket_id: Id
    cloud_id: Id  # whose machine it is
    asked_by: Id  # the cloud in whose name it was asked for
    relation: Id | None  # of trust, by which that one may
    command: dict[str, Any]  # OpenC2, as its provider reads it
    state: OrderState
    reason: str
    response: dict[str, Any] | None  # OpenC2, in its provider's words
    created_at: float  # seconds since the epoch
    deadline: float
    taken_at: float | None
    ended_at: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenOrders:
    """Which orders a domain takes: all of them anew."""

    takes: Annotated[tuple[Reaction, ...], Field(max_length=len(Reaction))] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandView:
    """An order as its provider has it."""

    id: Id
    domain: Name
    machine: Id
    command: dict[str, Any]  # OpenC2
    meaning: str
    state: OrderState
    response: dict[str, Any] | None
    created_at: float
    deadline: float
    ended_at: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """An OpenC2 response: 102 says that it is being done, anything else how it ended."""

    status: Annotated[int, Field(ge=100, le=599)]
    status_text: Annotated[Text, Field(max_length=500)] | None = None
    results: Annotated[dict[str, Any], Field(max_length=64)] | None = None


# ---------------------------------------------------------------- privileged acts


@dataclass(frozen=True, slots=True, kw_only=True)
class AskAct:
    """Moments are whole seconds since the epoch. `arguments`: the SHA-256 of the act's arguments, which bind
    the answer to them without telling us what they are. `page` and `pages`: the machine's memory that a dump
    or an introspection is about, in 4 KiB; a platform that enforces consents wants to know them."""

    operation: ActKind
    machine: Id
    arguments: Digest = NO_ARGUMENTS
    page: Annotated[int, Field(ge=0, lt=1 << 36)] | None = None
    pages: Annotated[int, Field(ge=1, le=MOST_PAGES)] | None = None
    purpose: Annotated[Text, Field(min_length=1, max_length=500)]
    not_before: Annotated[int, Field(ge=0, le=8 * 10**9)]
    expires_at: Annotated[int, Field(ge=0, le=8 * 10**9)]


@dataclass(frozen=True, slots=True, kw_only=True)
class AskChallenge:
    """`nonce`: 32 random bytes in hexadecimal, so that what is signed of the launch is no old answer."""

    nonce: Hex32


@dataclass(frozen=True, slots=True, kw_only=True)
class ChallengeView:
    """What the monitor below the machine's platform wants a consent to answer; bytes in base64.
    `attestation` is signed by the monitor's key: docs/spec/microhypervisor-channel.md, `attest`."""

    partition: str
    launch: int
    challenge: str
    clock_khz: int
    nonce: Hex32
    attestation: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantAct:
    """`consent`: what the owner's key store signed, in base64, for an act that is enforced; None for any
    other."""

    consent: Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]{331}=$")] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedPageView:
    page: int  # in 4 KiB, of the machine's own addresses
    version: int
    sealed: str  # base64


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportView:
    """What an act gave, which only its user's key store opens: docs/spec/microhypervisor-export.md."""

    act: Id
    header: str  # base64
    pages: tuple[SealedPageView, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ActView:
    """One, to who has the machine. `purpose` in the statement is the provider's word for it."""

    id: Id
    state: ActState
    domain: Name
    blanket: Name | None  # None: it is gone
    cloud: Name
    cloud_id: Id
    statement: Statement
    enforced: (
        bool  # False: whoever administers the platform needs no answer, and an answer binds nobody below
    )
    reason: str  # why it failed, by who enforces it
    created_at: float
    ended_at: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedActView:
    """One, to the provider that asked for it."""

    id: Id
    state: ActState
    domain: Name
    statement: Statement
    enforced: bool  # by what is below the platform's admin, which does it with a consent alone
    reason: str
    created_at: float
    ended_at: float | None


#: OpenC2's or OCSF's, as anybody wrote it.
Json = Mapping[str, Any]
