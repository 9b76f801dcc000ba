"""What an attack leaves to be read: the attacker's own words on its console, timelines of incidents. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

INTRUDER_MARK = "demo-intruder"


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One round of a scan: when it began (by its guest's clock), how many ports it tried and found open."""

    began: float
    tried: int
    open: int

    @property
    def says(self) -> str:
        return f"bash: tried {self.tried} ports of {'a' if self.open else 'the'} host, {self.open} open"


def probes(log: str) -> list[Probe]:
    """The rounds in a console's log; a line that was cut is left out."""
    found = []
    for line in log.splitlines():
        _, mark, text = line.partition(f"{INTRUDER_MARK} ")
        if mark:
            try:
                found.append(Probe(**json.loads(text)))
            except (ValueError, TypeError):
                continue
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Of an attack's timeline. `at_s`: seconds since its first act. `where`: a blanket, an instance, or
    `cloud` for what is over several blankets."""

    at_s: float
    where: str
    says: str

    def public(self) -> dict[str, Any]:
        return {**asdict(self), "at_s": round(self.at_s, 2)}


def merged(
    began: float,
    incidents: Iterable[Mapping[str, Any]],
    acts: Iterable[tuple[str, float, str]],
) -> list[Line]:
    """One timeline of incidents (services.incident_views.IncidentDetail) and of an attacker's acts, each
    where, when and what."""
    lines = [Line(at_s=at - began, where=where, says=says) for where, at, says in acts]
    for one in incidents:
        where = one["incident"]["blanket"] or "cloud"
        lines += [
            Line(at_s=entry["at"] - began, where=where, says=f"{entry['kind']}: {entry['says']}")
            for entry in one["timeline"]
        ]
    return sorted(lines, key=lambda line: line.at_s)


def is_in(detail: Mapping[str, Any], reaction: str, state: str) -> bool:
    """Whether an incident has a reaction in a state."""
    return any(one["reaction"] == reaction and one["state"] == state for one in detail["reactions"])


def done_at(detail: Mapping[str, Any], reaction: str) -> float:
    """When it was done: seconds since the epoch."""
    found: Sequence[float] = [
        one["done_at"] for one in detail["reactions"] if one["reaction"] == reaction and one["done_at"]
    ]
    return min(found)
