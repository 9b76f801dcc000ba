"""What middleware needs of the application that it is around: whole answers, also to questions of its own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Scope, Send

#: `path` and `query` -> the status and the body of a GET on behalf of whoever asks.
Look = Callable[[str, bytes], Awaitable[tuple[int, bytes]]]
#: Where the terms of a request are (services.caller.Terms).
TERMS = "terms"


@dataclass(slots=True)
class Whole:
    """An answer that is kept back."""

    start: Message | None = None
    body: bytearray = field(default_factory=bytearray)

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.start = message
        elif message["type"] == "http.response.body":
            self.body += message.get("body", b"")

    @property
    def status(self) -> int:
        return 500 if self.start is None else int(self.start["status"])

    @property
    def media_type(self) -> str:
        return "" if self.start is None else Headers(raw=self.start["headers"]).get("content-type", "")

    async def pass_on(self, send: Send) -> None:
        if self.start is not None:
            await send(self.start)
            await send({"type": "http.response.body", "body": bytes(self.body)})


def looker(app: ASGIApp, scope: Scope) -> Look:
    """`scope` as it is now: of a request that was let in."""
    known: dict[str, Any] = dict(scope)

    async def look(path: str, query: bytes) -> tuple[int, bytes]:
        inner = {
            **known,
            "method": "GET",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query,
            "headers": [],
            "state": {**known["state"], TERMS: ()},
        }
        whole = Whole()
        await app(inner, _nothing, whole.send)
        return whole.status, bytes(whole.body)

    return look


async def _nothing() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}
