"""The serial console of a machine. QEMU's log of it is what is read; a FIFO takes the input.

Both serve any number of clients, in any process. A socket for both would not do: QEMU logs a byte again each
time that its client is slow to take it, and 270 unread bytes are slow already.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

from asyncinotify import Inotify, Mask

from supercloud.model.errors import Unavailable
from supercloud.platforms.qemu.command import BINARY, CONSOLE, CONSOLE_LOG
from supercloud.platforms.qemu.process import Process

_CHUNK = 64 << 10
_TAIL = 64 << 10
_WRITE_S = 10.0


async def follow(directory: Path, pid: int) -> AsyncIterator[bytes]:
    """The last of what the machine wrote, then what it writes until its process ends."""
    with (
        (directory / CONSOLE_LOG).open("rb") as log,
        Inotify() as inotify,
        contextlib.ExitStack() as stack,
    ):
        inotify.add_watch(directory / CONSOLE_LOG, Mask.MODIFY)
        running = Process.find(pid, BINARY, directory)
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


async def type_in(directory: Path, data: bytes) -> None:
    """
    Raises:
        Unavailable: no QEMU reads there, or the machine does not take it.
    """
    try:
        keys = os.open(directory / f"{CONSOLE}.in", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise Unavailable(f"the console does not take input: {error.strerror}") from error
    try:
        async with asyncio.timeout(_WRITE_S):
            while data:
                data = data[await _written(keys, data) :]
    except (OSError, TimeoutError) as error:
        raise Unavailable("the console does not take input: the machine does not read it") from error
    finally:
        os.close(keys)


async def _written(descriptor: int, data: bytes) -> int:
    loop = asyncio.get_running_loop()
    while True:
        try:
            return os.write(descriptor, data)
        except BlockingIOError:
            room = loop.create_future()
            loop.add_writer(descriptor, room.set_result, None)
            try:
                await room
            finally:
                loop.remove_writer(descriptor)
