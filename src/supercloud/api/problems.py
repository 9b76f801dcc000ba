"""Errors as RFC 9457 problem details: the tree of model.errors, and what a request got wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import TypeAdapter
from starlette.exceptions import HTTPException
from starlette.websockets import WebSocket

from supercloud.model.errors import Failed, InvalidInput, NotFound, SupercloudError, Unauthenticated
from supercloud.trust.proof import SCHEME

_log = structlog.get_logger(__name__)
MEDIA_TYPE = "application/problem+json"
_DETAIL_CHARS = 2000
#: What HTTP itself answers, as errors of ours.
_KINDS = {kind.http_status: kind for kind in (NotFound, Unauthenticated)}
#: WebSocket close code for an error of ours; the reason carries `code: message`.
STREAM_REFUSED = 4000
_REASON_BYTES = 120  # RFC 6455 bounds a close frame's payload to 125 bytes, two of them the code


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What every failure is answered with (RFC 9457, and two members of ours)."""

    type: str
    title: str
    status: int
    detail: str  # one line for a person
    code: str  # of model.errors, for a program
    hint: str | None  # what to do about it


#: For the API's description, which otherwise would promise FastAPI's own form of errors.
DOCUMENTED: dict[str, Any] = {
    "description": "What was wrong",
    "content": {MEDIA_TYPE: {"schema": TypeAdapter(Problem).json_schema()}},
}


def problem(error: SupercloudError, status: int | None = None) -> JSONResponse:
    """The answer that carries `error`."""
    status = status or error.http_status
    body = Problem(
        type=f"urn:supercloud:error:{error.code}",
        title=error.code,
        status=status,
        detail=_sayable(error.message),
        code=error.code,
        hint=error.hint,
    )
    answer = JSONResponse(asdict(body), status_code=status, media_type=MEDIA_TYPE)
    if status == Unauthenticated.http_status:
        answer.headers["WWW-Authenticate"] = SCHEME
    return answer


def http_problem(error: HTTPException) -> JSONResponse:
    """The answer that carries what HTTP itself has to say."""
    kind = _KINDS.get(error.status_code, InvalidInput)
    answer = problem(kind(str(error.detail)), error.status_code)
    answer.headers.update(error.headers or {})
    return answer


def _sayable(text: str) -> str:
    """A message may quote what was asked, which may be long and may have no form in UTF-8."""
    return text[:_DETAIL_CHARS].encode("utf-8", "backslashreplace").decode()


async def close(socket: WebSocket, error: SupercloudError) -> None:
    """A stream that cannot be had says why in its close frame."""
    reason = f"{error.code}: {error.message}".encode()[:_REASON_BYTES].decode(errors="ignore")
    await socket.accept()
    await socket.close(STREAM_REFUSED, reason)


def install(app: FastAPI, methods: Callable[[str], list[str]]) -> None:
    """Give every failure of `app` this one form. `methods`: that there are at a path; who routes a request
    knows those of the first route that has the path."""

    @app.exception_handler(SupercloudError)
    async def known(connection: Request | WebSocket, error: SupercloudError) -> JSONResponse | None:
        if isinstance(connection, WebSocket):
            await close(connection, error)
            return None
        return problem(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            return problem(InvalidInput("the request is not JSON"))
        where = ".".join(str(part) for part in first["loc"] if part != "body")
        return problem(InvalidInput(f"{where or 'the request'}: {first['msg']}"))

    @app.exception_handler(HTTPException)
    async def routing(request: Request, error: HTTPException) -> JSONResponse:
        answer = http_problem(error)
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            answer.headers["Allow"] = ", ".join(methods(request.url.path))
        return answer

    @app.exception_handler(Exception)
    async def bug(request: Request, error: Exception) -> JSONResponse:
        _log.error("api.bug", path=request.url.path, kind=type(error).__name__, exc_info=error)
        return problem(Failed("an internal error; the control plane's log has the trace"))
