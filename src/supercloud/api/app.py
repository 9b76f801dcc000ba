"""The northbound API, version 1: one router for each resource, each a thin face of `Northbound`."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Path, Query

from supercloud import __version__
from supercloud.api import bytestreams, events, guard, headers, principals, problems, things
from supercloud.api.conditions import Conditions
from supercloud.api.guard import CloudRead, Door, Guard, OperationCancel, OperationRead
from supercloud.api.limits import BodyLimit
from supercloud.api.pages import TIMED, Named, Paged
from supercloud.api.repeats import Answers, Repeats
from supercloud.api.things import InCloud
from supercloud.model.names import Id
from supercloud.model.states import OperationState
from supercloud.services.northbound import OperationView, StatusView

#: A longer wait would outlive proxies' idle limits.
MAX_WAIT_S = 30.0
#: Of paths whose bodies go to the disk as they come.
_CONTENT = "/content"


def create_app(door: Door, answers: Answers) -> FastAPI:
    """An ASGI application. `door` decides who gets in, and to what; `answers` are those that are kept."""
    app = FastAPI(
        title="supercloud",
        version=__version__,
        summary="One cloud that belongs to its user, spread over clouds that belong to others",
        docs_url=None,  # the pages load scripts from elsewhere
        redoc_url=None,
        openapi_url="/v1/openapi.json",
        separate_input_output_schemas=False,
        responses={"default": problems.DOCUMENTED},
    )
    app.state.ending = asyncio.Event()  # of the listener, which streams of events wait for
    problems.install(app)
    app.add_middleware(Conditions)
    app.add_middleware(Repeats, answers=answers)
    app.add_middleware(Guard, door=door, content_suffix=_CONTENT)
    app.add_middleware(BodyLimit, content_suffix=_CONTENT)
    routers = [_operations(), events.router(), *principals.routers(), *things.routers(), bytestreams.router()]
    guard.declared(routers)
    for router in routers:
        app.include_router(router, prefix="/v1")
    described = app.openapi

    def openapi() -> dict[str, Any]:
        found = described()
        found["components"]["securitySchemes"] = guard.SECURITY_SCHEME
        found["components"]["schemas"] |= events.schemas()
        headers.describe(found)
        return found

    app.openapi = openapi  # type: ignore[method-assign]
    return app


def _operations() -> APIRouter:
    router = APIRouter(tags=["operations"])

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
    ) -> list[OperationView]:
        """`name`: of what they are about."""
        page = paging.page(TIMED, name=name, state=state)
        return paging.answer(await control.operations(open_only=open_only, kind=kind, cloud=cloud, page=page))

    @router.get("/operations/{operation}")
    async def operation(
        control: OperationRead,
        operation: Annotated[Id, Path()],
        wait_s: Annotated[float, Query(ge=0, le=MAX_WAIT_S, allow_inf_nan=False)] = 0,
    ) -> OperationView:
        return await control.operation(operation, wait_s=wait_s)

    @router.post("/operations/{operation}/cancel")
    async def cancel(control: OperationCancel, operation: Annotated[Id, Path()]) -> OperationView:
        return await control.cancel(operation)

    return router
