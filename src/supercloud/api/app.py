"""The northbound and the southbound API, version 1 each: one router for each resource, each a thin face of
`Northbound` or `Southbound`."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from functools import cache, partial
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Path, Query, Request
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute, compile_path

from supercloud import __version__
from supercloud.api import (
    acts,
    bytestreams,
    events,
    findings,
    guard,
    headers,
    incidents,
    levels,
    orders,
    policies,
    principals,
    problems,
    sessions,
    southbound,
    things,
    trust,
)
from supercloud.api.bodies import Router
from supercloud.api.conditions import Conditions
from supercloud.api.guard import CloudRead, Door, Guard, OperationCancel, OperationRead
from supercloud.api.limits import BodyLimit
from supercloud.api.pages import TIMED, Named, Paged
from supercloud.api.repeats import Answers, Repeats
from supercloud.api.sessions import Desk
from supercloud.api.things import InCloud
from supercloud.model.names import Id
from supercloud.model.states import OperationState
from supercloud.services.views import OperationView, StatusView

#: A longer wait would outlive proxies' idle limits.
MAX_WAIT_S = 30.0
#: By the paths that they are of.
_Methods = tuple[tuple[re.Pattern[str], set[str]], ...]
#: Of paths whose bodies go to the disk as they come.
_CONTENT = "/content"
SOUTHBOUND_TITLE = "supercloud southbound"
SOUTHBOUND_SUMMARY = "For providers: domains, their capacity, maintenance, health and security"


def create_app(door: Door, answers: Answers, desk: Desk) -> FastAPI:
    """An ASGI application. `door` decides who gets in, and to what; `answers` are those that are kept; `desk`
    gives out what browsers sign in with.
    """
    app = FastAPI(
        title="supercloud",
        version=__version__,
        summary="One cloud that belongs to its user, spread over clouds that belong to others",
        docs_url=None,  # the pages load scripts from elsewhere
        redoc_url=None,
        openapi_url="/v1/openapi.json",
        separate_input_output_schemas=False,
    )
    app.state.ending = asyncio.Event()  # of the listener, which streams of events wait for
    app.state.desk = desk
    problems.install(app, _methods)
    app.add_middleware(Conditions)
    app.add_middleware(Repeats, answers=answers)
    app.add_middleware(Guard, door=door, content_suffix=_CONTENT)
    app.add_middleware(BodyLimit, content_suffix=_CONTENT)
    northern, southern, _ = _routes()
    app.router.routes.extend((*northern, *southern))
    app.openapi = cache(partial(_document, app, northern, events.Event))  # type: ignore[method-assign]
    app.state.southbound = cache(partial(_document, app, southern, southbound.DomainEvent))

    async def described(_: Request) -> JSONResponse:
        return JSONResponse(app.state.southbound())

    app.add_route(f"{southbound.PREFIX}/openapi.json", described, include_in_schema=False)
    return app


@cache
def _routes() -> tuple[tuple[BaseRoute, ...], tuple[BaseRoute, ...], _Methods]:
    """The northbound and the southbound API's, and the methods of both by their paths. Nothing in them is of
    one application; and to make them, with the schemas of all that they take and answer, takes a processor
    more than a second.
    """
    routers = [
        _operations(),
        events.router(),
        *principals.routers(),
        *things.routers(),
        sessions.router(),
        trust.router(),
        *levels.routers(),
        findings.router(),
        *incidents.routers(),
        *policies.routers(),
        orders.router(),
        acts.router(),
        bytestreams.router(),
    ]
    southern = southbound.routers()
    known = [
        (compile_path(prefix + route.path)[0], route.methods or set[str]())
        for prefix, several in (("/v1", routers), (southbound.PREFIX, southern))
        for router in several
        for route in router.routes
        if isinstance(route, APIRoute)
    ]
    return _included("/v1", routers), _included(southbound.PREFIX, southern), tuple(known)


def _methods(path: str) -> list[str]:
    """That there are at a path of either API."""
    return sorted({one for known, methods in _routes()[2] if known.match(path) for one in methods})


def _included(prefix: str, routers: Sequence[APIRouter]) -> tuple[BaseRoute, ...]:
    guard.declared(routers)
    found = APIRouter(responses={"default": problems.DOCUMENTED})
    for router in routers:
        found.include_router(router, prefix=prefix)
    return tuple(found.routes)


def _document(app: FastAPI, routes: Sequence[BaseRoute], event: type[Any]) -> dict[str, Any]:
    """Of one API, made when it is first asked for."""
    south = event is southbound.DomainEvent
    found = get_openapi(
        title=SOUTHBOUND_TITLE if south else app.title,
        version=app.version,
        openapi_version=app.openapi_version,
        summary=SOUTHBOUND_SUMMARY if south else app.summary,
        routes=routes,
        separate_input_output_schemas=False,
    )
    found["components"]["securitySchemes"] = guard.SECURITY_SCHEME
    found["components"]["schemas"] |= events.schemas(event)
    headers.describe(found)
    return found


def _operations() -> APIRouter:
    router = Router(tags=["operations"])

    @router.get("/status")
    async def status(control: CloudRead) -> StatusView:
        return await control.status()

    @router.get("/operations")
    async def operations(  # noqa: PLR0917 - FastAPI calls it by name
        control: OperationRead,
        paging: Paged,
        open_only: bool = False,
        kind: Annotated[str | None, Query(pattern=r"^[a-z.-]{1,64}$")] = None,
        cloud: InCloud = None,
        name: Named = None,
        state: OperationState | None = None,
        about: Annotated[Id | None, Query(alias="object")] = None,
    ) -> list[OperationView]:
        """`object`, `name`: of what they are about."""
        page = paging.page(TIMED, name=name, state=state)
        found = await control.operations(open_only=open_only, kind=kind, cloud=cloud, about=about, page=page)
        return paging.answer(found)

    @router.get("/operations/{operation}")
    async def operation(
        control: OperationRead,
        operation: Annotated[Id, Path()],
        wait_s: Annotated[float, Query(ge=0, le=MAX_WAIT_S, allow_inf_nan=False)] = 0,
        seen_phase: Annotated[str | None, Query(max_length=200)] = None,
    ) -> OperationView:
        """`seen_phase`: what the caller knows already; in any other phase it is answered at once."""
        return await control.operation(operation, wait_s=wait_s, seen_phase=seen_phase)

    @router.post("/operations/{operation}/cancel")
    async def cancel(control: OperationCancel, operation: Annotated[Id, Path()]) -> OperationView:
        return await control.cancel(operation)

    return router
