"""What a page asks the control plane, each thing under the permission that the API needs for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from fastapi import Depends
from starlette.requests import HTTPConnection

from supercloud.api.guard import Sight
from supercloud.model.errors import Denied
from supercloud.model.permissions import Permission
from supercloud.services.northbound import Northbound
from supercloud.services.pages import Part
from supercloud.web.gate import Visit

T = TypeVar("T")


class Ask:
    """The control plane on behalf of who is signed in."""

    def __init__(self, visit: Visit, enter: Callable[[Permission, tuple[Any, ...]], Northbound]) -> None:
        self.visit = visit
        self._enter = enter

    def under(self, permission: Permission) -> Northbound:
        """Raises: Denied (the session's token does not allow it), Unauthenticated."""
        return self._enter(permission, ())

    def may(self, permission: Permission) -> bool:
        """Whether it is allowed anywhere; the thing itself may be elsewhere."""
        return self.visit.may(permission)

    async def some(self, permission: Permission, ask: Callable[[Northbound], Any]) -> Part[Any]:
        """A list; none of it where the session's token does not let it be read."""
        try:
            control = self.under(permission)
        except Denied:
            return Part()
        found: Part[Any] = await ask(control)
        return found


async def _asks(connection: HTTPConnection) -> Ask:
    return Ask(connection.state.visit, connection.state.enter)


async def _visit(connection: HTTPConnection) -> Visit:
    found: Visit = connection.state.visit
    return found


async def _sight(connection: HTTPConnection) -> Sight:
    found: Sight = connection.state.sight
    return found


#: Of a request that has a session.
Asking = Annotated[Ask, Depends(_asks)]
#: Of any.
Visiting = Annotated[Visit, Depends(_visit)]
Seeing = Annotated[Sight, Depends(_sight)]
