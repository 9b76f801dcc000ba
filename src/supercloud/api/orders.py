"""Orders over HTTP: asked for by users, and read and answered by providers as OpenC2 commands."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, status

from supercloud.api.bodies import Router
from supercloud.api.guard import DomainAnswer, DomainRead, DomainWrite, OrderRead, OrderWrite
from supercloud.api.pages import TIMED, Paged
from supercloud.api.things import InCloud, RefPath
from supercloud.model.names import Id
from supercloud.model.orders import OrderState
from supercloud.services.requests import Ref
from supercloud.services.security_views import CommandView, OrderView, PlaceOrder, Response, TakenOrders

_Order = Annotated[Id, Path()]
_Command = Annotated[Id, Path()]


def router() -> APIRouter:
    """For users: about machines that they rent, and of clouds that let theirs order it. The newest first."""
    router = Router(prefix="/orders", tags=["orders"])

    @router.post("", status_code=status.HTTP_201_CREATED)
    async def place(control: OrderWrite, request: PlaceOrder) -> OrderView:
        """Refused, before its provider sees it, if its domain does not take such an order."""
        return await control.place_order(request)

    @router.get("")
    async def ls(
        control: OrderRead,
        paging: Paged,
        cloud: InCloud = None,
        open_only: bool = False,
        state: OrderState | None = None,
    ) -> list[OrderView]:
        """`cloud`: about its machines, or in its name."""
        page = paging.page(TIMED, state=state)
        return paging.answer(await control.orders(cloud=cloud, open_only=open_only, page=page))

    @router.get("/{order}")
    async def show(control: OrderRead, order: _Order) -> OrderView:
        return await control.order(order)

    @router.post("/{order}/cancel")
    async def cancel(control: OrderWrite, order: _Order) -> OrderView:
        """One that is not taken yet."""
        return await control.cancel_order(order)

    return router


def southbound() -> APIRouter:
    """For providers, who are told of what is asked as it comes: events with the subject `command`."""
    router = Router(tags=["commands"])

    @router.put("/domains/{ref}/orders")
    async def take(control: DomainWrite, ref: RefPath, request: TakenOrders) -> TakenOrders:
        """Which orders the domain takes, all of them anew. It is asked for no other."""
        return await control.take_orders(ref, request)

    @router.get("/commands")
    async def ls(
        control: DomainRead,
        paging: Paged,
        domain: Annotated[Ref | None, Query()] = None,
        every: bool = False,
        state: OrderState | None = None,
    ) -> list[CommandView]:
        """Open ones, or `every` one, the newest first."""
        page = paging.page(TIMED, state=state)
        return paging.answer(await control.commands(domain=domain, every=every, page=page))

    @router.get("/commands/{command}")
    async def show(control: DomainRead, command: _Command) -> CommandView:
        return await control.command(command)

    @router.post("/commands/{command}/response")
    async def respond(control: DomainAnswer, command: _Command, request: Response) -> CommandView:
        """An OpenC2 response: 102 takes it; 200, and 4xx (refused) or 5xx (failed), end it."""
        return await control.respond(command, request)

    return router
