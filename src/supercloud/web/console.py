"""Consoles in the page: an instance's, and a blanket's, as the API streams them."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import APIRouter, WebSocket
from starlette.responses import Response

from supercloud.api.bytestreams import pump
from supercloud.api.guard import BlanketConsole, BlanketRead, VmConsole, VmRead
from supercloud.api.things import InCloud, RefPath
from supercloud.ports.agent import StreamKind
from supercloud.web.ask import Asking
from supercloud.web.grid import href
from supercloud.web.pages import page


@dataclass(frozen=True, slots=True, kw_only=True)
class Console:
    """What the page shows. `state` None: of what has no console of its own state."""

    name: str
    back: str
    path: str  # of the WebSocket, which is the page's own


def router() -> APIRouter:
    """Pages, and at the same paths WebSockets with binary frames both ways."""
    found = APIRouter()

    @found.get("/web/instances/{ref}/console")
    async def instance_page(control: VmRead, ask: Asking, ref: RefPath, cloud: InCloud = None) -> Response:
        view = await control.instance(ref, cloud=cloud)
        return _page(ask, "instances", view.name, view.id)

    @found.websocket("/web/instances/{ref}/console")
    async def instance(control: VmConsole, socket: WebSocket, ref: RefPath) -> None:
        stream = await control.open_stream(ref, kind=StreamKind.CONSOLE)
        await pump(socket, stream, socket.state.visit.acts)

    @found.get("/web/blankets/{ref}/console")
    async def blanket_page(
        control: BlanketRead, ask: Asking, ref: RefPath, cloud: InCloud = None
    ) -> Response:
        view = await control.blanket(ref, cloud=cloud)
        return _page(ask, "blankets", view.name, view.id)

    @found.websocket("/web/blankets/{ref}/console")
    async def blanket(control: BlanketConsole, socket: WebSocket, ref: RefPath) -> None:
        stream = await control.blanket_console(ref)
        await pump(socket, stream, socket.state.visit.acts)

    return found


def _page(ask: Asking, collection: str, name: str, identity: str) -> Response:
    where = href(collection, identity)
    console = Console(name=name, back=where, path=f"{where}/console")
    return page("console.html", ask.visit, title=f"Console of {name}", crumb=(where, name), console=console)
