"""Opening the store, and its two kinds of transaction."""

from __future__ import annotations

import asyncio
import copy
import fcntl
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, event, func, select
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.util.concurrency import in_greenlet

from supercloud.model.errors import Conflict, Exhausted, InvalidInput, Unavailable
from supercloud.services.caller import Caller, Terms
from supercloud.services.store import schema
from supercloud.services.store.changes import Change, FollowedSession, changes_of
from supercloud.wire.codec import to_json

#: Where a session has its caller.
CALLER = "caller"
#: Of PostgreSQL's notifications: one for each change, told as its transaction commits.
CHANNEL = "supercloud_changes"
_NOTIFICATION_BYTES = 7900  # PostgreSQL takes less than 8000
_BUSY_MS = 15_000
#: Of each SQLite connection. The kernel caches the file anyway, and there are several connections.
_CACHE_KIB = 256


class Store:
    """An open store. Sessions come from `read()` and `write()`, each one transaction."""

    def __init__(self, engine: AsyncEngine, lock: int | None) -> None:
        self.engine = engine
        self.caller: Caller | None = None
        self.sqlite = engine.dialect.name == "sqlite"
        #: Told of each transaction's changes after its commit, in that order; on SQLite only, where nobody
        #: else can commit anything. On PostgreSQL the database tells: see services.feed.
        self.committed: list[Callable[[tuple[Change, ...]], None]] = []
        self._lock = lock
        self._writing = engine.execution_options(writes=True)
        # One writer at a time is SQLite's own rule; waiting here is fairer than its busy handler.
        self._turn = asyncio.Lock() if self.sqlite else None

    @classmethod
    async def open(cls, url: str, *, migrate: bool = True) -> Store:
        """Open, take SQLite's one-controller lock, and bring the tables up to date.

        Raises:
            InvalidInput: not a URL of SQLite or PostgreSQL.
            Conflict: another control plane uses this SQLite file, or its tables are newer than this program.
            Unavailable: the database cannot be reached.
        """
        parsed = normal_url(url)
        lock = _claim(Path(parsed.database or "")) if parsed.get_backend_name() == "sqlite" else None
        options: dict[str, Any] = {} if lock is not None else {"pool_pre_ping": True, "pool_size": 10}
        engine = create_async_engine(parsed, **options)
        _prepare(engine)
        store = cls(engine, lock)
        try:
            if migrate:
                async with _translated():
                    await schema.upgrade(engine)
        except BaseException:
            await store.close()
            raise
        return store

    async def close(self) -> None:
        await self.engine.dispose()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def seen_by(self, caller: Caller) -> Store:
        """The same store, whose sessions say on whose behalf they are (see services.refs)."""
        seen = copy.copy(self)
        seen.caller = caller
        return seen

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncSession]:
        """A consistent look; nothing is locked.

        Raises: Unavailable.
        """
        async with (
            _translated(),
            AsyncSession(self.engine, expire_on_commit=False, autoflush=False, info=self._info) as session,
            session.begin(),
        ):
            yield session

    @property
    def _terms(self) -> tuple[Terms, ...]:
        return () if self.caller is None else self.caller.terms

    @property
    def _info(self) -> dict[str, Any]:
        return {CALLER: self.caller}

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncSession]:
        """One transaction, committed at the end of the block; an exception rolls it back.

        Raises:
            Conflict: a uniqueness or reference that the tables hold was violated.
            PreconditionFailed: the caller's terms do not hold.
            Unavailable, Exhausted: the database.
        """
        async with _translated(), _held(self._turn):
            async with self._session() as session, session.begin():
                for term in self._terms:
                    await term.before(session)
                yield session
                changes = await changes_of(session)
                for term in self._terms:
                    await term.after(session)
                if not self.sqlite:
                    await _tell(session, changes)
            for listener in self.committed:
                listener(changes)

    def _session(self) -> AsyncSession:
        return AsyncSession(
            self._writing, expire_on_commit=False, info=self._info, sync_session_class=FollowedSession
        )


async def _tell(session: AsyncSession, changes: tuple[Change, ...]) -> None:
    for change in changes:
        said = json.dumps(to_json(Change, change))
        if len(said) > _NOTIFICATION_BYTES:  # json.dumps makes ASCII
            said = json.dumps(to_json(Change, replace(change, data=None)))
        await session.execute(select(func.pg_notify(CHANNEL, said)))


@asynccontextmanager
async def _held(lock: asyncio.Lock | None) -> AsyncIterator[None]:
    if lock is None:
        yield
        return
    async with lock:
        yield


@asynccontextmanager
async def _translated() -> AsyncIterator[None]:
    try:
        yield
    except IntegrityError as error:
        raise Conflict(f"that exists already, or is in use: {_first_line(error)}") from error
    except OperationalError as error:
        if "full" in str(error.orig):
            raise Exhausted(
                "the store's disk is full",
                hint="make room on it: what was not said to be done was not done, and may be asked for again",
            ) from error
        raise Unavailable(f"the store: {_first_line(error)}") from error
    except DBAPIError as error:
        raise Unavailable(f"the store: {_first_line(error)}") from error
    except OSError as error:  # asyncpg reports a refused connection as it is
        raise Unavailable(f"the store: {error}") from error


def _first_line(error: DBAPIError) -> str:
    return str(error.orig).splitlines()[0] if str(error.orig) else type(error.orig).__name__


def normal_url(url: str) -> URL:
    """The URL with its asynchronous driver.

    Raises:
        InvalidInput: not a URL of SQLite or PostgreSQL.
    """
    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
    except ArgumentError as error:
        raise InvalidInput(
            "the database is not a URL", hint="sqlite:////DIR/FILE or postgresql://…"
        ) from error
    if backend == "sqlite" and parsed.database not in {None, "", ":memory:"}:
        return parsed.set(drivername="sqlite+aiosqlite")
    if backend == "postgresql":
        return parsed.set(drivername="postgresql+asyncpg")
    raise InvalidInput(f"a database of kind {backend!r} is not supported", hint="sqlite or postgresql")


def _claim(database: Path) -> int:
    """A lock that dies with this process."""
    database.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(
        database.with_name(database.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
    )
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise Conflict(
            f"another control plane uses {database}",
            hint="end it first (supercloud down), or use PostgreSQL for several",
        ) from error
    return descriptor


def _prepare(engine: AsyncEngine) -> None:
    if engine.dialect.name != "sqlite":
        return

    @event.listens_for(engine.sync_engine, "connect")
    def connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # transactions begin where we say, below
        cursor = connection.cursor()
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",  # an answered right must survive a power cut
            "foreign_keys=ON",
            f"busy_timeout={_BUSY_MS}",
            f"cache_size=-{_CACHE_KIB}",
        ):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine.sync_engine, "invalidate")
    def invalidate(connection: Any, _record: Any, _error: object) -> None:
        """Whoever was cancelled in the middle: its connection is closed, but SQLite keeps its transaction,
        and everybody else out, for as long as anything refers to a cursor."""
        if in_greenlet():
            connection.run_async(lambda raw: raw.rollback())

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
