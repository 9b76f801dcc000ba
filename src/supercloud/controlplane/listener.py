"""What agents dial: joining, their channel, streams of bytes, images. One port, TLS 1.3, WebSockets.

Joining needs no certificate, everything else needs a blanket's. Which blanket it is comes from there only.
"""

from __future__ import annotations

import asyncio
import logging
import re
import ssl
from http import HTTPStatus
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import structlog
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed, ConnectionClosedOK
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from supercloud.model.errors import (
    Denied,
    InvalidInput,
    NotFound,
    SupercloudError,
    Unavailable,
)
from supercloud.model.names import Id
from supercloud.ports.keystore import JoinAnswer, JoinRequest, RenewRequest
from supercloud.services import inbox
from supercloud.services.images import image_file, read_image
from supercloud.services.parts import Parts
from supercloud.trust.certificates import Identity, Kind
from supercloud.trust.tls import peer_identity
from supercloud.wire.rpc import FRAME_BYTES, Handler, Peer
from supercloud.wire.websocket import SUBPROTOCOL, WebSocketTransport

_log = structlog.get_logger(__name__)
_JOIN_S = 10.0
_STREAM_FRAME_BYTES = 64 << 10
_PING_S = 20.0
#: After a restart all agents dial at once.
_BACKLOG = 1024
_GONE, _BEYOND, _FAILED = 4404, 4416, 1011
_DIGEST = re.compile(r"^sha256:[0-9a-f]{64}$")


class AgentListener:
    """Serves the four paths of the agents' side."""

    def __init__(self, parts: Parts) -> None:
        self._store = parts.store
        self._agents = parts.agents
        self._streams = parts.streams
        self._keys = parts.keys
        self._settings = parts.settings
        self._server: Server | None = None

    async def start(self, host: str, port: int, context: ssl.SSLContext) -> int:
        """Listen; the port it is (for `port` 0).

        Raises:
            OSError: it cannot be had.
        """
        self._server = await serve(
            self._handle,
            host,
            port,
            ssl=context,
            subprotocols=[Subprotocol(SUBPROTOCOL)],
            process_request=_gate,
            max_size=FRAME_BYTES,
            ping_interval=_PING_S,
            ping_timeout=_PING_S,
            compression=None,
            server_header=None,
            open_timeout=_JOIN_S,
            backlog=_BACKLOG,
            logger=_quiet(),
        )
        found: int = next(iter(self._server.sockets)).getsockname()[1]
        return found

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _handle(self, connection: ServerConnection) -> None:
        url = urlsplit(connection.request.path if connection.request else "/")
        try:
            if url.path == "/agent/join":
                await self._join(connection)
                return
            identity = _blanket_of(connection)
            if url.path == "/agent/channel":
                await self._channel(connection, identity)
            elif url.path.startswith("/agent/streams/"):
                await self._stream(connection, identity, url.path.rpartition("/")[2])
            elif url.path.startswith("/agent/images/"):
                await inbox.admit(self._store, *_names(identity))
                await self._image(connection, url.path.rpartition("/")[2], url.query)
        except SupercloudError as error:
            _log.info("listener.refused", path=url.path, code=error.code, why=error.message)
            code = {NotFound: _GONE, InvalidInput: _BEYOND}.get(type(error), _FAILED)
            await connection.close(code, f"{error.code}: {error.message}"[:120])
        except ConnectionClosed:
            pass  # it left first

    async def _join(self, connection: ServerConnection) -> None:
        """One request: to join, or to have an expired certificate renewed, whose key the CSR proves."""
        asked = False

        def once() -> None:
            nonlocal asked
            if asked:
                raise Denied("one request for each connection")
            asked = True

        async def admit(request: JoinRequest) -> JoinAnswer:
            once()
            return await self._keys.admit(request)

        async def renew(request: RenewRequest) -> JoinAnswer:
            once()
            return await self._keys.renew(blanket=request.blanket, csr_pem=request.csr_pem)

        handlers = {
            "join.admit": Handler(JoinRequest, JoinAnswer, admit),
            "join.renew": Handler(RenewRequest, JoinAnswer, renew),
        }
        peer = Peer(WebSocketTransport(connection), handlers, in_flight=1)
        try:
            async with asyncio.timeout(_JOIN_S):
                await peer.run()
        except TimeoutError:
            _log.info("listener.join_too_slow")

    async def _channel(self, connection: ServerConnection, identity: Identity) -> None:
        for said in (connection.request, connection.response):
            if said is not None:
                said.headers.clear()  # kilobytes, for as long as it is connected
        await self._agents.serve(*_names(identity), WebSocketTransport(connection))

    async def _stream(self, connection: ServerConnection, identity: Identity, name: str) -> None:
        blanket, cloud = _names(identity)
        await inbox.admit(self._store, blanket, cloud)
        await self._streams.arrived(blanket, name, _SocketPipe(connection))

    async def _image(self, connection: ServerConnection, digest: str, query: str) -> None:
        offset = parse_qs(query).get("offset", ["0"])[0]
        if not _DIGEST.match(digest):
            raise NotFound("not a digest")
        if not offset.isdigit() or len(offset) > 18:
            raise InvalidInput("not an offset")
        async for chunk in read_image(await self._file(digest), int(offset)):
            await connection.send(chunk)
        await connection.close()

    async def _file(self, digest: str) -> Path:
        """An image of somebody's, the agents' code, or a part of a blanket image."""
        path = image_file(self._settings.images, digest)
        for own in (self._settings.blanket_files, self._settings.bundle):
            if own is not None and not path.exists():
                path = await own.path(digest) or path
        return path


class _SocketPipe:
    """services.streams.Pipe over a WebSocket."""

    def __init__(self, connection: ServerConnection) -> None:
        self._connection = connection

    async def send(self, data: bytes) -> None:
        try:
            for start in range(0, len(data), _STREAM_FRAME_BYTES):
                await self._connection.send(data[start : start + _STREAM_FRAME_BYTES])
        except ConnectionClosed as error:
            raise Unavailable("the stream is closed") from error

    async def receive(self) -> bytes | None:
        try:
            frame = await self._connection.recv()
        except ConnectionClosedOK:
            return None
        except ConnectionClosed as error:
            raise Unavailable(f"the stream broke: {error}") from error
        return frame if isinstance(frame, bytes) else frame.encode()

    async def close(self) -> None:
        await self._connection.close()


def _gate(connection: ServerConnection, request: Request) -> Response | None:
    """Refuse unknown paths, and anything but joining without a certificate, before a WebSocket exists."""
    path = urlsplit(request.path).path
    known = path in {"/agent/join", "/agent/channel"} or path.startswith(
        ("/agent/streams/", "/agent/images/")
    )
    if not known:
        return connection.respond(HTTPStatus.NOT_FOUND, "no such path\n")
    if path != "/agent/join":
        try:
            _blanket_of(connection)
        except Denied as error:
            return connection.respond(HTTPStatus.FORBIDDEN, error.message + "\n")
    return None


def _blanket_of(connection: ServerConnection) -> Identity:
    tls = connection.transport.get_extra_info("ssl_object")
    identity = peer_identity(tls) if tls is not None else None
    if identity is None or identity.kind is not Kind.BLANKET:
        raise Denied("a blanket's certificate is needed here")
    return identity


def _names(identity: Identity) -> tuple[Id, Id]:
    if identity.blanket is None or identity.cloud is None:
        raise Denied("the certificate names no blanket")
    return identity.blanket, identity.cloud


def _quiet() -> logging.Logger:
    """Failed handshakes of strangers are not worth a traceback each."""
    logger = logging.getLogger("supercloud.agents")
    logger.setLevel(logging.CRITICAL)
    return logger
