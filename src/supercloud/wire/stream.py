"""A transport over a stream of bytes (a UNIX socket): each frame is its length in four bytes, then UTF-8."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from supercloud.model.errors import InvalidInput, Unavailable
from supercloud.wire.rpc import FRAME_BYTES

_LENGTH_BYTES = 4


class StreamTransport:
    """Frames over an open asyncio stream. One task may receive; any may send."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, frame: str) -> None:
        data = frame.encode()
        if self._writer.is_closing():
            raise Unavailable("the connection is closed")
        try:
            # One write for each frame: two senders never mix their bytes.
            self._writer.write(len(data).to_bytes(_LENGTH_BYTES, "big") + data)
            await self._writer.drain()
        except OSError as error:
            raise Unavailable(f"the connection closed: {error}") from error

    async def receive(self) -> str:
        """Raises: Unavailable at the end; InvalidInput for a frame that is too large or not UTF-8."""
        try:
            length = int.from_bytes(await self._reader.readexactly(_LENGTH_BYTES), "big")
            if length > FRAME_BYTES:
                raise InvalidInput(f"a frame of {length} bytes")
            return (await self._reader.readexactly(length)).decode()
        except UnicodeDecodeError as error:
            raise InvalidInput("a frame that is not UTF-8") from error
        except (OSError, asyncio.IncompleteReadError) as error:
            raise Unavailable("the other end closed the connection") from error

    async def close(self, reason: str = "") -> None:
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()
