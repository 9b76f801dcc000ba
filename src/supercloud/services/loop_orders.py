"""What horizontal loops order at blankets: one row for each blanket at which a reaction is done.

A row is durable before its blanket is asked, and says what is still to be asked. So a controller that is
killed asks again, which changes nothing there; and a blanket that is away is asked when it is back, if the
order is not over by then.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import cast

from sqlalchemy import ColumnElement, and_, case, delete, func, or_, select, true, update
from sqlalchemy.ext.asyncio import AsyncSession

from supercloud.model.errors import Refused
from supercloud.model.names import Id
from supercloud.model.reactions import (
    GOVERNED,
    IN_FORCE,
    LONGEST_S,
    Command,
    Deed,
    Reaction,
    ReactionState,
)
from supercloud.model.states import LASTING, BlanketState
from supercloud.model.trust import TrustKind
from supercloud.ports.loop import OrderDeed
from supercloud.security.engine import Doing
from supercloud.security.horizontal import WITH_IT, Known, Let, Own, Place, Target, order_id, targets
from supercloud.services import relations
from supercloud.services.store.security import IncidentRow, LoopOrderRow, SightingRow
from supercloud.services.store.tables import Blanket, Instance, Network, NicRow, Right, Trust
from supercloud.services.store.time import wall
from supercloud.wire.codec import from_json, to_json

#: Why a look found nothing; what else went wrong is in the blanket's words.
GONE = "its effect is not there"
_Row = LoopOrderRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How far a reaction is over all of its blankets. `away`: those that are not connected, of `waiting`,
    `looking` and `undoing`."""

    rows: int = 0
    there: int = 0
    gone: int = 0
    waiting: int = 0
    waiting_away: int = 0
    looking: int = 0
    looked: int = 0
    undoing: int = 0
    stuck: int = 0  # neither undone nor to be asked again
    problem: str = ""


async def standing(session: AsyncSession, cloud: Id, reaction: Id | None = None) -> dict[Id, Standing]:
    """Of each reaction of a cloud that has rows, or of one."""
    away = (Blanket.state != BlanketState.READY.value) & ~governed()
    query = (
        select(
            _Row.reaction,
            func.count(),
            _many(_Row.there.is_(True)),
            _many(_Row.problem == GONE),
            _many(_Row.doing == Doing.DO.value),
            _many((_Row.doing == Doing.DO.value) & away),
            _many((_Row.doing == Doing.LOOK.value) & ~away),
            _many(_Row.looked_at.is_not(None)),
            _many(_Row.doing == Doing.UNDO.value),
            _many(_Row.doing.is_(None) & (_Row.tries < 0)),
            func.max(_Row.problem),
        )
        .join(Blanket, Blanket.id == _Row.blanket)
        .where(_Row.cloud == cloud, true() if reaction is None else _Row.reaction == reaction)
        .group_by(_Row.reaction)
    )
    return {
        row[0]: Standing(
            rows=row[1],
            there=row[2],
            gone=row[3],
            waiting=row[4],
            waiting_away=row[5],
            looking=row[6],
            looked=row[7],
            undoing=row[8],
            stuck=row[9],
            problem=row[10] or "",
        )
        for row in (await session.execute(query)).all()
    }


def _many(holds: ColumnElement[bool]) -> ColumnElement[int]:
    return func.coalesce(func.sum(case((holds, 1), else_=0)), 0)


async def place(
    session: AsyncSession, found: Sequence[Target], *, cloud: Id, incident: Id, reaction: Id, now: float
) -> None:
    """Those that are not there yet."""
    names = [one.command.id for one in found]
    known = set(await session.scalars(select(_Row.id).where(_Row.id.in_(names))))
    for one in found:
        if one.command.id in known:
            continue
        session.add(
            _Row(
                id=one.command.id,
                cloud=cloud,
                incident=incident,
                reaction=reaction,
                blanket=one.place.blanket,
                relation=one.relation,
                command=to_json(Command, one.command),
                until=one.command.until or now,
                doing=Doing.DO.value,
                asked=False,
                problem="",
                tries=0,
                again_at=now,
            )
        )
    await session.flush()


async def take_back(session: AsyncSession, which: ColumnElement[bool], now: float) -> None:
    """What nobody was asked for is gone; what is over ends by itself."""
    await session.execute(delete(_Row).where(which, or_(_Row.asked.is_(False), _Row.until <= now)))
    await session.execute(
        update(_Row).where(which).values(doing=Doing.UNDO.value, tries=0, problem="", again_at=now)
    )


async def look(session: AsyncSession, cloud: Id, reaction: Id, now: float) -> None:
    """Have those looked at that can be, and were not."""
    ready = select(Blanket.id).where(Blanket.state == BlanketState.READY.value)
    await session.execute(
        update(_Row)
        .where(
            _Row.cloud == cloud,
            _Row.reaction == reaction,
            _Row.there.is_(True),
            _Row.doing.is_(None),
            _Row.looked_at.is_(None),
            or_(_Row.blanket.in_(ready), governed()),
        )
        .values(doing=Doing.LOOK.value, tries=0, again_at=now)
    )


async def end(session: AsyncSession, cloud: Id, now: float) -> None:
    """What is over ended by itself, at its blanket's own clock, or was never begun."""
    await session.execute(delete(_Row).where(_Row.cloud == cloud, _Row.until <= now))


def governed() -> ColumnElement[bool]:
    """What no blanket is asked: the control plane does it."""
    return cast(
        "ColumnElement[bool]", _Row.command["deed"].as_string().in_([one.value for one in sorted(GOVERNED)])
    )


def to_ask(now: float) -> ColumnElement[bool]:
    """Of which a blanket is to be asked now. What is over in a moment is not begun."""
    in_time = or_(_Row.until > now + 1, _Row.doing != Doing.DO.value)
    return and_(_Row.doing.is_not(None), _Row.again_at <= now, in_time)


async def forget(session: AsyncSession, cloud: Id, live: Collection[Id]) -> None:
    """Rows of reactions that have ended."""
    await session.execute(delete(_Row).where(_Row.cloud == cloud, _Row.reaction.not_in(live)))


async def withdraw(session: AsyncSession, gone: Collection[Id], now: float) -> None:
    """Relations have ended: what was ordered by them is undone, and what was seen by them is forgotten."""
    await take_back(session, _Row.relation.in_(gone), now)
    await session.execute(delete(SightingRow).where(SightingRow.relation.in_(gone)))


# ---------------------------------------------------------------- an instance that moves


async def going_with(session: AsyncSession, instance: Id, *, source: Id, target: Id) -> tuple[OrderDeed, ...]:
    """What `source` does about an instance because it was ordered to, as `target` will be: by the names and
    for the time that it will be ordered it."""
    now = await wall(session)
    undone = _Row.doing.is_not_distinct_from(Doing.UNDO.value)
    rows = await session.scalars(select(_Row).where(_Row.blanket == source, _about(instance), ~undone))
    found = []
    for row in rows:
        command = from_json(Command, row.command)
        if command.deed in WITH_IT and row.until > now + 1:
            own = replace(command, id=order_id(row.cloud, row.reaction, target))
            left_s = min(row.until - now, LONGEST_S)
            found.append(OrderDeed(command=own, left_s=left_s, by=row.cloud))
    return tuple(found)


async def coming_with(session: AsyncSession, instance: Id, *, target: Id) -> tuple[OrderDeed, ...]:
    """What horizontal loops order about an instance, as `target` will be ordered it once that is there:
    whatever became of the blanket that was ordered it before."""
    now = await wall(session)
    found = []
    for cloud, one in await _in_force(session, instance):
        until = one.command.until
        if one.command.deed not in WITH_IT or until is None or until <= now + 1:
            continue
        there = await known(session, cloud, one.command)
        named = [replace(own, holder=target) if own.instance == instance else own for own in there.named]
        try:
            (placed,) = targets(one.command, replace(there, named=named))
        except Refused:
            continue  # whoever it was let by does so no more
        left_s = min((placed.command.until or until) - now, LONGEST_S)
        if left_s > 0:
            found.append(OrderDeed(command=placed.command, left_s=left_s, by=cloud))
    return tuple(found)


async def clouds_about(session: AsyncSession, instance: Id) -> list[Id]:
    """Whose horizontal loops do something about an instance."""
    ordering = await session.scalars(select(_Row.cloud).where(_about(instance)).distinct())
    return sorted({*ordering, *(cloud for cloud, _ in await _in_force(session, instance))})


async def _in_force(session: AsyncSession, instance: Id) -> list[tuple[Id, Reaction]]:
    """Of the loops that may order something about an instance: its own cloud's, and those that this lets."""
    own = await session.scalar(select(Instance.cloud).where(Instance.id == instance))
    if own is None:
        return []
    letting = select(Trust.to).where(Trust.origin == own, Trust.kind == TrustKind.ORDER_REACTIONS.value)
    rows = await session.scalars(
        select(IncidentRow)
        .where(
            IncidentRow.blanket == IncidentRow.cloud,
            or_(IncidentRow.blanket == own, IncidentRow.blanket.in_(letting)),
            IncidentRow.closed_at.is_(None),
        )
        .order_by(IncidentRow.cloud, IncidentRow.id)
    )
    every = [(row.cloud, from_json(Reaction, one)) for row in rows for one in row.said["reactions"]]
    return [
        (cloud, one)
        for cloud, one in every
        if one.command.about.id == instance
        and one.state in IN_FORCE - {ReactionState.UNDOING}
        and one.command.deed not in GOVERNED
    ]


def _about(instance: Id) -> ColumnElement[bool]:
    return cast("ColumnElement[bool]", _Row.command["about"]["id"].as_string() == instance)


async def move(session: AsyncSession, cloud: Id, reaction: Id, to: Collection[Id], now: float) -> None:
    """What is done elsewhere than at these blankets is taken back there."""
    elsewhere = (_Row.cloud == cloud) & (_Row.reaction == reaction) & _Row.blanket.not_in(to)
    await take_back(session, elsewhere & _Row.doing.is_distinct_from(Doing.UNDO.value), now)


# ---------------------------------------------------------------- where something is done


async def known(session: AsyncSession, cloud: Id, command: Command) -> Known:
    """What is to be known to say where it is done."""
    let = await _let(session, cloud)
    clouds = {cloud, *(one.place.cloud for one in let)}
    rows = await session.scalars(select(Network.cidr).where(Network.cloud == cloud))
    return Known(
        cloud=cloud,
        places=await _places(session, [cloud]),
        nets=list(rows),
        named=await _named(session, command, clouds),
        let=let,
    )


async def _places(session: AsyncSession, clouds: Collection[Id]) -> list[Place]:
    rows = await session.scalars(
        select(Blanket)
        .where(
            Blanket.cloud.in_(clouds),
            Blanket.revoked.is_(False),
            Blanket.state.in_([one.value for one in LASTING]),
        )
        .order_by(Blanket.id)
    )
    return [Place(blanket=row.id, cloud=row.cloud, domain=row.provider) for row in rows]


async def _named(session: AsyncSession, command: Command, clouds: Collection[Id]) -> list[Own]:
    ids = {command.about.id}
    if command.deed is Deed.DENY:
        same = select(NicRow.instance).where(NicRow.ip == command.net, NicRow.cloud.in_(clouds))
        ids |= set(await session.scalars(same))
    rows = await session.execute(
        select(Instance.id, Instance.cloud, Right.holder)
        .outerjoin(Right, Right.instance == Instance.id)
        .where(Instance.id.in_(ids))
    )
    return [Own(instance=row[0], cloud=row[1], holder=row[2]) for row in rows]


async def _let(session: AsyncSession, cloud: Id) -> list[Let]:
    """Of several relations about one cloud, each says what it lets; the later ends come first."""
    found = await relations.granting(session, [cloud], TrustKind.ORDER_REACTIONS)
    origins = {one.origin for one in found} - {cloud}
    if not origins:
        return []
    places = await _places(session, origins)
    nets: dict[Id, list[str]] = {}
    for owner, cidr in await session.execute(
        select(Network.cloud, Network.cidr).where(Network.cloud.in_(origins))
    ):
        nets.setdefault(owner, []).append(cidr)
    return [
        Let(
            place=one,
            relation=relation.id,
            until=relation.expires_at,
            reactions=frozenset(relation.reactions or ()),
            nets=nets.get(one.cloud, ()),
        )
        for one in places
        for relation in found
        if relation.origin == one.cloud
    ]
