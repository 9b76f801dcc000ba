"""Incidents of blankets' loops in the page: what was seen, decided, done and proven; closing one, and
answering a reaction that asks first.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from supercloud.api.pages import TIMED
from supercloud.model.errors import SupercloudError, Unauthenticated
from supercloud.model.findings import ObjectKind
from supercloud.model.incidents import IncidentState
from supercloud.model.kinds import Kind as Changed
from supercloud.model.names import Id, Name
from supercloud.model.permissions import Permission
from supercloud.model.reactions import ReactionState
from supercloud.services.incident_views import (
    AnswerIt,
    CloseIt,
    EntryView,
    IncidentDetail,
    IncidentView,
    ReactionView,
    SeenView,
)
from supercloud.services.northbound import Northbound
from supercloud.services.requests import Ref
from supercloud.web import cells, evidence
from supercloud.web.ask import Ask
from supercloud.web.cells import Cell
from supercloud.web.deed import Action, fixed
from supercloud.web.forms import Field, Form, checked, chosen, ticked, written
from supercloud.web.kind import Facts, Kind, Section
from supercloud.web.kind import named as titled

_P = Permission


@dataclass(frozen=True, slots=True)
class Whole:
    """One, as its page has it."""

    detail: IncidentDetail

    @property
    def id(self) -> Id:
        return self.detail.incident.id

    @property
    def state(self) -> IncidentState:
        return self.detail.incident.state

    @property
    def cloud(self) -> Name:
        return self.detail.incident.cloud

    @property
    def asks(self) -> tuple[ReactionView, ...]:
        """The reactions that wait for an answer."""
        return tuple(one for one in self.detail.reactions if one.state is ReactionState.ASKED)


async def _whole(control: Northbound, ref: Ref) -> Whole:
    return Whole(await control.incident(ref))


# ---------------------------------------------------------------- what is shown


def _blanket(view: IncidentView) -> Cell:
    if view.horizontal:
        return cells.text("over all of the cloud's")
    if view.blanket is None:
        return cells.code(view.blanket_id)
    return cells.link("blankets", view.blanket, at=view.blanket_id)


def _row(view: IncidentView) -> tuple[Cell, ...]:
    return (
        titled("incidents", view, view.title),
        cells.state(view.state),
        cells.state(view.severity),
        cells.many(view.layers),
        cells.text(view.cloud),
        _blanket(view),
        cells.number(view.findings),
        cells.moment(view.opened_at),
    )


def _facts(whole: Whole) -> Facts:
    view = whole.detail.incident
    return [
        ("State", cells.state(view.state)),
        ("Severity", cells.state(view.severity)),
        ("Layers", cells.many(view.layers)),
        ("Cloud", cells.link("clouds", view.cloud, at=view.cloud_id)),
        ("Blanket", _blanket(view)),
        ("Findings", cells.number(view.findings)),
        ("Opened", cells.moment(view.opened_at)),
        ("Last seen", cells.moment(view.last_at)),
        ("Closed", cells.moment(view.closed_at)),
    ]


async def _sections(ask: Ask, whole: Whole) -> list[Section]:
    detail = whole.detail
    return [_timeline(detail), _reactions(detail), _seen(detail), await _kept(ask, detail.incident)]


def _timeline(detail: IncidentDetail) -> Section:
    """From the first finding to the proof. What its middle does not have any more is said where it was."""
    rows = [_entry(one) for one in detail.timeline]
    if detail.left_out:
        gap = cells.text(f"{detail.left_out} lines were not kept")
        rows.insert(len(rows) // 2, (cells.NOTHING, cells.NOTHING, cells.NOTHING, gap))
    return Section(
        title="Timeline",
        caption="Timeline, from the first finding to the proof",
        columns=("At", "Layer", "What", "Says"),
        rows=rows,
        nothing="Nothing is written yet.",
    )


def _entry(one: EntryView) -> tuple[Cell, ...]:
    return cells.moment(one.at), cells.text(one.layer), cells.text(one.kind), cells.text(one.says)


def _reactions(detail: IncidentDetail) -> Section:
    return Section(
        title="Decided and done",
        caption="Reactions, with the policy that decided each and why",
        columns=(
            "Reaction",
            "State",
            "Means",
            "About",
            "Policy",
            "Because of",
            "Why",
            "Decided",
            "Done",
            "Ends",
        ),
        rows=[_reaction(one, detail) for one in detail.reactions],
        nothing="No policy asks for anything because of it.",
    )


def _reaction(one: ReactionView, detail: IncidentDetail) -> tuple[Cell, ...]:
    return (
        cells.text(one.reaction),
        cells.state(one.state),
        cells.text(one.meaning),
        _named(one.about, detail),
        cells.text(one.policy),
        cells.text(one.rule),
        cells.text(one.why),
        cells.moment(one.decided_at),
        cells.moment(one.done_at),
        cells.moment(one.until),
    )


def _named(about: str, detail: IncidentDetail) -> Cell:
    """An object of the incident by its name, if it has one here; an address as it is."""
    seen = next((one for one in detail.seen if one.object == about), None)
    return cells.code(about) if seen is None else _object(seen)


def _object(one: SeenView) -> Cell:
    if one.object_kind is ObjectKind.INSTANCE and one.object_name is not None:
        return cells.link("instances", one.object_name, at=one.object)
    return cells.code(one.object)


async def _kept(ask: Ask, view: IncidentView) -> Section:
    if view.horizontal:
        return evidence.table([], nothing="Each blanket's own incident has what that keeps.")
    try:
        async with asyncio.timeout(evidence.PATIENCE_S):
            found = await ask.under(_P.INCIDENT_READ).evidence(view.id)
    except Unauthenticated:
        raise
    except TimeoutError:
        return evidence.table([], nothing="Not known: its blanket does not answer.")
    except SupercloudError as error:
        return evidence.table([], nothing=f"Not known: {error.message}.")
    return evidence.table(found, nothing="Its blanket keeps nothing about it.")


def _seen(detail: IncidentDetail) -> Section:
    return Section(
        title="What was seen",
        caption="What was seen, by rule and object",
        columns=("Rule", "Layer", "About", "Times", "First", "Last"),
        rows=[
            (
                cells.text(one.rule),
                cells.text(one.layer),
                _object(one),
                cells.number(one.many),
                cells.moment(one.first),
                cells.moment(one.last),
            )
            for one in detail.seen
        ],
        nothing="Nothing was seen.",
    )


# ---------------------------------------------------------------- what is done


async def _asking(_ask: Ask, whole: Whole) -> tuple[Field, ...]:
    waiting = [
        (one.id, f"{one.reaction} about {_named(one.about, whole.detail).text}, by policy {one.policy}")
        for one in whole.asks
    ]
    return (chosen("answered", "Reaction", waiting, required=True),)


async def _answer(control: Northbound, ref: Ref, form: Form, *, yes: bool) -> object:
    reaction: Id = checked(Id, written(form, "answered"), "reaction")
    return await control.answer_reaction(ref, reaction, AnswerIt(yes=yes))


def _is_open(whole: Whole) -> bool:
    return whole.state is not IncidentState.CLOSED


def _waits(whole: Whole) -> bool:
    return bool(whole.asks)


INCIDENT_KIND = Kind(
    path="incidents",
    one="incident",
    title="Incidents",
    read=_P.INCIDENT_READ,
    key=TIMED,
    watched=(Changed.INCIDENT,),
    columns=("Incident", "State", "Severity", "Layers", "Cloud", "Blanket", "Findings", "Opened"),
    listed=lambda control, cloud, page: control.incidents(cloud=cloud, page=page),
    shown=lambda control, ref, _: _whole(control, ref),
    row=_row,
    facts=_facts,
    sections=_sections,
    called=lambda whole: whole.detail.incident.title,
)
INCIDENT_ACTIONS = (
    Action("incidents", "close", "Close", _P.INCIDENT_CLOSE,
        lambda control, ref, form: control.close_incident(ref, CloseIt(undo=ticked(form, "undo"))),
        when=_is_open,
        fields=fixed(Field(name="undo", label="undo what is in force because of it", kind="box"))),
    Action("incidents", "allow", "Allow", _P.INCIDENT_ANSWER,
        lambda control, ref, form: _answer(control, ref, form, yes=True), when=_waits, fields=_asking),
    Action("incidents", "refuse", "Refuse", _P.INCIDENT_ANSWER,
        lambda control, ref, form: _answer(control, ref, form, yes=False), when=_waits, fields=_asking),
)  # fmt: skip
