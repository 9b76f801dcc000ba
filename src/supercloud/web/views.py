"""The pages: the two-dimensional view, lists, and things with their history."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Path, Query
from starlette.responses import RedirectResponse, Response

from supercloud.api.pages import read_cursor, write_cursor
from supercloud.api.things import InCloud, RefPath
from supercloud.model.errors import SupercloudError
from supercloud.model.kinds import Kind as Changed
from supercloud.model.permissions import Permission
from supercloud.services.pages import Page, Part
from supercloud.services.requests import Ref
from supercloud.web import domains
from supercloud.web.actions import offered
from supercloud.web.ask import Ask, Asking
from supercloud.web.cells import NOTHING
from supercloud.web.gate import DOMAIN_EVENTS, EVENTS
from supercloud.web.grid import grid_of, href
from supercloud.web.kind import Kind
from supercloud.web.kinds import KINDS, under_way
from supercloud.web.making import MAKINGS
from supercloud.web.pages import page, part

#: In a list, and in the two-dimensional view, which says so where there is more.
_LISTED, _DRAWN = 100, 1000
_GRIDS = (
    Changed.CLOUD,
    Changed.BLANKET,
    Changed.INSTANCE,
    Changed.PROVIDER,
    Changed.OPERATION,
    Changed.INCIDENT,
)

KindPath = Annotated[str, Path(pattern="^(" + "|".join(KINDS) + ")$")]
_Cursor = Annotated[str | None, Query(max_length=1024, pattern=r"^[A-Za-z0-9_-]+$")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """A part of a page that is asked for again when something of these kinds changes."""

    path: str
    kinds: tuple[Changed, ...]
    stream: str = EVENTS

    @property
    def events(self) -> str:
        return f"{self.stream}?{urlencode([('kind', str(one)) for one in self.kinds])}"


def router() -> APIRouter:
    """All of them; those of things are named by kind and id."""
    found = APIRouter()

    @found.get("/web")
    async def start() -> Response:
        return RedirectResponse("/web/", status_code=303)

    @found.get("/web/")
    async def grid(ask: Asking, cloud: InCloud = None) -> Response:
        if ask.may(Permission.DOMAIN_READ) and not ask.may(Permission.PROVIDER_READ):
            return await _own_grid(ask)
        return await _grid(ask, cloud)

    @found.get("/web/{path}")
    async def ls(ask: Asking, path: KindPath, cloud: InCloud = None, cursor: _Cursor = None) -> Response:
        return await _list(ask, KINDS[path], cloud or None, cursor)

    @found.get("/web/{path}/{ref}")
    async def show(ask: Asking, path: KindPath, ref: RefPath, cloud: InCloud = None) -> Response:
        return await thing_page(ask, KINDS[path], ref, cloud)

    return found


async def _grid(ask: Ask, cloud: Ref | None) -> Response:
    most = Page(limit=_DRAWN)
    blankets = await ask.some(
        Permission.BLANKET_READ, lambda control: control.blankets(cloud=cloud, page=most)
    )
    instances = await ask.some(Permission.VM_READ, lambda control: control.instances(cloud=cloud, page=most))
    providers = await ask.some(Permission.PROVIDER_READ, lambda control: control.providers(page=most))
    incidents = await ask.some(
        Permission.INCIDENT_READ,
        lambda control: control.incidents(cloud=cloud, open_only=True, page=most),
    )
    open_, going_on = await under_way(ask, cloud)
    query = f"?{urlencode({'cloud': cloud})}" if cloud else ""
    values: dict[str, Any] = {
        "grid": grid_of(
            providers=providers,
            blankets=blankets,
            instances=instances,
            operations=open_,
            incidents=incidents,
        ),
        "more": any(one.after is not None for one in (blankets, instances, providers, incidents)),
        "most": _DRAWN,
        "sections": [going_on],
        "live": Live(path=f"/web/{query}", kinds=_GRIDS),
    }
    if ask.visit.live:
        return part("grid_part.html", ask.visit, **values)
    clouds = await ask.some(Permission.CLOUD_READ, lambda control: control.clouds())
    return page(
        "grid.html", ask.visit, title="Layers and domains", here="grid", clouds=clouds, cloud=cloud, **values
    )


async def _own_grid(ask: Ask) -> Response:
    """A provider's."""
    drawn, more = await domains.own_grid(ask)
    values: dict[str, Any] = {
        "grid": drawn,
        "more": more,
        "most": _DRAWN,
        "sections": await domains.own_sections(ask),
        "live": Live(path="/web/", kinds=domains.CHANGES, stream=DOMAIN_EVENTS),
    }
    if ask.visit.live:
        return part("grid_part.html", ask.visit, **values)
    return page("grid.html", ask.visit, title="Your domains", here="grid", clouds=(), cloud=None, **values)


async def _list(ask: Ask, kind: Kind, cloud: Ref | None, cursor: str | None) -> Response:
    after = None if cursor is None else read_cursor(kind.path, kind.key, cursor)
    found: Part[Any] = await kind.listed(
        ask.under(kind.read), cloud if kind.in_cloud else None, Page(limit=_LISTED, after=after)
    )
    same = {"cloud": cloud} if cloud else {}
    following = None
    if found.after is not None:
        following = f"/web/{kind.path}?{urlencode({**same, 'cursor': write_cursor(kind.path, found.after)})}"
    query = urlencode({**same, **({"cursor": cursor} if cursor else {})})
    path = f"/web/{kind.path}" + (f"?{query}" if query else "")
    values: dict[str, Any] = {
        "kind": kind,
        "rows": [kind.row(one) for one in found],
        "following": following,
        "live": Live(path=path, kinds=kind.watched, stream=kind.stream),
    }
    if ask.visit.live:
        return part("list_part.html", ask.visit, **values)
    making = MAKINGS.get(kind.path)
    in_clouds = kind.in_cloud and await ask.some(Permission.CLOUD_READ, lambda control: control.clouds())
    return page(
        "list.html",
        ask.visit,
        title=kind.title,
        here=kind.path,
        clouds=in_clouds or (),
        cloud=cloud,
        making=making if making is not None and ask.may(making.permission) else None,
        same=urlencode(same),
        **values,
    )


async def thing_page(
    ask: Ask, kind: Kind, ref: Ref, cloud: Ref | None, *, problem: SupercloudError | None = None
) -> Response:
    """`problem`: with what was asked of it just now."""
    view = await kind.shown(ask.under(kind.read), ref, cloud)
    where = href(kind.path, view.id)
    values: dict[str, Any] = {
        "where": where,
        "facts": [(title, cell) for title, cell in kind.facts(view) if cell is not NOTHING],
        "actions": offered(ask, kind.path, view),
        "beside": [one for one in kind.beside if ask.may(one.needs)],
        "sections": await kind.sections(ask, view),
        "live": Live(path=where, kinds=kind.watched, stream=kind.stream),
    }
    if ask.visit.live:
        return part("thing_part.html", ask.visit, **values)
    status = problem.http_status if problem is not None else 200
    called = kind.called(view)
    return page(
        "thing.html",
        ask.visit,
        title=f"{kind.one} {called}",
        here=kind.path,
        status=status,
        problem=problem,
        crumb=(f"/web/{kind.path}", kind.title),
        heading=called,
        **values,
    )
