"""What an attack leaves to be read: the attackers' own words on consoles, timelines of incidents. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """One round of nmap: when it began (by its guest's clock), which version it is, how many hosts of the
    network it found up, and ports open."""

    began: float
    nmap: str
    up: int
    open: int

    @property
    def says(self) -> str:
        return f"nmap {self.nmap}: {self.up} hosts up, {self.open} ports open"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hidden:
    """Of a process that hides, by its guest: since when, whether ps shows it, how often it has worked by
    then. `problem`: why it could not hide."""

    hidden_at: float
    at: float
    pid: int
    shown: bool
    worked: int
    problem: str

    @property
    def says(self) -> str:
        shown = "shows" if self.shown else "does not show"
        return f"ps {shown} process {self.pid}, which has worked {self.worked} times"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """One round of a worm, after `hops` hosts: when it came, when the round was, and which addresses took a
    copy. Its first line is of its coming: a round that ends as it begins."""

    arrived: float
    hops: int
    began: float
    ended: float
    taken: list[str]

    @property
    def says(self) -> str:
        if self.ended == self.began:
            return f"the worm is here, after {self.hops} hosts"
        return f"the worm went over its network: {', '.join(self.taken) or 'nobody'} took a copy"


def marked(log: str, mark: str, kind: type[T]) -> list[T]:
    """The lines of a console's log that begin with a mark; one that was cut is left out."""
    found = []
    for line in log.splitlines():
        _, there, text = line.partition(f"{mark} ")
        if there:
            try:
                found.append(kind(**json.loads(text)))
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
