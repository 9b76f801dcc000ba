"""The web view as an application of its own, beside the API on one listener."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import structlog
from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from supercloud.api.guard import Door
from supercloud.api.problems import close
from supercloud.model.errors import Failed, InvalidInput, NotFound, SupercloudError
from supercloud.services.sessions import Sessions
from supercloud.web import console, doing, health, levels, live, signin, views
from supercloud.web.gate import Gate
from supercloud.web.pages import failed, foreign_files

_log = structlog.get_logger(__name__)
_HERE = Path(__file__).parent
_ROOT = "/web"


def add_web(api: FastAPI, door: Door, sessions: Sessions) -> FastAPI:
    """Serve it under `/web` of the API's listener, with the API's own `door`. Returns what is inside."""
    web = _create(sessions)
    web.state.ending = api.state.ending
    api.add_middleware(_Beside, web=Gate(web, door=door, sessions=sessions))
    missing = [name for name, there in foreign_files().items() if not there]
    if missing:
        _log.warning("web.files_missing", files=missing, mend="scripts/fetch-front-end")
    return web


def _create(sessions: Sessions) -> FastAPI:
    """What is inside of the gate. Every path begins with `/web`."""
    web = FastAPI(title="supercloud web", docs_url=None, redoc_url=None, openapi_url=None)
    _install(web)
    # Before the pages, whose paths are of every shape.
    web.mount(f"{_ROOT}/static/foreign", StaticFiles(directory=_HERE / "foreign", check_dir=False))
    web.mount(f"{_ROOT}/static", StaticFiles(directory=_HERE / "static"))
    web.state.sessions = sessions
    web.router.routes.extend(_routes())
    return web


@cache
def _routes() -> tuple[BaseRoute, ...]:
    """The pages', as the API keeps its own: nothing in them is of one application."""
    found = APIRouter()
    # Those first whose paths others would take for a thing's or an action's.
    for part in (signin, live, console, levels, health, doing, views):
        found.include_router(part.router())
    return tuple(found.routes)


class _Beside:
    """Middleware: what is the web's goes there, and meets nothing of the API's."""

    def __init__(self, app: ASGIApp, *, web: ASGIApp) -> None:
        self._app = app
        self._web = web

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        ours = path == _ROOT or path.startswith(f"{_ROOT}/")
        await (self._web if ours else self._app)(scope, receive, send)


def _install(web: FastAPI) -> None:
    """Every failure is a page that says what was wrong."""

    @web.exception_handler(SupercloudError)
    async def known(connection: Request | WebSocket, error: SupercloudError) -> Response | None:
        if isinstance(connection, WebSocket):
            await close(connection, error)
            return None
        return failed(connection.state.visit, error)

    @web.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        if first["loc"][0] == "path":
            return failed(request.state.visit, NotFound("there is no such page"))
        where = ".".join(str(part) for part in first["loc"][1:])
        return failed(request.state.visit, InvalidInput(f"{where}: {first['msg']}"))

    @web.exception_handler(HTTPException)
    async def routing(request: Request, error: HTTPException) -> Response:
        missing = error.status_code == NotFound.http_status
        said = NotFound("there is no such page") if missing else InvalidInput(str(error.detail))
        answer = failed(request.state.visit, said)
        answer.status_code = error.status_code
        return answer

    @web.exception_handler(Exception)
    async def bug(request: Request, error: Exception) -> Response:
        _log.error("web.bug", path=request.url.path, kind=type(error).__name__, exc_info=error)
        return failed(request.state.visit, Failed("an internal error; the control plane's log has the trace"))
