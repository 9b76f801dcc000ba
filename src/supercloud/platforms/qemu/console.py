"""The serial console of a machine. QEMU's log of it is what is read; QEMU's socket takes the input.

The socket serves one client, and what a machine writes before a client is accepted never reaches it. The log
has every byte in order, for any number of readers, in any process.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from asyncinotify import Inotify, Mask

from supercloud.model.errors import Unavailable
from supercloud.platforms.qemu.command import CONSOLE_LOG, CONSOLE_SOCKET
from supercloud.platforms.qemu.monitor import reachable
from supercloud.platforms.qemu.process import Process

_CHUNK = 64 << 10
_TAIL = 64 << 10
_WRITE_S = 10.0


async def follow(directory: Path, pid: int, created_at: float) -> AsyncIterator[bytes]:
    """The last of what the machine wrote, then what it writes until its process ends."""
    with (
        (directory / CONSOLE_LOG).open("rb") as log,
        Inotify() as inotify,
        contextlib.ExitStack() as stack,
    ):
        inotify.add_watch(directory / CONSOLE_LOG, Mask.MODIFY)
        running = Process.find(pid, created_at)
        ended = asyncio.create_task(_ended(stack.enter_context(running) if running else None))
        changed = asyncio.create_task(inotify.get())
        try:
            log.seek(max(0, log.seek(0, 2) - _TAIL))
            while True:
                last = ended.done()  # asked before reading: what is written before the end is read
                if chunk := log.read(_CHUNK):
                    yield chunk
                elif last:
                    return
                elif log.tell() > (directory / CONSOLE_LOG).stat().st_size:
                    log.seek(0)  # the log was cut to its bound
                else:
                    await asyncio.wait({ended, changed}, return_when=asyncio.FIRST_COMPLETED)
                    if changed.done():
                        changed = asyncio.create_task(inotify.get())
        finally:
            ended.cancel()
            changed.cancel()
            await asyncio.gather(ended, changed, return_exceptions=True)


async def _ended(running: Process | None) -> None:
    if running is not None:
        await running.wait(None)


class Keyboard:
    """The one connection to QEMU that types. What the machine writes to it is dropped: the log has it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._writer: asyncio.StreamWriter | None = None
        self._drain: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()

    async def type(self, data: bytes) -> None:
        """Send `data`. The connection stays open: QEMU forgets input whose sender hangs up at once.

        Raises:
            Unavailable: nobody listens on the console, or the machine does not take it.
        """
        try:
            async with asyncio.timeout(_WRITE_S), self._turn:
                writer = self._writer or await self._connect()
                writer.write(data)
                await writer.drain()
        except (OSError, TimeoutError) as error:
            raise Unavailable(f"the console does not take input: {error}") from error

    async def close(self) -> None:
        """Hang up."""
        if self._drain is not None:
            self._drain.cancel()
            await asyncio.gather(self._drain, return_exceptions=True)

    async def _connect(self) -> asyncio.StreamWriter:
        with reachable(self._directory) as short:
            reader, writer = await asyncio.open_unix_connection(short / CONSOLE_SOCKET)
        self._writer = writer
        self._drain = asyncio.create_task(self._drop(reader, writer))
        return writer

    async def _drop(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(OSError):  # QEMU was killed: the same as its end
                while await reader.read(_CHUNK):
                    pass
        finally:
            self._writer = None
            writer.close()
