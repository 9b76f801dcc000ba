"""Records on disk, encrypted under the owner's key; what was committed survives the process and the power."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TypeVar

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from supercloud.keystore.records import Record
from supercloud.model.errors import Denied, Failed, InvalidInput
from supercloud.trust.canonical import canonical
from supercloud.trust.files import read_private, write_private
from supercloud.trust.keys import from_text, to_text
from supercloud.wire.codec import from_json, to_json

R = TypeVar("R", bound=Record)

OWNER_KEY_BYTES = 32
_NONCE_BYTES = 12
_FORMAT = 1
_STATE = "keystore.sqlite"
_PROBE = ("probe", "")


class Cipher:
    """AES-256-GCM under a key derived for one use; whatever is sealed is bound to what it is."""

    def __init__(self, key: bytes, use: str) -> None:
        derived = HKDF(SHA256(), OWNER_KEY_BYTES, salt=None, info=canonical("supercloud cipher 1", use))
        self._aead = AESGCM(derived.derive(key))

    def seal(self, data: bytes, bound_to: bytes) -> bytes:
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._aead.encrypt(nonce, data, bound_to)

    def open(self, sealed: bytes, bound_to: bytes) -> bytes:
        """Raises: Denied."""
        try:
            return self._aead.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], bound_to)
        except (InvalidTag, ValueError) as error:
            raise Denied("sealed under another key, or changed since") from error


class Vault:
    """The records of one key store. One process at a time opens it for writing (see `process.locked`)."""

    def __init__(self, database: sqlite3.Connection, owner_key: bytes) -> None:
        self._database = database
        self._cipher = Cipher(owner_key, "records")

    @classmethod
    def in_memory(cls) -> Self:
        return cls._open(":memory:", os.urandom(OWNER_KEY_BYTES))

    @classmethod
    def on_disk(cls, state: Path, owner_key: bytes) -> Self:
        """Open, or begin, the state in this directory.

        Raises:
            Denied: the owner's key is not the one that the state is encrypted under.
            Failed: the state cannot be read, or is of a newer version.
        """
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        (state / _STATE).touch(mode=0o600)
        return cls._open(str(state / _STATE), owner_key)

    @classmethod
    def _open(cls, path: str, owner_key: bytes) -> Self:
        try:
            database = sqlite3.connect(path, isolation_level=None)
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = FULL")  # a commit is on the disk when it returns
            database.execute("PRAGMA secure_delete = ON")  # a destroyed key leaves no bytes behind
            (version,) = database.execute("PRAGMA user_version").fetchone()
            if version not in (0, _FORMAT):
                raise Failed(f"the state has format {version}, this program knows {_FORMAT}")
            vault = cls(database, owner_key)
            vault._prepare(new=version == 0)
        except sqlite3.Error as error:
            raise Failed(f"the key store's state cannot be opened: {error}") from error
        return vault

    def _prepare(self, *, new: bool) -> None:
        bound_to = canonical("record", *_PROBE)
        if new:
            with self.transaction():
                self._database.execute(
                    "CREATE TABLE records"
                    " (kind TEXT, name TEXT, body BLOB NOT NULL, PRIMARY KEY (kind, name)) STRICT"
                )
                self._database.execute(
                    "INSERT INTO records VALUES (?, ?, ?)", (*_PROBE, self._cipher.seal(b"", bound_to))
                )
                self._database.execute(f"PRAGMA user_version = {_FORMAT}")
            return
        row = self._database.execute(
            "SELECT body FROM records WHERE kind = ? AND name = ?", _PROBE
        ).fetchone()
        try:
            self._cipher.open(row[0] if row else b"", bound_to)
        except Denied as error:
            raise Denied("this owner key does not open this state") from error

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All of what is inside, or nothing; on the disk once it is left. Raises: Failed (the disk)."""
        try:
            self._database.execute("BEGIN IMMEDIATE")
            yield
            self._database.execute("COMMIT")
        except sqlite3.Error as error:
            raise Failed(f"the key store could not write its state: {error}") from error
        finally:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")

    def get(self, kind: type[R], name: str) -> R | None:
        row = self._database.execute(
            "SELECT body FROM records WHERE kind = ? AND name = ?", (kind.kind, name)
        ).fetchone()
        return None if row is None else self._load(kind, name, row[0])

    def every(self, kind: type[R]) -> list[R]:
        rows = self._database.execute(
            "SELECT name, body FROM records WHERE kind = ? ORDER BY name", (kind.kind,)
        ).fetchall()
        return [self._load(kind, name, body) for name, body in rows]

    def put(self, record: Record) -> None:
        kind: Any = type(record)
        data = json.dumps(to_json(kind, record)).encode()
        body = self._cipher.seal(data, canonical("record", record.kind, record.name))
        self._database.execute(
            "INSERT INTO records VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET body = excluded.body",
            (record.kind, record.name, body),
        )

    def delete(self, record: Record) -> None:
        self._database.execute("DELETE FROM records WHERE kind = ? AND name = ?", (record.kind, record.name))

    def forget_history(self) -> None:
        """Leave nothing of overwritten records in the write-ahead log either."""
        self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        self._database.close()

    def _load(self, kind: type[R], name: str, body: bytes) -> R:
        data = self._cipher.open(body, canonical("record", kind.kind, name))
        return from_json(kind, json.loads(data))


def has_state(state: Path) -> bool:
    """Whether a key store has begun in this directory."""
    return (state / _STATE).exists()


def read_key(path: Path) -> bytes:
    """A key file: base64 of 32 bytes. Raises: NotFound, Denied, InvalidInput."""
    try:
        return from_text(read_private(path).decode("ascii").strip(), length=OWNER_KEY_BYTES)
    except (UnicodeDecodeError, InvalidInput) as error:
        raise InvalidInput(f"{path} is not a key file") from error


def make_key(path: Path) -> bytes:
    """A fresh key in a new private file. Raises: FileExistsError."""
    key = os.urandom(OWNER_KEY_BYTES)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_private(path, to_text(key).encode() + b"\n", replace=False)
    return key
