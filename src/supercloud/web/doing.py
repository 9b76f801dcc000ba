"""The forms by which things are made and something is done to them, and what they send.

What needs nothing said is done by a button on the thing's page; everything else has a page with a form, which
keeps what was filled in when it is refused. What takes something away is asked for again there, by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import APIRouter, Path
from starlette.responses import RedirectResponse, Response

from supercloud.api.things import InCloud, RefPath
from supercloud.model.errors import InvalidInput, NotFound, SupercloudError, Unauthenticated
from supercloud.model.permissions import Permission
from supercloud.services.requests import Ref
from supercloud.services.views import OperationView
from supercloud.web.actions import ACTIONS
from supercloud.web.ask import Ask, Asking
from supercloud.web.deed import Action, Making
from supercloud.web.forms import Field, Form, filled, maybe, written
from supercloud.web.grid import href
from supercloud.web.kinds import KINDS
from supercloud.web.making import MAKINGS
from supercloud.web.pages import page
from supercloud.web.views import KindPath, thing_page

#: Where the thing is named again that something is taken away from.
_SURE = "sure"
_MakingPath = Annotated[str, Path(pattern="^(" + "|".join(MAKINGS) + ")$")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """A form on a page. `back`: where it was come from."""

    path: str
    back: str
    origin: str
    button: str
    fields: Sequence[Field]
    hidden: dict[str, str] = field(default_factory=dict)
    loses: str = ""
    grave: bool = False


def router() -> APIRouter:
    """Of everything in ACTIONS and MAKINGS."""
    found = APIRouter()

    @found.get("/web/new/{path}")
    async def new(ask: Asking, path: _MakingPath, cloud: InCloud = None) -> Response:
        ask.under(MAKINGS[path].permission)
        return await _new(ask, MAKINGS[path], cloud or None, {})

    @found.post("/web/new/{path}")
    async def make(ask: Asking, path: _MakingPath) -> Response:
        making, form = MAKINGS[path], ask.visit.form
        try:
            made = await making.ask(ask.under(making.permission), form)
        except Unauthenticated:
            raise
        except SupercloudError as error:
            return await _new(ask, making, maybe(form, "cloud"), form, problem=error)
        return _to("operations" if isinstance(made, OperationView) else path, made)

    @found.get("/web/{path}/{ref}/{action}")
    async def sheet(ask: Asking, path: KindPath, ref: RefPath, action: str) -> Response:
        asked = _action(path, action)
        ask.under(asked.permission)
        if not asked.has_page:
            return _to(path, ref)
        return await _sheet(ask, asked, await _view(ask, path, ref), {})

    @found.post("/web/{path}/{ref}/{action}")
    async def act(ask: Asking, path: KindPath, ref: RefPath, action: str) -> Response:
        asked, form = _action(path, action), ask.visit.form
        control = ask.under(asked.permission)
        view = await _view(ask, path, ref) if asked.has_page else None
        try:
            if asked.loses and written(form, _SURE) != KINDS[path].called(view):
                raise InvalidInput(f"nothing was done: say that {KINDS[path].called(view)} is meant")
            done = await asked.ask(control, ref, form)
        except Unauthenticated:
            raise
        except SupercloudError as error:
            if view is None:
                return await thing_page(ask, KINDS[path], ref, None, problem=error)
            return await _sheet(ask, asked, view, form, problem=error)
        if done is None:
            return RedirectResponse(f"/web/{path}", status_code=303)
        return _to("operations", done) if asked.loses and isinstance(done, OperationView) else _to(path, ref)

    return found


def _to(path: str, thing: Any) -> Response:
    return RedirectResponse(href(path, thing if isinstance(thing, str) else thing.id), status_code=303)


def _action(path: str, name: str) -> Action:
    """
    Raises:
        NotFound: there is none of that name.
    """
    found = ACTIONS.get((path, name))
    if found is None:
        raise NotFound(f"there is no action {name} of {path}")
    return found


async def _view(ask: Ask, path: str, ref: Ref) -> Any:
    return await KINDS[path].shown(ask.under(KINDS[path].read), ref, None)


async def _sheet(
    ask: Ask, action: Action, view: Any, form: Form, *, problem: SupercloudError | None = None
) -> Response:
    """Of something to be done to a thing."""
    kind = KINDS[action.of]
    called = f"{kind.one} {kind.called(view)}"
    back = href(kind.path, view.id)
    fields = filled(await action.fields(ask, view), form) if action.fields else ()
    shown = Sheet(
        path=f"{back}/{action.name}",
        back=back,
        origin=kind.called(view),
        button=f"{action.title} {called}" if action.loses else action.title,
        fields=fields,
        hidden={_SURE: kind.called(view)} if action.loses else {},
        loses=action.loses,
        grave=action.grave or bool(action.loses),
    )
    cloud = getattr(view, "cloud", None) if kind.in_cloud else None
    title = f"{action.title} {called}" + (f" of cloud {cloud}" if cloud and kind.path != "trust" else "")
    return _page(ask, kind.path, title, shown, problem)


async def _new(
    ask: Ask, making: Making, cloud: Ref | None, form: Form, *, problem: SupercloudError | None = None
) -> Response:
    """Of a new thing. First its cloud is chosen."""
    kind = KINDS[making.of]
    clouds = (
        await ask.some(Permission.CLOUD_READ, lambda control: control.clouds()) if making.in_cloud else []
    )
    chosen = cloud or (clouds[0].id if len(clouds) == 1 else None)
    fields: Sequence[Field] | None = None
    if chosen is not None or not making.in_cloud:
        try:
            fields = filled(await making.fields(ask, chosen), form)
        except Unauthenticated:
            raise
        except SupercloudError as error:
            problem, chosen = problem or error, None
    path = f"/web/new/{making.of}"
    shown = None
    if fields is not None:
        shown = Sheet(
            path=path,
            back=f"/web/{making.of}",
            origin=kind.title,
            button=making.button,
            fields=fields,
            hidden={"cloud": chosen} if chosen else {},
        )
    choose = {"clouds": clouds, "cloud": chosen, "choose": path} if making.in_cloud else {}
    return _page(ask, kind.path, making.title, shown, problem, **choose)


def _page(
    ask: Ask, here: str, title: str, shown: Sheet | None, problem: SupercloudError | None, **choose: Any
) -> Response:
    status = problem.http_status if problem is not None else 200
    values = {"sheet": shown, "choose": None, **choose}
    crumb = (f"/web/{here}", KINDS[here].title) if shown is None else (shown.back, shown.origin)
    return page(
        "sheet.html", ask.visit, title=title, here=here, status=status, problem=problem, crumb=crumb, **values
    )
