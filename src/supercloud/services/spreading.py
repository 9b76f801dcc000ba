"""Policies on their way to blankets."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog
from sqlalchemy import ColumnElement, select

from supercloud.model.errors import SupercloudError, Unavailable
from supercloud.model.kinds import Kind
from supercloud.model.names import Id
from supercloud.services import policy_rows
from supercloud.services.agents import Agents
from supercloud.services.due import LOOK_EVERY_S, keep_up
from supercloud.services.store.changes import Change
from supercloud.services.store.engine import Store
from supercloud.services.store.security import AppliedPolicy
from supercloud.services.store.tables import Blanket
from supercloud.services.store.time import wall

#: Blankets that are told at the same time.
_AT_ONCE = 16
_log = structlog.get_logger(__name__)


class Spreading:
    """Has blankets that are connected here go by what is wanted of them."""

    def __init__(self, store: Store, agents: Agents) -> None:
        self._store = store
        self._agents = agents
        self._at_once = asyncio.Semaphore(_AT_ONCE)
        self._turns: dict[Id, asyncio.Lock] = {}
        self._changed = asyncio.Event()

    def told(self, changes: Sequence[Change]) -> None:
        """A listener of a feed's: whichever controller set one, who is connected here is told of it now."""
        if any(one.kind is Kind.POLICY and not (one.data or {}).get("horizontal") for one in changes):
            self._changed.set()

    async def run(self) -> None:
        """Until cancelled: at once what a controller set, and in a while what nobody told of."""
        await keep_up("policies", self._all, self._changed)

    async def arrived(self, blanket: Id) -> None:
        """It may have been away, or be new: it is told whether or not it took it before."""
        await self._tell(blanket, again=True)

    async def spread(self, cloud: Id, blanket: Id | None = None) -> None:
        await self._some(Blanket.cloud == cloud if blanket is None else Blanket.id == blanket)

    async def _all(self) -> float:
        await self._some(Blanket.revoked.is_(False))
        return LOOK_EVERY_S

    async def _some(self, which: ColumnElement[bool]) -> None:
        async with self._store.read() as session:
            ids = (await session.scalars(select(Blanket.id).where(which))).all()
            here = [one for one in ids if self._agents.is_connected(one)]
            late = await policy_rows.late(session, here)
        async with asyncio.TaskGroup() as group:
            for blanket in late:
                group.create_task(self._tell(blanket))

    async def _tell(self, blanket: Id, *, again: bool = False) -> None:
        """One after the other: of two versions that are on their way the later one has to arrive last."""
        async with self._at_once, self._turns.setdefault(blanket, asyncio.Lock()):
            async with self._store.read() as session:
                if not again and not await policy_rows.late(session, [blanket]):
                    return
                row = await session.get(Blanket, blanket)
                version = None if row is None else (await policy_rows.wanted(session, [row])).get(blanket)
            if version is None:
                return
            problem = ""
            try:
                await self._agents.agent(blanket).loop.apply(policy_rows.said(version))
            except Unavailable as error:
                _log.info("policies.later", blanket=blanket, why=error.message)
                return
            except SupercloudError as error:  # it will not take it another time either
                problem = error.message[:400]
                _log.warning("policies.refused", blanket=blanket, why=problem)
            await self._note(blanket, version.id, problem)

    async def _note(self, blanket: Id, version: Id, problem: str) -> None:
        async with self._store.write() as session:
            if await session.get(Blanket, blanket) is None:
                return
            now = await wall(session)
            row = await session.get(AppliedPolicy, blanket)
            if row is None:
                session.add(AppliedPolicy(blanket=blanket, policy=version, problem=problem, at=now))
            else:
                row.policy, row.problem, row.at = version, problem, now
