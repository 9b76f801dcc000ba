"""A session on a micro-hypervisor's management channel: one user at a time, deadlines, errors of ours."""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from supercloud.model.errors import Unavailable
from supercloud.platforms.microhypervisor import requests
from supercloud.platforms.microhypervisor.command import CHANNEL_SOCKET
from supercloud.platforms.microhypervisor.frames import RESET, Frame, Receiver
from supercloud.platforms.microhypervisor.requests import Partition, Request
from supercloud.platforms.qemu.monitor import reachable
from supercloud.ports.platform import Challenge, SealedExport, SealedPage

#: The monitor's core does one thing after another: an answer may wait for somebody else's start.
ANSWER_S = 60.0
#: A start clears the partition's memory and measures what is loaded, under emulation.
_START_S = 180.0
_SLOW = frozenset({Request.START, Request.RESTART})
_CHUNK = 4096
#: The console keeps fewer bytes than so many parts have: whoever asks more often asks a partition that talks.
_PARTS = 40


class Channel:
    """Methods raise Failed if the micro-hypervisor refuses, Refused if its monitor does, Unavailable if it is
    gone or late."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._receiver = Receiver()
        # Whoever was here before us may have left without its reply: it must not pass for one of ours.
        self._sequences = (number % 65536 for number in itertools.count(secrets.randbelow(65536)))

    async def ask(
        self,
        request: Request,
        name: str = "",
        start: int | None = None,
        *,
        rest: bytes = b"",
        timeout_s: float | None = None,
    ) -> bytes:
        """The payload of the reply."""
        frame = requests.ask(request, next(self._sequences), name, start, rest=rest)
        with _translated(request):
            async with asyncio.timeout(timeout_s or (_START_S if request in _SLOW else ANSWER_S)):
                self._writer.write(frame.encode())
                await self._writer.drain()
                return requests.accepted(frame, await self._reply(frame.sequence))

    async def partitions(self, *, timeout_s: float | None = None) -> Mapping[str, Partition]:
        """All there are, by name."""
        listed = requests.partitions(await self.ask(Request.LIST, timeout_s=timeout_s))
        return {partition.name: partition for partition in listed}

    async def console(self, name: str, start: int) -> requests.ConsolePart:
        """What a partition has written from `start` on, as far as it is still there."""
        text, until = b"", start
        for _ in range(_PARTS):
            part = requests.console(await self.ask(Request.CONSOLE, name, until))
            text, until = text + part.text, part.until
            if not part.text:
                break
        return requests.ConsolePart(until=until, text=text)

    async def challenge(self, name: str, nonce: bytes) -> Challenge:
        """For the next act on a partition, with what is signed of its launch for this nonce."""
        clock = requests.hello(await self.ask(Request.HELLO)).clock_khz
        attestation = await self.ask(Request.ATTEST, name, rest=nonce)
        issued = requests.challenge(await self.ask(Request.CHALLENGE, name))
        return Challenge(
            partition=name,
            launch=issued.launch,
            challenge=issued.challenge,
            clock_khz=clock,
            attestation=attestation,
        )

    async def export(self, name: str, act: bytes, pages: range) -> SealedExport:
        """`act`: `requests.act`, of these pages."""
        header = await self.ask(Request.ACT, name, rest=act)
        return SealedExport(header=header, pages=tuple([await self._sealed(name, page) for page in pages]))

    async def _sealed(self, name: str, page: int) -> SealedPage:
        version, sealed = 0, b""
        while len(sealed) < requests.SEALED_SIZE:
            asked = requests.page(page, len(sealed))
            version, part = requests.page_part(await self.ask(Request.PAGE, name, rest=asked))
            sealed += part
        return SealedPage(version, sealed)

    async def _reply(self, sequence: int) -> Frame:
        while True:
            received = await self._reader.read(_CHUNK)
            if not received:
                raise ConnectionResetError
            for frame in list(self._receiver.feed(received)):
                if frame.sequence == sequence:
                    return frame


@asynccontextmanager
async def session(directory: Path) -> AsyncIterator[Channel]:
    """A session with the machine whose directory this is.

    Raises:
        Unavailable: nobody listens.
    """
    with _translated("connection"), reachable(directory) as short:
        reader, writer = await asyncio.open_unix_connection(short / CHANNEL_SOCKET)
    try:
        writer.write(RESET)
        yield Channel(reader, writer)
    finally:
        writer.close()  # the next user waits for this


@contextmanager
def _translated(what: Request | str) -> Iterator[None]:
    asked = what.name.lower() if isinstance(what, Request) else what
    try:
        yield
    except TimeoutError as error:
        raise Unavailable(
            f"the micro-hypervisor did not answer {asked} in time", hint="somebody else may hold its channel"
        ) from error
    except OSError as error:
        raise Unavailable(f"the micro-hypervisor's channel is not there: {asked}: {error}") from error
