"""How long the API waits for a client: whoever is slow on purpose must not cost a connection for good.

uvicorn itself bounds only the time between two requests.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """`head_s`: from a connection, or from a request's first byte, until its headers are whole. A body brings
    at least `body_bytes` in each `body_s` in which somebody waits for it. Who takes nothing of an answer for
    `taken_s` is cut off; events are found again by their ids."""

    head_s: float = 20.0
    body_s: float = 20.0
    body_bytes: int = 16 << 10
    taken_s: float = 60.0


def patient(patience: Patience) -> type[HttpToolsProtocol]:
    """The protocol of a listener that waits so long."""

    class Bounded(_Bounded):
        _patience = patience

    return Bounded


class _Bounded(HttpToolsProtocol):
    _patience: Patience

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._reading: asyncio.TimerHandle | None = None  # of a head, then of its body
        self._taking: asyncio.TimerHandle | None = None
        self._read = 0  # of the body, since it was last looked at

    # ------------------------------------------------------------ of asyncio

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._rest()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._taking = self.loop.call_later(self._patience.taken_s, self.transport.abort)

    def resume_writing(self) -> None:
        _cancel(self._taking)
        super().resume_writing()

    def handle_websocket_upgrade(self) -> None:
        self._rest()
        super().handle_websocket_upgrade()

    # ------------------------------------------------------------ of the parser

    def on_message_begin(self) -> None:
        self._expect_head()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self._read = 0
        self._later(self._patience.body_s, self._look)

    def on_body(self, body: bytes) -> None:
        self._read += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        _cancel(self._reading)
        super().on_message_complete()

    # ------------------------------------------------------------ inside

    def _expect_head(self) -> None:
        self._later(self._patience.head_s, self.transport.abort)

    def _look(self) -> None:
        if self._read < self._patience.body_bytes and not self.flow.read_paused:
            self.transport.abort()
            return
        self._read = 0
        self._later(self._patience.body_s, self._look)

    def _later(self, wait_s: float, act: Any) -> None:
        _cancel(self._reading)
        self._reading = self.loop.call_later(wait_s, act)

    def _rest(self) -> None:
        _cancel(self._reading)
        _cancel(self._taking)


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
