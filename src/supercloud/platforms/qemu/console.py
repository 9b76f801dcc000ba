"""The serial console of a machine: one connection to QEMU, any number of readers, and writers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from supercloud.model.errors import Unavailable
from supercloud.platforms.qemu.command import CONSOLE_SOCKET
from supercloud.platforms.qemu.monitor import reachable

_CHUNK = 4096
#: Chunks kept for a reader that does not read; then its oldest are dropped: the machine never waits for it.
_BACKLOG = 256
_WRITE_S = 10.0


class ConsoleHub:
    """QEMU's socket serves one client, so everybody here shares one connection, open while it is needed."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._readers: set[asyncio.Queue[bytes | None]] = set()
        self._writer: asyncio.StreamWriter | None = None
        self._pump: asyncio.Task[None] | None = None
        self._opening = asyncio.Lock()

    async def read(self, before: bytes) -> AsyncIterator[bytes]:
        """`before`, then what the machine writes from now on, until it ends.

        Raises:
            Unavailable: nobody listens on the console.
        """
        queue: asyncio.Queue[bytes | None] = asyncio.Queue(_BACKLOG)
        self._readers.add(queue)
        try:
            await self._connected()
        except BaseException:
            self._readers.discard(queue)
            raise
        return self._chunks(before, queue)

    async def write(self, data: bytes) -> None:
        """Type `data`.

        Raises:
            Unavailable: nobody listens on the console, or the machine does not take it.
        """
        try:
            async with asyncio.timeout(_WRITE_S):
                writer = await self._connected()
                writer.write(data)
                await writer.drain()
            if not self._readers:
                await self.close()  # others may want QEMU's one connection
        except (OSError, TimeoutError) as error:
            raise Unavailable(f"the console does not take input: {error}") from error

    async def close(self) -> None:
        """End all readers and the connection."""
        if self._pump is not None:
            self._pump.cancel()
            await asyncio.gather(self._pump, return_exceptions=True)

    async def _chunks(self, before: bytes, queue: asyncio.Queue[bytes | None]) -> AsyncIterator[bytes]:
        try:
            if before:
                yield before
            while (chunk := await queue.get()) is not None:
                yield chunk
        finally:
            self._readers.discard(queue)
            if not self._readers:
                await self.close()

    async def _connected(self) -> asyncio.StreamWriter:
        async with self._opening:
            if self._writer is None:
                try:
                    with reachable(self._directory) as short:
                        reader, self._writer = await asyncio.open_unix_connection(short / CONSOLE_SOCKET)
                except OSError as error:
                    raise Unavailable(f"nobody listens on the console: {error}") from error
                self._pump = asyncio.create_task(self._copy(reader, self._writer))
            return self._writer

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while chunk := await reader.read(_CHUNK):
                self._tell(chunk)
        except OSError:
            pass  # QEMU was killed: the same as its end
        finally:
            self._writer = None
            writer.close()
            self._tell(None)

    def _tell(self, chunk: bytes | None) -> None:
        for queue in self._readers:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(chunk)
