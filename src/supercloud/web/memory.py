"""An instance's memory in its page: what rules of YARA's match in it, what is kept of it, and by which
policies of its blanket's; and the incidents that are about it.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

from supercloud.model.errors import SupercloudError, Unauthenticated
from supercloud.model.names import Id
from supercloud.model.permissions import Permission
from supercloud.ports.scans import ASKED, SCANNED
from supercloud.security.detectors import CANNOT_SCAN, YARA_RULE
from supercloud.services.incident_views import EvidenceView, IncidentView, SeenView
from supercloud.services.pages import Page
from supercloud.services.policy_views import PolicyView
from supercloud.services.views import InstanceView, ReportView
from supercloud.web import cells
from supercloud.web.ask import Ask
from supercloud.web.cells import Cell
from supercloud.web.evidence import PATIENCE_S, table
from supercloud.web.kind import Section
from supercloud.web.kind import named as titled
from supercloud.web.tones import Tone

_P = Permission
#: Of its cloud's incidents, so many are looked through; of those that are about it, so many shown; and of
#: those with a match, so many opened.
_NEWEST, _SHOWN, _OPENED = Page(limit=100), 10, 5
#: Of its blanket's reports about scans, so many; and how long a scan takes at most (seconds).
_REPORTS, _LONGEST_S = 100, 3600.0


@dataclass(frozen=True, slots=True)
class _There:
    """What its blanket says; `why`: that it does not."""

    policy: PolicyView | None = None
    kept: tuple[EvidenceView, ...] = ()
    why: str = ""


async def of_instance(ask: Ask, view: InstanceView) -> list[Section]:
    """What its page has about its memory, and the incidents before it."""
    if not ask.may(_P.INCIDENT_READ):
        return []
    control = ask.under(_P.INCIDENT_READ)
    found = await control.incidents(cloud=view.cloud_id, page=_NEWEST)
    about = [one for one in found if view.id in one.objects]
    there = await _there(ask, view)
    matches = await _matches(ask, view.id, about)
    scans = [_scans(view, there, matches), *await _asked_for(ask, view)]
    return [_incidents(about), *scans, _evidence(view, there)]


def _incidents(about: list[IncidentView]) -> Section:
    return Section(
        title="Incidents",
        caption="Incidents about it, the newest first",
        columns=("Incident", "State", "Severity", "Found by", "Opened"),
        rows=[
            (
                titled("incidents", one, one.title),
                cells.state(one.state),
                cells.state(one.severity),
                cells.many(one.rules),
                cells.moment(one.opened_at),
            )
            for one in about[:_SHOWN]
        ],
        nothing="None of the newest is about it.",
        more=len(about) > _SHOWN,
    )


# ---------------------------------------------------------------- what its blanket says


async def _there(ask: Ask, view: InstanceView) -> _There:
    if view.blanket_id is None:
        return _There(why="it is in no blanket")
    try:
        async with asyncio.timeout(PATIENCE_S):
            policy = await _policy(ask, view.blanket_id)
            kept = await ask.under(_P.INCIDENT_READ).kept(blanket=view.blanket_id)
    except Unauthenticated:
        raise
    except TimeoutError:
        return _There(why=f"blanket {view.blanket} does not answer")
    except SupercloudError as error:
        return _There(why=error.message)
    why = "".join(f"blanket {one.blanket}: {one.why}" for one in kept.away)
    return _There(policy, tuple(one for one in kept.evidence if one.instance == view.id), why)


async def _policy(ask: Ask, blanket: Id) -> PolicyView | None:
    if not ask.may(_P.POLICY_READ):
        return None
    found: PolicyView = await ask.under(_P.POLICY_READ).policy(blanket)
    return found


def _doing(policy: PolicyView, action: str, target: str) -> str:
    """The names of the policies that do this."""
    policies: dict[str, Any] = policy.policy.get("policies", {})
    does = {"action": action, "target": target}
    return ", ".join(
        name
        for name, one in policies.items()
        if any(does.items() <= each.items() for each in one.get("do", ()))
    )


def _evidence(view: InstanceView, there: _There) -> Section:
    note = ""
    if there.policy is not None:
        keeps = _doing(there.policy, "copy", "memory")
        note = (
            f"Its blanket {view.blanket} keeps it by policy, as it reacts: {keeps}."
            if keeps
            else f"No policy of its blanket {view.blanket} keeps any: one with copy of memory does."
        )
    nothing = f"Not known: {there.why}." if there.why else f"Its blanket {view.blanket} keeps nothing of it."
    return table(list(there.kept), nothing=nothing, note=note)


# ---------------------------------------------------------------- scans


async def _matches(ask: Ask, instance: Id, about: list[IncidentView]) -> list[tuple[IncidentView, SeenView]]:
    """What scans said of it, the newest first."""
    told = [one for one in about if any(map(_of_scan, one.rules))]
    found = []
    for one in told[:_OPENED]:
        detail = await ask.under(_P.INCIDENT_READ).incident(one.id)
        found += [(one, seen) for seen in detail.seen if seen.object == instance and _of_scan(seen.rule)]
    return sorted(found, key=lambda each: each[1].last, reverse=True)


def _of_scan(rule: str) -> bool:
    return rule.startswith(YARA_RULE) or rule == CANNOT_SCAN


def _scans(view: InstanceView, there: _There, matches: list[tuple[IncidentView, SeenView]]) -> Section:
    return Section(
        title="Scans of its memory",
        caption="What rules of YARA's matched in its memory, the newest first",
        columns=("Rule", "Times told", "First", "Last", "In incident"),
        rows=[_match(incident, seen) for incident, seen in matches],
        nothing="No scan has told of anything.",
        note=_scanned(view, there),
    )


def _match(incident: IncidentView, seen: SeenView) -> tuple[Cell, ...]:
    rule = seen.rule.removeprefix(YARA_RULE)
    return (
        cells.text("a scan failed" if rule == CANNOT_SCAN else rule),
        cells.number(seen.many),
        cells.moment(seen.first),
        cells.moment(seen.last),
        titled("incidents", incident, incident.title),
    )


async def _asked_for(ask: Ask, view: InstanceView) -> list[Section]:
    """Scans that somebody asked for: who, and what each came to."""
    if view.blanket_id is None or not ask.may(_P.BLANKET_READ):
        return []
    control = ask.under(_P.BLANKET_READ)
    asked, ended = [
        [
            one
            for one in await control.reports(blanket=view.blanket_id, page=Page(limit=_REPORTS, name=kind))
            if one.data.get("instance") == view.id
        ]
        for kind in (ASKED, SCANNED)
    ]
    ends = {one.data.get("scan"): one for one in ended}
    return [
        Section(
            title="Scans that were asked for",
            caption="Scans of its memory that were asked for, the newest first",
            columns=("Asked", "By", "Ended", "Came to"),
            rows=[_ended(one, ends.get(one.data.get("scan"))) for one in asked[:_SHOWN]],
            nothing="None was.",
        )
    ]


def _ended(asked: ReportView, end: ReportView | None) -> tuple[Cell, ...]:
    """What its agent was to tell and has not, for as long as no scan lasts, is not waited for."""
    if end is None:
        lost = time.time() - asked.at > _LONGEST_S
        came = cells.toned("not told", Tone.OFF) if lost else cells.toned("under way", Tone.BUSY)
    elif why := str(end.data.get("why") or ""):
        came = cells.toned(f"failed: {why}", Tone.BAD)
    elif matched := end.data.get("matched"):
        came = cells.toned(f"rules that matched: {matched}", Tone.WARN)
    else:
        came = cells.toned("nothing matched", Tone.GOOD)
    by = cells.text(asked.data.get("by"))
    return cells.moment(asked.at), by, cells.moment(None if end is None else end.at), came


def _scanned(view: InstanceView, there: _There) -> str:
    """Whether it is, and how that is changed."""
    if there.why:
        return f"Whether it is scanned is not known: {there.why}."
    if there.policy is None:
        return ""
    if there.policy.yara:
        return f"Its blanket {view.blanket} scans it by its YARA rules, every ten minutes or more seldom."
    return f"It is not scanned: its blanket {view.blanket} has no YARA rules (supercloud policy set --yara)."
