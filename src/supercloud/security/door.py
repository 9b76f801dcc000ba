"""Where detectors come in to the loop; what is said there: `security.link`, their end of it."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog

from supercloud.model.errors import InvalidInput, SupercloudError, Unavailable
from supercloud.model.names import Name
from supercloud.security.events import Stand
from supercloud.security.link import IN_FLIGHT, LINE_BYTES, read_object
from supercloud.security.loop import Loop

#: So many events that are none, and whoever sends them is not listened to any more on this connection.
REFUSED = 1000
_HELLO_S = 10.0
_log = structlog.get_logger(__name__)

#: Who speaks, by the name that it gives and the TLS connection, if there is one; None: nobody that may.
Stands = Callable[[Name, ssl.SSLObject | None], Stand | None]


class Door:
    """Where detectors come in."""

    def __init__(self, loop: Loop, stands: Stands) -> None:
        self._loop = loop
        self._stands = stands

    async def listen_unix(self, path: Path) -> asyncio.Server:
        """For this user's processes. Raises: OSError."""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        server = await asyncio.start_unix_server(self.meet, path, limit=LINE_BYTES)
        path.chmod(0o600)
        return server

    async def listen_tls(self, host: str, port: int, context: ssl.SSLContext) -> asyncio.Server:
        """Raises: OSError."""
        return await asyncio.start_server(self.meet, host, port, ssl=context, limit=LINE_BYTES)

    async def meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One detector's connection, to its end."""
        name = "?"
        try:
            hello = await asyncio.wait_for(reader.readline(), _HELLO_S)
            said = read_object(hello)
            name = str(said.get("detector"))[:63]
            stand = self._stands(name, writer.get_extra_info("ssl_object"))
            if stand is None:
                raise InvalidInput(f"no detector {name!r} may speak here")
            await _Guest(self._loop, stand, writer, follow=said.get("follow") is True).serve(reader)
        except (SupercloudError, TimeoutError, ValueError, OSError) as error:
            _log.warning("loop.detector_left", detector=name, reason=str(error)[:200])
        finally:
            writer.close()
            with suppress(OSError, ssl.SSLError):
                await writer.wait_closed()


class _Guest:
    """One that was let in."""

    def __init__(self, loop: Loop, stand: Stand, writer: asyncio.StreamWriter, *, follow: bool) -> None:
        self._loop = loop
        self._stand = stand
        self._writer = writer
        self._follow = follow
        self._room = asyncio.Semaphore(IN_FLIGHT)
        self._refused = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                if not line.endswith(b"\n"):
                    return  # it was cut off
                await self._room.acquire()
                task = asyncio.create_task(self._one(line))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
                if self._refused >= REFUSED:
                    raise InvalidInput(f"{REFUSED} events of it were refused")
        finally:
            for task in tuple(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _one(self, line: bytes) -> None:
        number: Any = None
        try:
            said = read_object(line)
            number = said.get("n")
            receipt = await self._loop.submit(said.get("event"), self._stand)
        except Unavailable:
            self._writer.close()  # it is sent again, to who comes after us
            return
        except SupercloudError as error:
            self._refused += 1
            await self._say({"n": number, "error": error.message[:300]})
            return
        finally:
            self._room.release()
        await self._say({"n": number, "ok": True, "incidents": receipt.incidents})
        if self._follow and receipt.done is not None:
            await self._say({"n": number, "done": await receipt.done})

    async def _say(self, answer: dict[str, Any]) -> None:
        if not self._writer.is_closing():
            self._writer.write(json.dumps(answer, separators=(",", ":")).encode() + b"\n")
            with suppress(OSError):
                await self._writer.drain()
