"""Where, in what libvirt says, it hands over descriptors. Its messages are told apart, and no more of them.

As libvirt's virnetprotocol.x has it: a message is its length (4 bytes, which count) and six words of header.
A reply with descriptors has their number as the next word, and is followed by a byte for each, which carries
it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

_REPLY_WITH_DESCRIPTORS: Final = 5
_HEAD: Final = struct.Struct(
    ">IIIiiIiI"
)  # length, program, version, procedure, type, serial, status, descriptors
_WITHOUT: Final = 28  # a header that no number of descriptors follows
_LONGEST: Final = 64 << 20  # libvirt's own limit is half of it
_DESCRIPTORS: Final = 32


class Messages:
    """Of one connection, as they come. What is none of libvirt's is carried as it is, to the end."""

    def __init__(self) -> None:
        self._pending = bytearray()
        self._left = 0  # bytes of the message that is under way
        self._marks = 0  # and of what follows it
        self._foreign = False

    def pieces(self, data: bytes) -> Iterator[tuple[bytes, bool]]:
        """What is to be passed on, and whether it is a byte that a descriptor goes with. The start of a
        message waits for its next bytes.
        """
        self._pending += data
        while self._pending:
            if self._foreign:
                yield self._take(len(self._pending)), False
            elif self._left:
                piece = self._take(self._left)
                self._left -= len(piece)
                yield piece, False
            elif self._marks:
                self._marks -= 1
                yield self._take(1), True
            elif not self._begin():
                return

    def _take(self, most: int) -> bytes:
        piece = bytes(self._pending[:most])
        del self._pending[:most]
        return piece

    def _begin(self) -> bool:
        """Whether enough of the next message is there to know what it is."""
        if len(self._pending) < struct.calcsize(">I"):
            return False
        (length,) = struct.unpack_from(">I", self._pending)
        if not _WITHOUT <= length <= _LONGEST:
            self._foreign = True
            return True
        if len(self._pending) < min(length, _HEAD.size):
            return False
        if length >= _HEAD.size:
            _, _, _, _, kind, _, _, marks = _HEAD.unpack_from(self._pending)
            self._foreign = kind == _REPLY_WITH_DESCRIPTORS and marks > _DESCRIPTORS
            self._marks = marks if kind == _REPLY_WITH_DESCRIPTORS else 0
        self._left = length
        return True
