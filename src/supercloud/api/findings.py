"""Findings over HTTP: delivered by providers, read by users."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Path, Query, status
from fastapi.responses import JSONResponse
from pydantic import Discriminator, Field, Tag

from supercloud.api.bodies import Router
from supercloud.api.guard import DomainRead, DomainReport, FindingRead
from supercloud.api.pages import TIMED, Paged
from supercloud.api.things import InCloud
from supercloud.model.findings import Layer, Severity
from supercloud.model.names import Id
from supercloud.model.ocsf import DetectionFinding
from supercloud.services.deliveries import BATCH
from supercloud.services.requests import Ref
from supercloud.services.security_views import DeliveredView, FindingView

_Finding = Annotated[Id, Path()]
_Domain = Annotated[Ref | None, Query()]
_Since = Annotated[float | None, Query(ge=0, le=8e9, allow_inf_nan=False)]
_Batch = Annotated[list[DetectionFinding], Field(min_length=1, max_length=BATCH)]
#: Told apart by their form, so that what is wrong is said of what was sent.
_Delivery = Annotated[
    Annotated[DetectionFinding, Tag("event")] | Annotated[_Batch, Tag("events")],
    Discriminator(lambda sent: "events" if isinstance(sent, list) else "event"),
]
_OCSF: dict[int | str, dict[str, Any]] = {
    200: {"description": "The finding; with `as=ocsf` its event (OCSF 1.x, Detection Finding), as it came"}
}


def router() -> APIRouter:
    """For users: what concerns their clouds, and clouds that trust theirs with it. The newest first."""
    router = Router(prefix="/findings", tags=["findings"])

    @router.get("")
    async def ls(
        *,
        control: FindingRead,
        paging: Paged,
        cloud: InCloud = None,
        domain: _Domain = None,
        layer: Layer | None = None,
        severity: Severity | None = None,
        since: _Since = None,
    ) -> list[FindingView]:
        """`severity`: at least so grave; `since`: received from then on, seconds since the epoch. `cloud`:
        also another's that trusts one of yours with its findings, by its id."""
        found = await control.findings(
            cloud=cloud, domain=domain, layer=layer, severity=severity, since=since, page=paging.page(TIMED)
        )
        return paging.answer(found)

    @router.get("/{finding}", response_model=FindingView | dict[str, Any], responses=_OCSF)
    async def show(
        control: FindingRead,
        finding: _Finding,
        as_: Annotated[Literal["view", "ocsf"], Query(alias="as")] = "view",
    ) -> Any:
        """`as=ocsf`: the event as it came, in its detector's words."""
        if as_ == "ocsf":
            return JSONResponse(await control.finding_event(finding))
        return await control.finding(finding)

    return router


def southbound() -> APIRouter:
    """For providers: of their own domains, and those that they delivered."""
    router = Router(prefix="/findings", tags=["findings"])

    @router.post("", status_code=status.HTTP_201_CREATED)
    async def deliver(
        control: DomainReport,
        sent: Annotated[_Delivery, Body()],
        domain: _Domain = None,
    ) -> list[DeliveredView]:
        """One OCSF 1.x event of class 2004, or up to 100, all or none. What came before under the same
        `metadata.uid` is answered as it is. `resources[0].uid` is a machine of the domain, by the platform's
        own id; without one it is about the domain. `domain`: which of yours, if you have several."""
        return await control.deliver(sent if isinstance(sent, list) else [sent], domain=domain)

    @router.get("")
    async def ls(control: DomainRead, paging: Paged, domain: _Domain = None) -> list[DeliveredView]:
        """The newest first."""
        return paging.answer(await control.delivered(domain=domain, page=paging.page(TIMED)))

    @router.get("/{finding}")
    async def show(control: DomainRead, finding: _Finding) -> DeliveredView:
        return await control.delivered_one(finding)

    return router
