"""Open incidents: which one a finding belongs to, what is written into each, and the states that follow from
what is done about it. Pure; a part of the engine (`engine.py`).
"""

from __future__ import annotations

import uuid
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Protocol

from supercloud.model.findings import Finding, Object
from supercloud.model.incidents import (
    INCIDENT_TRANSITIONS,
    NAMED,
    Entry,
    EntryKind,
    Incident,
    IncidentState,
    Seen,
    extended,
)
from supercloud.model.names import Id
from supercloud.model.reactions import IN_FORCE, ReactionState
from supercloud.model.states import move
from supercloud.security.book import Book
from supercloud.security.decide import proven_source

_INCIDENTS = uuid.UUID("0b7d1c52-6c1e-4a07-a5f4-6c4b6f1d9a11")
#: A finding belongs to an incident whose last one is no longer ago.
JOIN_S = 300.0
#: Nothing seen and nothing in force for so long closes one that nobody has to look at.
QUIET_S = 3600.0
#: Open ones. Beyond it the oldest is closed, which its timeline says.
OPEN = 2000
_R, _I = ReactionState, IncidentState


class Joining(Protocol):
    """By which names a finding finds the open incident that it belongs to, if there is one."""

    def of_finding(self, finding: Finding) -> Iterable[str]: ...

    def of_incident(self, incident: Incident) -> Iterable[str]: ...


class ByObject:
    """Joining of one blanket's loop: what is about the same object."""

    def of_finding(self, finding: Finding) -> Iterable[str]:
        return (finding.object.id,)

    def of_incident(self, incident: Incident) -> Iterable[str]:
        return (one.id for one in incident.objects)


BY_OBJECT = ByObject()


def nowhere(_: Object) -> Object | None:
    return None


class OpenIncidents:
    """`within`: what an object is in, so that layers join. At most `most`. `wait` is told of each that is new
    and when it may be closed for being quiet. What has changed since somebody looked is in `changed`."""

    def __init__(
        self,
        book: Book,
        *,
        within: Callable[[Object], Object | None],
        joining: Joining,
        most: int,
        wait: Callable[[Id, float], None],
    ) -> None:
        self._book = book
        self._within = within
        self._joining = joining
        self._most = most
        self._wait = wait
        self.every: OrderedDict[Id, Incident] = OrderedDict()
        self.changed: dict[Id, Incident] = {}
        self._named: dict[str, Id] = {}
        #: About what is in an object, by the object.
        self._inside: defaultdict[Id, dict[Id, None]] = defaultdict(dict)

    def joined(self, finding: Finding, now: float) -> Incident:
        """The incident that it belongs to, with it; a new one, if it belongs to none."""
        known = self._belongs(finding, now)
        if known is None:
            return self._opened(finding, now)
        seen, fresh = _seen(known.seen, finding)
        objects = known.objects
        if finding.object not in objects and len(objects) < NAMED:
            objects = (*objects, finding.object)
        incident = replace(
            known,
            severity=max(known.severity, finding.severity, key=lambda one: one.rank),
            last_at=max(known.last_at, now),
            objects=objects,
            seen=seen,
            findings=known.findings + 1,
        )
        self.put(_with(incident, _entry(finding)) if fresh else incident)
        return self.every[incident.id]

    def _belongs(self, finding: Finding, now: float) -> Incident | None:
        """The object's own; or that of what it is in; or of the one thing in it that has one."""
        about, outer = finding.object, self._within(finding.object)
        names = [*self._joining.of_finding(finding), *([outer.id] if outer else [])]
        for name in names:
            found = self._open_about(name, now)
            if found is not None:
                return found
        inner = [
            one
            for name in self._inside.get(about.id, ())
            if (one := self.every[name]).last_at >= now - JOIN_S
        ]
        return inner[0] if len(inner) == 1 else None

    def _open_about(self, name: str, now: float) -> Incident | None:
        incident = self.every.get(self._named.get(name, ""))
        if incident is None:
            return None
        # What is still being done something about is not over, however long ago it was seen.
        alive = any(one.state in IN_FORCE for one in self._book.of_incident(incident.id))
        return incident if alive or incident.last_at >= now - JOIN_S else None

    def _opened(self, finding: Finding, now: float) -> Incident:
        self.make_room(now)
        incident = Incident(
            id=str(uuid.uuid5(_INCIDENTS, finding.id)),
            domain=finding.domain,
            cloud=finding.cloud,
            state=_I.OPEN,
            severity=finding.severity,
            title=finding.title,
            opened_at=now,
            last_at=now,
            objects=(finding.object,),
            seen=_seen((), finding)[0],
            findings=1,
            timeline=(_entry(finding),),
        )
        self.put(incident)
        return incident

    def make_room(self, now: float) -> None:
        """For one more, by closing the oldest; one that something is being done about is the last to go."""
        while len(self.every) >= self._most:
            oldest = next(
                (
                    one
                    for one in self.every
                    if not any(found.state in IN_FORCE for found in self._book.of_incident(one))
                ),
                next(iter(self.every)),
            )
            self.note(oldest, EntryKind.STATE, now, f"closed: more than {self._most} are open")
            self.become(oldest, _I.CLOSED, now)

    def put(self, incident: Incident) -> None:
        """As it is from now on, or a new one. Each change is another version."""
        known = self.every.get(incident.id)
        if known is not None:
            incident = replace(incident, version=known.version + 1)
        else:
            self._wait(incident.id, incident.last_at + QUIET_S)
        self.changed[incident.id] = incident
        self.every[incident.id] = incident
        self.every.move_to_end(incident.id)
        for name in self._joining.of_incident(incident):
            self._named[name] = incident.id
        for one in incident.objects:
            if (outer := self._within(one)) is not None:
                self._inside[outer.id][incident.id] = None

    def note(self, name: Id, kind: EntryKind, now: float, says: str, *, of: Id | None = None) -> None:
        incident = self.every.get(name)
        if incident is not None:
            self.put(_with(incident, Entry(at=now, kind=kind, says=says[:600], of=of)))

    def escalate(self, name: Id, now: float, why: str) -> None:
        incident = self.every.get(name)
        if incident is not None and incident.state is not _I.ESCALATED:
            self.note(name, EntryKind.STATE, now, f"a person has to look: {why}")
            self.become(name, _I.ESCALATED, now)

    def settle(self, name: Id, now: float) -> None:
        """The incident's state follows from its reactions'."""
        incident = self.every.get(name)
        if incident is None or incident.state is _I.ESCALATED:
            return
        states = {one.state for one in self._book.of_incident(name)}
        if states & {_R.INTENDED, _R.DONE, _R.UNDOING, _R.UNVERIFIED}:
            wanted = _I.REACTING
        elif states & {_R.VERIFIED, _R.LAPSED, _R.UNDONE}:
            wanted = _I.CONTAINED
        else:
            wanted = _I.OPEN
        if wanted is not incident.state:
            self.become(name, wanted, now)

    def become(self, name: Id, state: IncidentState, now: float) -> None:
        incident = self.every[name]
        closed = state is _I.CLOSED
        to = move(INCIDENT_TRANSITIONS, incident.state, state)
        self.put(replace(incident, state=to, closed_at=now if closed else None))
        if closed:
            del self.every[name]
            for known in self._joining.of_incident(incident):
                if self._named.get(known) == name:
                    del self._named[known]
            for one in incident.objects:
                if (outer := self._within(one)) is not None:
                    self._inside[outer.id].pop(name, None)


def _with(incident: Incident, *entries: Entry) -> Incident:
    timeline, left_out = extended(incident.timeline, incident.left_out, *entries)
    return replace(incident, timeline=timeline, left_out=left_out)


def _entry(finding: Finding) -> Entry:
    says = f"{finding.severity}: {finding.title}" + (f" ({finding.rule})" if finding.rule else "")
    return Entry(at=finding.at, kind=EntryKind.FINDING, says=says[:600], of=finding.id, layer=finding.layer)


def _seen(seen: tuple[Seen, ...], finding: Finding) -> tuple[tuple[Seen, ...], bool]:
    """With this one; whether it is the first of its rule about its object."""
    rule = finding.rule or finding.title
    for index, one in enumerate(seen):
        if (one.rule, one.object) == (rule, finding.object):
            more = replace(
                one,
                first=min(one.first, finding.at),
                last=max(one.last, finding.at),
                many=one.many + 1,
                source=proven_source(finding) or one.source,
            )
            return (*seen[:index], more, *seen[index + 1 :]), False
    if len(seen) >= NAMED:
        return seen, False
    fresh = Seen(
        rule=rule,
        layer=finding.layer,
        object=finding.object,
        first=finding.at,
        last=finding.at,
        source=proven_source(finding),
    )
    return (*seen, fresh), True
