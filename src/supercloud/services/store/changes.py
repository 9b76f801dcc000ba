"""What a transaction changed of what users see: found by the session itself, so nobody can forget to say.

Rows that are added, changed or removed through the session are seen as it flushes; rows that one statement
changes or removes are looked up just before it does. What is only counted elsewhere, such as a cloud's number
of instances, or counts down, such as a right's time left, is no change of the thing that shows it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, cast

from pydantic import Field
from sqlalchemy import event, inspect, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import ORMExecuteState, Session, UOWTransaction

from supercloud.model.findings import Severity, Source
from supercloud.model.kinds import Kind
from supercloud.model.names import Id
from supercloud.services.store import security, tables
from supercloud.services.store.tables import Base

#: Of an UPDATE that changes nothing that is shown: it is not looked up what it changes.
UNSEEN = "unseen"
_FOUND = "changes"
#: An id; of a token, its first revocation id.
ThingId = Annotated[str, Field(pattern=r"^[0-9a-f-]{1,160}$")]


class Act(StrEnum):
    """What happened to it."""

    ADDED = "added"
    CHANGED = "changed"
    REMOVED = "removed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One, committed. `owner`: the principal whose thing it is, or whose cloud it is in; None: nobody's."""

    kind: Kind
    act: Act
    id: ThingId
    name: str
    cloud: Id | None
    cloud_name: str | None
    owner: Id | None
    state: str | None
    at: float  # wall clock as it was committed, seconds since the epoch
    data: dict[str, Any] | None = None  # what else matters of its kind


@dataclass(frozen=True, slots=True)
class _Watched:
    """How one table's rows are seen. `shown`: the columns that users see; None: all."""

    kind: Kind
    #: Which thing the row is, or is a part of.
    thing: Callable[[Any], Id]
    shown: frozenset[str] | None = None
    #: A part of another kind of thing, which changes with it.
    part: bool = False


def _id(row: Any) -> Id:
    return cast(Id, row.id)


_WATCHED: Mapping[type[Base], _Watched] = {
    tables.Cloud: _Watched(
        Kind.CLOUD,
        _id,
        frozenset({"owner", "parent", "name", "quota", "cpu_model", "length_s", "margin_s", "grace_s"}),
    ),
    tables.Blanket: _Watched(
        Kind.BLANKET, _id, frozenset({"name", "provider", "state", "report", "revoked", "reason"})
    ),
    tables.Network: _Watched(Kind.NETWORK, _id),
    tables.Volume: _Watched(Kind.VOLUME, _id),
    tables.VolumeCopy: _Watched(
        Kind.VOLUME, lambda row: cast(Id, row.volume), frozenset({"current", "blanket"}), part=True
    ),
    tables.Instance: _Watched(Kind.INSTANCE, _id),
    tables.Right: _Watched(
        Kind.INSTANCE, lambda row: cast(Id, row.instance), frozenset({"epoch", "holder"}), part=True
    ),
    tables.Trust: _Watched(Kind.TRUST, _id),
    security.FindingRow: _Watched(Kind.FINDING, _id),
    security.IncidentRow: _Watched(Kind.INCIDENT, _id, frozenset({"state", "severity", "title", "version"})),
    security.PolicyRow: _Watched(Kind.POLICY, _id),
    security.OrderRow: _Watched(Kind.ORDER, _id),
    security.ActRow: _Watched(Kind.ACT, _id),
    tables.Operation: _Watched(
        Kind.OPERATION, _id, frozenset({"state", "phase", "done", "error", "result", "ended_at"})
    ),
    tables.EventRow: _Watched(Kind.REPORT, _id),
    tables.Image: _Watched(Kind.IMAGE, _id),
    tables.Provider: _Watched(Kind.PROVIDER, _id),
    tables.Maintenance: _Watched(Kind.MAINTENANCE, _id),
    tables.Principal: _Watched(Kind.PRINCIPAL, _id),
    tables.MintedToken: _Watched(Kind.TOKEN, _id),
    tables.Revocation: _Watched(Kind.TOKEN, _id, part=True),
}
#: Reports and old versions only fade away so; of rights, one statement for many moves nothing but times and
#: nonces (services.store.renewals).
_QUIET = frozenset({tables.EventRow, tables.Right, security.PolicyRow})
_TABLES = {one.kind: table for table, one in _WATCHED.items() if not one.part}


@dataclass(slots=True)
class _Found:
    """Of one transaction so far: the last act of each thing, and rows that are gone, as they were."""

    acts: dict[tuple[Kind, Id], Act]
    rows: dict[tuple[Kind, Id], Any]

    def note(self, kind: Kind, identity: Id, act: Act, row: Any = None) -> None:
        key = (kind, identity)
        before = self.acts.get(key)
        if act is Act.CHANGED and before is not None:
            act = before
        if row is not None:
            self.rows[key] = row
        if act is Act.REMOVED and before is Act.ADDED:
            del self.acts[key]
        else:
            self.acts[key] = act


class FollowedSession(Session):
    """A session that notes what it changes."""

    @property
    def found(self) -> _Found:
        made: _Found = self.info.setdefault(_FOUND, _Found({}, {}))
        return made


@event.listens_for(FollowedSession, "after_flush")
def _flushed(session: FollowedSession, _context: UOWTransaction) -> None:
    for row in session.new:
        _note(session, row, Act.ADDED)
    for row in session.dirty:
        if (watched := _WATCHED.get(type(row))) is not None and _differs(row, watched):
            _note(session, row, Act.CHANGED)
    for row in session.deleted:
        _note(session, row, Act.REMOVED)


@event.listens_for(FollowedSession, "do_orm_execute")
def _executed(state: ORMExecuteState) -> None:
    """One statement over many rows."""
    if not (state.is_update or state.is_delete) or state.execution_options.get(UNSEEN):
        return
    table = state.bind_mapper.class_ if state.bind_mapper is not None else None
    if table is None or table not in _WATCHED or table in _QUIET:
        return
    session = cast(FollowedSession, state.session)
    where = cast(Any, state.statement).whereclause
    query = select(table) if where is None else select(table).where(where)
    for row in session.scalars(query).all():
        _note(session, row, Act.CHANGED if state.is_update else Act.REMOVED)


def _note(session: FollowedSession, row: Any, act: Act) -> None:
    watched = _WATCHED.get(type(row))
    if watched is None:
        return
    if watched.part:
        session.found.note(watched.kind, watched.thing(row), Act.CHANGED)
    else:
        session.found.note(watched.kind, watched.thing(row), act, row)


def _differs(row: Any, watched: _Watched) -> bool:
    state = inspect(row)
    return any(
        attribute.history.has_changes()
        for attribute in state.attrs
        if watched.shown is None or attribute.key in watched.shown
    )


async def changes_of(session: AsyncSession) -> tuple[Change, ...]:
    """At the end of a transaction, in it: what it changed, in the order in which it began to."""
    await session.flush()
    found = cast(FollowedSession, session.sync_session).found
    at = time.time()
    made = list[Change]()
    for (kind, identity), act in found.acts.items():
        row = found.rows.get((kind, identity)) or await session.get(_TABLES[kind], identity)
        if row is None:  # a part of what is gone, or of what never was here
            continue
        for cloud in _clouds(kind, row):
            whose = await _whose(session, found, kind, row, cloud)
            if whose is not None:
                made.append(_change(kind, identity, act, row, whose, at))
    return tuple(made)


def _clouds(kind: Kind, row: Any) -> tuple[Id | None, ...]:
    """In which it changed. A trust relation is of both its ends, and of the cloud where it began. What a
    provider takes part in is also told without any cloud: to the provider, once, however many it concerns."""
    if kind is Kind.CLOUD:
        return (row.id,)
    if kind is Kind.TRUST:
        return tuple(dict.fromkeys((row.cloud, row.to, row.origin)))
    if kind is Kind.FINDING:
        return (*((None,) if row.source == Source.PROVIDER else ()), *row.clouds)
    if kind is Kind.ORDER:
        return tuple(dict.fromkeys((None, row.cloud, row.asker)))
    if kind is Kind.ACT:
        return (None, row.cloud)
    return (getattr(row, "cloud", None),)


@dataclass(frozen=True, slots=True)
class _Whose:
    owner: Id | None
    cloud: Id | None = None
    cloud_name: str | None = None


async def _whose(
    session: AsyncSession, found: _Found, kind: Kind, row: Any, cloud: Id | None
) -> _Whose | None:
    """None: an operation's that outlives its cloud, which nobody is shown."""
    if cloud is not None:
        whole = row if kind is Kind.CLOUD else found.rows.get((Kind.CLOUD, cloud))
        whole = whole or await session.get(tables.Cloud, cloud)
        return None if whole is None else _Whose(whole.owner, cloud, whole.name)
    if kind in {Kind.IMAGE, Kind.PROVIDER}:
        return _Whose(row.owner)
    if kind in {Kind.PRINCIPAL, Kind.TOKEN}:
        return _Whose(row.id if kind is Kind.PRINCIPAL else row.principal)
    return _Whose(None)


def _change(kind: Kind, identity: Id, act: Act, row: Any, whose: _Whose, at: float) -> Change:  # noqa: PLR0917
    return Change(
        kind=kind,
        act=act,
        id=_once(identity),
        name=_once(_name(kind, row)),
        cloud=_once(whose.cloud),
        cloud_name=_once(whose.cloud_name),
        owner=_once(whose.owner),
        state=_once(getattr(row, "state", None)),
        at=at,
        data=_data(kind, row),
    )


def _once(said: Any) -> Any:
    """Ten thousand changes are kept, which say the same names again and again, each read anew."""
    return sys.intern(said) if type(said) is str else said


#: What has no name, but says what it is.
_SAID_BY = {Kind.FINDING: "title", Kind.INCIDENT: "title", Kind.ORDER: "reaction", Kind.ACT: "operation"}


def _name(kind: Kind, row: Any) -> str:
    if kind is Kind.OPERATION:
        return cast(str, row.object_name)
    if kind is Kind.REPORT:
        return cast(str, row.kind)
    if kind is Kind.POLICY:
        return f"version-{row.number}"
    if kind in _SAID_BY:
        return cast(str, getattr(row, _SAID_BY[kind]))
    return cast(str, getattr(row, "name", row.id))


def _data(kind: Kind, row: Any) -> dict[str, Any] | None:
    find = _DATA.get(kind)
    return None if find is None else {key: _once(one) for key, one in find(row).items()}


def _of_finding(row: Any) -> dict[str, Any]:
    severity = Severity.ranked(row.severity).value
    return {"provider": row.domain, "layer": row.layer, "severity": severity, "object": row.object}


def _of_incident(row: Any) -> dict[str, Any]:
    return {"blanket": row.blanket, "severity": Severity.ranked(row.severity).value, "version": row.version}


def _of_policy(row: Any) -> dict[str, Any]:
    shown = ("blanket", "horizontal", "number", "dry_run")
    return {name: getattr(row, name) for name in shown}


def _of_trust(row: Any) -> dict[str, Any]:
    shown = ("kind", "cloud", "to", "expires_at", "revoked_at")
    return {name: getattr(row, name) for name in shown}


#: What else matters of a kind.
_DATA: Mapping[Kind, Callable[[Any], dict[str, Any]]] = {
    Kind.OPERATION: lambda row: {
        "kind": row.kind,
        "object": row.object,
        "phase": row.phase,
        "done": row.done,
    },
    Kind.REPORT: lambda row: {"blanket": row.blanket, "at": row.at, "data": row.data},
    Kind.INSTANCE: lambda row: {"blanket": row.blanket},
    Kind.TRUST: _of_trust,
    # What is inside a machine is not told to the machine's provider.
    Kind.BLANKET: lambda row: {"provider": row.provider if row.parent is None else None},
    Kind.MAINTENANCE: lambda row: {"provider": row.provider},
    Kind.FINDING: _of_finding,
    Kind.INCIDENT: _of_incident,
    Kind.POLICY: _of_policy,
    Kind.ORDER: lambda row: {"provider": row.domain, "blanket": row.machine},
    Kind.ACT: lambda row: {"provider": row.domain, "blanket": row.machine},
}


def made_by(session: AsyncSession) -> Iterable[tuple[Kind, Id, Act]]:
    """What the transaction did so far, as far as it was flushed."""
    found = cast(FollowedSession, session.sync_session).found
    return [(kind, identity, act) for (kind, identity), act in found.acts.items()]
