"""On the platform's machine: reads every blanket's observer port. What it makes of it is in `account`."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from supercloud.model.errors import Unavailable
from supercloud.model.names import Id
from supercloud.observer.account import Account, ping
from supercloud.observer.timeline import Copies, Fact, count_copies

_PING_EVERY_S = 0.5
_BACK_EVERY_S = 0.2
_LINE_BYTES = 64 << 10
_ANSWER_S = 120.0  # of a machine that is busy booting

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Port:
    """One blanket's port."""

    def __init__(self, blanket: Id, path: Path) -> None:
        self._blanket = blanket
        self._path = path
        self._answered = asyncio.Event()
        self.account = Account(blanket)

    async def open(self) -> Streams:
        """Raises: Unavailable, since an observer that sees nothing must not look like a clean record."""
        try:
            return await _connect(self._path)
        except OSError as error:
            raise Unavailable(
                f"the observer's port of blanket {self._blanket} cannot be opened: {error}"
            ) from error

    async def follow(self, streams: Streams) -> None:
        """Until cancelled. Once its machine ended nothing of it runs; a machine that is back is followed."""
        while True:
            await self._listen(*streams)
            self.account.ended(now_s=time.monotonic())
            streams = await self._back()

    async def answered(self) -> None:
        """Once the blanket has answered. Raises: Unavailable, after two minutes."""
        try:
            async with asyncio.timeout(_ANSWER_S):
                await self._answered.wait()
        except TimeoutError as error:
            raise Unavailable(f"the observer in blanket {self._blanket} does not answer") from error

    async def _listen(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pinging = asyncio.create_task(self._ping(writer))
        try:
            while line := await reader.readline():
                self.account.take(line, now_s=time.monotonic())
                if self.account.related:
                    self._answered.set()
        except ConnectionError:
            pass  # its end, too
        finally:
            pinging.cancel()
            with suppress(asyncio.CancelledError, OSError):
                await pinging
            writer.close()

    async def _ping(self, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(ping(time.monotonic()))
            await writer.drain()
            await asyncio.sleep(_PING_EVERY_S)

    async def _back(self) -> Streams:
        while True:
            try:
                return await _connect(self._path)
            except OSError:
                await asyncio.sleep(_BACK_EVERY_S)  # QEMU makes the socket anew when it starts again


async def _connect(path: Path) -> Streams:
    """By way of the directory's descriptor: a socket's own path is bounded to 107 bytes."""
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        short = f"/proc/self/fd/{directory}/{path.name}"
        return await asyncio.open_unix_connection(short, limit=_LINE_BYTES)
    finally:
        os.close(directory)


class Observer:
    """All blankets of this machine. Use as an async context manager; ask `copies()` at any time.

    Raises, when entered: Unavailable, unless every blanket's observer answers.
    """

    def __init__(self, ports: Mapping[Id, Path]) -> None:
        self._ports = [Port(blanket, path) for blanket, path in ports.items()]
        self._following: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Observer:
        opened = [(port, await port.open()) for port in self._ports]
        self._following = [asyncio.create_task(port.follow(streams)) for port, streams in opened]
        try:
            await asyncio.gather(*(port.answered() for port in self._ports))
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._following:
            task.cancel()
        await asyncio.gather(*self._following, return_exceptions=True)

    def facts(self) -> list[Fact]:
        return sorted(
            (fact for port in self._ports for fact in port.account.facts()), key=lambda fact: fact.at_s
        )

    def copies(self) -> list[Copies]:
        """Of each instance, how many copies ran at once so far."""
        return count_copies(self.facts())
