"""From a blanket's incident to the horizontal loops that may see it: its own cloud's, and those of the clouds
that its cloud trusts with what is found (`see-findings`).

In the transaction that keeps the incident, so that nothing acknowledged is lost. Only clouds with a
horizontal policy have such a loop.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection

import structlog
from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from supercloud.model.findings import Finding, ObjectKind
from supercloud.model.incidents import Incident
from supercloud.model.names import Id, Ipv4
from supercloud.model.trust import TrustKind
from supercloud.security.horizontal import Place, sightings
from supercloud.services.policy_rows import horizontal
from supercloud.services.store.security import SightingRow
from supercloud.services.store.tables import NicRow, Right, Trust
from supercloud.services.store.time import wall
from supercloud.wire.codec import to_json

#: That wait, of one blanket for one cloud. Beyond it the oldest is dropped: who floods loses its own.
WAITING = 200
_IDS = uuid.UUID("8d4f5d0a-94f5-4d36-8c52-1b6a0b8a7c55")
_log = structlog.get_logger(__name__)


async def note(session: AsyncSession, incident: Incident, before: Incident | None, at: Place) -> int:
    """What is new in it, to whom it may concern; how many."""
    viewers = await _viewers(session, at.cloud)
    if not viewers:
        return 0
    held = await _held(session, incident, at.blanket)
    found = sightings(incident, before, at, held)
    now = await wall(session)
    for cloud, relation in viewers.items():
        for one in found:
            await _add(session, one, cloud, relation, now)
        if found:
            await _drop_oldest(session, at.blanket, cloud)
    return len(found) * len(viewers)


async def _viewers(session: AsyncSession, cloud: Id) -> dict[Id, Id | None]:
    """Each with the relation by which it sees."""
    trusted = await session.execute(
        select(Trust.to, Trust.id)
        .where(
            Trust.origin == cloud,
            Trust.kind == TrustKind.SEE_FINDINGS.value,
            Trust.revoked_at.is_(None),
            Trust.expires_at > await wall(session),
        )
        .order_by(Trust.expires_at)
    )
    every: dict[Id, Id | None] = {**dict(trusted.all()), cloud: None}
    return {one: by for one, by in every.items() if await horizontal(session, one) is not None}


async def _held(session: AsyncSession, incident: Incident, blanket: Id) -> dict[Id, Collection[Ipv4]]:
    """Of the instances that it names, those that the blanket holds, each with its addresses."""
    ids = {one.object.id for one in incident.seen if one.object.kind is ObjectKind.INSTANCE}
    ids |= {one.id for one in incident.objects if one.kind is ObjectKind.INSTANCE}
    holding = select(Right.instance).where(Right.holder == blanket, Right.instance.in_(ids))
    found: dict[Id, list[Ipv4]] = {one: [] for one in await session.scalars(holding)}
    rows = await session.execute(select(NicRow.instance, NicRow.ip).where(NicRow.instance.in_(found)))
    for instance, address in rows:
        found[instance].append(address)
    return {**found}


async def _add(session: AsyncSession, one: Finding, cloud: Id, relation: Id | None, now: float) -> None:
    name = str(uuid.uuid5(_IDS, f"{cloud}/{one.id}"))
    if await session.get(SightingRow, name) is None:
        said = to_json(Finding, one)
        row = SightingRow(id=name, cloud=cloud, blanket=one.by or "", relation=relation, finding=said, at=now)
        session.add(row)
        await session.flush()


async def _drop_oldest(session: AsyncSession, blanket: Id, cloud: Id) -> None:
    of = (SightingRow.blanket == blanket, SightingRow.cloud == cloud)
    many = await session.scalar(select(func.count()).select_from(SightingRow).where(*of)) or 0
    if many > WAITING:
        oldest = (
            select(SightingRow.id).where(*of).order_by(SightingRow.at, SightingRow.id).limit(many - WAITING)
        )
        gone = list(await session.scalars(oldest))
        await session.execute(delete(SightingRow).where(SightingRow.id.in_(gone)))
        _log.warning("sightings.dropped", blanket=blanket, cloud=cloud, many=len(gone))
