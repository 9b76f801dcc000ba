"""Holding what a QEMU has sent: it cannot go on without its disks, and those are locked.

Before QEMU lets a guest write to an image it locks bytes of the file, one for each thing that it is going to
do and one for each that it bears from nobody else (block/file-posix.c in QEMU's source). A source that has
sent everything gives its disks back; for as long as somebody else holds the byte that stands for writing,
`cont` fails and the guest executes nothing. That the byte can be had says at the same time that it was given
back.

The kernel drops the lock with its descriptor, so one that ends with the keeper is taken again by the next
one, and meanwhile what goes on is paused (`rights.Held.sent_s`).
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from pathlib import Path
from typing import Final

#: RAW_LOCK_PERM_BASE + the bit of BLK_PERM_WRITE: held by who writes.
_WRITES_AT: Final = 100 + 1
_WRITE_LOCK: Final = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, _WRITES_AT, 1, 0)  # struct flock64


class Fence:
    """All images of one folder that one process has open, locked against its writing."""

    def __init__(self, images: Path) -> None:
        self._images = images
        self._held: list[int] = []

    @property
    def holds(self) -> bool:
        return bool(self._held)

    def take(self, pid: int) -> bool:
        """Whether that process can write to none of its images from now on. A repeat changes nothing.

        False: it writes, or can, or has no image there by which it could be held.
        """
        if self._held:
            return True
        taken: list[int] = []
        try:
            for path in _open_below(self._images, pid):
                taken.append(os.open(path, os.O_RDWR | os.O_CLOEXEC))
                fcntl.fcntl(taken[-1], fcntl.F_OFD_SETLK, _WRITE_LOCK)
        except OSError as error:
            _close(taken)
            if error.errno not in (errno.EAGAIN, errno.EACCES, errno.ENOENT, errno.ESRCH):
                raise
            return False
        self._held = taken
        return self.holds

    def drop(self) -> None:
        """Let it write again."""
        _close(self._held)
        self._held = []


def _open_below(folder: Path, pid: int) -> set[Path]:
    """Raises: OSError."""
    descriptors = Path(f"/proc/{pid}/fd")
    found = (_target(descriptors / name) for name in os.listdir(descriptors))  # noqa: PTH208 - names only
    return {path for path in found if path is not None and path.is_relative_to(folder)}


def _target(descriptor: Path) -> Path | None:
    try:
        return Path(os.readlink(descriptor))  # noqa: PTH115 - may name no file at all, such as "socket:[1]"
    except FileNotFoundError:
        return None


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
