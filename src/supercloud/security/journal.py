"""The loop's memory on the disk: findings that were acknowledged, incidents, reactions, what is to be told.

SQLite in WAL mode with synchronous=FULL. A batch is one transaction, so that many findings share one flush;
what `commit` returned from survives `kill -9`, and nothing is acknowledged or done before it.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from supercloud.model.errors import Exhausted, Failed, Unavailable
from supercloud.model.findings import Finding
from supercloud.model.incidents import Incident
from supercloud.model.names import Id
from supercloud.model.reactions import ENDED, Reaction

#: Findings that are kept, for each object: a repeat of one of these is known as such.
FINDINGS = 5000
#: Incidents that are closed and were told, and their reactions.
CLOSED = 1000
_PRUNE_EVERY = 1000
_FINDING, _INCIDENT, _REACTION = TypeAdapter(Finding), TypeAdapter(Incident), TypeAdapter(Reaction)
_SCHEMA = """
CREATE TABLE IF NOT EXISTS findings (
    n INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE NOT NULL, object TEXT NOT NULL,
    incident TEXT NOT NULL, said TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS findings_object ON findings (object, n);
CREATE TABLE IF NOT EXISTS incidents (
    id TEXT PRIMARY KEY, open INTEGER NOT NULL, version INTEGER NOT NULL, told INTEGER NOT NULL DEFAULT 0,
    last_at REAL NOT NULL, said TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS incidents_open ON incidents (open);
CREATE INDEX IF NOT EXISTS incidents_to_tell ON incidents (id) WHERE version > told;
CREATE TABLE IF NOT EXISTS reactions (
    id TEXT PRIMARY KEY, incident TEXT NOT NULL, ended REAL, said TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS reactions_incident ON reactions (incident);
CREATE TABLE IF NOT EXISTS notes (name TEXT PRIMARY KEY, said TEXT NOT NULL);
"""


@dataclass(slots=True)
class Batch:
    """What is durable together."""

    findings: list[tuple[Finding, Id]] = field(default_factory=list)  # each with its incident
    incidents: list[Incident] = field(default_factory=list)
    reactions: list[Reaction] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.findings or self.incidents or self.reactions)


class Journal:
    """Used by one thread at a time. Raises, all methods: Exhausted (disk full), Unavailable."""

    def __init__(self, path: Path) -> None:
        """Raises: Failed."""
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            path.chmod(0o600)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(_SCHEMA)
        except (sqlite3.Error, OSError) as error:
            raise Failed(f"cannot open the loop's journal: {error}") from error
        self._since_pruned = 0

    def close(self) -> None:
        self._db.close()

    # ------------------------------------------------------------ writing

    def commit(self, batch: Batch) -> None:
        """On return all of it is on the disk; otherwise nothing."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._write(batch)
                self._db.execute("COMMIT")
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
        except sqlite3.OperationalError as error:
            kind = Exhausted if "full" in str(error) else Unavailable
            raise kind(f"the loop's journal: {error}") from error

    def _write(self, batch: Batch) -> None:
        self._db.executemany(
            "INSERT OR IGNORE INTO findings (id, object, incident, said) VALUES (?, ?, ?, ?)",
            [(one.id, one.object.id, incident, _said(_FINDING, one)) for one, incident in batch.findings],
        )
        self._db.executemany(
            "INSERT INTO incidents (id, open, version, last_at, said) VALUES (?, ?, ?, ?, ?) "
            "ON CONFLICT (id) DO UPDATE SET open = excluded.open, version = excluded.version, "
            "last_at = excluded.last_at, said = excluded.said",
            [
                (one.id, one.closed_at is None, one.version, one.last_at, _said(_INCIDENT, one))
                for one in batch.incidents
            ],
        )
        self._db.executemany(
            "INSERT OR REPLACE INTO reactions (id, incident, ended, said) VALUES (?, ?, ?, ?)",
            [
                (
                    one.id,
                    one.incident,
                    (one.ended_at or one.decided_at) if one.state in ENDED else None,
                    _said(_REACTION, one),
                )
                for one in batch.reactions
            ],
        )
        self._since_pruned += len(batch.findings)
        if self._since_pruned >= _PRUNE_EVERY:
            self._prune({one.object.id for one, _ in batch.findings})
            self._since_pruned = 0

    def _prune(self, objects: Collection[Id]) -> None:
        """What is beyond the bounds: a flood about one object pushes out its own."""
        for one in objects:
            self._db.execute(
                "DELETE FROM findings WHERE object = ? AND n <= (SELECT n FROM findings WHERE object = ? "
                "ORDER BY n DESC LIMIT 1 OFFSET ?)",
                (one, one, FINDINGS),
            )
        self._db.execute(
            "DELETE FROM incidents WHERE open = 0 AND version <= told AND id NOT IN "
            "(SELECT id FROM incidents WHERE open = 0 ORDER BY last_at DESC LIMIT ?)",
            (CLOSED,),
        )
        self._db.execute(
            "DELETE FROM reactions WHERE ended IS NOT NULL AND incident NOT IN (SELECT id FROM incidents)"
        )

    # ------------------------------------------------------------ reading

    def known(self, findings: Sequence[Id]) -> dict[Id, Id]:
        """Those that are there, each with its incident."""
        marks = ",".join("?" * len(findings))
        rows = self._rows(f"SELECT id, incident FROM findings WHERE id IN ({marks})", findings)  # noqa: S608
        return dict(rows)

    def open_incidents(self) -> list[Incident]:
        return self._all(_INCIDENT, "SELECT said FROM incidents WHERE open = 1")

    def version(self, incident: Id) -> int:
        """The last one that is known of an incident, open or not; 0: none."""
        rows = self._rows("SELECT version FROM incidents WHERE id = ?", (incident,))
        return rows[0][0] if rows else 0

    def live_reactions(self, since: float) -> list[Reaction]:
        """Those that have not ended, or not long ago, or of an open incident."""
        return self._all(
            _REACTION,
            "SELECT said FROM reactions WHERE ended IS NULL OR ended > ? "
            "OR incident IN (SELECT id FROM incidents WHERE open = 1)",
            (since,),
        )

    def incidents(self, limit: int = 200) -> list[Incident]:
        return self._all(
            _INCIDENT, "SELECT said FROM incidents ORDER BY open DESC, last_at DESC LIMIT ?", (limit,)
        )

    def reactions_of(self, incident: Id) -> list[Reaction]:
        return self._all(_REACTION, "SELECT said FROM reactions WHERE incident = ?", (incident,))

    def finding(self, name: Id) -> Finding | None:
        found: list[Finding] = self._all(_FINDING, "SELECT said FROM findings WHERE id = ?", (name,))
        return found[0] if found else None

    def counts(self) -> dict[str, int]:
        return {
            table: self._rows(f"SELECT COUNT(*) FROM {table}")[0][0]  # noqa: S608 - of our own names
            for table in ("findings", "incidents", "reactions")
        }

    # ------------------------------------------------------------ telling

    def to_tell(self, limit: int = 50) -> list[tuple[Incident, list[Reaction]]]:
        """Incidents that changed since they were told, each with its reactions."""
        found: list[Incident] = self._all(
            _INCIDENT, "SELECT said FROM incidents WHERE version > told ORDER BY id LIMIT ?", (limit,)
        )
        return [(one, self.reactions_of(one.id)) for one in found]

    def told(self, incidents: Sequence[tuple[Id, int]]) -> None:
        self._db.executemany("UPDATE incidents SET told = ? WHERE id = ? AND told < ?", _told(incidents))

    # ------------------------------------------------------------ notes

    def read(self, name: str) -> Any:
        rows = self._rows("SELECT said FROM notes WHERE name = ?", (name,))
        return json.loads(rows[0][0]) if rows else None

    def write(self, name: str, value: Any) -> None:
        try:
            self._db.execute("INSERT OR REPLACE INTO notes VALUES (?, ?)", (name, json.dumps(value)))
        except sqlite3.OperationalError as error:
            kind = Exhausted if "full" in str(error) else Unavailable
            raise kind(f"the loop's journal: {error}") from error

    # ------------------------------------------------------------ inside

    def _rows(self, query: str, values: Sequence[Any] = ()) -> list[Any]:
        try:
            return self._db.execute(query, tuple(values)).fetchall()
        except sqlite3.OperationalError as error:
            raise Unavailable(f"the loop's journal: {error}") from error

    def _all(self, kind: TypeAdapter[Any], query: str, values: Sequence[Any] = ()) -> list[Any]:
        """What another version of this program wrote, and this one does not read, raises Failed."""
        try:
            return [kind.validate_json(row[0]) for row in self._rows(query, values)]
        except ValidationError as error:
            raise Failed(f"the loop's journal is unreadable: {error.errors()[0]['msg']}") from error


def _said(kind: TypeAdapter[Any], value: object) -> str:
    return kind.dump_json(value).decode()


def _told(incidents: Sequence[tuple[Id, int]]) -> list[tuple[int, Id, int]]:
    return [(version, name, version) for name, version in incidents]
