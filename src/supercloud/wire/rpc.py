"""A small symmetrical request/answer protocol over any transport of text frames.

    {"id": 7, "call": "instances.start", "value": …}      a request
    {"id": 7, "ok": …}                                    its answer
    {"id": 7, "error": {"code", "message", "hint"}}       or its error, one of model.errors

Whatever a peer sends, the worst it can do is end this connection. A request whose answer never came is
`OutcomeUnknown`: it may have been carried out, and the caller looks it up.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import structlog

from supercloud.model.errors import (
    Exhausted,
    Failed,
    InvalidInput,
    NotFound,
    OutcomeUnknown,
    SupercloudError,
    Unavailable,
    error_from,
)
from supercloud.wire.codec import from_json, to_json

T = TypeVar("T")

#: Greatest frame: a mesh of a thousand peers fits, a flood does not.
FRAME_BYTES = 4 << 20
_MESSAGE_CHARS = 2000
_log = structlog.get_logger(__name__)


class Transport(Protocol):
    """Carries whole text frames in order. Closing either end ends both."""

    async def send(self, frame: str) -> None:
        """Raises: Unavailable."""
        ...

    async def receive(self) -> str:
        """Raises: Unavailable, once the other end has closed."""
        ...

    async def close(self, reason: str = "") -> None: ...


@dataclass(frozen=True, slots=True)
class Handler:
    """How one method is answered: the types of its value and answer, and the code."""

    takes: Any  # None: the method takes no value
    gives: Any
    run: Callable[..., Awaitable[Any]]


Handlers = Mapping[str, Handler]


class Peer:
    """One end of a connection. Somebody awaits `run()`; anybody may `call()` meanwhile."""

    def __init__(self, transport: Transport, handlers: Handlers, *, in_flight: int = 256) -> None:
        self._transport = transport
        self._handlers = handlers
        self._in_flight = in_flight
        self._next_id = 1
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._serving: set[asyncio.Task[None]] = set()
        self._closed: str | None = None

    async def call(self, method: str, value: object, takes: Any, gives: type[T], *, timeout_s: float) -> T:
        """Ask the other end.

        Raises:
            Unavailable: the connection is over; nothing was sent.
            OutcomeUnknown: sent, but not answered in `timeout_s` or before the connection ended.
            SupercloudError: what the other end answered.
        """
        if self._closed is not None:
            raise Unavailable(f"the connection is closed: {self._closed}")
        if len(self._waiting) >= self._in_flight:
            raise Exhausted(f"{self._in_flight} requests are waiting on this connection")
        number, self._next_id = self._next_id, self._next_id + 1
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        frame = {"id": number, "call": method}
        if takes is not None:
            frame["value"] = to_json(takes, value)
        try:
            await self._transport.send(json.dumps(frame, separators=(",", ":")))
            async with asyncio.timeout(timeout_s):
                return from_json(gives, await answer)
        except TimeoutError as error:
            raise OutcomeUnknown(f"{method} was not answered in {timeout_s:g} s") from error
        finally:
            self._waiting.pop(number, None)

    async def run(self) -> str:
        """Serve and deliver answers until the connection ends; returns why it ended. Cancelling closes it."""
        reason = "cancelled"
        try:
            while True:
                self._take(await self._transport.receive())
        except Unavailable as error:
            reason = error.message
        except InvalidInput as error:
            reason = f"the other end broke the protocol: {error.message}"
        finally:
            await self._end(reason)
        return reason

    async def close(self, reason: str = "closed") -> None:
        await self._transport.close(reason)

    @property
    def closed(self) -> bool:
        """Whether its connection ended: nothing that waits for an answer will get one."""
        return self._closed is not None

    def _take(self, frame: str) -> None:
        if len(frame) > FRAME_BYTES:
            raise InvalidInput(f"a frame of {len(frame)} characters")
        try:
            said = json.loads(frame)
        except (ValueError, RecursionError) as error:
            raise InvalidInput("a frame that is not JSON") from error
        number = said.get("id") if isinstance(said, dict) else None
        if not isinstance(number, int):
            raise InvalidInput("a frame without an id")
        if isinstance(said.get("call"), str):
            self._serve(number, said["call"], said.get("value"))
        elif (waiting := self._waiting.get(number)) is not None and not waiting.done():
            if "ok" in said:
                waiting.set_result(said["ok"])
            else:
                waiting.set_exception(_error_of(said.get("error")))
        # An answer that nobody waits for any more (it timed out) is dropped.

    def _serve(self, number: int, method: str, value: object) -> None:
        if len(self._serving) >= self._in_flight:
            raise InvalidInput(f"more than {self._in_flight} requests at once")
        task = asyncio.create_task(self._answer(number, method, value))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _answer(self, number: int, method: str, value: object) -> None:
        answer: dict[str, Any] = {"id": number}
        try:
            handler = self._handlers.get(method)
            if handler is None:
                raise NotFound(f"no method {method[:80]!r} here")
            given = () if handler.takes is None else (from_json(handler.takes, value),)
            answer["ok"] = to_json(handler.gives, await handler.run(*given))
        except SupercloudError as error:
            answer["error"] = {
                "code": error.code,
                "message": error.message[:_MESSAGE_CHARS],
                "hint": error.hint,
            }
        except Exception as error:  # noqa: BLE001 - the boundary: a bug here must not take the connection down
            _log.exception("wire.handler_failed", method=method)
            answer["error"] = {"code": Failed.code, "message": f"{method}: {type(error).__name__}"}
        try:
            await self._transport.send(json.dumps(answer, separators=(",", ":")))
        except Unavailable:
            _log.info("wire.answer_undeliverable", method=method)

    async def _end(self, reason: str) -> None:
        self._closed = reason
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(OutcomeUnknown(f"the connection ended: {reason}"))
        serving = list(self._serving)
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
        await self._transport.close(reason)


def _error_of(said: object) -> SupercloudError:
    if not isinstance(said, dict) or not isinstance(said.get("message"), str):
        return Failed("the other end reported an error without saying which")
    hint = said.get("hint")
    return error_from(
        str(said.get("code")), said["message"][:_MESSAGE_CHARS], hint if isinstance(hint, str) else None
    )
