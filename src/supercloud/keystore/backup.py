"""The way back: the whole state in one encrypted file, under a recovery key that is kept elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from supercloud.keystore.authorities import expelled
from supercloud.keystore.records import KINDS, BlanketRecord, ImageShareRecord, Record, Standing
from supercloud.keystore.vault import Cipher, Vault
from supercloud.model.errors import Conflict, Denied, InvalidInput
from supercloud.trust.files import read_private, write_private
from supercloud.wire.codec import from_json, to_json

_MAGIC = b"supercloud key store backup 1\n"


def back_up(vault: Vault, recovery_key: bytes) -> bytes:
    """Everything in the vault, readable with the recovery key only."""
    with vault.transaction():  # one moment of it, while the key store goes on
        found = {kind.kind: [_plain(kind, record) for record in vault.every(kind)] for kind in KINDS}
    return _MAGIC + Cipher(recovery_key, "backup").seal(json.dumps(found).encode(), _MAGIC)


def open_backup(backup: bytes, recovery_key: bytes) -> tuple[Record, ...]:
    """What is in a backup.

    Raises:
        Denied: another recovery key, or a changed file.
        InvalidInput: not a backup.
    """
    if not backup.startswith(_MAGIC):
        raise InvalidInput("not a key store's backup")
    try:
        data = Cipher(recovery_key, "backup").open(backup[len(_MAGIC) :], _MAGIC)
    except Denied as error:
        raise Denied("this recovery key does not open this backup, or the backup is damaged") from error
    found: dict[str, list[Any]] = json.loads(data)
    return tuple(from_json(kind, plain) for kind in KINDS for plain in found.get(kind.kind, []))


def restore(vault: Vault, records: Iterable[Record]) -> None:
    """Fill an empty vault. What happened after the backup is not in it: see the guide.

    Raises:
        Conflict: the vault is not empty.
    """
    with vault.transaction():
        if any(vault.every(kind) for kind in KINDS):
            raise Conflict("there is a key store's state already", hint="restore into an empty directory")
        for record in records:
            if not isinstance(record, ImageShareRecord):  # it may have been withdrawn since
                vault.put(_usable(record))


def _usable(record: Record) -> Record:
    """An invitation may have been used after the backup was made: it must not be used again."""
    if isinstance(record, BlanketRecord) and record.standing is Standing.INVITED:
        return expelled(record)
    return record


def _plain(kind: Any, record: Record) -> Any:
    return to_json(kind, record)


def write_backup(path: Path, backup: bytes) -> None:
    """Raises: Conflict (the file exists: a backup never replaces one)."""
    try:
        write_private(path, backup, replace=False)
    except FileExistsError as error:
        raise Conflict(f"{path} exists already") from error


def read_backup(path: Path) -> bytes:
    """Raises: NotFound, Denied."""
    return read_private(path)
