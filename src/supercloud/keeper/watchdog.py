"""The kernel's watchdog: whoever stops feeding it has the blanket reset."""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path

from supercloud.model.errors import Failed
from supercloud.model.right import WATCHDOG_S

_SETTIMEOUT = 0xC0045706  # _IOWR('W', 6, int), linux/watchdog.h
#: A hung keeper ends within this.
TIMEOUT_S = WATCHDOG_S
#: A restarted keeper may be so much later, if rights last so long; meanwhile nobody watches the clocks.
LEAVE_S = 30


class Watchdog:
    """Armed once opened, and left so by closing it: whoever ends must be back in time, or disarm it first."""

    def __init__(self, path: Path = Path("/dev/watchdog"), *, timeout_s: int = TIMEOUT_S) -> None:
        """Raises: Failed, e.g. where there is none."""
        self._timeout_s = timeout_s
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            self._set(timeout_s)
        except OSError as error:
            raise Failed(f"no watchdog: {error}") from error

    def feed(self) -> None:
        os.write(self._fd, b"\0")

    def leave(self, valid_s: float) -> None:
        """Feed it for the last time: it bites as long after the rights that are valid for `valid_s` as ever.

        So that a keeper that is restarted in order, on a slow machine, does not cost its instances' memory.
        """
        self._set(self._timeout_s + int(min(max(valid_s, 0.0), LEAVE_S)))
        self.feed()

    def _set(self, timeout_s: int) -> None:
        fcntl.ioctl(self._fd, _SETTIMEOUT, struct.pack("i", timeout_s))

    def disarm(self) -> None:
        os.write(self._fd, b"V")  # the kernel's "magic close"

    def close(self) -> None:
        os.close(self._fd)
