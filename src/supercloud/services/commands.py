"""The part of Southbound about orders: which a domain takes, those before it as OpenC2 commands, and what its
provider says of them.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from supercloud.model.bounded import Bounds
from supercloud.model.errors import Conflict, NotFound
from supercloud.model.names import Id, Name
from supercloud.model.ocsf import one_line
from supercloud.model.orders import MEANINGS, OPEN, OrderState, Reaction, answered
from supercloud.services.domains import find_domain
from supercloud.services.northbound import LAST
from supercloud.services.pages import Page, Part
from supercloud.services.parts import Parts
from supercloud.services.providers import taken_by
from supercloud.services.refs import owned
from supercloud.services.requests import Ref
from supercloud.services.security_views import CommandView, Response, TakenOrders
from supercloud.services.store.security import OrderRow
from supercloud.services.store.tables import Provider
from supercloud.services.store.time import wall

_OPEN = tuple(one.value for one in OPEN)
#: Of a response.
_RESULTS = Bounds(bytes_=8 << 10, depth=8, values=500)


class Commands:
    """The part of Southbound about orders."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def take_orders(self, ref: Ref, taken: TakenOrders) -> TakenOrders:
        """From now on. What is before it already stays there, to be done or refused."""
        async with self._parts.store.write() as session:
            row = await find_domain(session, ref)
            row.takes = sorted(set(taken.takes)) or None
        return TakenOrders(takes=taken_by(row))

    async def commands(
        self, *, domain: Ref | None = None, every: bool = False, page: Page = LAST
    ) -> Part[CommandView]:
        """The newest first; open ones, or `every` one."""
        async with self._parts.store.read() as session:
            query = _query(session)
            if not every and page.state is None:
                query = query.where(OrderRow.state.in_(_OPEN), OrderRow.deadline > await wall(session))
            if page.state is not None:
                query = query.where(OrderRow.state == page.state)
            if domain is not None:
                query = query.where(Provider.id == (await find_domain(session, domain)).id)
            query = page.of(query, OrderRow.created_at, OrderRow.id, newest=True)
            rows = (await session.execute(query)).all()
        return page.part(rows, lambda row: (row[0].created_at, row[0].id), lambda row: _view(*row))

    async def command(self, command: Id) -> CommandView:
        async with self._parts.store.read() as session:
            return _view(*await _find(session, command))

    async def respond(self, command: Id, response: Response) -> CommandView:
        """The same again is harmless.

        Raises:
            InvalidInput: it is no response, or one that is too large.
            Conflict: it has ended in another way, or its time was over.
        """
        said = _said(response)
        async with self._parts.store.write() as session:
            _, domain = await _find(session, command)
            row = await session.get_one(OrderRow, command, with_for_update=True, populate_existing=True)
            now, was = await wall(session), OrderState(row.state)
            if was in OPEN and row.deadline <= now:
                raise Conflict("its deadline has passed: leave it", hint="supercloud domain orders")
            try:
                state = answered(was, response.status)
            except Conflict as error:
                raise Conflict(f"the order is {was}", hint="supercloud domain orders") from error
            if state is not was:
                row.state, row.response = state, said
                row.taken_at = row.taken_at or now
                row.ended_at = None if state in OPEN else now
            return _view(row, domain)


# ---------------------------------------------------------------- inside


def _said(response: Response) -> dict[str, Any]:
    """
    Raises:
        InvalidInput.
    """
    said: dict[str, Any] = {"status": response.status}
    if response.status_text is not None:
        said["status_text"] = one_line(response.status_text)
    if response.results is not None:
        said["results"] = response.results
    _RESULTS.check(said, "the response")
    return said


def _query(session: AsyncSession) -> Any:
    return (
        select(OrderRow, Provider.name)
        .join(Provider, Provider.id == OrderRow.domain)
        .where(owned(session, Provider.owner))
    )


async def _find(session: AsyncSession, command: Id) -> tuple[OrderRow, Name]:
    """
    Raises:
        NotFound.
    """
    found = (await session.execute(_query(session).where(OrderRow.id == command))).one_or_none()
    if found is None:
        raise NotFound(f"there is no command {command}", hint="supercloud domain orders")
    return found[0], found[1]


def _view(row: OrderRow, domain: Name) -> CommandView:
    reaction = Reaction(row.reaction)
    return CommandView(
        id=row.id,
        domain=domain,
        machine=row.machine,
        command=row.command,
        meaning=MEANINGS[reaction],
        state=OrderState(row.state),
        response=row.response,
        created_at=row.created_at,
        deadline=row.deadline,
        ended_at=row.ended_at,
    )
