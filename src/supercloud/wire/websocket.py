"""A transport over one WebSocket, the same for both ends."""

from __future__ import annotations

from websockets.asyncio.connection import Connection
from websockets.exceptions import ConnectionClosed

from supercloud.model.errors import Unavailable

#: WebSocket subprotocol: the wire's version. A peer that does not speak it is refused at the handshake.
SUBPROTOCOL = "supercloud.1"


class WebSocketTransport:
    """Text frames of an open `websockets` connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def send(self, frame: str) -> None:
        try:
            await self._connection.send(frame)
        except ConnectionClosed as error:
            raise Unavailable(f"the connection closed: {error}") from error

    async def receive(self) -> str:
        try:
            frame = await self._connection.recv()
        except ConnectionClosed as error:
            raise Unavailable(f"the connection closed: {error}") from error
        return frame if isinstance(frame, str) else ""  # a binary frame is not JSON: the peer ends it

    async def close(self, reason: str = "") -> None:
        await self._connection.close(reason=reason[:120])
