"""`demo attack` itself, with doubles of what it attacks: how it ends when something goes wrong."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from supercloud.cli.demo import attack, policies
from supercloud.cli.demo.attack import Attack
from supercloud.cli.demo.attacks import domain
from supercloud.cli.demo.stage import NotContained, Outcome, Stage
from supercloud.client import Place

pytestmark = pytest.mark.unit


class Control:
    """What the API lists."""

    def __init__(self, **lists: list[dict[str, Any]]) -> None:
        self.lists = lists
        self.closed: list[tuple[str, bool]] = []

    def all(self, path: str, *, open_only: bool = False, **_: object) -> list[dict[str, Any]]:
        closed = {one for one, _ in self.closed} if open_only else set()
        found = self.lists.get(path.strip("/"), [])
        return [copy.deepcopy(one) for one in found if one["id"] not in closed]

    def get(self, path: str, **_: object) -> dict[str, Any]:
        _, kind, identity = path.split("/")
        return next(one["whole"] for one in self.lists[kind] if one["id"] == identity)

    def post(self, path: str, body: dict[str, bool], **_: object) -> None:
        self.closed.append((path.split("/")[2], body["undo"]))


def incident(identity: str, *, says: str = "seen") -> dict[str, Any]:
    whole = {
        "incident": {"id": identity, "opened_at": 5.0, "horizontal": True, "blanket": None},
        "reactions": [],
        "timeline": [{"at": 6.0, "kind": "finding", "says": says}],
    }
    return {"id": identity, "title": identity, "whole": whole}


@pytest.fixture
def control() -> Control:
    return Control(incidents=[], operations=[])


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch, control: Control) -> list[str]:
    monkeypatch.setattr(Stage, "client", lambda _: control)
    monkeypatch.setattr(Attack, "_check", lambda _: None)
    return []


@contextmanager
def as_before(events: list[str]) -> Iterator[None]:
    try:
        yield
    finally:
        events.append("policies as before")


def run(
    monkeypatch: pytest.MonkeyPatch,
    said: list[str],
    made: Callable[[Stage, Outcome], None],
    only: tuple[str, ...] = (),
) -> list[Outcome]:
    monkeypatch.setattr(policies, "in_force", lambda _: as_before(said))
    monkeypatch.setattr(attack, "ATTACKS", {"one": ("an attack", made), "two": ("another", made)})
    return Attack(Place(Path("/nowhere")), said.append).run(only)


def test_all_are_made_in_turn_or_those_that_are_named(
    monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    def made(stage: Stage, outcome: Outcome) -> None:
        outcome.moments_s["found"] = 1.0

    assert [one.name for one in run(monkeypatch, said, made)] == ["one", "two"]
    assert [one.name for one in run(monkeypatch, said, made, ("two",))] == ["two"]


def test_what_was_not_contained_is_told_with_all_that_was_seen(
    monkeypatch: pytest.MonkeyPatch, said: list[str], control: Control
) -> None:
    control.lists["incidents"].append(incident("of before"))

    def made(stage: Stage, outcome: Outcome) -> None:
        control.lists["incidents"].append(incident("of now", says="a scan"))
        raise NotContained("it went on")

    (outcome,) = run(monkeypatch, said, made, ("one",))
    assert (outcome.contained, outcome.why) == (False, "it went on")
    assert [(line.at_s, line.says) for line in outcome.timeline] == [(1.0, "finding: a scan")]
    assert control.closed == [("of before", False), ("of now", True)]
    assert said[-1] == "policies as before"


def test_ctrl_c_takes_away_what_was_made_and_says_so(
    monkeypatch: pytest.MonkeyPatch, said: list[str], control: Control
) -> None:
    def made(stage: Stage, outcome: Outcome) -> None:
        control.lists["incidents"].append(incident("of now"))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(monkeypatch, said, made)
    assert control.closed == [("of now", True)]
    assert said[1:] == [
        "an attack: given up; taking away what was made for it",
        "policies as before",
        "given up; what was made for it is taken away, and the policies are as before",
    ]


def leaving(identity: str, state: str, message: str | None = None) -> dict[str, Any]:
    return {"id": identity, "state": state, "error": message and {"message": message}}


def test_a_domain_that_is_not_left_is_told_as_soon_as_nothing_more_is_tried(
    control: Control, said: list[str]
) -> None:
    stage = Stage(Place(Path("/nowhere")), said.append)
    control.lists["operations"] = [leaving("old", "failed", "long ago"), leaving("new", "running")]
    assert domain._left(stage, {"old"}) is None
    control.lists["operations"][1] = leaving("new", "failed", "1 of 2 instances stay there: server (x)")
    with pytest.raises(NotContained, match=r"south was not left: 1 of 2 .* \(operation new\)"):
        domain._left(stage, {"old"})
