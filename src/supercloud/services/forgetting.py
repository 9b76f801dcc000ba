"""Operations that ended long ago are forgotten: their rows, and what the durable runtime remembers of them.

Which step did what is of use as long as the operation is open, and that it was, for a while; without this a
cloud that is used for years would have them all.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

import structlog
from sqlalchemy import Select, delete, select

from supercloud.model.errors import SupercloudError
from supercloud.model.names import Id
from supercloud.services.store.engine import Store
from supercloud.services.store.tables import MigrationRow, Operation, VolumeCopy

_log = structlog.get_logger(__name__)
#: So many that ended are kept, the newest, and of all those of the last hour.
KEPT, KEPT_S = 10_000, 3600.0
#: At once: a transaction that others wait for is a short one.
_AT_ONCE = 200

Forget = Callable[[Sequence[Id]], Awaitable[None]]


async def keep_bounded(store: Store, forget: Forget) -> None:
    """Until cancelled."""
    while True:
        many = 0
        try:
            many = await forget_old(store, forget)
        except SupercloudError as error:
            _log.warning("operations.forget_later", why=error.message)
        await asyncio.sleep(0 if many else KEPT_S)


async def forget_old(store: Store, forget: Forget, *, kept: int = KEPT, kept_s: float = KEPT_S) -> int:
    """How many were forgotten, which is not all at once. What something still refers to is kept.

    The runtime forgets first: an operation whose row is gone would be begun anew by what it remembers.
    """
    async with store.read() as session:
        newest = select(Operation.id).where(Operation.ended_at.is_not(None))
        newest = newest.order_by(Operation.created_at.desc(), Operation.id.desc()).limit(kept)
        found = list(
            await session.scalars(
                select(Operation.id)
                .where(
                    Operation.ended_at < time.time() - kept_s,
                    Operation.id.not_in(newest),
                    Operation.id.not_in(select(MigrationRow.operation)),
                    Operation.id.not_in(
                        select(VolumeCopy.operation).where(VolumeCopy.operation.is_not(None))
                    ),
                    Operation.parent.is_(None) | Operation.parent.not_in(_open()),
                )
                .limit(_AT_ONCE)
            )
        )
    if found:
        await forget(found)
        async with store.write() as session:
            await session.execute(delete(Operation).where(Operation.id.in_(found)))
    return len(found)


def _open() -> Select[str]:
    """A part that ended is looked at by what it is a part of."""
    return select(Operation.id).where(Operation.ended_at.is_(None))
