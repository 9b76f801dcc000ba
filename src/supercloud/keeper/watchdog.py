"""The kernel's watchdog: whoever stops feeding it has the blanket reset."""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path

from supercloud.model.errors import Failed

_SETTIMEOUT = 0xC0045706  # _IOWR('W', 6, int), linux/watchdog.h
#: A hung keeper ends within this; shorter than a right's margin by what clocks and reactions may take.
TIMEOUT_S = 12


class Watchdog:
    """Armed once opened, and left so by closing it: whoever ends must be back in time, or disarm it first."""

    def __init__(self, path: Path = Path("/dev/watchdog"), *, timeout_s: int = TIMEOUT_S) -> None:
        """Raises: Failed, e.g. where there is none."""
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            fcntl.ioctl(self._fd, _SETTIMEOUT, struct.pack("i", timeout_s))
        except OSError as error:
            raise Failed(f"no watchdog: {error}") from error

    def feed(self) -> None:
        os.write(self._fd, b"\0")

    def disarm(self) -> None:
        os.write(self._fd, b"V")  # the kernel's "magic close"

    def close(self) -> None:
        os.close(self._fd)
