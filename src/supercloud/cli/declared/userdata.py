"""cloud-init user data in files beside the file."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from supercloud.model.errors import InvalidInput
from supercloud.ports.agent import USER_DATA_BYTES
from supercloud.trust.userdata import check_size


def content(folder: Path, named: str) -> str:
    """Of a small text in `folder` or below, wherever links lead.

    Raises:
        InvalidInput: it is none, or elsewhere.
    """
    try:
        top = folder.resolve()
        file = (top / named).resolve()
        if not file.is_relative_to(top):
            raise InvalidInput(f"{named} is outside of the folder of this file", hint="move it there")
        content = _bounded(file)
        text = content.decode()
    except (OSError, RuntimeError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it is not text"
        raise InvalidInput(
            f"{named} cannot be read: {why}", hint="name a file in the folder of this one"
        ) from error
    if "\0" in text:
        raise InvalidInput(f"{named} has a NUL in it", hint="user data is text")
    check_size(content)
    return text


def _bounded(file: Path) -> bytes:
    """Opened without waiting, so that a pipe does not hold us up before it is refused."""
    descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(0, "it is not a file")
        with os.fdopen(descriptor, "rb", closefd=False) as opened:
            return opened.read(USER_DATA_BYTES + 1)
    finally:
        os.close(descriptor)
