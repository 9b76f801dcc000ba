"""Orders, as users ask for them: what only a provider can do to a machine that they rent there.

Nothing is queued that its domain did not say it takes. Who may order something for a machine has its cloud,
or is trusted by it with exactly that (`order-reactions`).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, delete, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from supercloud.model.errors import Conflict, Exhausted, NotFound, Refused
from supercloud.model.names import Id, Name, new_id
from supercloud.model.orders import MEANINGS, OPEN, ORDER_TRANSITIONS, OrderState, Reaction
from supercloud.model.states import move
from supercloud.model.trust import TrustKind
from supercloud.services import relations
from supercloud.services.northbound import LAST
from supercloud.services.pages import Page, Part
from supercloud.services.parts import Parts
from supercloud.services.refs import caller_of, clouds_of, find_blanket, within
from supercloud.services.requests import Ref
from supercloud.services.security_views import OrderView, PlaceOrder
from supercloud.services.store.security import OrderRow
from supercloud.services.store.tables import LOCKED, Blanket, Cloud, Provider, Trust
from supercloud.services.store.time import wall

#: Open ones that one cloud has asked for, and that one domain has before it.
OPEN_OF_CLOUD, OPEN_OF_DOMAIN = 64, 2000
#: Of one cloud, ended ones, and for how long.
KEPT, KEPT_S = 1000, 90 * 86400.0
_OPEN = tuple(one.value for one in OPEN)


class Orders:
    """The part of Northbound about orders."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def place_order(self, request: PlaceOrder) -> OrderView:
        """
        Raises:
            NotFound: the blanket, for the caller.
            Refused: its domain does not take such an order, or no trust lets the caller ask for it.
            InvalidInput: no provider could do that.
            Exhausted: so many are open already.
        """
        reaction = request.command.reaction
        async with self._parts.store.write() as session:
            target = await _target(session, request, reaction)
            domain = await session.get_one(
                Provider, target.blanket.provider, with_for_update=LOCKED, populate_existing=True
            )
            _check_taken(domain, reaction)
            now = await wall(session)
            deadline = now + request.lasts_s
            if target.relation is not None:
                deadline = min(deadline, target.relation.expires_at)
            request.command.check(target.blanket.id, now=now, deadline=deadline)
            await _check_bounds(session, target.asker, domain)
            await _forget_old(session, target.asker, now)
            identity = new_id()
            row = OrderRow(
                id=identity,
                domain=domain.id,
                cloud=target.blanket.cloud,
                asker=target.asker,
                relation=None if target.relation is None else target.relation.id,
                machine=target.blanket.id,
                reaction=reaction,
                command=request.command.as_openc2(
                    order=identity, domain=domain.id, machine=target.blanket.id
                ),
                state=OrderState.ASKED,
                reason="",
                created_at=now,
                deadline=deadline,
            )
            session.add(row)
            await session.flush()
            return await _shown(session, row.id)

    async def orders(
        self, *, cloud: Ref | None = None, open_only: bool = False, page: Page = LAST
    ) -> Part[OrderView]:
        async with self._parts.store.read() as session:
            query = _query(session).where(_visible(session))
            if (clouds := await clouds_of(session, cloud)) is not None and cloud is not None:
                query = query.where(or_(OrderRow.cloud.in_(clouds), OrderRow.asker.in_(clouds)))
            if open_only:
                query = query.where(OrderRow.state.in_(_OPEN))
            if page.state is not None:
                query = query.where(OrderRow.state == page.state)
            query = page.of(query, OrderRow.created_at, OrderRow.id, newest=True)
            rows = (await session.execute(query)).all()
        return page.part(rows, lambda row: (row[0].created_at, row[0].id), lambda row: _view(*row))

    async def order(self, order: Id) -> OrderView:
        async with self._parts.store.read() as session:
            return await _shown(session, order)

    async def cancel_order(self, order: Id) -> OrderView:
        """The same again is harmless.

        Raises:
            Refused: its provider is at it already.
            Conflict: it has ended.
        """
        async with self._parts.store.write() as session:
            await _shown(session, order)  # whether the caller sees it
            row = await session.get_one(OrderRow, order, with_for_update=True, populate_existing=True)
            if row.state == OrderState.TAKEN:
                raise Refused("its provider has taken it", hint="order the opposite")
            _end(row, OrderState.CANCELLED, await wall(session), "")
            await session.flush()
            return await _shown(session, order)


async def withdraw(session: AsyncSession, gone: Collection[Id], now: float) -> None:
    """Relations have ended: what was ordered by them, and was not taken yet, is cancelled."""
    await _cancel(session, OrderRow.relation.in_(gone), now, "the trust by which it was asked for has ended")


async def machine_gone(session: AsyncSession, machine: Id, now: float) -> None:
    """What nobody took yet is cancelled. What is taken, its provider says the end of, or time does."""
    await _cancel(session, OrderRow.machine == machine, now, "its blanket was removed")


async def expire(session: AsyncSession, now: float) -> None:
    """Those whose deadline has passed."""
    for was, reason in (
        (
            OrderState.TAKEN,
            "it was taken, and nobody said by its deadline how it ended: look whether it was done",
        ),
        (OrderState.ASKED, "its provider did not take it by its deadline"),
    ):
        await session.execute(
            update(OrderRow)
            .where(OrderRow.state == was.value, OrderRow.deadline <= now)
            .values(state=OrderState.EXPIRED.value, reason=reason, ended_at=now)
        )


# ---------------------------------------------------------------- inside


@dataclass(frozen=True, slots=True)
class _Target:
    blanket: Blanket
    asker: Id
    relation: Trust | None


async def _target(session: AsyncSession, request: PlaceOrder, reaction: Reaction) -> _Target:
    """The machine, in whose name it is asked for, and by which trust. The asking cloud is locked.

    Raises:
        NotFound, Conflict, Refused.
    """
    try:
        own = await find_blanket(session, request.blanket, request.cloud)
    except NotFound:
        found = await _by_trust(session, request, reaction)
        if found is None:
            raise
    else:
        found = _Target(own, own.cloud, None)
    if found.blanket.parent is not None:
        raise Refused(
            f"blanket {found.blanket.name} is inside another one, and no machine of its domain's",
            hint="order it for the outermost blanket around it",
        )
    await session.get_one(Cloud, found.asker, with_for_update=LOCKED, populate_existing=True)
    if found.relation is not None:
        relation = await session.get(
            Trust, found.relation.id, with_for_update={"read": True}, populate_existing=True
        )
        if relation is None or relation.revoked_at is not None:
            raise Refused("the trust by which it would be asked for has ended")
    return found


async def _by_trust(session: AsyncSession, request: PlaceOrder, reaction: Reaction) -> _Target | None:
    """None: nothing about that blanket is let to the caller, so that it does not exist.

    Raises:
        Refused: something is, and not this.
    """
    caller = caller_of(session)
    blanket = await session.get(Blanket, request.blanket)  # another's has no name here
    if caller is None or blanket is None or request.cloud not in {None, blanket.cloud}:
        return None
    found = await relations.granting(session, caller.clouds, TrustKind.ORDER_REACTIONS, origin=blanket.cloud)
    if not found:
        return None
    for one in found:
        if reaction in (one.reactions or ()):
            return _Target(blanket, one.to, one)
    let = sorted({one for relation in found for one in relation.reactions or ()})
    raise Refused(
        f"that cloud does not let this one order {reaction}", hint=f"it lets it order {', '.join(let)}"
    )


def _check_taken(domain: Provider, reaction: Reaction) -> None:
    if domain.takes and reaction in domain.takes:
        return
    what = ", ".join(sorted(domain.takes)) if domain.takes else "no orders at all"
    raise Refused(
        f"domain {domain.name} does not take {reaction}: it takes {what}",
        hint=f"supercloud provider show {domain.name}",
    )


async def _check_bounds(session: AsyncSession, asker: Id, domain: Provider) -> None:
    """
    Raises:
        Exhausted.
    """
    of_cloud = select(func.count()).where(OrderRow.asker == asker, OrderRow.state.in_(_OPEN))
    if (await session.scalar(of_cloud) or 0) >= OPEN_OF_CLOUD:
        raise Exhausted(
            f"this cloud has {OPEN_OF_CLOUD} open orders, which is all that it can have",
            hint="cancel some: supercloud order ls --open",
        )
    of_domain = select(func.count()).where(OrderRow.domain == domain.id, OrderRow.state.in_(_OPEN))
    if (await session.scalar(of_domain) or 0) >= OPEN_OF_DOMAIN:
        raise Exhausted(f"domain {domain.name} has as many orders before it as it can have")


async def _forget_old(session: AsyncSession, asker: Id, now: float) -> None:
    """Ended ones, of long ago or too many."""
    ended = (OrderRow.asker == asker, OrderRow.ended_at.is_not(None))
    newest = select(OrderRow.id).where(*ended).order_by(OrderRow.created_at.desc(), OrderRow.id.desc())
    beyond = list(await session.scalars(newest.offset(KEPT)))
    await session.execute(
        delete(OrderRow).where(*ended, or_(OrderRow.ended_at < now - KEPT_S, OrderRow.id.in_(beyond)))
    )


async def _cancel(session: AsyncSession, which: ColumnElement[bool], now: float, reason: str) -> None:
    await session.execute(
        update(OrderRow)
        .where(which, OrderRow.state == OrderState.ASKED.value)
        .values(state=OrderState.CANCELLED.value, reason=reason, ended_at=now)
    )


def _end(row: OrderRow, to: OrderState, now: float, reason: str) -> None:
    """
    Raises:
        Conflict: it has ended in another way.
    """
    was = OrderState(row.state)
    try:
        row.state = move(ORDER_TRANSITIONS, was, to)
    except Conflict as error:
        raise Conflict(f"the order is {was}") from error
    if row.ended_at is None:
        row.ended_at, row.reason = now, reason


def _visible(session: AsyncSession) -> ColumnElement[bool]:
    """To who has the machine's cloud, or the one in whose name it was asked for."""
    return or_(within(session, OrderRow.cloud), within(session, OrderRow.asker))


def _query(session: AsyncSession) -> Any:
    mine = (Blanket.id == OrderRow.machine) & within(session, Blanket.cloud)
    return (
        select(OrderRow, Provider.name, Blanket.name)
        .join(Provider, Provider.id == OrderRow.domain)
        .outerjoin(Blanket, mine)
    )


async def _shown(session: AsyncSession, order: Id) -> OrderView:
    """
    Raises:
        NotFound.
    """
    query = _query(session).where(OrderRow.id == order, _visible(session))
    found = (await session.execute(query)).one_or_none()
    if found is None:
        raise NotFound(f"there is no order {order}", hint="supercloud order ls shows which there are")
    return _view(*found)


def _view(row: OrderRow, domain: Name, blanket: Name | None) -> OrderView:
    reaction = Reaction(row.reaction)
    return OrderView(
        id=row.id,
        reaction=reaction,
        meaning=MEANINGS[reaction],
        domain=domain,
        domain_id=row.domain,
        blanket=blanket,
        blanket_id=row.machine,
        cloud_id=row.cloud,
        asked_by=row.asker,
        relation=row.relation,
        command=row.command,
        state=OrderState(row.state),
        reason=row.reason,
        response=row.response,
        created_at=row.created_at,
        deadline=row.deadline,
        taken_at=row.taken_at,
        ended_at=row.ended_at,
    )
