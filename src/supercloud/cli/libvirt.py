"""A blanket's libvirt as a UNIX socket of this machine, for programs that know libvirt and nothing of us.

Each connection that a program makes is a stream of bytes of its own, signed as any other request. The socket
is in a folder that nobody else may enter: who can connect to it can do there what the token can.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from supercloud.cli.output import print_error
from supercloud.cli.terminal import raise_refused
from supercloud.client import Client
from supercloud.model.errors import SupercloudError, Unavailable

_CHUNK = 64 << 10
_SOCKET = "libvirt.sock"


def uri_of(socket: Path) -> str:
    """As libvirt's clients take it, `--connect` or $LIBVIRT_DEFAULT_URI."""
    return f"qemu+unix:///system?socket={quote(str(socket))}"


def serve(client: Client, path: str, command: Sequence[str], **query: object) -> int:
    """Until `command` ends, with the address in its environment: its exit status. Without one for ever."""
    return asyncio.run(_serve(client, path, command, query))


async def _serve(client: Client, path: str, command: Sequence[str], query: dict[str, object]) -> int:
    async with listening(client, path, **query) as socket:
        if command:
            environment = {**os.environ, "LIBVIRT_DEFAULT_URI": uri_of(socket)}
            try:
                process = await asyncio.create_subprocess_exec(*command, env=environment)
            except FileNotFoundError as error:
                raise Unavailable(f"{command[0]} is not installed") from error
            return await process.wait()
        print(uri_of(socket), flush=True)
        sys.stderr.write("it is there until Ctrl-C\n")
        await asyncio.Event().wait()
    return 0


@asynccontextmanager
async def listening(client: Client, path: str, **query: object) -> AsyncIterator[Path]:
    """The socket, which leads to what `path` is a stream of, once for each who connects."""
    signing = asyncio.Lock()  # a client is not for several threads at once

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with signing:
                opened = await asyncio.to_thread(client.stream, path, **query)
            async with connect(**opened, max_size=1 << 20) as wire:
                await _both(reader, writer, wire)
        except (OSError, InvalidHandshake) as error:
            print_error(Unavailable(f"no stream: {error}", hint="supercloud status"))
        except SupercloudError as error:
            print_error(error)
        finally:
            writer.close()

    carried: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(carry(reader, writer))
        carried.add(task)
        task.add_done_callback(carried.discard)

    with tempfile.TemporaryDirectory(prefix="supercloud-", dir=os.environ.get("XDG_RUNTIME_DIR")) as folder:
        at = Path(folder, _SOCKET)
        server = await asyncio.start_unix_server(connected, at)
        try:
            yield at
        finally:
            server.close()
            for task in carried:
                task.cancel()
            await asyncio.gather(*carried, return_exceptions=True)


async def _both(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, wire: ClientConnection) -> None:
    """Until either end closes.

    Raises:
        SupercloudError: why the stream was refused.
    """

    async def outward() -> None:
        while data := await reader.read(_CHUNK):
            await wire.send(data)

    async def inward() -> None:
        async for frame in wire:
            writer.write(frame if isinstance(frame, bytes) else frame.encode())
            await writer.drain()

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
