"""Security levels in the page: what a thing's level means, who can give it, and giving it another one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Path, Query
from starlette.responses import Response

from supercloud.api.things import InCloud, RefPath
from supercloud.model.errors import SupercloudError, Unauthenticated
from supercloud.model.levels import Level, Thing
from supercloud.model.permissions import Permission
from supercloud.services.level_views import LevelChange, LevelView, PlaceView, SetLevel
from supercloud.services.requests import Ref
from supercloud.web import cells
from supercloud.web.ask import Ask, Asking
from supercloud.web.cells import Cell
from supercloud.web.forms import Field, chosen, maybe, request_of, ticked
from supercloud.web.grid import href
from supercloud.web.pages import page
from supercloud.web.tones import Tone


@dataclass(frozen=True, slots=True)
class _Levelled:
    """What has a level, by its path: which permissions the API needs to read and to change it."""

    thing: Thing
    read: Permission
    write: Permission


LEVELLED: Mapping[str, _Levelled] = {
    "instances": _Levelled(Thing.INSTANCE, Permission.VM_READ, Permission.VM_RUN),
    "networks": _Levelled(Thing.NETWORK, Permission.NETWORK_READ, Permission.NETWORK_WRITE),
    "volumes": _Levelled(Thing.VOLUME, Permission.VOLUME_READ, Permission.VOLUME_WRITE),
}
_LevelledPath = Annotated[str, Path(pattern="^(" + "|".join(LEVELLED) + ")$")]
RULE_COLUMNS = ("Rule", "From level", "Because of")
PLACE_COLUMNS = ("Rule", "Because of", "Held", "By what, or why not")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """As it is shown: its verdict, and each rule."""

    name: str
    says: Cell
    rows: list[tuple[Cell, ...]]


def router() -> APIRouter:
    """To look at it, as if it had another one too; and to change it. A lower one has to be meant, as on the
    command line; what has to move because of a change is said."""
    found = APIRouter()

    @found.get("/web/{path}/{ref}/level")
    async def explain(
        ask: Asking,
        path: _LevelledPath,
        ref: RefPath,
        cloud: InCloud = None,
        as_if: Annotated[Level | None, Query()] = None,
    ) -> Response:
        return await _page(ask, path, ref, cloud, as_if)

    @found.post("/web/{path}/{ref}/level")
    async def change(ask: Asking, path: _LevelledPath, ref: RefPath) -> Response:
        what, form = LEVELLED[path], ask.visit.form
        control = ask.under(what.write)
        try:
            asked = request_of(SetLevel, {"level": maybe(form, "level"), "lower": ticked(form, "lower")})
            changed = await control.set_level(what.thing, ref, asked)
        except Unauthenticated:
            raise
        except SupercloudError as error:
            return await _page(ask, path, ref, None, None, problem=error)
        return await _page(ask, path, ref, None, None, changed=changed)

    return found


async def _page(
    ask: Ask,
    path: str,
    ref: Ref,
    cloud: Ref | None,
    level: Level | None,
    *,
    changed: LevelChange | None = None,
    problem: SupercloudError | None = None,
) -> Response:
    what = LEVELLED[path]
    view = await ask.under(what.read).explain_level(what.thing, ref, level=level, cloud=cloud)
    back = href(path, view.id)
    choices = [(one, one) for one in Level]
    return page(
        "level.html",
        ask.visit,
        title=f"Security level of {view.thing} {view.name}",
        here=path,
        crumb=(back, view.name),
        status=problem.http_status if problem is not None else 200,
        problem=problem,
        view=view,
        path=f"{back}/level",
        explain=chosen("as_if", "As if it were", choices, value=view.level),
        change=_change(choices, view) if ask.may(what.write) else (),
        notices=_notices(changed) if changed else [],
        rule_columns=RULE_COLUMNS,
        rules=[(cells.text(one.says), cells.text(one.since), cells.text(one.of)) for one in view.rules],
        place_columns=PLACE_COLUMNS,
        places=[_place(one, {rule.rule: rule.says for rule in view.rules}) for one in view.places],
    )


def _change(choices: list[tuple[Level, Level]], view: LevelView) -> tuple[Field, ...]:
    return (
        chosen("level", "From now on", choices, value=view.level),
        Field(name="lower", label="even if that is lower than it is", kind="box"),
    )


def _notices(change: LevelChange) -> list[str]:
    was = "" if change.was is change.level else f", and was {change.was}"
    return [
        f"{change.thing} {change.name} is {change.level}{was}",
        *(f"{one.thing} {one.name} in {one.blanket} has to be moved: {one.why}" for one in change.must_move),
    ]


def _place(view: PlaceView, says: Mapping[str, str]) -> Place:
    where = f"{view.blanket} in {view.provider}" if view.blanket else f"a new blanket in {view.provider}"
    verdict = "can hold all of it" if view.allowed else f"cannot: {view.why}"
    return Place(
        name=f"{where} (it is here)" if view.here else where,
        says=Cell(text=verdict, tone=Tone.GOOD if view.allowed else Tone.BAD),
        rows=[
            (
                cells.text(says.get(one.rule, one.rule)),
                cells.text(one.of),
                Cell(text="held", tone=Tone.GOOD) if one.held else Cell(text="not given", tone=Tone.BAD),
                cells.text(one.by or one.why),
            )
            for one in view.rules
        ],
    )
