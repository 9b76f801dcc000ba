"""SQLite in memory behind the store's driver: no thread, commits that take time, a disk that stays.

The product's Store, its sessions and its SQL are real. One transaction at a time holds the database from its
BEGIN to its end, as the one writer of a real SQLite does.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from random import Random
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool

from supercloud.services.store.engine import Store, _prepare
from supercloud.services.store.tables import Base
from supercloud.simulator.loop import SimLoop, current
from supercloud.simulator.trace import Trace


class Disk:
    """The database file: outlives control planes; can be copied and put back."""

    def __init__(self, loop: SimLoop, random: Random, trace: Trace) -> None:
        self._loop = loop
        self.random = random
        self.trace = trace
        self.connection = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
        self.connection.execute("PRAGMA foreign_keys=ON")
        self.slow_commit_s = 0.0  # how long a commit takes in the worst case, beyond the usual
        self._commits: WeakKeyDictionary[asyncio.Task[Any], float] = WeakKeyDictionary()

    @property
    def has_tables(self) -> bool:
        return self.connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is not None

    def committed_by(self, task: asyncio.Task[Any] | None) -> float | None:
        """True time of the first commit that `task` made since it was asked last."""
        return None if task is None else self._commits.pop(task, None)

    def backup(self) -> bytes:
        if self.connection.in_transaction:
            copy = sqlite3.connect(":memory:")
            self.connection.backup(copy)
            return copy.serialize()
        return self.connection.serialize()

    def restore(self, content: bytes) -> None:
        self.connection.deserialize(content)

    def mount(self) -> Store:
        """For one life of a control plane. What an earlier one left uncommitted is gone."""
        if self.connection.in_transaction:
            self.connection.rollback()
        turn = asyncio.Lock()

        async def creator(*_: Any, **__: Any) -> _Connection:
            return _Connection(self, turn)

        engine = create_async_engine(
            "sqlite+aiosqlite://",
            async_creator=creator,
            poolclass=AsyncAdaptedQueuePool,
            pool_size=200,
            pool_reset_on_return=None,
        )
        _prepare(engine)
        return Store(engine, None)

    async def make_tables(self, engine: AsyncEngine) -> None:
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)

    async def commit(self) -> None:
        """It takes a while, and a kill may come before it is durable or before anybody hears that it is."""
        await self.trace.step("store", "commits")
        await asyncio.sleep(self.random.random() * (0.004 + self.slow_commit_s))
        if self.connection.in_transaction:
            self.connection.commit()
        if (task := asyncio.current_task()) is not None:
            self._commits.setdefault(task, self._loop.true_s)
        await self.trace.step("store", "committed")


class _Connection:
    """What the dialect takes for an aiosqlite connection."""

    def __init__(self, disk: Disk, turn: asyncio.Lock) -> None:
        self._disk = disk
        self._turn = turn
        self._holds = False
        self._wrote = False
        self._connection = self._conn = disk.connection
        self._tx = self

    def put_nowait(self, item: tuple[asyncio.Future[None], Callable[[], None]]) -> None:
        """Only the isolation level is set this way, which is what it is already."""
        item[0].set_result(None)

    @property
    def isolation_level(self) -> str | None:
        return None

    def cursor(self, **_: Any) -> _Cursor:
        return _Cursor(self, self._disk.connection.cursor())

    async def begin(self, statement: str) -> None:
        await self._turn.acquire()
        self._holds = True
        self._wrote = "IMMEDIATE" in statement
        self._disk.connection.execute("BEGIN")

    async def commit(self) -> None:
        if not self._holds:
            return
        if self._wrote:
            await self._disk.commit()
        elif self._disk.connection.in_transaction:
            self._disk.connection.commit()
        self._release()

    async def rollback(self) -> None:
        if self._holds:
            if self._disk.connection.in_transaction:
                self._disk.connection.rollback()
            self._release()

    def _release(self) -> None:
        self._holds = False
        self._turn.release()

    async def close(self) -> None:
        await self.rollback()

    async def create_function(self, *args: Any, **options: Any) -> None:
        self._disk.connection.create_function(*args, **options)

    def stop(self) -> None:
        return


class _Cursor:
    def __init__(self, connection: _Connection, cursor: sqlite3.Cursor) -> None:
        self._connection = connection
        self._cursor = cursor

    async def __aenter__(self) -> _Cursor:
        return self

    async def execute(self, statement: str, *parameters: Any) -> _Cursor:
        if current().dead:
            await asyncio.sleep(0)
        if statement.startswith("BEGIN"):
            await self._connection.begin(statement)
        elif not statement.startswith("PRAGMA"):  # they are the file's, and set
            self._cursor.execute(statement, *parameters)
        return self

    async def executemany(self, statement: str, *parameters: Any) -> _Cursor:
        self._cursor.executemany(statement, *parameters)
        return self

    async def fetchall(self) -> list[Any]:
        return self._cursor.fetchall()

    async def fetchone(self) -> Any:
        return self._cursor.fetchone()

    async def fetchmany(self, size: int = 1) -> list[Any]:
        return self._cursor.fetchmany(size)

    async def close(self) -> None:
        self._cursor.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cursor, name)  # description, rowcount, lastrowid, arraysize
