"""Byte streams out of this blanket: a console, its log, a connection to an instance. Each is dialled."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Protocol

import structlog
from websockets.exceptions import ConnectionClosed

from supercloud.agent.journal import Journal
from supercloud.model.errors import Exhausted, InvalidInput, NotFound, SupercloudError, Unavailable
from supercloud.model.names import Id, Nonce, Port
from supercloud.ports.agent import OpenStream, StreamKind
from supercloud.ports.hypervisor import Console
from supercloud.ports.tools import Duplex

CHUNK_BYTES = 64 << 10
_LOG_BYTES = 1 << 20
_AT_ONCE = 64
_CONNECT_S = 10.0
_log = structlog.get_logger(__name__)


class Wire(Protocol):
    """The dialled end."""

    async def send(self, message: bytes) -> None: ...

    def __aiter__(self) -> AsyncIterator[str | bytes]: ...


class StreamDialer(Protocol):
    def stream(self, stream: Nonce) -> AbstractAsyncContextManager[Wire]:
        """Raises: Unavailable, Denied, NotFound."""
        ...


Pump = Callable[[Wire], Awaitable[None]]


class Streams:
    """ports.agent.StreamsAgent."""

    def __init__(
        self,
        *,
        console: Console,
        console_log: Callable[[Id], Path],
        dialer: StreamDialer,
        journal: Journal,
    ) -> None:
        self._console = console
        self._console_log = console_log
        self._dialer = dialer
        self._journal = journal
        self._open: dict[Nonce, asyncio.Task[None]] = {}

    async def open(self, request: OpenStream) -> None:
        """See the port."""
        await self._begin(request.stream, request.kind.value, partial(self._far_end, request))

    async def carry(self, stream: Nonce, kind: str, end: AbstractAsyncContextManager[Duplex]) -> None:
        """Another connection than an instance's, under the same bound."""

        async def far_end(stack: AsyncExitStack) -> Pump:
            there = await stack.enter_async_context(end)
            return lambda wire: _both(_from(there.read, wire), _to_writer(wire, there.write))

        await self._begin(stream, kind, far_end)

    async def _begin(
        self, stream: Nonce, kind: str, far_end: Callable[[AsyncExitStack], Awaitable[Pump]]
    ) -> None:
        if stream in self._open:
            return
        if len(self._open) >= _AT_ONCE:
            raise Exhausted(f"{_AT_ONCE} streams are open in this blanket")
        async with AsyncExitStack() as stack:
            pump = await far_end(stack)
            wire = await stack.enter_async_context(self._dialer.stream(stream))
            kept = stack.pop_all()
        task = asyncio.create_task(_run(kind, pump, wire, kept))
        self._open[stream] = task
        task.add_done_callback(lambda _: self._open.pop(stream, None))

    async def close(self) -> None:
        """End all of them."""
        for task in (tasks := list(self._open.values())):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _far_end(self, request: OpenStream, stack: AsyncExitStack) -> Pump:
        match request.kind:
            case StreamKind.CONSOLE:
                output, typed = await self._console.console(request.instance)
                stack.push_async_callback(typed.close)
                return lambda wire: _both(_from_iterator(output, wire), _to_writer(wire, typed.write))
            case StreamKind.LOG:
                path = self._console_log(request.instance)
                return lambda wire: _send_tail(path, wire)
            case StreamKind.TCP:
                if request.port is None:
                    raise InvalidInput("a TCP stream needs a port")
                reader, writer = await self._dial_instance(request.instance, request.port)
                stack.callback(writer.close)
                return _pumped(reader, writer)

    async def _dial_instance(
        self, instance: Id, port: Port
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        spec = await self._journal.spec(instance)
        if spec is None or not spec.nics:
            raise NotFound(f"instance {instance} has no address in this blanket")
        nic = spec.nics[0]
        connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            connection.setblocking(False)
            # Two networks of a cloud may use the same addresses: go out through this one's bridge.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, f"br-{nic.network[:8]}".encode())
            async with asyncio.timeout(_CONNECT_S):
                await asyncio.get_running_loop().sock_connect(connection, (nic.ip, port))
            return await asyncio.open_connection(sock=connection)
        except (OSError, TimeoutError) as error:
            connection.close()
            raise Unavailable(f"instance {instance} takes no connection on port {port}: {error}") from error


async def _run(kind: str, pump: Pump, wire: Wire, kept: AsyncExitStack) -> None:
    async with kept:
        try:
            await pump(wire)
        except (ConnectionClosed, OSError, SupercloudError) as error:
            _log.info("agent.stream_ended", kind=kind, reason=str(error))


def _pumped(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Pump:
    async def put(data: bytes) -> None:
        writer.write(data)
        await writer.drain()

    return lambda wire: _both(_from(reader.read, wire), _to_writer(wire, put))


async def _both(*directions: Awaitable[None]) -> None:
    """Until either direction ends."""
    tasks = [asyncio.ensure_future(direction) for direction in directions]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _from_iterator(output: AsyncIterator[bytes], wire: Wire) -> None:
    async for data in output:
        for start in range(0, len(data), CHUNK_BYTES):
            await wire.send(data[start : start + CHUNK_BYTES])


async def _from(read: Callable[[int], Awaitable[bytes]], wire: Wire) -> None:
    while data := await read(CHUNK_BYTES):
        await wire.send(data)


async def _to_writer(wire: Wire, put: Callable[[bytes], Awaitable[None]]) -> None:
    async for frame in wire:
        if isinstance(frame, bytes):
            await put(frame)


async def _send_tail(path: Path, wire: Wire) -> None:
    """The last of the log, up to a bound."""
    for data in await asyncio.to_thread(_tail, path):
        await wire.send(data)


def _tail(path: Path) -> list[bytes]:
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - _LOG_BYTES))
            data = file.read(_LOG_BYTES)
    except FileNotFoundError:
        return []
    return [data[start : start + CHUNK_BYTES] for start in range(0, len(data), CHUNK_BYTES)]
