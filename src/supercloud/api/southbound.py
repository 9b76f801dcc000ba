"""The southbound API, version 1: a thin face of `services.southbound.Southbound`, for providers.

It is served by the same application as the northbound one, so that who gets in, what a request may cost,
conditions, repeats, parts of lists, problems and streams are the same code; its description is its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response, status

from supercloud.api import acts, findings, orders
from supercloud.api.bodies import Router
from supercloud.api.events import LastId, Lasts, Since, Stream, documented, place, stream
from supercloud.api.guard import EVENTS, DomainRead, DomainWrite
from supercloud.api.pages import TEXT, TIMED, Named, Paged
from supercloud.api.repeats import SOUTHBOUND
from supercloud.api.things import RefPath
from supercloud.model.domains import WindowState
from supercloud.model.kinds import Kind
from supercloud.model.names import Id
from supercloud.model.states import BlanketState, OperationState
from supercloud.services.doorkeeper import domain_of
from supercloud.services.requests import Ref
from supercloud.services.southbound import (
    DomainTerms,
    DomainView,
    DrainView,
    HealthView,
    MachineView,
    PlanWindow,
    RegisterDomain,
    WindowView,
)
from supercloud.services.store.changes import Act, Change

PREFIX = f"{SOUTHBOUND}/v1"
_NO_CONTENT = status.HTTP_204_NO_CONTENT


class Subject(StrEnum):
    """What an event is about."""

    DOMAIN = "domain"
    MACHINE = "machine"
    DRAIN = "drain"
    WINDOW = "window"
    FINDING = "finding"
    COMMAND = "command"
    ACT = "act"


_SUBJECTS = {
    Kind.PROVIDER: Subject.DOMAIN,
    Kind.BLANKET: Subject.MACHINE,
    Kind.OPERATION: Subject.DRAIN,
    Kind.MAINTENANCE: Subject.WINDOW,
    Kind.FINDING: Subject.FINDING,
    Kind.ORDER: Subject.COMMAND,
    Kind.ACT: Subject.ACT,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainEvent:
    """The data of an event `change`. Of a machine, its id and state, and no name that somebody gave it."""

    subject: Subject
    act: Act
    id: Id
    domain: Id
    state: str | None
    done: float | None  # of a drain
    at: float  # wall clock as it was committed, seconds since the epoch


def routers() -> list[APIRouter]:
    """All of them."""
    of_security = (findings.southbound(), orders.southbound(), acts.southbound())
    return [_domains(), _windows(), _drains(), *of_security, _events()]


def _domains() -> APIRouter:
    router = Router(prefix="/domains", tags=["domains"])

    @router.post("", status_code=status.HTTP_201_CREATED)
    async def register(control: DomainWrite, request: RegisterDomain) -> DomainView:
        """It runs machines once an operator has accepted it."""
        return await control.register_domain(request)

    @router.get("")
    async def ls(control: DomainRead, paging: Paged, name: Named = None) -> list[DomainView]:
        return paging.answer(await control.domains(page=paging.page(TEXT, name=name)))

    @router.get("/{ref}")
    async def show(control: DomainRead, ref: RefPath) -> DomainView:
        return await control.domain(ref)

    @router.put("/{ref}/terms")
    async def terms(control: DomainWrite, ref: RefPath, request: DomainTerms) -> DomainView:
        return await control.set_domain(ref, request)

    @router.delete("/{ref}", status_code=_NO_CONTENT)
    async def rm(control: DomainWrite, ref: RefPath) -> Response:
        await control.remove_domain(ref)
        return Response(status_code=_NO_CONTENT)

    @router.post("/{ref}/drain", status_code=status.HTTP_202_ACCEPTED)
    async def drain(control: DomainWrite, ref: RefPath) -> DrainView:
        return await control.drain_domain(ref)

    @router.post("/{ref}/undrain")
    async def undrain(control: DomainWrite, ref: RefPath) -> DomainView:
        return await control.undrain_domain(ref)

    @router.get("/{ref}/machines")
    async def machines(
        control: DomainRead, paging: Paged, ref: RefPath, state: BlanketState | None = None
    ) -> list[MachineView]:
        """VMs of the platform that somebody rents, by the platform's own ids."""
        return paging.answer(await control.machines(ref, page=paging.page(TEXT, state=state)))

    @router.get("/{ref}/health")
    async def health(control: DomainRead, ref: RefPath) -> HealthView:
        """Asked of the platform at this moment."""
        return await control.health(ref)

    return router


def _windows() -> APIRouter:
    router = Router(prefix="/windows", tags=["maintenance"])

    @router.post("", status_code=status.HTTP_201_CREATED)
    async def plan(control: DomainWrite, request: PlanWindow) -> WindowView:
        return await control.plan_window(request)

    @router.get("")
    async def ls(
        control: DomainRead,
        paging: Paged,
        domain: Annotated[Ref | None, Query()] = None,
        state: WindowState | None = None,
    ) -> list[WindowView]:
        page = paging.page(TIMED, state=state)
        return paging.answer(await control.windows(domain=domain, page=page))

    @router.get("/{window}")
    async def show(control: DomainRead, window: Annotated[Id, Path()]) -> WindowView:
        return await control.window(window)

    @router.delete("/{window}", status_code=_NO_CONTENT)
    async def cancel(control: DomainWrite, window: Annotated[Id, Path()]) -> Response:
        """What it has closed is open again."""
        await control.cancel_window(window)
        return Response(status_code=_NO_CONTENT)

    return router


def _drains() -> APIRouter:
    router = Router(prefix="/drains", tags=["drains"])

    @router.get("")
    async def ls(control: DomainRead, paging: Paged, state: OperationState | None = None) -> list[DrainView]:
        return paging.answer(await control.drains(page=paging.page(TIMED, state=state)))

    @router.get("/{drain}")
    async def show(
        control: DomainRead,
        drain: Annotated[Id, Path()],
        wait_s: Annotated[float, Query(ge=0, le=30, allow_inf_nan=False)] = 0,
    ) -> DrainView:
        """With `wait_s`, when something of it changed, or after so long."""
        return await control.drain(drain, wait_s=wait_s)

    @router.post("/{drain}/cancel")
    async def cancel(control: DomainWrite, drain: Annotated[Id, Path()]) -> DrainView:
        return await control.cancel_drain(drain)

    return router


def _events() -> APIRouter:
    found = Router(tags=["events"])

    @found.get(EVENTS, status_code=200, response_class=Stream, responses={200: documented(DomainEvent)})
    async def events(
        control: DomainRead,
        request: Request,
        since: Since = None,
        lasts_s: Lasts = None,
        last_event_id: LastId = None,
    ) -> Stream:
        """From now on, or from what came after an event's id; with `lasts_s`, for so long only."""
        watch = await control.watch(after=place(last_event_id or since))
        sight = request.state.sight
        return stream(watch, request, lambda one: _shown(one) if sight.of_domains(one) else None, lasts_s)

    return found


def _shown(change: Change) -> DomainEvent | None:
    """Made of columns that hold no user's word: names and phases are left out."""
    domain = domain_of(change)
    if domain is None:
        return None
    done = (change.data or {}).get("done") if change.kind is Kind.OPERATION else None
    return DomainEvent(
        subject=_SUBJECTS[change.kind],
        act=change.act,
        id=change.id,
        domain=domain,
        state=change.state,
        done=done,
        at=change.at,
    )
