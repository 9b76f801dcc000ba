"""Private files: whole or not at all, on the disk before we go on, readable by their owner only."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from supercloud.model.errors import Denied, NotFound

_LIMIT_BYTES = 64 << 20


def write_private(path: Path, data: bytes, *, replace: bool = True) -> None:
    """Write `path` atomically with mode 0600 and wait until it and its name are on the disk.

    Raises:
        FileExistsError: it is there already and `replace` is False.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            draft.replace(path)
        else:
            os.link(draft, path)  # unlike a rename, a link never replaces
    finally:
        draft.unlink(missing_ok=True)
    sync_directory(path.parent)


def read_private(path: Path) -> bytes:
    """The content of a private file.

    Raises:
        NotFound: no such file.
        Denied: others than its owner may read or write it.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise NotFound(f"{path} is not there") from error
    with os.fdopen(descriptor, "rb") as file:
        if os.fstat(file.fileno()).st_mode & 0o077:
            raise Denied(f"{path} is open to others than its owner", hint=f"chmod 600 {path}")
        return file.read(_LIMIT_BYTES)


def sync_directory(path: Path) -> None:
    """Wait until the names in a directory are on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
