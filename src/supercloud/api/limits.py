"""What a request may cost before anybody looks at it."""

from __future__ import annotations

from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: Greatest JSON body: user data, keys and the rest of the largest request fit several times.
BODY_BYTES = 1 << 20


class BodyLimit:
    """Middleware: a body is read into memory up to a bound, except on paths whose bytes go to the disk."""

    def __init__(self, app: ASGIApp, *, content_suffix: str) -> None:
        self._app = app
        self._content_suffix = content_suffix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].endswith(self._content_suffix):
            await self._app(scope, receive, send)
            return
        taken = 0

        async def counted() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > BODY_BYTES:
                raise HTTPException(
                    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                    f"a request has at most {BODY_BYTES} bytes",
                    headers={"Connection": "close"},  # else what still comes would be read and thrown away
                )
            return message

        await self._app(scope, counted, send)
