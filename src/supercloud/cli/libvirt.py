"""A blanket's libvirt as a UNIX socket of this machine, for programs that know libvirt and nothing of us.

Each connection that a program makes is a stream of bytes of its own, signed as any other request, and so is
each socket that libvirt hands over in it: a VM's screen. Ours is in a folder that nobody else may enter: who
can connect to it can do there what the token can.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from supercloud.cli.libvirt_messages import Messages
from supercloud.cli.output import print_error
from supercloud.cli.terminal import raise_refused
from supercloud.client import Client
from supercloud.model.errors import SupercloudError, Unavailable

_CHUNK = 64 << 10
_SOCKET = "libvirt.sock"
Put = Callable[[bytes], Awaitable[None]]


def uri_of(at: Path) -> str:
    """As libvirt's clients take it, `--connect` or $LIBVIRT_DEFAULT_URI. Without `+unix`, which it means all
    the same: virt-manager takes whatever has a transport for remote, and asks for no screen.
    """
    return f"qemu:///system?socket={quote(str(at))}"


def serve(client: Client, path: str, command: Sequence[str], **query: object) -> int:
    """Until `command` ends, with the address in its environment: its exit status. Without one for ever."""
    return asyncio.run(_serve(client, path, command, query))


async def _serve(client: Client, path: str, command: Sequence[str], query: dict[str, object]) -> int:
    async with listening(client, path, **query) as at:
        if command:
            environment = {**os.environ, "LIBVIRT_DEFAULT_URI": uri_of(at)}
            try:
                process = await asyncio.create_subprocess_exec(*command, env=environment)
            except FileNotFoundError as error:
                raise Unavailable(f"{command[0]} is not installed") from error
            return await process.wait()
        print(uri_of(at), flush=True)
        sys.stderr.write("it is there until Ctrl-C\n")
        await asyncio.Event().wait()
    return 0


@asynccontextmanager
async def listening(client: Client, path: str, **query: object) -> AsyncIterator[Path]:
    """The socket, which leads to what `path` is a stream of, once for each who connects."""
    links = _Links(client, path, query)
    with tempfile.TemporaryDirectory(prefix="supercloud-", dir=os.environ.get("XDG_RUNTIME_DIR")) as folder:
        at = Path(folder, _SOCKET)
        server = await asyncio.start_unix_server(links.connected, at)
        try:
            yield at
        finally:
            server.close()
            await links.close()


class _Links:
    """From sockets of this machine to streams of the blanket's."""

    def __init__(self, client: Client, path: str, query: dict[str, object]) -> None:
        self._client = client
        self._path = path
        self._query = query
        self._signing = asyncio.Lock()  # a client is not for several threads at once
        self._carried: set[asyncio.Task[None]] = set()

    def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """To libvirt."""
        self._begin(self._connection(reader, writer, secrets.token_hex(16)))

    async def close(self) -> None:
        for task in self._carried:
            task.cancel()
        await asyncio.gather(*self._carried, return_exceptions=True)

    def _begin(self, link: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(link)
        self._carried.add(task)
        task.add_done_callback(self._carried.discard)

    async def _connection(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: str
    ) -> None:
        writer.transport.set_write_buffer_limits(0)  # drained means sent: descriptors go past the writer
        messages, number = Messages(), 0

        async def put(data: bytes) -> None:
            nonlocal number
            for piece, marks in messages.pieces(data):
                if not marks:
                    writer.write(piece)
                    await writer.drain()
                    continue
                ours, theirs = socket.socketpair()
                with theirs:
                    self._begin(self._handed(ours, connection, number))
                    await _send_with(writer, piece, theirs)
                number += 1

        await self._carry(reader, writer, put, connection=connection)

    async def _handed(self, ours: socket.socket, connection: str, number: int) -> None:
        """What libvirt handed over there, as a socket of this machine."""
        reader, writer = await asyncio.open_unix_connection(sock=ours)

        async def put(data: bytes) -> None:
            writer.write(data)
            await writer.drain()

        await self._carry(reader, writer, put, connection=connection, handed=number)

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, put: Put, **query: object
    ) -> None:
        try:
            async with self._signing:
                opened = await asyncio.to_thread(self._client.stream, self._path, **self._query, **query)
            async with connect(**opened, max_size=1 << 20) as wire:
                await _both(reader, put, wire)
        except (OSError, InvalidHandshake) as error:
            print_error(Unavailable(f"no stream: {error}", hint="supercloud status"))
        except SupercloudError as error:
            print_error(error)
        finally:
            writer.close()


async def _send_with(writer: asyncio.StreamWriter, byte: bytes, handed: socket.socket) -> None:
    """A byte, and a descriptor with it, on the socket of a writer that has sent everything."""
    with socket.socket(fileno=os.dup(writer.get_extra_info("socket").fileno())) as ours:
        while True:
            try:
                socket.send_fds(ours, [byte], [handed.fileno()])
            except BlockingIOError:
                await _writable(ours)
            else:
                return


async def _writable(ours: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    room = asyncio.Event()
    loop.add_writer(ours, room.set)
    try:
        await room.wait()
    finally:
        loop.remove_writer(ours)


async def _both(reader: asyncio.StreamReader, put: Put, wire: ClientConnection) -> None:
    """Until either end closes.

    Raises:
        SupercloudError: why the stream was refused.
    """

    async def outward() -> None:
        while data := await reader.read(_CHUNK):
            await wire.send(data)

    async def inward() -> None:
        async for frame in wire:
            await put(frame if isinstance(frame, bytes) else frame.encode())

    ways = [asyncio.create_task(outward()), asyncio.create_task(inward())]
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        for way in ways:
            with suppress(asyncio.CancelledError, ConnectionClosed, OSError):
                await way
    raise_refused(wire.protocol.close_rcvd)
