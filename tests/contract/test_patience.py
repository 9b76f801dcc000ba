"""Clients that are slow, on purpose or not: what the API's listener waits for, and how long."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

import pytest

from supercloud.api.listener import create_server, serve
from supercloud.api.patience import Patience
from supercloud.keystore.memory import memory_keystore
from supercloud.trust.keys import IdentityKey
from supercloud.trust.tls import CONTROLLER_NAME, Credentials, client_context, server_context

pytestmark = pytest.mark.contract
HOST = "127.0.0.1"
HEAD = b"POST / HTTP/1.1\r\nHost: x\r\n"
#: Short enough to try, and far from what a busy machine takes for a byte.
PATIENCE = Patience(head_s=1.0, body_s=1.0, body_bytes=10, taken_s=1.0)
_LONG_S = 3.5
_LATEST_S = 20.0
App = Callable[[dict[str, Any], Any, Any], Awaitable[None]]
Connect = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


@asynccontextmanager
async def listening(app: App) -> AsyncIterator[Connect]:
    keys, own = memory_keystore(), IdentityKey.new()
    answer = await keys.issue_controller(csr_pem=own.csr())
    credentials = Credentials(answer.certificate_pem, own.to_pem())
    context = server_context(credentials, answer.authority_pem, anonymous=True)
    server = create_server(cast(Any, app), context, host=HOST, port=0, patience=PATIENCE)
    serving = asyncio.create_task(serve(server))
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    tls: ssl.SSLContext = client_context(answer.authority_pem)
    opened: list[asyncio.StreamWriter] = []

    async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(HOST, port, ssl=tls, server_hostname=CONTROLLER_NAME)
        opened.append(writer)
        return reader, writer

    try:
        yield connect
    finally:
        for one in opened:
            one.close()
        server.should_exit = True
        await serving


class Reads:
    """An application that takes the whole body, and knows how that ended."""

    def __init__(self) -> None:
        self.ended: asyncio.Queue[str] = asyncio.Queue()
        self.begin = asyncio.Event()
        self.begin.set()
        self.size = 0

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        await self.begin.wait()
        while True:
            said = await receive()
            self.size += len(said.get("body", b""))
            if said["type"] == "http.disconnect" or not said.get("more_body"):
                self.ended.put_nowait(said["type"])
                break
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})


async def dribble(writer: asyncio.StreamWriter, data: bytes, *, every_s: float = 0.05) -> None:
    """A byte at a time, for as long as it is taken and longer than anybody waits."""
    with suppress(OSError):
        for byte in data:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(every_s)


async def closed(reader: asyncio.StreamReader) -> bytes:
    """What was said until the other end closed."""
    async with asyncio.timeout(_LATEST_S):
        with suppress(OSError):
            return await reader.read()
    return b""


async def test_who_does_not_say_what_it_wants_is_cut_off() -> None:
    async with listening(Reads()) as connect:
        silent, _ = await connect()
        slow, dribbles = await connect()
        again, second = await connect()
        second.write(HEAD + b"Content-Length: 0\r\n\r\n")
        assert b"200 OK" in await again.readuntil(b"ok")
        dribbling = [
            asyncio.create_task(dribble(one, HEAD + b"X: " + b"y" * 10_000)) for one in (dribbles, second)
        ]
        assert [await closed(one) for one in (silent, slow, again)] == [b"", b"", b""]
        for one in dribbling:
            one.cancel()


async def test_a_body_that_trickles_ends_its_request() -> None:
    app = Reads()
    async with listening(app) as connect:
        reader, writer = await connect()
        writer.write(HEAD + b"Content-Length: 100000\r\n\r\n")
        trickle = asyncio.create_task(dribble(writer, b"x" * 1000, every_s=0.3))
        async with asyncio.timeout(_LATEST_S):
            assert await app.ended.get() == "http.disconnect"
        assert await closed(reader) == b""
        trickle.cancel()


async def test_a_body_that_is_slow_and_comes_is_taken() -> None:
    app = Reads()
    async with listening(app) as connect:
        reader, writer = await connect()
        parts = int(_LONG_S / 0.1)
        writer.write(HEAD + b"Content-Length: %d\r\n\r\n" % (20 * parts))
        for _ in range(parts):
            writer.write(b"x" * 20)
            await asyncio.sleep(0.1)
        async with asyncio.timeout(_LATEST_S):
            assert b"200 OK" in await reader.readuntil(b"ok")
        assert app.size == 20 * parts


async def test_nobody_is_cut_off_because_we_are_slow() -> None:
    """While the application does not read, and while it answers late or streams without a word."""
    app = Reads()
    app.begin.clear()
    async with listening(app) as connect:
        reader, writer = await connect()
        writer.write(HEAD + b"Content-Length: 300000\r\n\r\n" + b"x" * 300_000)
        silent, waits = await connect()
        waits.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.sleep(_LONG_S)
        app.begin.set()
        async with asyncio.timeout(_LATEST_S):
            for one in (reader, silent):
                assert b"200 OK" in await one.readuntil(b"ok")
        assert app.size == 300_000


async def test_who_takes_nothing_of_an_answer_is_cut_off() -> None:
    ended = asyncio.Event()

    async def endless(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        gone = asyncio.create_task(_gone(receive))
        while not gone.done():
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
            await asyncio.sleep(0)
        ended.set()

    async with listening(endless) as connect:
        _, writer = await connect()
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(_LATEST_S):
            await ended.wait()


async def _gone(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
