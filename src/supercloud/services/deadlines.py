"""Orders and acts whose time is over, as it is: told at the moment, and found late by who was away.

No answer is taken after a deadline whether or not anybody looked (services.commands, services.acts): this
only says so in the row, to whoever watches.
"""

from __future__ import annotations

import asyncio

from sqlalchemy import func, select

from supercloud.model.acts import OPEN_ACTS
from supercloud.model.kinds import Kind
from supercloud.model.orders import OPEN
from supercloud.services import acts, orders
from supercloud.services.due import LOOK_EVERY_S, keep_up
from supercloud.services.parts import Parts
from supercloud.services.store.changes import Change
from supercloud.services.store.security import ActRow, OrderRow
from supercloud.services.store.time import wall

_ABOUT = frozenset({Kind.ORDER, Kind.ACT})


class Deadlines:
    """`run` until cancelled."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._changed = asyncio.Event()
        parts.feed.listeners.append(self._told)

    async def run(self) -> None:
        await keep_up("deadlines", self.do_due, self._changed)

    async def do_due(self) -> float:
        """All that is due; seconds until something is next.

        Raises: Unavailable.
        """
        async with self._parts.store.read() as session:
            now = await wall(session)
            found = [
                await session.scalar(
                    select(func.min(OrderRow.deadline)).where(OrderRow.state.in_(list(OPEN)))
                ),
                await session.scalar(
                    select(func.min(ActRow.deadline)).where(ActRow.state.in_(list(OPEN_ACTS)))
                ),
            ]
        due = [one for one in found if one is not None and one <= now]
        if due:
            async with self._parts.store.write() as session:
                now = await wall(session)
                await orders.expire(session, now)
                await acts.expire(session, now)
        later = [one - now for one in found if one is not None and one > now]
        return 0.0 if due else max(0.0, min(later, default=LOOK_EVERY_S))

    def _told(self, changes: tuple[Change, ...]) -> None:
        if any(one.kind in _ABOUT for one in changes):
            self._changed.set()
