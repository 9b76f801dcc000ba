"""What is in force about each instance, as the blanket that has it told it last.

For the day on which nobody else knows: an instance that starts once its blanket is lost is given what is kept
here, before it has a port. What is kept may be old, and then holds back too much rather than too little: it
ends when it was told that it has, or in its time, counted from when it was told.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import structlog
from sqlalchemy import delete, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from supercloud.model.findings import ObjectKind
from supercloud.model.incidents import Incident
from supercloud.model.names import Id
from supercloud.model.reactions import LEFT, LONGEST_S, Reaction, ReactionState
from supercloud.ports.loop import Held
from supercloud.services.store.security import GuardRow
from supercloud.services.store.tables import Instance, NicRow, Right
from supercloud.services.store.time import wall
from supercloud.wire.codec import from_json, to_json

#: Of one instance: its blanket's loop does far less about it, and who lies loses its own.
KEPT = 256
#: Of what is given: incidents (ports.loop.Guard), and lines of the timeline of each.
_MOST, _LINES = 64, 40
_log = structlog.get_logger(__name__)


async def note(
    session: AsyncSession, blanket: Id, incident: Incident, reactions: Sequence[Reaction], *, told_at: float
) -> None:
    """What a blanket tells about the instances that it has; what it says about others' counts for nothing.
    `told_at`: when that was, by its own clock."""
    about = {one.command.about.id for one in reactions if one.command.about.kind is ObjectKind.INSTANCE}
    has = await _has(session, blanket, about)
    now = await wall(session)
    for one in reactions:
        name = one.command.about.id
        if name not in has:
            continue
        row = await session.get(GuardRow, (name, one.id))
        if one.goes_along or one.state is ReactionState.UNDOING:
            await _keep(session, row, incident, one, _until(one, told_at, now))
        elif row is not None and one.why != LEFT:
            await session.delete(row)
    if has:
        await session.execute(delete(GuardRow).where(GuardRow.instance.in_(has), GuardRow.until <= now))


def _until(one: Reaction, told_at: float, now: float) -> float:
    """By our own clock, and by none of both sooner: the blanket's may be behind."""
    until = one.command.until
    if until is None:
        return now + LONGEST_S
    return min(max(until, now + (until - told_at)), now + LONGEST_S)


async def _has(session: AsyncSession, blanket: Id, instances: Collection[Id]) -> set[Id]:
    """Those that are there, by our own books: a migration's target has them once it is committed."""
    if not instances:
        return set()
    rows = await session.scalars(
        select(Instance.id)
        .outerjoin(Right, Right.instance == Instance.id)
        .where(Instance.id.in_(instances), or_(Right.holder == blanket, Instance.blanket == blanket))
    )
    return set(rows)


async def _keep(
    session: AsyncSession, row: GuardRow | None, incident: Incident, one: Reaction, until: float
) -> None:
    name = one.command.about.id
    if row is None:
        many = await session.scalar(select(func.count()).where(GuardRow.instance == name)) or 0
        if many >= KEPT:
            _log.warning("guards.not_kept", instance=name, many=many)
            return
        row = GuardRow(instance=name, reaction=one.id, incident=incident.id)
        session.add(row)
    row.until, row.said = until, _said(incident, one)
    await session.flush()


def _said(incident: Incident, one: Reaction) -> dict[str, Any]:
    """With nothing about anything else in it."""
    own = incident.shortened(_LINES).only_about(one.command.about.id)
    if not own.objects:  # it named others only, of as many as it could
        own = replace(own, objects=(one.command.about,))
    return {"incident": to_json(Incident, own), "reaction": to_json(Reaction, one)}


async def kept(session: AsyncSession, instance: Id) -> tuple[Held, ...]:
    """As another blanket takes it over, by the store's clock. Of addresses only the instance's own come with
    it: whoever told of others would have it start nowhere."""
    own = set(await session.scalars(select(NicRow.ip).where(NicRow.instance == instance)))
    rows = await session.scalars(
        select(GuardRow)
        .where(GuardRow.instance == instance, GuardRow.until > await wall(session) + 1)
        .order_by(GuardRow.incident, GuardRow.reaction)
    )
    found: dict[Id, Held] = {}
    for row in rows:
        one = from_json(Reaction, row.said["reaction"])
        if one.command.net is not None and one.command.net not in own:
            continue
        one = replace(one, command=replace(one.command, until=row.until))
        incident = from_json(Incident, row.said["incident"])
        before = found.get(incident.id)
        if before is None:
            found[incident.id] = Held(incident=incident, reactions=(one,))
        else:
            latest = max(before.incident, incident, key=lambda known: known.version)
            found[incident.id] = Held(incident=latest, reactions=(*before.reactions, one))
    latest_first = sorted(found.values(), key=lambda held: held.incident.last_at, reverse=True)
    return tuple(latest_first[:_MOST])


async def lift(session: AsyncSession, incident: Id) -> None:
    """Nothing of it is in force any more about what runs nowhere. `incident`: as its blanket names it."""
    running = select(Right.instance).where(Right.holder.is_not(None))
    await session.execute(
        delete(GuardRow).where(GuardRow.incident == incident, GuardRow.instance.not_in(running))
    )
