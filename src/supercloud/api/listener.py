"""The API's listener: TLS 1.3 with the control plane's own certificate. Who asks, `api.guard` finds out."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

from supercloud.api.patience import Patience, patient

#: Between two requests of one connection.
_IDLE_S = 20
_USUAL = Patience()


def create_server(
    app: FastAPI, context: ssl.SSLContext, *, host: str, port: int, patience: Patience = _USUAL
) -> uvicorn.Server:
    """A server that the caller runs."""
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=patient(patience),
        ws="websockets-sansio",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_IDLE_S,
        timeout_graceful_shutdown=5,
        ws_max_size=1 << 20,
        h11_max_incomplete_event_size=64 << 10,
        ssl_context_factory=lambda _config, _default: context,
    )
    return _Server(config)


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals belong to the composition root, which ends more than this listener."""
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Streams of events would otherwise go on until they are cut."""
        if isinstance(self.config.app, FastAPI):
            self.config.app.state.ending.set()
        await super().shutdown(sockets)


async def serve(server: uvicorn.Server) -> None:
    """Run until `server.should_exit`; cancelling ends it in order."""
    task = asyncio.create_task(server.serve())
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        server.should_exit = True
        await task
        raise
