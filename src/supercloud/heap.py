"""What a program has freed goes back to the system: of those that run for months, and now and then take
images and long lists through their hands."""

from __future__ import annotations

import ctypes
from typing import Final

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
#: Both as glibc begins with.
_BYTES: Final = 128 << 10


def give_back() -> None:
    """From this size on blocks are mappings of their own, and what is free at the heap's end is given back.

    glibc raises both as such blocks are freed, up to 32 and 64 MiB: then what follows them in the heap keeps
    it long, and an agent that has fetched an image keeps seven megabytes of it. Setting them keeps them. A
    system whose C library knows no such thing does as it does.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _BYTES)
        mallopt(_TRIM_THRESHOLD, _BYTES)
