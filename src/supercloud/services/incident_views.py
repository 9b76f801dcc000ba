"""Incidents: what users ask about them, and what they are shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from supercloud.model.findings import Layer, ObjectKind, Severity
from supercloud.model.incidents import EntryKind, IncidentState
from supercloud.model.names import Id, Ipv4, Name
from supercloud.model.reactions import Deed, ReactionState
from supercloud.security.stix import BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class IncidentView:
    """`title` is a detector's words. Moments are by the blanket's clock, seconds since the epoch."""

    id: Id
    state: IncidentState
    severity: Severity
    title: str
    cloud: Name
    cloud_id: Id
    blanket: Name | None  # None: it is gone, or `horizontal`: the cloud's own, over all of its blankets
    blanket_id: Id
    domain_id: Id
    objects: tuple[Id, ...]  # that it is about, in its blanket's words
    horizontal: bool
    findings: int
    layers: tuple[Layer, ...]
    opened_at: float
    last_at: float
    closed_at: float | None
    rules: tuple[str, ...] = ()  # by which it was found


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceView:
    """What an incident's blanket keeps of an instance, sealed to the owner: its memory, and what was known.
    `title`: the incident's, a detector's words. `whole`: nothing wrote to the memory while it was copied;
    else it is of several moments. `at`: by the blanket's clock, seconds since the epoch. `instance_name`:
    None: it is gone. `digest`: SHA-256 of what the blanket signed, hexadecimal, as it says; None: it did not
    note it."""

    id: Id
    incident: Id
    title: str
    blanket: Name
    blanket_id: Id
    cloud_id: Id
    instance: Id
    instance_name: Name | None
    at: float
    size_bytes: int  # of the file
    memory_bytes: int
    whole: bool
    digest: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AwayView:
    """A blanket that could not be asked, and why."""

    blanket: Name
    blanket_id: Id
    cloud_id: Id
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptView:
    """What blankets keep about their incidents, the newest first; and which of them are `away`, and may keep
    more."""

    evidence: tuple[EvidenceView, ...]
    away: tuple[AwayView, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenView:
    """`object_name`: what its user calls it; None: it is gone."""

    rule: str
    layer: Layer
    object_kind: ObjectKind
    object: Id
    object_name: Name | None
    first: float
    last: float
    many: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryView:
    at: float
    kind: EntryKind
    says: str
    of: Id | None
    layer: Layer | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReactionView:
    """`command` is OpenC2's."""

    id: Id
    policy: str
    rule: str
    reaction: Deed
    meaning: str
    about: str
    state: ReactionState
    why: str
    decided_at: float
    done_at: float | None
    until: float | None
    command: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopOrderView:
    """What one blanket does because of a horizontal reaction. `doing`: what it is still to be asked (it may
    be away); `there`: its effect, as it said last."""

    reaction: Id
    blanket: Name | None  # None: another cloud's
    blanket_id: Id
    cloud_id: Id
    doing: str | None
    there: bool | None
    problem: str
    until: float


@dataclass(frozen=True, slots=True, kw_only=True)
class IncidentDetail:
    """`left_out`: so many lines of the timeline's middle were not kept. `orders`: of a horizontal one."""

    incident: IncidentView
    seen: tuple[SeenView, ...]
    reactions: tuple[ReactionView, ...]
    timeline: tuple[EntryView, ...]
    left_out: int
    orders: tuple[LoopOrderView, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseIt:
    """`undo`: what is in force because of it is undone; else it ends when its time is over."""

    undo: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportIndicators:
    """A bundle of STIX 2.1, as JSON text."""

    bundle: Annotated[str, Field(max_length=BYTES)]


@dataclass(frozen=True, slots=True, kw_only=True)
class UnusedView:
    """An object of a bundle that is not used."""

    id: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedView:
    """`addresses`: those that the cloud's horizontal policy decides about now."""

    addresses: tuple[Ipv4, ...]
    unused: tuple[UnusedView, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerIt:
    """To a reaction that asks first."""

    yes: bool
