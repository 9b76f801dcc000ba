"""Carrying on what a dead controller left, where several share one PostgreSQL.

Each controller holds an advisory lock under its executor's number for as long as its database session lives.
Whoever gets the lock of another executor knows that this one's session is over, and resumes its operations.
On SQLite there is one controller, which carries on its own at launch.
"""

from __future__ import annotations

import asyncio
import contextlib

import structlog
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from supercloud.model.errors import SupercloudError
from supercloud.services.durable import DurableRuntime
from supercloud.services.store.engine import Store

_log = structlog.get_logger(__name__)
_EVERY_S = 5.0
_CLASS = 0x5C  # the first half of the two-part lock number


def _number(executor: str) -> int:
    """31 bits of the executor's random name."""
    return int(executor[:8], 16) >> 1


class Takeover:
    """Await `run()` beside a launched runtime; `claim()` first."""

    def __init__(self, store: Store, runtime: DurableRuntime) -> None:
        self._store = store
        self._runtime = runtime
        self._session: AsyncConnection | None = None

    async def claim(self) -> None:
        """Show that this executor lives, until `close`."""
        if self._store.sqlite:
            return
        session = await self._store.engine.execution_options(isolation_level="AUTOCOMMIT").connect()
        await session.execute(
            text("SELECT pg_advisory_lock(:class, :number)"),
            {"class": _CLASS, "number": _number(self._runtime.executor)},
        )
        self._session = session

    async def sweep(self) -> int:
        """Resume what the dead left; how many operations."""
        if self._session is None:
            return 0
        adopted = 0
        for executor in await self._runtime.executors() - {self._runtime.executor}:
            key = {"class": _CLASS, "number": _number(executor)}
            dead = await self._session.scalar(text("SELECT pg_try_advisory_lock(:class, :number)"), key)
            if dead:
                adopted += await self._runtime.adopt(executor)
                await self._session.execute(text("SELECT pg_advisory_unlock(:class, :number)"), key)
        return adopted

    async def run(self) -> None:
        while True:
            await asyncio.sleep(_EVERY_S)
            try:
                if self._session is None or self._session.closed or self._session.invalidated:
                    await self.claim()
                if adopted := await self.sweep():
                    _log.info("takeover.adopted", operations=adopted)
            except (SQLAlchemyError, SupercloudError, OSError) as error:
                _log.warning("takeover.failed", why=str(error).splitlines()[0])
                await self.close()

    async def close(self) -> None:
        if self._session is not None:
            with contextlib.suppress(SQLAlchemyError, OSError):
                await self._session.close()
            self._session = None
