"""Evidence in the page: what blankets keep of instances, sealed to their owner, where it is, how it is
fetched and opened, and removing it.

A browser has no key: it is shown what blankets say of what they keep, and opening is the command line's.
"""

from __future__ import annotations

from typing import Final

from supercloud.api.pages import TIMED
from supercloud.model.kinds import Kind as Changed
from supercloud.model.names import Id
from supercloud.model.permissions import Permission
from supercloud.services.incident_views import AwayView, EvidenceView
from supercloud.services.northbound import Northbound
from supercloud.services.pages import Key, Page, Part
from supercloud.services.requests import Ref
from supercloud.web import cells
from supercloud.web.ask import Ask
from supercloud.web.cells import Cell
from supercloud.web.deed import Action
from supercloud.web.forms import Field, Form, checked, written
from supercloud.web.kind import Facts, Kind, Section
from supercloud.web.kind import named as titled
from supercloud.web.tones import Tone

#: How long a page waits for a blanket (seconds).
PATIENCE_S: Final = 4.0
_P = Permission
_COLUMNS = ("Evidence", "Kept", "Memory", "File", "State", "Of incident", "Blanket")
_KEY = "A browser has no key: yours is in your key store, by which the command line opens what it fetched."


def _called(view: EvidenceView) -> str:
    return f"memory of {view.instance_name or view.instance}, {cells.said(view.at)}"


def _state(view: EvidenceView) -> Cell:
    if view.whole:
        return cells.toned("whole", Tone.GOOD)
    return cells.toned("torn: the instance ran meanwhile", Tone.WARN)


def _row(view: EvidenceView | AwayView) -> tuple[Cell, ...]:
    """What a blanket keeps that is away is not known, and that is said."""
    if isinstance(view, AwayView):
        blanket = cells.link("blankets", view.blanket, at=view.blanket_id)
        unknown = cells.text(f"what {view.blanket} keeps is not known: {view.why}")
        return (unknown, *(cells.NOTHING for _ in _COLUMNS[2:]), blanket)
    return (
        titled("evidence", view, f"memory of {view.instance_name or view.instance}"),
        cells.moment(view.at),
        cells.size(view.memory_bytes),
        cells.size(view.size_bytes),
        _state(view),
        cells.link("incidents", view.title, at=view.incident),
        cells.link("blankets", view.blanket, at=view.blanket_id),
    )


def table(found: list[EvidenceView], *, nothing: str, note: str = "") -> Section:
    """Of a page that is about something else."""
    return Section(
        title="Evidence",
        caption="What is kept, sealed to its owner",
        columns=_COLUMNS,
        rows=[_row(one) for one in found],
        nothing=nothing,
        note=note,
    )


def _facts(view: EvidenceView) -> Facts:
    instance = view.instance_name
    return [
        ("Of instance", cells.code(view.instance) if instance is None else _instance(view, instance)),
        ("Of incident", cells.link("incidents", view.title, at=view.incident)),
        ("Where it is", cells.link("blankets", view.blanket, at=view.blanket_id)),
        ("Kept", cells.moment(view.at)),
        ("State", _state(view)),
        ("Memory, as written to", cells.size(view.memory_bytes)),
        ("File", cells.size(view.size_bytes)),
        ("SHA-256, as signed", cells.code(view.digest)),
        ("Signed", cells.text("by its blanket; your key store checks that as you open it")),
        ("Id", cells.code(view.id)),
    ]


def _instance(view: EvidenceView, name: str) -> Cell:
    return cells.link("instances", name, at=view.instance)


async def _sections(_ask: Ask, view: EvidenceView) -> list[Section]:
    file = f"{view.instance_name or view.instance}-{int(view.at)}"
    fetch = f"supercloud incident evidence fetch {view.incident} {view.id} --to {file}.evidence"
    said = (
        ("fetch it, sealed as it is", fetch),
        ("open it: its memory and what was known", f"supercloud incident evidence open {file}.evidence"),
        (
            "scan it, and write nothing in clear",
            f"supercloud incident evidence scan {file}.evidence --yara rules/",
        ),
    )
    return [
        Section(
            title="Fetch and open it",
            caption="Commands that fetch and open it",
            columns=("To", "Say where your key is"),
            rows=[(cells.text(what), cells.code(command)) for what, command in said],
            nothing="",
            note=f"{_KEY} As it is opened, the same SHA-256 is said there, if nothing was changed.",
        )
    ]


async def _listed(control: Northbound, cloud: Ref | None, page: Page) -> Part[EvidenceView | AwayView]:
    """The newest first; what is not known comes before all that is."""
    kept = await control.kept(cloud=cloud)
    rest = [one for one in kept.evidence if page.after is None or _key(one) < page.after]
    away = kept.away if page.after is None else ()
    found: Part[EvidenceView | AwayView] = Part([*away, *rest[: page.limit]])
    if page.limit is not None and len(rest) > page.limit:
        found.after = _key(rest[page.limit - 1])
    return found


def _key(view: EvidenceView) -> Key:
    return (view.at, view.id)


async def _which(_ask: Ask, view: EvidenceView) -> tuple[Field, ...]:
    """The API removes it as a part of its incident."""
    return (Field(name="incident", label="", kind="hidden", value=view.incident),)


async def _remove(control: Northbound, ref: Ref, form: Form) -> None:
    incident: Id = checked(Id, written(form, "incident"), "incident")
    await control.remove_evidence(incident, ref)


EVIDENCE_KIND = Kind(
    path="evidence",
    one="evidence",
    title="Evidence",
    read=_P.INCIDENT_READ,
    key=TIMED,
    watched=(Changed.INCIDENT, Changed.REPORT),  # that some is kept, and that some was removed
    columns=_COLUMNS,
    listed=_listed,
    shown=lambda control, ref, _: control.kept_one(ref),
    row=_row,
    facts=_facts,
    sections=_sections,
    called=_called,
)
EVIDENCE_ACTIONS = (
    Action("evidence", "remove", "Remove", _P.INCIDENT_EVIDENCE, _remove, fields=_which,
        loses="It is deleted where it is, for good: there is no other copy but those that were fetched."),
)  # fmt: skip
