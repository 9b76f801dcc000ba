"""Frames of a micro-hypervisor's management channel: `docs/spec/microhypervisor-channel.md`, 1."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

VERSION = 1
MAX_PAYLOAD = 1024
_MAGIC = b"MH"
_HEADER = struct.Struct("<2sBBHH")
_CHECK = struct.Struct("<I")
#: What is sent first on a channel that somebody else may have left in the middle of a frame.
RESET = bytes(_HEADER.size + MAX_PAYLOAD + _CHECK.size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One frame; `sequence` is the asker's number, the same in the reply."""

    kind: int
    sequence: int
    payload: bytes = b""

    def __post_init__(self) -> None:
        if not (0 <= self.kind < 256 and 0 <= self.sequence < 65536 and len(self.payload) <= MAX_PAYLOAD):
            raise ValueError("a frame's kind, sequence or payload is out of bounds")

    def encode(self) -> bytes:
        head = _HEADER.pack(_MAGIC, VERSION, self.kind, self.sequence, len(self.payload))
        return head + self.payload + _CHECK.pack(zlib.crc32(head + self.payload))


class Receiver:
    """Finds frames in a stream of bytes, however hostile; keeps at most one frame's worth of them."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that end within `data`. What is none is dropped, as the specification has it."""
        for byte in data:
            self._bytes.append(byte)
            while not self._plausible():
                del self._bytes[0]
            frame = self._whole()
            if frame is not None:
                yield frame

    def _plausible(self) -> bool:
        """Whether what is there can still become a frame; nothing at all can."""
        seen = self._bytes[: _HEADER.size]
        if not (_MAGIC + bytes([VERSION])).startswith(bytes(seen[:3])):
            return False
        return len(seen) < _HEADER.size or _HEADER.unpack(seen)[4] <= MAX_PAYLOAD

    def _whole(self) -> Frame | None:
        if len(self._bytes) < _HEADER.size:
            return None
        _, _, kind, sequence, length = _HEADER.unpack_from(self._bytes)
        end = _HEADER.size + length
        if len(self._bytes) < end + _CHECK.size:
            return None
        content, (check,) = bytes(self._bytes[:end]), _CHECK.unpack_from(self._bytes, end)
        self._bytes.clear()
        if zlib.crc32(content) != check:
            return None
        return Frame(kind=kind, sequence=sequence, payload=content[_HEADER.size :])
