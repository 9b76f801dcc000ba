"""Published ports: a TCP port of an instance, on this machine's loopback, through its blanket's agent."""

from __future__ import annotations

import asyncio
import contextlib
import errno

import structlog
from sqlalchemy import select

from supercloud.model.errors import Conflict, Exhausted, SupercloudError, Unavailable
from supercloud.model.names import Id
from supercloud.ports.agent import StreamKind
from supercloud.services.store.engine import Store
from supercloud.services.store.tables import Published, Right
from supercloud.services.streams import ByteStream, Streams

_log = structlog.get_logger(__name__)
HOST = "127.0.0.1"
_CHUNK = 64 << 10
_CONNECTIONS = 512
_AGAIN_S = 5.0
_ANOTHER = "publish another one, or none of your choice: --publish PORT"


class Publisher:
    """The listeners of one controller."""

    def __init__(self, store: Store, streams: Streams) -> None:
        self._store = store
        self._streams = streams
        self._servers: dict[int, asyncio.Server] = {}
        #: Those of the store's that another program has: tried again until they can be had.
        self.missing: frozenset[int] = frozenset()
        self._open = 0

    async def listen(self, at: int, instance: Id, port: int) -> int:
        """Start to listen (0: on any free port); the port it is.

        Raises:
            Conflict: it is in use.
        """
        if at in self._servers:
            raise Conflict(f"port {at} is published already", hint=_ANOTHER)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._serve(instance, port, reader, writer)

        try:
            server = await asyncio.start_server(serve, HOST, at)
        except OSError as error:
            if error.errno in {errno.EADDRINUSE, errno.EACCES}:
                raise Conflict(
                    f"port {at} of {HOST} cannot be had: {error.strerror}", hint=_ANOTHER
                ) from error
            raise Exhausted(f"cannot listen on port {at}: {error}") from error
        found: int = server.sockets[0].getsockname()[1]
        self._servers[found] = server
        return found

    async def silence(self, at: int) -> None:
        self.missing -= {at}
        server = self._servers.pop(at, None)
        if server is not None:
            server.close()

    async def resume(self) -> None:
        """Listen again on everything that the store knows; what cannot be had is missing from now on."""
        async with self._store.read() as session:
            rows = list(await session.scalars(select(Published)))
        for row in rows:
            if row.at not in self._servers:
                await self._have(row)

    async def run(self, every_s: float = _AGAIN_S) -> None:
        """Until cancelled: what is missing is had once whoever has it lets go, of which nobody tells."""
        while True:
            await asyncio.sleep(every_s)
            with contextlib.suppress(SupercloudError):  # a store that is away is tried again, too
                await self.regain()

    async def regain(self) -> None:
        """Try what is missing once more."""
        if not self.missing:
            return
        async with self._store.read() as session:
            rows = list(await session.scalars(select(Published).where(Published.at.in_(self.missing))))
        self.missing &= {row.at for row in rows}
        for row in rows:
            await self._have(row)

    async def _have(self, row: Published) -> None:
        try:
            await self.listen(row.at, row.instance, row.port)
        except SupercloudError as error:
            if row.at not in self.missing:
                _log.warning("publish.failed", port=row.at, why=error.message)
            self.missing |= {row.at}
        else:
            self.missing -= {row.at}

    async def close(self) -> None:
        for at in list(self._servers):
            await self.silence(at)

    async def _serve(
        self, instance: Id, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if self._open >= _CONNECTIONS:
            writer.close()
            return
        self._open += 1
        try:
            stream = await self._streams.open(await self._where(instance), instance, StreamKind.TCP, port)
            try:
                await _pipe(reader, writer, stream)
            finally:
                await stream.close()
        except SupercloudError as error:
            _log.info("publish.refused", instance=instance, port=port, why=error.message)
        finally:
            self._open -= 1
            writer.close()

    async def _where(self, instance: Id) -> Id:
        async with self._store.read() as session:
            holder = await session.scalar(select(Right.holder).where(Right.instance == instance))
        if holder is None:
            raise Unavailable("the instance does not run")
        return holder


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, stream: ByteStream) -> None:
    async def outward() -> None:
        while data := await reader.read(_CHUNK):
            await stream.write(data)

    async def inward() -> None:
        async for data in stream:
            writer.write(data)
            await writer.drain()

    ways = {asyncio.create_task(outward()), asyncio.create_task(inward())}
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        with contextlib.suppress(OSError):
            await asyncio.gather(*ways, return_exceptions=True)
