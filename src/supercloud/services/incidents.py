"""Incidents of blankets' loops: kept as agents tell them, and read by who has the blanket's cloud.

A blanket's word is kept as its word: whose it is, is the connection's, and it can say nothing about another's
incidents. A flood of them pushes out its own only.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import structlog
from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from supercloud.model.errors import InvalidInput, NotFound
from supercloud.model.findings import ObjectKind, Severity
from supercloud.model.incidents import Incident, IncidentState
from supercloud.model.names import Id, Name
from supercloud.model.ocsf import one_line
from supercloud.model.reactions import MEANINGS, Reaction
from supercloud.ports.loop import AnswerReaction, CloseIncident
from supercloud.security.horizontal import Place
from supercloud.services import guards, sightings
from supercloud.services.incident_views import (
    AnswerIt,
    CloseIt,
    EntryView,
    IncidentDetail,
    IncidentView,
    LoopOrderView,
    ReactionView,
    SeenView,
)
from supercloud.services.northbound import LAST
from supercloud.services.pages import Page, Part
from supercloud.services.parts import Parts
from supercloud.services.refs import called, caller_of, clouds_of, within
from supercloud.services.requests import Ref
from supercloud.services.store.security import IncidentRow, LoopOrderRow
from supercloud.services.store.tables import Blanket, Cloud, Instance
from supercloud.services.store.time import wall
from supercloud.wire.codec import from_json

#: What agents call such an event.
KIND = "incident"
#: Of one blanket.
KEPT = 1000
_IDS = uuid.UUID("5b8c2a70-0c0c-4f5b-8f5e-7a2c6d1e9b44")
_log = structlog.get_logger(__name__)


async def keep(
    session: AsyncSession, blanket: Id, cloud: Id, data: Mapping[str, Any], *, at: float, told_at: float
) -> None:
    """As it was told, if it is newer than what is there. What cannot be read is logged, and gone: it would
    come again for ever. `told_at`: by the blanket's clock."""
    try:
        incident = from_json(Incident, data.get("incident"))
        reactions = [from_json(Reaction, one) for one in data.get("reactions") or ()]
    except (InvalidInput, TypeError) as error:
        _log.warning("incidents.unreadable", blanket=blanket, reason=str(error)[:200])
        return
    name = id_of(blanket, incident.id)
    row = await session.get(IncidentRow, name, with_for_update=True)
    if row is not None and row.version >= incident.version:
        return
    place = await session.get(Blanket, blanket)
    if place is None:
        return
    known = row or await _before_it_moved(session, cloud, incident.id)
    before = None if known is None else from_json(Incident, known.said["incident"])
    if row is None:
        row = IncidentRow(id=name, own=incident.id, blanket=blanket, cloud=cloud, domain=place.provider)
        session.add(row)
        row.opened_at = incident.opened_at
    row.state, row.severity = incident.state.value, incident.severity.rank
    row.title, row.version = one_line(incident.title)[:256], incident.version
    row.last_at, row.closed_at, row.received_at = incident.last_at, incident.closed_at, at
    row.said = dict(data)
    await session.flush()
    await guards.note(session, blanket, incident, reactions, told_at=told_at)
    await sightings.note(
        session, incident, before, Place(blanket=blanket, cloud=cloud, domain=place.provider)
    )
    await drop_oldest(session, blanket)


def id_of(blanket: Id, own: Id) -> Id:
    """What an incident is called here that a blanket calls `own`."""
    return str(uuid.uuid5(_IDS, f"{blanket}/{own}"))


async def _before_it_moved(session: AsyncSession, cloud: Id, own: Id) -> IncidentRow | None:
    """As another blanket told it, which had what it is about: what was seen there is not seen anew here."""
    found: IncidentRow | None = await session.scalar(
        select(IncidentRow)
        .where(IncidentRow.cloud == cloud, IncidentRow.own == own, IncidentRow.blanket != cloud)
        .order_by(IncidentRow.version.desc())
        .limit(1)
    )
    return found


async def drop_oldest(session: AsyncSession, blanket: Id) -> None:
    """Of one blanket, or of a cloud's horizontal loop: what is beyond the bound, the closed ones first."""
    of = IncidentRow.blanket == blanket
    many = await session.scalar(select(func.count()).select_from(IncidentRow).where(of)) or 0
    if many <= KEPT:
        return
    closed_first = (IncidentRow.closed_at.is_(None), IncidentRow.last_at, IncidentRow.id)
    oldest = select(IncidentRow.id).where(of).order_by(*closed_first).limit(many - KEPT)
    gone = list(await session.scalars(oldest))
    await session.execute(delete(IncidentRow).where(IncidentRow.id.in_(gone)))
    _log.warning("incidents.dropped", blanket=blanket, many=len(gone), kept=KEPT)


class Incidents:
    """The part of Northbound about incidents."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def incidents(
        self, *, cloud: Ref | None = None, open_only: bool = False, page: Page = LAST
    ) -> Part[IncidentView]:
        async with self._parts.store.read() as session:
            query = select(IncidentRow).where(within(session, IncidentRow.cloud))
            if cloud is not None and (clouds := await clouds_of(session, cloud)) is not None:
                query = query.where(IncidentRow.cloud.in_(clouds))
            if page.state is not None:
                query = query.where(IncidentRow.state == page.state)
            if open_only:
                query = query.where(IncidentRow.state != IncidentState.CLOSED)
            query = page.of(query, IncidentRow.opened_at, IncidentRow.id, newest=True)
            rows = (await session.scalars(query)).all()
            names = await _names(session, rows)
        return page.part(rows, lambda row: (row.opened_at, row.id), lambda row: _view(row, names))

    async def incident(self, incident: Id) -> IncidentDetail:
        async with self._parts.store.read() as session:
            return await _detail(session, await find_incident(session, incident))

    async def close_incident(self, incident: Id, request: CloseIt) -> IncidentDetail:
        """Its state here is what the blanket tells next; of one that will tell nothing more, what is said
        here."""
        async with self._parts.store.read() as session:
            row = await find_incident(session, incident)
            caller = caller_of(session)
        if row.state == IncidentState.CLOSED:
            return await self.incident(incident)
        if row.horizontal:
            await self._parts.horizontal.close(row.cloud, row.own, by=called(caller), undo=request.undo)
        elif not await self._closed_of_lost(row, undo=request.undo):
            asked = CloseIncident(incident=row.own, by=called(caller), undo=request.undo)
            await self._parts.agents.agent(row.blanket).loop.close(asked)
        return await self.incident(incident)

    async def _closed_of_lost(self, row: IncidentRow, *, undo: bool) -> bool:
        """Whether its blanket is lost for good, and it is closed for that."""
        async with self._parts.store.write() as session:
            blanket = await session.get(Blanket, row.blanket)
            if blanket is not None and not blanket.revoked:
                return False
            kept = await session.get(IncidentRow, row.id, with_for_update=True)
            if kept is not None:
                kept.state, kept.closed_at = IncidentState.CLOSED.value, await wall(session)
            if undo:
                await guards.lift(session, row.own)
        return True

    async def answer_reaction(self, incident: Id, reaction: Id, request: AnswerIt) -> IncidentDetail:
        """
        Raises:
            NotFound: the incident has no such reaction; Conflict: it does not ask any more.
        """
        async with self._parts.store.read() as session:
            row = await find_incident(session, incident)
            caller = caller_of(session)
        known = (from_json(Reaction, one) for one in row.said.get("reactions") or ())
        if all(one.id != reaction for one in known):
            raise NotFound(f"incident {incident} has no reaction {reaction}")
        if row.horizontal:
            await self._parts.horizontal.answer(row.cloud, reaction, by=called(caller), yes=request.yes)
        else:
            asked = AnswerReaction(reaction=reaction, by=called(caller), yes=request.yes)
            await self._parts.agents.agent(row.blanket).loop.answer(asked)
        return await self.incident(incident)


# ---------------------------------------------------------------- inside


async def find_incident(session: AsyncSession, incident: Id) -> IncidentRow:
    """
    Raises:
        NotFound.
    """
    query = select(IncidentRow).where(IncidentRow.id == incident, within(session, IncidentRow.cloud))
    row = await session.scalar(query)
    if row is None:
        raise NotFound(
            f"there is no incident {incident}", hint="supercloud incident ls shows which there are"
        )
    return row


async def _names(session: AsyncSession, rows: Sequence[IncidentRow]) -> Mapping[Id, Name]:
    """Of clouds and blankets."""
    found: dict[Id, Name] = {}
    for table, ids in ((Cloud, {row.cloud for row in rows}), (Blanket, {row.blanket for row in rows})):
        found |= dict((await session.execute(select(table.id, table.name).where(table.id.in_(ids)))).all())
    return found


def _view(row: IncidentRow, names: Mapping[Id, Name]) -> IncidentView:
    incident = from_json(Incident, row.said["incident"])
    return IncidentView(
        id=row.id,
        state=IncidentState(row.state),
        severity=Severity.ranked(row.severity),
        title=row.title,
        cloud=names[row.cloud],
        cloud_id=row.cloud,
        blanket=None if row.horizontal else names.get(row.blanket),
        blanket_id=row.blanket,
        horizontal=row.horizontal,
        domain_id=row.domain,
        objects=tuple(dict.fromkeys(one.id for one in incident.objects)),
        findings=incident.findings,
        layers=tuple(sorted({one.layer for one in incident.seen})),
        opened_at=row.opened_at,
        last_at=row.last_at,
        closed_at=row.closed_at,
        rules=tuple(dict.fromkeys(one_line(one.rule) for one in incident.seen)),
    )


async def _detail(session: AsyncSession, row: IncidentRow) -> IncidentDetail:
    incident = from_json(Incident, row.said["incident"])
    names = dict(await _names(session, [row]))
    ids = {one.object.id for one in incident.seen if one.object.kind is ObjectKind.INSTANCE}
    own = select(Instance.id, Instance.name).where(Instance.id.in_(ids), Instance.cloud == row.cloud)
    names |= dict((await session.execute(own)).all())
    orders = await _orders(session, row)
    return IncidentDetail(
        incident=_view(row, names),
        seen=tuple(
            SeenView(
                rule=one_line(one.rule),
                layer=one.layer,
                object_kind=one.object.kind,
                object=one.object.id,
                object_name=names.get(one.object.id),
                first=one.first,
                last=one.last,
                many=one.many,
            )
            for one in incident.seen
        ),
        reactions=tuple(_reaction(from_json(Reaction, one)) for one in row.said.get("reactions") or ()),
        timeline=tuple(
            EntryView(at=one.at, kind=one.kind, says=one_line(one.says), of=one.of, layer=one.layer)
            for one in incident.timeline
        ),
        left_out=incident.left_out,
        orders=orders,
    )


async def _orders(session: AsyncSession, row: IncidentRow) -> tuple[LoopOrderView, ...]:
    """What blankets do because of it. Those of others have no name here."""
    found = await session.execute(
        select(LoopOrderRow, Blanket.name, Blanket.cloud)
        .join(Blanket, Blanket.id == LoopOrderRow.blanket)
        .where(LoopOrderRow.incident == row.id)
        .order_by(LoopOrderRow.reaction, LoopOrderRow.blanket)
    )
    return tuple(
        LoopOrderView(
            reaction=order.reaction,
            blanket=name if cloud == row.cloud else None,
            blanket_id=order.blanket,
            cloud_id=cloud,
            doing=order.doing,
            there=order.there,
            problem=one_line(order.problem),
            until=order.until,
        )
        for order, name, cloud in found
    )


def _reaction(one: Reaction) -> ReactionView:
    command = one.command
    return ReactionView(
        id=one.id,
        policy=one.policy,
        rule=one_line(one.rule),
        reaction=command.deed,
        meaning=MEANINGS[command.deed],
        about=command.net or command.about.id,
        state=one.state,
        why=one_line(one.why),
        decided_at=one.decided_at,
        done_at=one.done_at,
        until=command.until,
        command=command.as_openc2(one.decided_at),
    )
