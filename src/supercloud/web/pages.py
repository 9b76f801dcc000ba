"""Pages out of templates. Whatever is put into one is escaped; nothing in one decides anything."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import HTMLResponse

from supercloud.model.errors import SupercloudError
from supercloud.web.gate import CSRF_FIELD, Visit
from supercloud.web.kinds import KINDS


@cache
def _templates() -> Environment:
    return Environment(
        loader=PackageLoader("supercloud.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )


def page(
    template: str,
    visit: Visit,
    *,
    title: str,
    status: int = 200,
    here: str = "",
    problem: SupercloudError | None = None,
    crumb: tuple[str, str] | None = None,
    heading: str = "",
    **values: Any,
) -> HTMLResponse:
    """`here`: where in the navigation. `problem`: said at the top. `crumb`: the path and the name of the page
    above. `heading`: instead of the title."""
    kinds = [one for one in KINDS.values() if visit.may(one.read)]
    shown = {
        "title": title,
        "heading": heading,
        "crumb": crumb,
        "here": here,
        "problem": problem,
        "kinds": kinds,
    }
    shown |= _of(visit) | values
    return HTMLResponse(_templates().get_template(template).render(shown), status)


def part(template: str, visit: Visit, *, status: int = 200, **values: Any) -> HTMLResponse:
    """A part of a page, which takes the place of the one that is there."""
    return HTMLResponse(_templates().get_template(template).render({**_of(visit), **values}), status)


def failed(visit: Visit, error: SupercloudError) -> HTMLResponse:
    """The page, or the part of one, that says what was wrong and what to do."""
    if visit.live:
        return part("problem.html", visit, status=error.http_status, problem=error)
    return page("failed.html", visit, title="That did not work", status=error.http_status, problem=error)


def foreign_files() -> Mapping[str, bool]:
    """What npm fetched, and whether it is there (scripts/fetch-front-end)."""
    folder = resources.files("supercloud.web") / "foreign"
    return {one: (folder / one).is_file() for one in FOREIGN}


FOREIGN = ("htmx.min.js", "sse.min.js", "xterm.js", "xterm.css")


def _of(visit: Visit) -> dict[str, Any]:
    who = visit.bearer.known.name if visit.bearer is not None else None
    return {"csrf": visit.csrf, "csrf_field": CSRF_FIELD, "who": who}
