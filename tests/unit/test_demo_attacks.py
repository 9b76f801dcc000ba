"""`demo attack` itself, with doubles of what it attacks: how it ends when something goes wrong."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from supercloud.cli import main
from supercloud.cli.demo import attack, policies
from supercloud.cli.demo import stage as stages
from supercloud.cli.demo.attack import Attack
from supercloud.cli.demo.attacks import domain
from supercloud.cli.demo.stage import NotContained, NotMade, Outcome, Stage
from supercloud.client import Place
from supercloud.model.errors import Unavailable

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


@pytest.mark.parametrize("error", [Unavailable("no answer"), NotMade("no answer"), OSError("no answer")])
def test_one_that_could_not_be_made_is_told_and_the_others_are_made(
    monkeypatch: pytest.MonkeyPatch, said: list[str], error: Exception
) -> None:
    def made(stage: Stage, outcome: Outcome) -> None:
        if outcome.name == "one":
            raise error

    first, second = run(monkeypatch, said, made)
    assert (first.made, first.contained, first.why) == (False, False, "no answer")
    assert (second.made, second.contained, second.why) == (True, True, "")
    assert "an attack: could NOT be made: no answer" in said


def test_what_could_not_be_undone_is_told_and_the_others_are_made(
    monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    def undo(_: Stage) -> None:
        raise Unavailable("no answer")

    monkeypatch.setattr(Stage, "undo", undo)
    found = run(monkeypatch, said, lambda stage, outcome: None)
    assert [(one.made, one.contained, one.why) for one in found] == [(False, False, "no answer")] * 2


@pytest.mark.parametrize("fails", [(), ("one",), ("one", "two")])
def test_each_attack_has_an_entry_and_the_exit_status_says_whether_all_were_contained(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    said: list[str],
    fails: tuple[str, ...],
) -> None:
    def made(stage: Stage, outcome: Outcome) -> None:
        if outcome.name in fails:
            raise NotMade("no nmap")

    monkeypatch.setattr(policies, "in_force", lambda _: as_before(said))
    monkeypatch.setattr(attack, "ATTACKS", {"one": ("an attack", made), "two": ("another", made)})
    assert main.run(["demo", "attack", "-o", "json"]) == (1 if fails else 0)
    found = json.loads(capsys.readouterr().out)
    assert found["contained"] is (not fails)
    assert {one["name"]: one["why"] for one in found["attacks"]} == {
        name: "no nmap" if name in fails else "" for name in ("one", "two")
    }


def test_what_there_was_is_printed_when_the_policies_could_not_be_put_back(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], said: list[str]
) -> None:
    @contextmanager
    def not_as_before(_: Stage) -> Iterator[None]:
        yield
        raise Unavailable("no answer")

    monkeypatch.setattr(policies, "in_force", not_as_before)
    monkeypatch.setattr(attack, "ATTACKS", {"one": ("an attack", lambda stage, outcome: None)})
    assert main.run(["demo", "attack", "-o", "json"]) == Unavailable.exit_status
    found = json.loads(capsys.readouterr().out)
    assert found["contained"] is False and [one["contained"] for one in found["attacks"]] == [True]


def test_who_is_away_for_a_moment_is_asked_again_and_waiting_is_told(
    monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    now = 0.0
    monkeypatch.setattr(stages.time, "monotonic", lambda: now)

    def wait(seconds: float) -> None:
        nonlocal now
        now += 31.0

    monkeypatch.setattr(stages.time, "sleep", wait)
    stage = Stage(Place(Path("/nowhere")), said.append)
    answers: list[Exception | str | None] = [None, Unavailable("no answer"), None, "here"]

    def look() -> str | None:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert stage.until(look, 200.0, "somebody") == "here"
    assert said == ["62 s, of 200 s at most, for somebody"]
    for away, error in ((None, NotContained), (Unavailable("no answer"), NotMade)):
        answers = [away] * 9
        with pytest.raises(error, match="200 s in vain for somebody") as raised:
            stage.until(look, 200.0, "somebody")
        assert type(raised.value) is error


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
