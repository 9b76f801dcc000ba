"""Windows of maintenance as they come and go: closing a domain, draining it, opening it again.

What is due is written down, and done by whichever controller looks first; its row is locked meanwhile. So a
control plane that was away does what is due when it is back, and a window that is over by then is over.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog
from sqlalchemy import and_, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from supercloud.model.domains import WindowState
from supercloud.model.kinds import Kind
from supercloud.model.names import Id
from supercloud.services.due import LOOK_EVERY_S, keep_up
from supercloud.services.moves import DRAIN, record_drain
from supercloud.services.parts import Parts
from supercloud.services.store.changes import Change
from supercloud.services.store.tables import LOCKED, Maintenance, Provider

_log = structlog.get_logger(__name__)
_CLOSES_AT = Maintenance.begins_at - func.coalesce(Maintenance.drain_ahead_s, 0.0)


class Windows:
    """`run` until cancelled. `now`: seconds since the epoch."""

    def __init__(self, parts: Parts, *, now: Callable[[], float] = time.time) -> None:
        self._parts = parts
        self._now = now
        self._changed = asyncio.Event()
        parts.feed.listeners.append(self._told)

    async def run(self) -> None:
        async def do_due() -> float:
            return await self.do_due() - self._now()

        await keep_up("maintenance", do_due, self._changed)

    async def do_due(self) -> float:
        """All that is due; when something is next.

        Raises: Unavailable.
        """
        async with self._parts.store.read() as session:
            now = self._now()
            closes = and_(Maintenance.state == WindowState.PLANNED.value, now >= _CLOSES_AT)
            opens = and_(Maintenance.state != WindowState.OVER.value, Maintenance.ends_at <= now)
            due = list(await session.scalars(select(Maintenance.id).where(or_(closes, opens))))
        for window in due:
            await self._do(window)
        async with self._parts.store.read() as session:
            planned = select(func.min(_CLOSES_AT)).where(Maintenance.state == WindowState.PLANNED.value)
            closed = select(func.min(Maintenance.ends_at)).where(
                Maintenance.state == WindowState.CLOSED.value
            )
            found = [await session.scalar(planned), await session.scalar(closed)]
        return min((one for one in found if one is not None), default=now + LOOK_EVERY_S)

    async def _do(self, window: Id) -> None:
        operations = self._parts.operations
        drain, opened = None, False
        async with self._parts.store.write() as session:
            row = await session.get(Maintenance, window, with_for_update=True, populate_existing=True)
            if row is None or row.state == WindowState.OVER:
                return  # another controller was quicker
            if row.ends_at <= self._now():
                opened = await open_again(session, row)
                row.state = WindowState.OVER
            elif row.state == WindowState.PLANNED:
                drain = await _close(session, self._parts, row)
        _log.info("maintenance", window=window, provider=row.provider, state=str(row.state))
        if drain is not None:
            await operations.started(drain)
        if opened:
            await operations.cancel_all(DRAIN, row.provider)

    def _told(self, changes: tuple[Change, ...]) -> None:
        if any(one.kind is Kind.MAINTENANCE for one in changes):
            self._changed.set()


async def _close(session: AsyncSession, parts: Parts, row: Maintenance) -> Id | None:
    """Nothing new comes there; the drain of what runs there, if it is to leave."""
    provider = await session.get_one(Provider, row.provider, with_for_update=LOCKED, populate_existing=True)
    row.state, row.drains = WindowState.CLOSED, provider.draining_since is None
    if row.drain_ahead_s is not None:
        return await record_drain(session, parts.operations, provider)
    provider.draining_since = provider.draining_since or time.time()
    return None


async def open_again(session: AsyncSession, row: Maintenance) -> bool:
    """What the window has closed; whether it had."""
    if row.state != WindowState.CLOSED or not row.drains:
        return False
    provider = await session.get_one(Provider, row.provider, with_for_update=LOCKED, populate_existing=True)
    provider.draining_since = None
    return True
