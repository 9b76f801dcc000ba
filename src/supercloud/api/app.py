"""The northbound API, version 1: one router for each resource, each a thin face of `Northbound`."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, FastAPI, Path, Query

from supercloud import __version__
from supercloud.api import bytestreams, problems, things
from supercloud.api.limits import BodyLimit
from supercloud.model.names import Id
from supercloud.services.northbound import Northbound, OperationView, StatusView

#: A longer wait would outlive proxies' idle limits.
MAX_WAIT_S = 30.0


def create_app(control: Northbound) -> FastAPI:
    """An ASGI application. Who may call it is settled below it: see `supercloud.api.listener`."""
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
    problems.install(app)
    app.add_middleware(BodyLimit, content_suffix="/content")
    app.include_router(_operations(control), prefix="/v1")
    for router in things.routers(control):
        app.include_router(router, prefix="/v1")
    app.include_router(bytestreams.router(control), prefix="/v1")
    return app


def _operations(control: Northbound) -> APIRouter:
    router = APIRouter(tags=["operations"])

    @router.get("/status")
    async def status() -> StatusView:
        return await control.status()

    @router.get("/operations")
    async def operations(
        open_only: bool = False,
        kind: Annotated[str | None, Query(pattern=r"^[a-z.-]{1,64}$")] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 1000,
    ) -> list[OperationView]:
        return await control.operations(open_only=open_only, kind=kind, limit=limit)

    @router.get("/operations/{operation}")
    async def operation(
        operation: Annotated[Id, Path()],
        wait_s: Annotated[float, Query(ge=0, le=MAX_WAIT_S, allow_inf_nan=False)] = 0,
    ) -> OperationView:
        return await control.operation(operation, wait_s=wait_s)

    @router.post("/operations/{operation}/cancel")
    async def cancel(operation: Annotated[Id, Path()]) -> OperationView:
        return await control.cancel(operation)

    return router
