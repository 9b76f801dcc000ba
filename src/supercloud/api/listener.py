"""The API's listener: TLS 1.3, and nobody speaks but the owner's operators.

Blankets have certificates of the same authority, so a chain alone opens nothing: the name in it must be an
operator's. That is looked at once for each connection, below HTTP, so no route can forget it.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

#: Decides on the DER form of a peer's certificate.
Admit = Callable[[bytes], bool]
_BODY_IDLE_S = 20


def create_server(
    app: FastAPI, context: ssl.SSLContext, *, host: str, port: int, admit: Admit
) -> uvicorn.Server:
    """A server that the caller runs; `context` must require client certificates."""

    class OperatorsOnly(HttpToolsProtocol):
        def connection_made(self, transport: Any) -> None:
            tls = transport.get_extra_info("ssl_object")
            certificate = tls.getpeercert(binary_form=True) if tls else None
            super().connection_made(transport)
            if certificate is None or not admit(certificate):
                transport.abort()

    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=OperatorsOnly,
        ws="websockets-sansio",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_BODY_IDLE_S,
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


async def serve(server: uvicorn.Server) -> None:
    """Run until `server.should_exit`; cancelling ends it in order."""
    task = asyncio.create_task(server.serve())
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        server.should_exit = True
        await task
        raise
