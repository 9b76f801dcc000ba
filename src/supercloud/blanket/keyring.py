"""The opened keys of a blanket: files of root's on tmpfs, so that a restarted agent need not ask again.

They are gone when the blanket's memory is; nothing writes them to a disk.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from pathlib import Path

from supercloud.model.errors import Unavailable
from supercloud.model.names import Digest, Id


def image_secret(digest: Digest) -> Id:
    """The secret id of a base image's key: the same in every blanket."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"supercloud:image:{digest}"))


class Keyring:
    """Keys by secret id, in `folder`, which must be on tmpfs and root's alone."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, secret: Id, key: bytes) -> None:
        """Keep `key`, whole or not at all."""
        part = self._folder / f".{secret}.part"
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as out:
            out.write(key)
        part.rename(self.path(secret))

    def path(self, secret: Id) -> Path:
        return self._folder / f"{secret}.key"

    def need(self, secret: Id) -> Path:
        """The file with the key.

        Raises:
            Unavailable: it was not opened since this blanket started.
        """
        if not (path := self.path(secret)).exists():
            raise Unavailable(
                f"the key {secret} is not in this blanket's memory", hint="open the volume first"
            )
        return path

    def drop(self, secret: Id) -> None:
        """Forget it. Not there: fine."""
        with contextlib.suppress(FileNotFoundError):
            self.path(secret).unlink()

    def all(self) -> dict[Id, bytes]:
        return {path.stem: path.read_bytes() for path in self._folder.glob("*.key") if _is_id(path.stem)}


def _is_id(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False
