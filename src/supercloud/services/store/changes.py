"""What a transaction changed of what users see: found by the session itself, so nobody can forget to say.

Rows that are added, changed or removed through the session are seen as it flushes; rows that one statement
changes or removes are looked up just before it does. What is only counted elsewhere, such as a cloud's number
of instances, or counts down, such as a right's time left, is no change of the thing that shows it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, cast

from pydantic import Field
from sqlalchemy import event, inspect, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import ORMExecuteState, Session, UOWTransaction

from supercloud.model.names import Id
from supercloud.services.store import tables
from supercloud.services.store.tables import Base

#: Of an UPDATE that changes nothing that is shown: it is not looked up what it changes.
UNSEEN = "unseen"
_FOUND = "changes"
#: An id; of a token, its first revocation id.
ThingId = Annotated[str, Field(pattern=r"^[0-9a-f-]{1,160}$")]


class Kind(StrEnum):
    """Of what can be watched."""

    CLOUD = "cloud"
    BLANKET = "blanket"
    NETWORK = "network"
    VOLUME = "volume"
    INSTANCE = "instance"
    OPERATION = "operation"
    REPORT = "report"
    IMAGE = "image"
    PROVIDER = "provider"
    PRINCIPAL = "principal"
    TOKEN = "token"  # noqa: S105 - no password


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
    tables.Operation: _Watched(
        Kind.OPERATION, _id, frozenset({"state", "phase", "done", "error", "result", "ended_at"})
    ),
    tables.EventRow: _Watched(Kind.REPORT, _id),
    tables.Image: _Watched(Kind.IMAGE, _id),
    tables.Provider: _Watched(Kind.PROVIDER, _id),
    tables.Principal: _Watched(Kind.PRINCIPAL, _id),
    tables.MintedToken: _Watched(Kind.TOKEN, _id),
    tables.Revocation: _Watched(Kind.TOKEN, _id, part=True),
}
#: Reports only fade away so; of rights, one statement for many moves nothing but times.
_QUIET = frozenset({tables.EventRow, tables.Right})
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
    made = [await _change(session, found, key, act, at) for key, act in found.acts.items()]
    return tuple(one for one in made if one is not None)


async def _change(
    session: AsyncSession, found: _Found, key: tuple[Kind, Id], act: Act, at: float
) -> Change | None:
    kind, identity = key
    row = found.rows.get(key)
    if row is None:
        row = await session.get(_TABLES[kind], identity)
    if row is None:  # a part of what is gone, or of what never was here
        return None
    owner, cloud, cloud_name = None, getattr(row, "cloud", None), None
    if kind is Kind.CLOUD:
        owner, cloud, cloud_name = row.owner, row.id, row.name
    elif cloud is not None:
        whole = found.rows.get((Kind.CLOUD, cloud)) or await session.get(tables.Cloud, cloud)
        if whole is None:
            return None  # an operation that outlives its cloud: nobody is shown it
        owner, cloud_name = whole.owner, whole.name
    elif kind is Kind.IMAGE:
        owner = row.owner
    elif kind in {Kind.PRINCIPAL, Kind.TOKEN}:
        owner = row.id if kind is Kind.PRINCIPAL else row.principal
    return Change(
        kind=kind,
        act=act,
        id=identity,
        name=_name(kind, row),
        cloud=cloud,
        cloud_name=cloud_name,
        owner=owner,
        state=getattr(row, "state", None),
        at=at,
        data=_data(kind, row),
    )


def _name(kind: Kind, row: Any) -> str:
    if kind is Kind.OPERATION:
        return cast(str, row.object_name)
    if kind is Kind.REPORT:
        return cast(str, row.kind)
    return cast(str, getattr(row, "name", row.id))


def _data(kind: Kind, row: Any) -> dict[str, Any] | None:
    if kind is Kind.OPERATION:
        return {"kind": row.kind, "object": row.object, "phase": row.phase, "done": row.done}
    if kind is Kind.REPORT:
        return {"blanket": row.blanket, "at": row.at, "data": row.data}
    if kind is Kind.INSTANCE:
        return {"blanket": row.blanket}
    return None


def made_by(session: AsyncSession) -> Iterable[tuple[Kind, Id, Act]]:
    """What the transaction did so far, as far as it was flushed."""
    found = cast(FollowedSession, session.sync_session).found
    return [(kind, identity, act) for (kind, identity), act in found.acts.items()]
