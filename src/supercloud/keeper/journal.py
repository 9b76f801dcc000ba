"""The keeper's memory across restarts: one row, replaced in one durable transaction."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from supercloud.keeper.rights import Snapshot
from supercloud.model.errors import Failed, InvalidInput, Unavailable
from supercloud.wire.codec import from_json, to_json

_SCHEMA = "CREATE TABLE IF NOT EXISTS snapshot (one INTEGER PRIMARY KEY CHECK (one = 1), said TEXT NOT NULL)"


class Journal:
    """SQLite in WAL mode: a commit is one append and one fsync, and a torn write is not a commit."""

    def __init__(self, path: Path) -> None:
        """Raises: Failed."""
        self._writing = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, "journal")  # a cancelled save still ends before the next
        self._written: Snapshot | None = None
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            path.chmod(0o600)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute(_SCHEMA)
        except (sqlite3.Error, OSError) as error:
            raise Failed(f"cannot open the keeper's journal: {error}") from error

    def load(self) -> Snapshot | None:
        """What was saved last; None at first.

        Raises:
            Failed: it cannot be read. Rights are then renewed from nothing, never guessed.
        """
        try:
            row = self._db.execute("SELECT said FROM snapshot").fetchone()
            return None if row is None else from_json(Snapshot, json.loads(row[0]))
        except (sqlite3.Error, ValueError, InvalidInput) as error:
            raise Failed(f"the keeper's journal is unreadable: {error}") from error

    async def save(self, snapshot: Snapshot) -> None:
        """Durable once this returns. Rights that did not change are not written again.

        Raises:
            Unavailable: the disk is full or broken: what was to follow must not happen.
        """
        async with self._writing:
            if _same(self._written, snapshot):
                return
            said = json.dumps(to_json(Snapshot, snapshot), separators=(",", ":"))
            try:
                await asyncio.get_running_loop().run_in_executor(self._thread, self._write, said)
            except sqlite3.Error as error:
                raise Unavailable(f"the keeper's journal cannot be written: {error}") from error
            self._written = snapshot

    def _write(self, said: str) -> None:
        self._db.execute("INSERT OR REPLACE INTO snapshot (one, said) VALUES (1, ?)", (said,))

    def close(self) -> None:
        self._thread.shutdown()
        self._db.close()


def _same(old: Snapshot | None, new: Snapshot) -> bool:
    """Whether nothing but the clocks' baseline moved, which it does all the time."""
    return old is not None and old.held == new.held and old.epochs == new.epochs
