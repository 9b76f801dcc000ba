"""The horizontal loop at work: of each cloud that has a horizontal policy, over all of its blankets.

Deciding is a transaction (services.mind); what it orders is asked of the blankets that are connected to this
controller, and what they say is told to the next transaction. Nothing is kept here that matters: whoever is
killed is followed by whoever looks at the rows.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace

import structlog
from sqlalchemy import delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from supercloud.model.errors import Conflict, NotFound, Refused, SupercloudError, Unavailable
from supercloud.model.findings import Finding
from supercloud.model.names import Id
from supercloud.model.reactions import LONGEST_S, Command
from supercloud.ports.loop import LoopAgent, OrderDeed, OrderedRef
from supercloud.security.engine import Doing
from supercloud.services import incidents, loop_orders, policy_rows
from supercloud.services.agents import Agents
from supercloud.services.due import LOOK_EVERY_S, keep_up
from supercloud.services.governing import Governing, Order
from supercloud.services.loop_orders import GONE, governed, to_ask
from supercloud.services.mind import Mind
from supercloud.services.store.engine import Store
from supercloud.services.store.security import IncidentRow, LoopOrderRow, SightingRow
from supercloud.services.store.tables import LOCKED, Blanket, Cloud, Trust
from supercloud.services.store.time import wall
from supercloud.wire.codec import from_json

#: Sightings of one transaction; orders that one blanket is asked at a time; blankets that are.
_GROUP, _ORDERS, _AT_ONCE = 200, 100, 32
#: A blanket that says nothing for so long is asked again.
_ASK_S = 20.0
_TRIES, _RETRY_S = 4, 1.0
_log = structlog.get_logger(__name__)
_Row = LoopOrderRow


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """What one blanket is asked, and what came of it. `final`: to ask again would not help."""

    order: Id
    cloud: Id
    reaction: Id
    blanket: Id
    doing: Doing
    command: Command
    left_s: float
    there: bool | None = None
    problem: str = ""
    final: bool = True


class Horizontal:
    """`run` until cancelled; `changed`: there may be something to do."""

    def __init__(self, store: Store, agents: Agents, governing: Governing) -> None:
        self._store = store
        self._agents = agents
        self._governing = governing
        self._wake = asyncio.Event()
        self._at_once = asyncio.Semaphore(_AT_ONCE)
        self._asking: dict[Id, asyncio.Task[None]] = {}
        #: When a cloud's loop has something to do by itself, by the store's clock.
        self._due: dict[Id, float] = {}
        self._heard = set[Id]()

    def changed(self) -> None:
        self._wake.set()

    async def run(self) -> None:
        await keep_up("horizontal", self.do_due, self._wake)

    async def end(self) -> None:
        for task in list(self._asking.values()):
            task.cancel()
        await asyncio.gather(*self._asking.values(), return_exceptions=True)

    async def do_due(self) -> float:
        """All that is due; seconds until something is next.

        Raises: Unavailable.
        """
        heard, self._heard = self._heard, set()
        due, now = await self._to_decide()
        for cloud in sorted(heard | due):
            try:
                await self.decide(cloud)
            except Unavailable:
                self._heard |= heard
                raise
            except SupercloudError as error:  # of one cloud, which keeps no other from its own
                _log.error("horizontal.undecided", cloud=cloud, why=error.message)
                self._due[cloud] = now + LOOK_EVERY_S
        await self._govern()
        await self._ask_those_here()
        async with self._store.read() as session:
            now = await wall(session)
            again = await session.scalar(
                select(func.min(_Row.again_at)).where(_Row.doing.is_not(None), _Row.again_at > now)
            )
        moments = [*self._due.values(), *([] if again is None else [again])]
        return max(0.0, min(moments, default=now + LOOK_EVERY_S) - now)

    # ------------------------------------------------------------ by a person

    async def close(self, cloud: Id, incident: Id, *, by: str, undo: bool) -> None:
        """Raises: NotFound."""
        async with self._deciding(cloud) as mind:
            await mind.close(incident, by=by, undo=undo)
        self.changed()

    async def answer(self, cloud: Id, reaction: Id, *, by: str, yes: bool) -> None:
        """Raises: NotFound, Conflict (it does not ask any more)."""
        async with self._deciding(cloud) as mind:
            await mind.answer(reaction, yes=yes, by=by)
        self.changed()

    # ------------------------------------------------------------ deciding

    async def _to_decide(self) -> tuple[set[Id], float]:
        """Clouds whose loop has been told something, or waits for a moment that has come; of those of which
        this controller knows no moment yet, all. And when that was, by the store's clock."""
        async with self._store.read() as session:
            now = await wall(session)
            told = set(await session.scalars(select(SightingRow.cloud).distinct()))
            busy = select(IncidentRow.cloud).where(
                IncidentRow.blanket == IncidentRow.cloud, IncidentRow.closed_at.is_(None)
            )
            ordering = set(await session.scalars(select(_Row.cloud).distinct()))
            every = set(await session.scalars(busy.distinct())) | ordering
        self._due = {cloud: due for cloud, due in self._due.items() if cloud in every}
        return told | {cloud for cloud in every if self._due.get(cloud, 0.0) <= now}, now

    async def decide(self, cloud: Id) -> None:
        """Raises: Unavailable."""
        async with self._deciding(cloud) as mind:
            await mind.tick()

    @asynccontextmanager
    async def _deciding(self, cloud: Id) -> AsyncIterator[Mind]:
        """One transaction: what was seen and done meanwhile, then what the caller adds."""
        async with self._store.write() as session:
            if await session.get(Cloud, cloud, with_for_update=LOCKED, populate_existing=True) is None:
                raise NotFound(f"there is no cloud {cloud}")
            now = await wall(session)
            mind = await Mind.of(session, cloud, now)
            await mind.settle()
            left = await _take(session, cloud, mind)
            yield mind
            await mind.settle()
            await mind.save()
            await incidents.drop_oldest(session, cloud)
            over = await session.scalar(select(func.min(_Row.until)).where(_Row.cloud == cloud))
        found = [one for one in (mind.next_due(), over) if one is not None]
        self._due[cloud] = now if left else max(now + _RETRY_S, min(found, default=now + LOOK_EVERY_S))

    # ------------------------------------------------------------ blankets

    async def arrived(self, blanket: Id) -> None:
        """It was away, or is new: what is in force there is ordered again, and what is denied everywhere."""
        async with self._store.read() as session:
            row = await session.get(Blanket, blanket)
            if row is None:
                return
            ordered = await session.scalar(select(_Row.id).where(_Row.blanket == blanket).limit(1))
            denying = await session.scalar(select(_Row.id).where(_Row.cloud == row.cloud).limit(1))
        if denying is not None:
            async with self._deciding(row.cloud) as mind:
                await mind.joined(blanket)
        if ordered is not None:
            async with self._store.write() as session:
                await session.execute(
                    update(_Row)
                    .where(_Row.blanket == blanket, _Row.doing.is_(None), _Row.there.is_(True))
                    .values(doing=Doing.DO.value, tries=0)
                )
        self.changed()

    async def moved(self, instance: Id) -> None:
        """What is in force about an instance that has is done where it is now."""
        async with self._store.read() as session:
            clouds = await loop_orders.clouds_about(session, instance)
        for cloud in clouds:
            with suppress(NotFound):  # it was removed meanwhile
                async with self._deciding(cloud) as mind:
                    await mind.moved(instance)
        if clouds:
            self.changed()

    async def _ask_those_here(self) -> None:
        async with self._store.read() as session:
            now = await wall(session)
            rows = await session.scalars(select(_Row.blanket).where(to_ask(now), ~governed()).distinct())
            here = [one for one in rows if self._agents.is_connected(one)]
        for blanket in here:
            if blanket not in self._asking:
                task = asyncio.create_task(self._ask_one(blanket))
                self._asking[blanket] = task

    async def _ask_one(self, blanket: Id) -> None:
        try:
            async with self._at_once:
                asked = await self._begin(blanket)
                came = await asyncio.gather(*(self._ask(blanket, one) for one in asked))
                await self._note(came)
            self._heard |= {one.cloud for one in came}
        except SupercloudError as error:
            _log.warning("horizontal.later", blanket=blanket, why=error.message)
        finally:
            del self._asking[blanket]
            self.changed()

    async def _begin(self, blanket: Id) -> list[_Asked]:
        """What it is to be asked, which is noted as asked before it is."""
        async with self._store.write() as session:
            now = await wall(session)
            rows = (
                await session.scalars(
                    select(_Row)
                    .where(_Row.blanket == blanket, to_ask(now), ~governed())
                    .order_by(_Row.again_at, _Row.id)
                    .limit(_ORDERS)
                )
            ).all()
            return [_asking(row, now) for row in rows]

    async def _govern(self) -> None:
        """What no blanket is asked. It takes a moment each: what takes longer is an operation."""
        async with self._store.read() as session:
            now = await wall(session)
            if await session.scalar(select(_Row.id).where(to_ask(now), governed()).limit(1)) is None:
                return
        async with self._store.write() as session:
            query = select(_Row).where(to_ask(now), governed()).order_by(_Row.again_at, _Row.id)
            asked = [_asking(row, now) for row in await session.scalars(query.limit(_ORDERS))]
        came = [await self._governed(one) for one in asked]
        await self._note(came)
        if heard := {one.cloud for one in came if one.there is not None or one.problem}:
            self._heard |= heard
            self.changed()

    async def _governed(self, one: _Asked) -> _Asked:
        order = Order(
            id=one.order, cloud=one.cloud, reaction=one.reaction, blanket=one.blanket, command=one.command
        )
        try:
            there = await self._governing.carry_out(order, one.doing)
        except (Conflict, NotFound, Refused) as error:
            return replace(one, there=False, problem=error.message)
        except SupercloudError as error:
            return replace(one, problem=error.message, final=False)
        return replace(one, there=there)

    async def _ask(self, blanket: Id, one: _Asked) -> _Asked:
        loop = self._agents.agent(blanket).loop
        try:
            async with asyncio.timeout(_ASK_S):
                return replace(one, there=await _asked(loop, one))
        except (Refused, NotFound) as error:
            return replace(one, there=False, problem=error.message)
        except Conflict:  # its own loop does the same
            return replace(one, there=True)
        except TimeoutError:
            return replace(one, problem=f"no answer within {_ASK_S:.0f} s", final=False)
        except SupercloudError as error:
            return replace(one, problem=error.message, final=False)

    async def _note(self, came: Sequence[_Asked]) -> None:
        if not came:
            return
        async with self._store.write() as session:
            now = await wall(session)
            for one in came:
                row = await session.get(_Row, one.order, with_for_update=True)
                if (
                    row is not None and row.doing == one.doing.value
                ):  # else it was decided otherwise meanwhile
                    await _came_of(session, row, one, now)


async def _take(session: AsyncSession, cloud: Id, mind: Mind) -> bool:
    """What was seen, once each; whether there is more. What is seen by a trust that has ended is not."""
    now = await wall(session)
    rows = (
        await session.scalars(
            select(SightingRow)
            .where(SightingRow.cloud == cloud)
            .order_by(SightingRow.at, SightingRow.id)
            .limit(_GROUP)
        )
    ).all()
    by = {row.relation for row in rows if row.relation is not None}
    lasting = set(
        await session.scalars(
            select(Trust.id).where(Trust.id.in_(by), Trust.revoked_at.is_(None), Trust.expires_at > now)
        )
    )
    if await policy_rows.horizontal(session, cloud) is not None:
        for row in rows:
            if row.relation is None or row.relation in lasting:
                await mind.take(from_json(Finding, row.finding))
    await session.execute(delete(SightingRow).where(SightingRow.id.in_([row.id for row in rows])))
    return len(rows) == _GROUP


def _asking(row: LoopOrderRow, now: float) -> _Asked:
    """Noted as asked before it is."""
    row.asked = True
    return _Asked(
        order=row.id,
        cloud=row.cloud,
        reaction=row.reaction,
        blanket=row.blanket,
        doing=Doing(row.doing or Doing.LOOK),
        command=from_json(Command, row.command),
        left_s=min(row.until - now, LONGEST_S),
    )


async def _asked(loop: LoopAgent, one: _Asked) -> bool:
    """Whether its effect is there then."""
    match one.doing:
        case Doing.DO:
            await loop.order(OrderDeed(command=one.command, left_s=one.left_s, by=one.cloud))
            return True
        case Doing.UNDO:
            await loop.recall(OrderedRef(command=one.command.id))
            return False
    return await loop.ordered(OrderedRef(command=one.command.id))


async def _came_of(session: AsyncSession, row: LoopOrderRow, one: _Asked, now: float) -> None:
    failed = bool(one.problem)
    if failed and not one.final and row.tries + 1 < _TRIES:
        row.tries, row.again_at = row.tries + 1, now + _RETRY_S * 2**row.tries
        return
    if not failed and one.there is None:  # it is under way
        row.again_at = now + _RETRY_S
        return
    if one.doing is Doing.UNDO and not failed:
        await session.delete(row)
        return
    row.doing, row.problem = None, one.problem[:400]
    row.there = bool(one.there) if one.doing is not Doing.UNDO else row.there
    row.tries = -1 if one.doing is Doing.UNDO else 0
    if one.doing is Doing.LOOK:
        row.looked_at = now
        row.problem = "" if one.there else GONE
