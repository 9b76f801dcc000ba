"""The engine: from a finding to a proof."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from loop_rig import CONTAIN, DENY, MACHINE, PAUSE, Driven, finding, instance, policies, slow

from supercloud.model.errors import Failed
from supercloud.model.findings import Layer, ObjectKind, Severity
from supercloud.model.incidents import INCIDENT_TRANSITIONS, TIMELINE, EntryKind, IncidentState
from supercloud.model.reactions import (
    ASPECTS,
    ENDED,
    GOVERNED,
    IN_FORCE,
    LASTING,
    LEFT,
    MEANINGS,
    ONCE,
    OPPOSITES,
    POLICED,
    REACTION_TRANSITIONS,
    Deed,
    ReactionState,
)
from supercloud.security.engine import Doing, Engine
from supercloud.security.openincidents import OPEN
from supercloud.security.policy import PolicyFile

pytestmark = pytest.mark.unit
_R, _I = ReactionState, IncidentState


# ---------------------------------------------------------------- tables


@pytest.mark.parametrize("table", [REACTION_TRANSITIONS, INCIDENT_TRANSITIONS])
def test_tables_are_whole_and_every_state_reaches_an_end(table: Any) -> None:
    kind = type(next(iter(table)))
    assert set(table) == set(kind)
    ends = {state for state, after in table.items() if not after}
    for state in kind:
        reached, new = set(), {state}
        while new:
            reached |= new
            new = {one for each in new for one in table[each]} - reached
        assert reached & ends, state


def test_every_deed_has_a_meaning_an_opposite_and_an_aspect() -> None:
    once = ONCE | {Deed.MOVE, Deed.ROTATE, Deed.RESTORE}
    assert set(MEANINGS) == set(ASPECTS) == set(Deed) == set(OPPOSITES) | once and not set(OPPOSITES) & once
    assert all(OPPOSITES[other] is one and ASPECTS[other] is ASPECTS[one] for one, other in OPPOSITES.items())
    assert len(POLICED) == len(LASTING) + len(ONCE) + len(GOVERNED), "each is in one of them"
    assert not IN_FORCE & ENDED


# ---------------------------------------------------------------- the way through


def test_a_finding_becomes_a_reaction_that_is_verified_and_ends() -> None:
    world = Driven(policies(scans={"when": {"rule": "scan"}, "do": [CONTAIN], "verify": {"quiet": "5s"}}))
    incident = world.take(finding())
    assert incident.state is _I.REACTING
    assert world.states() == {_R.DONE: 1}
    world.pass_(5)
    assert world.states() == {_R.VERIFIED: 1}
    assert world.engine.incidents[incident.id].state is _I.CONTAINED
    world.pass_(600)
    assert world.states() == {_R.LAPSED: 1}
    assert world.actuator.there == {}
    world.pass_(3601)
    assert world.engine.incidents == {}
    kinds = [one.kind for one in world.engine.changes().incidents[incident.id].timeline]
    assert kinds[0] is EntryKind.FINDING
    assert EntryKind.PROOF in kinds
    assert kinds[-1] is EntryKind.STATE


def test_seen_again_it_has_not_worked_is_undone_and_a_person_is_told() -> None:
    world = Driven(policies(scans={"do": [CONTAIN], "verify": {"quiet": "10s", "within": "20s"}}))
    world.take(finding(0))
    world.pass_(5)
    incident = world.take(finding(1))
    assert incident.state is _I.ESCALATED
    assert world.states()[_R.UNDONE] == 1
    assert any("it was seen again" in one.says for one in incident.timeline)


def test_what_is_not_there_when_it_is_looked_at_is_not_verified() -> None:
    world = Driven(policies(scans={"do": [CONTAIN], "verify": {"quiet": "5s"}, "else": ["escalate"]}))
    incident = world.take(finding())
    world.actuator.there.clear()
    world.pass_(5)
    assert world.states() == {_R.UNVERIFIED: 1}
    assert world.engine.incidents[incident.id].state is _I.ESCALATED


def test_what_cannot_be_done_is_compensated_and_escalated() -> None:
    world = Driven(policies(scans={"do": [CONTAIN]}))
    world.actuator.failing = Failed("nft: no such table")
    incident = world.take(finding())
    assert incident.state is _I.ESCALATED
    assert any("nft: no such table" in one.says for one in incident.timeline)
    assert world.states() == {_R.ESCALATED: 1}, "it could not be undone either"


def test_what_cannot_be_done_is_undone_since_nobody_knows_how_far_it_came() -> None:
    world = Driven(policies(scans={"do": [CONTAIN]}))
    incident, (action,) = world.engine.take(finding(), world.now)
    world.actuator.done(action.reaction.command)
    actions = world.engine.did(action.reaction.id, world.now, "the answer was lost")
    world.run(actions)
    assert world.states() == {_R.UNDONE: 1}
    assert world.actuator.there == {}
    assert world.engine.incidents[incident.id].state is _I.ESCALATED


def test_what_may_help_is_tried_again_a_few_times() -> None:
    world = Driven(policies(scans={"do": [CONTAIN]}))
    _, actions = world.engine.take(finding(), world.now)
    waits = []
    while actions[0].doing is Doing.DO:
        actions = world.engine.did(actions[0].reaction.id, world.now, "busy", again=True)
        waits.append(actions[0].after)
    assert waits == [0.25, 0.5, 1.0, 0.0]
    assert actions[0].doing is Doing.UNDO


def test_without_a_reaction_a_person_is_told() -> None:
    world = Driven(policies(tell={"when": {"severity": "critical"}, "do": []}))
    assert world.take(finding(severity=Severity.HIGH)).state is _I.OPEN
    assert world.take(finding(1, severity=Severity.CRITICAL)).state is _I.ESCALATED


@pytest.mark.parametrize(("mode", "state"), [("ask", _R.ASKED), ("dry-run", _R.DRY)])
def test_who_is_to_ask_or_to_say_only_does_nothing(mode: str, state: ReactionState) -> None:
    world = Driven(policies(scans={"do": [CONTAIN], "mode": mode}))
    world.take(finding())
    world.take(finding(1))
    assert world.states() == {state: 1}
    assert not world.actuator.effects


def test_a_person_answers_what_asks() -> None:
    world = Driven(policies(scans={"do": [CONTAIN], "mode": "ask"}))
    world.take(finding())
    (asked,) = world.engine.book
    world.run(world.engine.answer(asked.id, yes=True, by="ada", now=world.now))
    assert world.actuator.effects == {asked.id: 1}
    assert world.states() == {_R.VERIFIED: 1}


def test_closing_undoes_if_that_is_said() -> None:
    for undo in (True, False):
        world = Driven(policies(scans={"do": [CONTAIN]}))
        incident = world.take(finding())
        world.run(world.engine.close(incident.id, by="ada", undo=undo, now=world.now))
        assert world.engine.incidents == {}
        assert bool(world.actuator.there) is not undo
        world.pass_(601)
        assert world.actuator.there == {}


# ---------------------------------------------------------------- joining


def test_findings_of_an_object_and_of_what_it_is_in_are_one_incident() -> None:
    world = Driven(policies(), within=lambda one: MACHINE if one.kind is ObjectKind.INSTANCE else None)
    first = world.take(finding(0))
    second = world.take(finding(1, about=MACHINE, layer=Layer.L1, rule="component-silent"))
    assert first.id == second.id
    assert {one.layer for one in second.seen} == {Layer.L1, Layer.L2}
    assert world.take(finding(2, about=instance(1))).id == first.id, "what it is in has one"


def test_unrelated_objects_have_incidents_of_their_own() -> None:
    world = Driven(policies(), within=lambda one: MACHINE if one.kind is ObjectKind.INSTANCE else None)
    first, second = world.take(finding(0)), world.take(finding(1, about=instance(1)))
    assert first.id != second.id
    third = world.take(finding(2, about=MACHINE))
    assert third.id not in {first.id, second.id}, "it could be either's"


def test_much_later_it_is_another_incident() -> None:
    world = Driven(policies())
    first = world.take(finding(0))
    world.pass_(301)
    assert world.take(finding(1)).id != first.id


def test_a_policy_can_ask_for_another_finding_first() -> None:
    when = {"rule": "scan", "relation": {"to": "spoof*", "within": "1m"}}
    world = Driven(policies(both={"when": when, "do": [CONTAIN]}))
    world.take(finding(0))
    assert not world.states()
    world.take(finding(1, rule="spoofed-address"))
    assert not world.states()
    world.take(finding(2))
    assert world.states() == {_R.VERIFIED: 1}


# ---------------------------------------------------------------- bounds and hostile findings


def test_a_flood_decides_once_and_is_counted() -> None:
    world = Driven(policies(scans={"do": [CONTAIN]}))
    for number in range(2000):
        incident = world.take(finding(number))
    assert world.states() == {_R.VERIFIED: 1}
    assert world.actuator.effects.total() == 1
    assert incident.findings == 2000
    assert incident.seen[0].many == 2000
    assert len(incident.timeline) < 10


def test_no_more_objects_than_the_bound_and_a_person_is_told() -> None:
    world = Driven(policies(scans={"do": [CONTAIN], "bounds": {"objects": 3}}))
    states = [world.take(finding(number, about=instance(number))).state for number in range(10)]
    assert world.actuator.effects.total() == 3
    assert states == [_I.CONTAINED] * 3 + [_I.ESCALATED] * 7
    assert "it is in force for 3 objects, which is its bound" in world.whys()


def test_no_more_an_hour_than_the_bound() -> None:
    world = Driven(
        policies(scans={"do": [{**CONTAIN, "for": "10s"}], "bounds": {"objects": 100, "perHour": 4}})
    )
    for number in range(10):
        world.take(finding(number, about=instance(number)))
        world.pass_(60)
    assert world.actuator.effects.total() == 4
    world.pass_(3600)
    world.take(finding(99, about=instance(99)))
    assert world.actuator.effects.total() == 5


def test_a_forged_source_gets_nobody_blocked() -> None:
    world = Driven(policies(deny={"do": [DENY], "bounds": {"objects": 2}}))
    world.take(finding(0, source="10.20.0.7", proven=False))
    assert world.actuator.there == {}
    assert "the address that it came from is not proven to be its sender's" in world.whys()
    for number in range(1, 50):
        world.take(finding(number, about=instance(number), source=f"10.20.0.{number}"))
    assert world.actuator.effects.total() == 2, "proven ones: up to the bound"


@pytest.mark.parametrize("where", ["policy", "file"])
def test_nothing_is_done_to_what_is_protected(where: str) -> None:
    never = ["10.20.0.1/32", instance(1).id]
    one: dict[str, Any] = {"do": [CONTAIN, DENY]} | (
        {"bounds": {"never": never}} if where == "policy" else {}
    )
    content: dict[str, Any] = {"version": 1, "policies": {"p": one}}
    if where == "file":
        content["protected"] = never
    world = Driven(PolicyFile.model_validate_json(json.dumps(content)))
    world.take(finding(0, about=instance(1), source="10.20.0.1"))
    assert world.actuator.there == {}
    world.take(finding(1, about=instance(2), source="10.20.0.1"))
    assert [one.deed for one in world.actuator.there.values()] == [Deed.CONTAIN]


def test_what_nobody_here_can_do_is_refused() -> None:
    world = Driven(policies(pause={"do": [PAUSE]}))
    world.engine = Engine(world.engine.policies, takes={Deed.CONTAIN})
    world.take(finding())
    assert world.whys() == ["nobody here can do stop:x-supercloud:vcpus"]


def test_refused_it_is_not_looked_at_again_for_each_finding() -> None:
    world = Driven(policies(deny={"do": [DENY]}))
    for number in range(500):
        world.take(finding(number, source="10.20.0.7", proven=False))
    assert world.states() == {_R.REFUSED: 1}
    world.pass_(61)
    world.take(finding(501, source="10.20.0.7", proven=False))
    assert world.states() == {_R.REFUSED: 2}


def test_open_incidents_and_timelines_are_bounded() -> None:
    world = Driven(policies())
    for number in range(OPEN + 10):
        world.take(finding(number, about=instance(number)))
    assert len(world.engine.incidents) == OPEN
    for number in range(3 * TIMELINE):
        incident = world.take(finding(10_000 + number, about=instance(1_000_000), rule=f"r{number}"))
    assert len(incident.seen) <= 64
    assert len(incident.timeline) <= TIMELINE


# ---------------------------------------------------------------- conflicts


def test_of_two_that_want_different_things_the_higher_priority_wins_and_the_loser_is_told() -> None:
    low = {"do": [slow(100)], "priority": 1}
    high = {"do": [slow(10)], "priority": 2}
    for named in ({"low": low, "high": high}, {"high": high, "low": low}):
        world = Driven(policies(**named))
        incident = world.take(finding())
        (held,) = world.actuator.there.values()
        assert held.kbytes == 10
        told = [one.says for one in incident.timeline if "low" in one.says]
        assert told == [
            "policy low: set:x-supercloud:rate, overruled: "
            "set:x-supercloud:rate by policy high comes before it"
        ]


def test_what_comes_later_and_is_higher_takes_the_place_of_what_is_there() -> None:
    low = {"when": {"rule": "scan"}, "do": [slow(100)], "priority": 1}
    high = {"when": {"rule": "flood"}, "do": [slow(10)], "priority": 2}
    world = Driven(policies(low=low, high=high))
    world.take(finding(0))
    incident = world.take(finding(1, rule="flood"))
    (held,) = world.actuator.there.values()
    assert held.kbytes == 10
    assert world.states() == {_R.UNDONE: 1, _R.VERIFIED: 1}
    assert any("overruled: set:x-supercloud:rate by policy high" in one.says for one in incident.timeline)


def test_two_that_want_the_same_have_one_effect() -> None:
    world = Driven(policies(a={"do": [CONTAIN]}, b={"do": [CONTAIN]}))
    world.take(finding())
    assert world.actuator.effects.total() == 1
    assert "contain:device by policy a does the same already" in world.whys()


def test_of_equals_the_graver_finding_wins() -> None:
    named = {
        "mild": {"when": {"rule": "mild"}, "do": [slow(100)]},
        "grave": {"when": {"rule": "grave"}, "do": [slow(10)]},
    }
    world = Driven(policies(**named))
    world.take(finding(0, rule="mild", severity=Severity.LOW))
    world.take(finding(1, rule="grave", severity=Severity.CRITICAL))
    assert [one.kbytes for one in world.actuator.there.values()] == [10]
    world.take(finding(2, rule="mild", severity=Severity.MEDIUM))
    assert [one.kbytes for one in world.actuator.there.values()] == [10]


def test_what_is_done_once_goes_nowhere_with_its_instance() -> None:
    """It was done where the instance was: at its next blanket it would be done again."""
    restart = {"action": "restart", "target": "device", "for": "1h"}
    world = Driven(policies(scans={"do": [CONTAIN, restart]}))
    world.engine._takes = LASTING | ONCE
    incident = world.take(finding(0))
    assert world.states() == {_R.VERIFIED: 2}
    ((_, goes),) = world.engine.leaving(incident.objects[0].id)
    assert [one.command.deed for one in goes] == [Deed.CONTAIN]


def test_of_what_ended_only_what_ended_for_good_is_over() -> None:
    """Not what ended because its object left, nor what could not be done: that may be done still."""
    world = Driven(policies(scans={"do": [CONTAIN]}))
    incident = world.take(finding(0))
    ((_, (there,)),) = world.engine.leaving(incident.objects[0].id)
    assert there.has_effect and there.goes_along and not there.is_over
    world.run(world.engine.left(incident.objects[0].id, world.now))
    (left,) = world.engine.book.of_incident(incident.id)
    assert (left.state, left.why, left.is_over, left.goes_along) == (_R.UNDONE, LEFT, False, False)
    world.run(world.engine.adopt(incident, [there], world.now))
    world.run(world.engine.close(incident.id, by="ada", undo=True, now=world.now))
    (closed,) = world.engine.book.of_incident(incident.id)
    assert closed.state is _R.UNDONE and closed.is_over and not closed.has_effect
    failing = Driven(policies(scans={"do": [CONTAIN]}))
    failing.actuator.failing = Failed("no")
    about = failing.take(finding(0))
    failing.actuator.failing = None
    failing.run(failing.engine.recover())
    (failed,) = failing.engine.book.of_incident(about.id)
    assert failed.state in ENDED and not failed.is_over


def test_each_reaction_that_is_in_force_goes_along_and_none_that_has_ended() -> None:
    world = Driven(policies(scans={"do": [CONTAIN]}))
    (one,) = world.engine.book.of_incident(world.take(finding(0)).id)
    goes = {state for state in ReactionState if replace(one, state=state).goes_along}
    assert goes == (IN_FORCE | {_R.ASKED}) - {_R.UNDOING}
    once = replace(one, command=replace(one.command, deed=Deed.RESTART))
    assert {state for state in ReactionState if replace(once, state=state).goes_along} == {_R.ASKED}
