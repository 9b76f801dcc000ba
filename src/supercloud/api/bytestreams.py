"""Streams of bytes over WebSockets: an instance's console, log or TCP port, a blanket's console, tools, and
evidence."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Annotated

from fastapi import APIRouter, Path, Query, WebSocket, WebSocketDisconnect

from supercloud.api.guard import BlanketConsole, BlanketTools, IncidentEvidence, VmConsole
from supercloud.api.things import InCloud, RefPath
from supercloud.model.names import Id, Nonce, Port
from supercloud.ports.agent import StreamKind
from supercloud.ports.tools import HandedNumber
from supercloud.services.northbound import Stream


def router() -> APIRouter:
    """Binary frames both ways; the stream's end closes the socket and the other way round."""
    found = APIRouter()

    @found.websocket("/instances/{ref}/streams/{kind}")
    async def instance(  # noqa: PLR0917 - FastAPI calls it by name
        control: VmConsole,
        socket: WebSocket,
        ref: RefPath,
        kind: StreamKind,
        port: Port | None = None,
        cloud: InCloud = None,
    ) -> None:
        stream = await control.open_stream(ref, kind=kind, port=port, cloud=cloud)
        await pump(socket, stream)

    @found.websocket("/blankets/{ref}/console")
    async def blanket(
        control: BlanketConsole, socket: WebSocket, ref: RefPath, cloud: InCloud = None
    ) -> None:
        stream = await control.blanket_console(ref, cloud=cloud)
        await pump(socket, stream)

    @found.websocket("/blankets/{ref}/tools")
    async def tools(  # noqa: PLR0917 - FastAPI calls it by name
        control: BlanketTools,
        socket: WebSocket,
        ref: RefPath,
        cloud: InCloud = None,
        connection: Nonce | None = None,
        handed: HandedNumber | None = None,
    ) -> None:
        stream = await control.tools_stream(ref, cloud=cloud, connection=connection, handed=handed)
        await pump(socket, stream)

    @found.websocket("/incidents/{incident}/evidence/{evidence}/content")
    async def content(
        control: IncidentEvidence,
        socket: WebSocket,
        incident: Annotated[Id, Path()],
        evidence: Annotated[Id, Path()],
        offset: Annotated[int, Query(ge=0, lt=1 << 50)] = 0,
    ) -> None:
        await pump(socket, await control.evidence_stream(incident, evidence, offset=offset))

    return found


async def pump(socket: WebSocket, stream: Stream, heard: Callable[[], object] | None = None) -> None:
    """Accept, and then both ways until either ends. `heard` is told of each message that comes in.

    However it goes, the stream is closed: whoever asked may have left before it was there.
    """

    async def outward() -> None:
        async for data in stream:
            await socket.send_bytes(data)

    async def inward() -> None:
        while True:
            message = await socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            if heard is not None:
                heard()
            await stream.write(message.get("bytes") or (message.get("text") or "").encode())

    ways: set[asyncio.Task[None]] = set()
    try:
        await socket.accept()
        ways |= {asyncio.create_task(outward()), asyncio.create_task(inward())}
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    except WebSocketDisconnect:
        return  # while it was being opened
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        await stream.close()
        with suppress(RuntimeError, WebSocketDisconnect):  # closed by the other end already
            await socket.close()
