"""How a provider's domain is: its platform is asked each time, so this is a page of its own."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from supercloud.api.guard import DomainRead
from supercloud.api.things import RefPath
from supercloud.services.southbound import HealthView
from supercloud.web import cells
from supercloud.web.ask import Asking
from supercloud.web.grid import href
from supercloud.web.kind import Facts
from supercloud.web.pages import page


def router() -> APIRouter:
    """The one page."""
    found = APIRouter()

    @found.get("/web/domains/{ref}/health")
    async def health(control: DomainRead, ask: Asking, ref: RefPath) -> Response:
        view = await control.health(ref)
        return page(
            "health.html",
            ask.visit,
            title=f"Health of domain {view.domain}",
            here="domains",
            crumb=(href("domains", view.id), view.domain),
            facts=[(title, cell) for title, cell in _facts(view) if cell is not cells.NOTHING],
        )

    return found


def _facts(view: HealthView) -> Facts:
    return [
        ("Answers", cells.yes(view.reachable)),
        ("Why not", cells.text(view.why)),
        ("Running machines", cells.number(view.running)),
        ("Stopped", cells.number(view.stopped)),
        ("Frozen", cells.number(view.frozen)),
        ("Rented by nobody", cells.number(view.unknown)),
        ("Rented, and not there", cells.number(view.missing)),
        ("Agents connected", cells.number(view.connected)),
    ]
