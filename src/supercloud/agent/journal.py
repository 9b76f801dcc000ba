"""The agent's memory on the data disk: events that nobody acknowledged yet, and what it was told to do.

SQLite in WAL mode with synchronous=FULL: what a method answered for is on the disk.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

import structlog

from supercloud.model.errors import Exhausted, Failed, Unavailable
from supercloud.model.names import Epoch, Id, new_id
from supercloud.ports.agent import InstanceSpec
from supercloud.ports.controller import Event
from supercloud.wire.codec import from_json, to_json

T = TypeVar("T")

_EVENTS_KEPT = 20_000
_EVENT_BYTES = 16 << 10
_BATCH = 200
_SCHEMA = """
CREATE TABLE IF NOT EXISTS events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE NOT NULL, kind TEXT NOT NULL, at REAL NOT NULL,
    data TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS instances (id TEXT PRIMARY KEY, spec TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS transfers (
    operation TEXT PRIMARY KEY, instance TEXT NOT NULL, side TEXT NOT NULL, begun INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS surrenders (
    instance TEXT NOT NULL, epoch INTEGER NOT NULL, PRIMARY KEY (instance, epoch));
CREATE TABLE IF NOT EXISTS notes (name TEXT PRIMARY KEY, said TEXT NOT NULL);
"""
_log = structlog.get_logger(__name__)


class Side(StrEnum):
    SOURCE = "source"
    TARGET = "target"


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """A migration this blanket takes part in, until it is released."""

    operation: Id
    instance: Id
    side: Side
    begun: bool  # source: the hypervisor was told to send


class Journal:
    """Every method is one transaction. Raises, all methods: Exhausted (disk full), Unavailable."""

    def __init__(self, path: Path) -> None:
        """Raises: Failed."""
        # One thread: transactions come one after the other, also when whoever waits for one is cancelled.
        self._thread = ThreadPoolExecutor(1, "journal")
        #: Set when there may be events to report.
        self.news = asyncio.Event()
        self.news.set()
        #: Set when there may be rights to give up.
        self.given_up = asyncio.Event()
        self.given_up.set()
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            path.chmod(0o600)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(_SCHEMA)
        except (sqlite3.Error, OSError) as error:
            raise Failed(f"cannot open the agent's journal: {error}") from error

    async def _do(self, work: Callable[[sqlite3.Connection], T]) -> T:
        def transaction() -> T:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                result = work(self._db)
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")
            return result

        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, transaction)
        except sqlite3.OperationalError as error:
            kind = Exhausted if "full" in str(error) else Unavailable
            raise kind(f"the agent's journal: {error}") from error

    def close(self) -> None:
        self._thread.shutdown()
        self._db.close()

    # ------------------------------------------------------------ events

    async def note(self, kind: str, data: dict[str, Any], *, id: Id | None = None) -> None:
        """Tell the control plane, at least once, some time. The same `id` again changes nothing."""
        said = json.dumps(data, separators=(",", ":"))
        if len(said) > _EVENT_BYTES:
            said = json.dumps({"cut": said[: _EVENT_BYTES // 2]})
        row = (id or new_id(), kind, time.time(), said)

        def insert(db: sqlite3.Connection) -> int:
            db.execute("INSERT OR IGNORE INTO events (id, kind, at, data) VALUES (?, ?, ?, ?)", row)
            return db.execute(
                "DELETE FROM events WHERE seq <= (SELECT MAX(seq) FROM events) - ?", (_EVENTS_KEPT,)
            ).rowcount

        if dropped := await self._do(insert):
            _log.warning("agent.events_dropped", count=dropped)
        self.news.set()

    async def pending(self) -> tuple[Event, ...]:
        """The oldest events that were not acknowledged, a batch of them."""
        rows = await self._do(
            lambda db: db.execute(
                "SELECT id, seq, kind, at, data FROM events ORDER BY seq LIMIT ?", (_BATCH,)
            ).fetchall()
        )
        return tuple(
            Event(id=row[0], seq=row[1], kind=row[2], at=row[3], data=json.loads(row[4])) for row in rows
        )

    async def acknowledged(self, seq: int) -> None:
        await self._do(lambda db: db.execute("DELETE FROM events WHERE seq <= ?", (seq,)))

    # ------------------------------------------------------------ instances

    async def remember(self, spec: InstanceSpec) -> None:
        said = json.dumps(to_json(InstanceSpec, spec), separators=(",", ":"))
        await self._do(
            lambda db: db.execute(
                "INSERT OR REPLACE INTO instances (id, spec) VALUES (?, ?)", (spec.id, said)
            )
        )

    async def spec(self, instance: Id) -> InstanceSpec | None:
        row = await self._do(
            lambda db: db.execute("SELECT spec FROM instances WHERE id = ?", (instance,)).fetchone()
        )
        return None if row is None else from_json(InstanceSpec, json.loads(row[0]))

    async def known(self) -> list[Id]:
        rows = await self._do(lambda db: db.execute("SELECT id FROM instances ORDER BY id").fetchall())
        return [row[0] for row in rows]

    async def forget(self, instance: Id) -> None:
        await self._do(lambda db: db.execute("DELETE FROM instances WHERE id = ?", (instance,)))

    # ------------------------------------------------------------ transfers

    async def open_transfer(self, operation: Id, instance: Id, side: Side) -> Transfer:
        """Its row, made if this is the first time."""

        def insert(db: sqlite3.Connection) -> Transfer:
            db.execute(
                "INSERT OR IGNORE INTO transfers (operation, instance, side) VALUES (?, ?, ?)",
                (operation, instance, side.value),
            )
            return _transfer(
                db.execute(
                    "SELECT operation, instance, side, begun FROM transfers WHERE operation = ?", (operation,)
                ).fetchone()
            )

        return await self._do(insert)

    async def begun(self, operation: Id) -> None:
        await self._do(
            lambda db: db.execute("UPDATE transfers SET begun = 1 WHERE operation = ?", (operation,))
        )

    async def transfers(self) -> list[Transfer]:
        rows = await self._do(
            lambda db: db.execute("SELECT operation, instance, side, begun FROM transfers").fetchall()
        )
        return [_transfer(row) for row in rows]

    async def close_transfer(self, operation: Id) -> None:
        await self._do(lambda db: db.execute("DELETE FROM transfers WHERE operation = ?", (operation,)))

    # ------------------------------------------------------------ surrenders

    async def to_surrender(self, instance: Id, epoch: Epoch) -> None:
        """Its process ended by itself: give the right up as soon as the control plane can be asked."""
        await self._do(
            lambda db: db.execute("INSERT OR IGNORE INTO surrenders VALUES (?, ?)", (instance, epoch))
        )
        self.given_up.set()

    async def surrenders(self) -> list[tuple[Id, Epoch]]:
        return await self._do(
            lambda db: [(row[0], row[1]) for row in db.execute("SELECT instance, epoch FROM surrenders")]
        )

    async def surrendered(self, instance: Id, epoch: Epoch) -> None:
        await self._do(
            lambda db: db.execute(
                "DELETE FROM surrenders WHERE instance = ? AND epoch = ?", (instance, epoch)
            )
        )

    # ------------------------------------------------------------ notes

    async def read(self, name: str) -> Any:
        """A small JSON value kept under `name`, or None."""
        row = await self._do(
            lambda db: db.execute("SELECT said FROM notes WHERE name = ?", (name,)).fetchone()
        )
        return None if row is None else json.loads(row[0])

    async def write(self, name: str, value: Any) -> None:
        said = json.dumps(value)
        await self._do(lambda db: db.execute("INSERT OR REPLACE INTO notes VALUES (?, ?)", (name, said)))


def _transfer(row: tuple[str, str, str, int]) -> Transfer:
    return Transfer(operation=row[0], instance=row[1], side=Side(row[2]), begun=bool(row[3]))
