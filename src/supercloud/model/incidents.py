"""Incidents: findings that belong together, what was decided about them, and how it went. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Annotated

from supercloud.model.findings import Layer, Object, Severity
from supercloud.model.limits import Limits
from supercloud.model.names import Id, Ipv4

#: Entries of a timeline; the first half and the last are kept.
TIMELINE = 200
#: Objects, and pairs of a rule and an object, that one names.
NAMED = 64


class IncidentState(StrEnum):
    OPEN = "open"  # nothing is done about it, or nothing yet
    REACTING = "reacting"
    CONTAINED = "contained"  # every reaction is verified, or over
    ESCALATED = "escalated"  # a person has to look
    CLOSED = "closed"


_I = IncidentState
INCIDENT_TRANSITIONS: Mapping[IncidentState, frozenset[IncidentState]] = {
    _I.OPEN: frozenset({_I.REACTING, _I.ESCALATED, _I.CLOSED}),
    _I.REACTING: frozenset({_I.CONTAINED, _I.ESCALATED, _I.CLOSED, _I.OPEN}),
    _I.CONTAINED: frozenset({_I.REACTING, _I.ESCALATED, _I.CLOSED}),
    _I.ESCALATED: frozenset({_I.CLOSED}),
    _I.CLOSED: frozenset(),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One rule's findings about one object."""

    rule: str
    layer: Layer
    object: Object
    first: float
    last: float
    many: int = 1
    source: Ipv4 | None = None  # where the last of them came from, if its detector proved that


class ExportFormat(StrEnum):
    """Of others."""

    STIX = "stix"  # a bundle of STIX 2.1: indicators, and where they were seen
    OCSF = "ocsf"  # an Incident Finding


class EntryKind(StrEnum):
    FINDING = "finding"
    DECISION = "decision"
    REACTION = "reaction"
    PROOF = "proof"
    STATE = "state"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line of a timeline. `of`: a finding's or a reaction's id. `says` has detectors' words in it."""

    at: float
    kind: EntryKind
    says: Annotated[str, Limits(max_length=600)]
    of: Id | None = None
    layer: Layer | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """`version` grows with each change, so that who is told of it twice knows which is later."""

    id: Id
    domain: Id
    cloud: Id | None
    state: IncidentState
    severity: Severity
    title: str
    opened_at: float
    last_at: float
    closed_at: float | None = None
    objects: tuple[Object, ...]
    seen: tuple[Seen, ...]
    findings: int  # how many in all
    timeline: tuple[Entry, ...] = ()
    left_out: int = 0  # of the timeline's middle
    version: int = 1

    def only_about(self, name: Id) -> Incident:
        """With nothing in it about any other object."""
        seen = tuple(one for one in self.seen if one.object.id == name)
        return replace(self, objects=tuple(one for one in self.objects if one.id == name), seen=seen)

    def shortened(self, lines: int) -> Incident:
        """With so many lines of its timeline at most: how it began, and what was last."""
        beyond = len(self.timeline) - lines
        if beyond <= 0:
            return self
        half = lines // 2
        kept = self.timeline[:half] + self.timeline[len(self.timeline) - (lines - half) :]
        return replace(self, timeline=kept, left_out=self.left_out + beyond)


def extended(timeline: tuple[Entry, ...], left_out: int, *more: Entry) -> tuple[tuple[Entry, ...], int]:
    """How it began and what was last is kept, whatever floods it between."""
    every = (*timeline, *more)
    beyond = len(every) - TIMELINE
    if beyond <= 0:
        return every, left_out
    half = TIMELINE // 2
    return (*every[:half], *every[half + beyond :]), left_out + beyond
