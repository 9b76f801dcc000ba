"""A detector's end of its connection with the loop: one JSON object a line, each event answered when it is
durable.

A detector says who it is, then sends events, numbered. The loop (`security.door`) answers each number: `ok`
(durable), or `error` (it will never be taken). With `follow`, a second answer says when what was decided at
once is done. What was not answered is sent again after a break: an event's own id makes that harmless. Over a
UNIX socket, or TLS with certificates on both ends. Nothing of the loop itself is imported here: each detector
is a process, and would keep it in memory.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from supercloud.model.errors import InvalidInput
from supercloud.model.names import Name

#: Of one line. An event has at most 32 KiB.
LINE_BYTES = 64 << 10
#: Events of one detector that are not answered yet; beyond that it is not read from.
IN_FLIGHT = 256
_RETRY_S = 0.2
_log = structlog.get_logger(__name__)


def read_object(line: bytes) -> dict[str, Any]:
    """
    Raises:
        InvalidInput: it is no JSON object.
    """
    try:
        said = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InvalidInput("that is no JSON") from error
    if not isinstance(said, dict):
        raise InvalidInput("that is no JSON object")
    return said


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """The loop's socket, or its host, port and TLS context."""

    path: Path | None = None
    host: str = ""
    port: int = 0
    context: ssl.SSLContext | None = None
    server_name: str | None = None

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Raises: OSError."""
        if self.path is not None:
            return await asyncio.open_unix_connection(self.path, limit=LINE_BYTES)
        return await asyncio.open_connection(
            self.host, self.port, ssl=self.context, server_hostname=self.server_name, limit=LINE_BYTES
        )


class Link:
    """Sends events until each is answered, over as many connections as it takes. `run` beside `send`."""

    def __init__(self, where: Where, detector: Name, *, follow: bool = False) -> None:
        self._where = where
        self._detector = detector
        self._follow = follow
        self._unanswered: OrderedDict[int, tuple[bytes, asyncio.Future[dict[str, Any]]]] = OrderedDict()
        self._following: dict[int, asyncio.Future[int]] = {}
        self._next = 0
        self._room = asyncio.Semaphore(IN_FLIGHT)
        self._writer: asyncio.StreamWriter | None = None

    async def send(self, event: dict[str, Any]) -> asyncio.Future[dict[str, Any]]:
        """The answer to come. Waits while too many are not answered."""
        return (await self._sent(event))[1]

    async def _sent(self, event: dict[str, Any]) -> tuple[int, asyncio.Future[dict[str, Any]]]:
        await self._room.acquire()
        number, self._next = self._next, self._next + 1
        line = json.dumps({"n": number, "event": event}, separators=(",", ":")).encode() + b"\n"
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        answer.add_done_callback(lambda _: self._room.release())
        self._unanswered[number] = (line, answer)
        if self._follow:
            self._following[number] = asyncio.get_running_loop().create_future()
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(line)
            with suppress(OSError):
                await self._writer.drain()
        return number, answer

    async def reacted(self, event: dict[str, Any]) -> int:
        """Send, and wait until what was decided at once is done; how much that was: 0 also of an event that
        was refused, or known. Needs `follow`."""
        number, _ = await self._sent(event)
        return await self._following[number]

    @property
    def waiting(self) -> int:
        return len(self._unanswered)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                reader, writer = await self._where.open()
            except OSError:
                await asyncio.sleep(_RETRY_S)
                continue
            try:
                await self._talk(reader, writer)
            except (OSError, InvalidInput, ValueError) as error:
                _log.info("detector.loop_left", reason=str(error)[:200])
            finally:
                self._writer = None
                writer.close()
            await asyncio.sleep(_RETRY_S)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hello = {"detector": self._detector, "follow": self._follow}
        writer.write(json.dumps(hello).encode() + b"\n")
        for line, _ in self._unanswered.values():
            writer.write(line)
        self._writer = writer
        await writer.drain()
        while line := await reader.readline():
            self._heard(read_object(line))

    def _heard(self, said: dict[str, Any]) -> None:
        number = said.get("n")
        if not isinstance(number, int):
            return
        _, answer = self._unanswered.get(number, (b"", None))
        if answer is not None and not answer.done():
            answer.set_result(said)
        if self._follow and "ok" in said:
            return  # the second answer is still to come, and is asked for again if it does not
        self._unanswered.pop(number, None)
        following = self._following.pop(number, None)
        if following is not None and not following.done():
            following.set_result(int(said.get("done", 0)))
