"""The engine: from a finding to a proof, whatever is killed when."""

from __future__ import annotations

import json
import tempfile
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from supercloud.model.errors import Failed, SupercloudError
from supercloud.model.findings import Finding, Layer, Object, ObjectKind, Severity
from supercloud.model.incidents import (
    INCIDENT_TRANSITIONS,
    TIMELINE,
    EntryKind,
    Incident,
    IncidentState,
)
from supercloud.model.names import Id
from supercloud.model.reactions import (
    ASPECTS,
    ENDED,
    GOVERNED,
    IN_FORCE,
    LASTING,
    MEANINGS,
    ONCE,
    OPPOSITES,
    POLICED,
    REACTION_TRANSITIONS,
    Command,
    Deed,
    Reaction,
    ReactionState,
)
from supercloud.security.engine import OPEN, Action, Doing, Engine
from supercloud.security.journal import Batch, Journal
from supercloud.security.policy import PolicyFile
from supercloud.security.simulated import SimulatedActuator

pytestmark = pytest.mark.unit
DOMAIN, CLOUD = str(uuid.UUID(int=1)), str(uuid.UUID(int=2))
MACHINE = Object(kind=ObjectKind.MACHINE, id=str(uuid.UUID(int=3)))
_R, _I = ReactionState, IncidentState


def instance(number: int) -> Object:
    return Object(kind=ObjectKind.INSTANCE, id=str(uuid.UUID(int=100 + number)))


def finding(
    number: int = 0,
    *,
    about: Object | None = None,
    rule: str = "scan",
    at: float = 0.0,
    severity: Severity = Severity.HIGH,
    layer: Layer = Layer.L2,
    source: str | None = None,
    proven: bool = True,
) -> Finding:
    evidence = {"src_endpoint": {"ip": source}, "data": {"proven": proven}} if source else {}
    return Finding(
        id=str(uuid.UUID(int=10_000 + number)),
        layer=layer,
        domain=DOMAIN,
        cloud=CLOUD,
        object=about or instance(0),
        severity=severity,
        title=f"a {rule}",
        rule=rule,
        at=at,
        received_at=at,
        evidence=(evidence,) if evidence else (),
    )


def policies(**named: dict[str, Any]) -> PolicyFile:
    content = {"version": 1, "policies": {name.replace("_", "-"): one for name, one in named.items()}}
    return PolicyFile.model_validate_json(json.dumps(content))


CONTAIN = {"action": "contain", "target": "device", "for": "10m"}
DENY = {"action": "deny", "target": "ipv4_net", "net": "$source", "for": "10m"}
PAUSE = {"action": "stop", "target": "vcpus", "for": "10m"}


def slow(kbytes: int) -> dict[str, Any]:
    return {"action": "set", "target": "rate", "kbytes": kbytes, "for": "10m"}


class Driven:
    """An engine and an actuator, whose clock is ours. What is to be done is done at once."""

    def __init__(
        self, policy: PolicyFile, *, within: Callable[[Object], Object | None] | None = None
    ) -> None:
        self.now = 1000.0
        self.actuator = SimulatedActuator(now=lambda: self.now)
        self.engine = Engine(policy, takes=LASTING, **({"within": within} if within else {}))

    def take(self, one: Finding) -> Incident:
        incident, actions = self.engine.take(replace(one, at=self.now), self.now)
        self.run(actions)
        return self.engine.incidents[incident.id]

    def run(self, actions: list[Action]) -> None:
        for action in actions:
            name, command = action.reaction.id, action.reaction.command
            match action.doing:
                case Doing.DO:
                    self.run(self.engine.did(name, self.now, tried(self.actuator.done, command)))
                case Doing.UNDO:
                    self.run(self.engine.undid(name, self.now, tried(self.actuator.take_back, command)))
                case Doing.LOOK:
                    self.run(self.engine.looked(name, self.now, self.actuator.seen(command)))

    def pass_(self, seconds: float) -> None:
        """In the steps in which something is due."""
        end = self.now + seconds
        while (due := self.engine.next_due()) is not None and due <= end:
            self.now = max(self.now, due)
            self.run(self.engine.tick(self.now))
        self.now = end
        self.run(self.engine.tick(self.now))

    def states(self) -> Counter[ReactionState]:
        return Counter(one.state for one in self.engine.book)

    def whys(self) -> list[str]:
        return [one.why for one in self.engine.book]


def tried(call: Callable[[Command], None], command: Command) -> str | None:
    """What went wrong, if anything did."""
    try:
        call(command)
    except SupercloudError as error:
        return error.message
    return None


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


# ---------------------------------------------------------------- killed anywhere

MACHINED = policies(
    contain={
        "when": {"rule": "scan"},
        "do": [CONTAIN, DENY],
        "verify": {"quiet": "5s"},
        "bounds": {"objects": 3},
    },
    slow={"when": {"rule": "flood"}, "do": [slow(100)], "priority": 1},
    slower={"when": {"rule": "flood", "severity": "critical"}, "do": [slow(10)], "priority": 2},
)


class Killed(RuleBasedStateMachine):
    """The engine over a real journal and an actuator that outlives it. It dies at every step that there is:
    before a commit, after it, after an effect and before that is written down."""

    @initialize()
    def born(self) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="loop-")
        self.now = 1000.0
        self.actuator = SimulatedActuator(now=lambda: self.now)
        self.acknowledged: set[Id] = set()
        self.doing: list[Action] = []
        self.born_again = 0
        self.count = 0
        self.start()

    def start(self) -> None:
        self.journal = Journal(Path(self.folder.name) / "loop.sqlite")
        self.engine = Engine(
            MACHINED,
            takes=LASTING,
            incidents=self.journal.open_incidents(),
            reactions=self.journal.live_reactions(self.now - 3600),
        )
        self.doing = self.engine.recover()

    def crash(self) -> None:
        self.journal.close()
        self.born_again += 1
        self.start()

    def commit(self, *taken: tuple[Finding, Id]) -> None:
        changes = self.engine.changes()
        self.journal.commit(
            Batch(
                findings=list(taken),
                incidents=list(changes.incidents.values()),
                reactions=list(changes.reactions.values()),
            )
        )

    @rule(
        about=st.integers(0, 4),
        rule_=st.sampled_from(["scan", "flood", "other"]),
        severity=st.sampled_from([Severity.LOW, Severity.CRITICAL]),
        proven=st.booleans(),
        killed=st.sampled_from([None, None, "before", "after"]),
        repeat=st.booleans(),
    )
    def finds(  # noqa: PLR0917 - each is drawn
        self, about: int, rule_: str, severity: Severity, proven: bool, killed: str | None, repeat: bool
    ) -> None:
        self.count += not repeat
        one = finding(
            self.count,
            about=instance(about),
            rule=rule_,
            severity=severity,
            at=self.now,
            source=f"10.20.0.{about}",
            proven=proven,
        )
        if self.journal.known([one.id]):
            return
        incident, actions = self.engine.take(one, self.now)
        if killed == "before":
            self.crash()
            return
        self.commit((one, incident.id))
        self.acknowledged.add(one.id)
        if killed == "after":
            self.crash()
            return
        self.doing += actions

    @precondition(lambda self: self.doing)
    @rule(
        which=st.integers(0, 20),
        killed=st.sampled_from([None, None, "before", "unwritten", "after"]),
        fails=st.booleans(),
        again=st.booleans(),
    )
    def acts(self, which: int, killed: str | None, fails: bool, again: bool) -> None:
        if killed == "before":
            self.crash()
            return
        action = self.next_one(which)
        if not self.engine.wanted(action):
            return
        command, now, name = action.reaction.command, self.now, action.reaction.id
        more: list[Action] = []
        if action.doing is Doing.LOOK:
            there = self.actuator.seen(command)
            if killed == "unwritten":
                self.crash()
                return
            more = self.engine.looked(name, now, there)
        else:
            call = self.actuator.done if action.doing is Doing.DO else self.actuator.take_back
            error = "it fails" if fails else tried(call, command)
            if killed == "unwritten":
                self.crash()
                return
            if action.doing is Doing.DO:
                more = self.engine.did(name, now, error, again=again)
            else:
                more = self.engine.undid(name, now, error)
        self.commit()
        if killed == "after":
            self.crash()
            return
        self.doing += more

    def next_one(self, which: int) -> Action:
        """In any order, but what is about one thing in its own."""
        subject = self.doing[which % len(self.doing)].reaction.command.subject
        found = next(one for one in self.doing if one.reaction.command.subject == subject)
        self.doing.remove(found)
        return found

    @rule(
        seconds=st.sampled_from([0.5, 6.0, 301.0, 700.0]), killed=st.sampled_from([None, "before", "after"])
    )
    def passes(self, seconds: float, killed: str | None) -> None:
        self.now += seconds
        actions = self.engine.tick(self.now)
        if killed == "before":
            self.crash()
            return
        self.commit()
        if killed == "after":
            self.crash()
            return
        self.doing += actions

    @rule(killed=st.booleans())
    def closes(self, killed: bool) -> None:
        if self.engine.incidents:
            name = next(iter(self.engine.incidents))
            actions = self.engine.close(name, by="ada", undo=True, now=self.now)
            self.commit()
            self.doing += actions
            if killed:
                self.crash()

    @invariant()
    def nothing_acknowledged_is_lost(self) -> None:
        if hasattr(self, "journal"):
            names = sorted(self.acknowledged)
            assert set(self.journal.known(names)) == self.acknowledged

    @invariant()
    def nothing_is_done_twice(self) -> None:
        """Once for each time that it was not there: an effect that is there is never made again."""
        if hasattr(self, "actuator"):
            assert all(many == 1 for many in self.actuator.effects.values()), self.actuator.effects

    @invariant()
    def no_more_than_the_bound(self) -> None:
        if hasattr(self, "engine"):
            held = {
                one.command.subject[0]
                for one in self.engine.book
                if one.policy == "contain" and one.state in IN_FORCE
            }
            assert len(held) <= 3

    @invariant()
    def what_is_there_is_known(self) -> None:
        """No effect without a reaction that was durable before it."""
        if hasattr(self, "journal"):
            known: dict[Id, Reaction] = {one.id: one for one in self.journal.live_reactions(self.now - 7200)}
            for command in self.actuator.there.values():
                if command.until is not None and self.now < command.until:
                    assert command.id in known
                    assert known[command.id].state in IN_FORCE | {_R.ESCALATED}

    def teardown(self) -> None:
        if not hasattr(self, "journal"):
            return
        self.actuator.failing = None
        for _ in range(400):
            for action in [*self.doing]:
                self.doing.remove(action)
                if not self.engine.wanted(action):
                    continue
                name, command = action.reaction.id, action.reaction.command
                match action.doing:
                    case Doing.LOOK:
                        self.doing += self.engine.looked(name, self.now, self.actuator.seen(command))
                    case Doing.DO:
                        error = tried(self.actuator.done, command)
                        self.doing += self.engine.did(name, self.now, error)
                    case Doing.UNDO:
                        self.actuator.take_back(command)
                        self.doing += self.engine.undid(name, self.now, None)
            self.now += 60
            self.doing += self.engine.tick(self.now)
        unfinished = [one for one in self.engine.book if one.state in IN_FORCE]
        assert unfinished == [], "whatever was killed, in the end nothing is in force"
        self.journal.close()
        self.folder.cleanup()


TestKilled = Killed.TestCase
TestKilled.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


# ---------------------------------------------------------------- the journal


def test_what_is_committed_is_there_for_the_next(tmp_path: Path) -> None:
    world = Driven(policies(scans={"do": [CONTAIN, DENY]}))
    one = finding(source="10.20.0.7")
    incident = world.take(one)
    changes, journal = world.engine.changes(), Journal(tmp_path / "loop.sqlite")
    reactions = list(changes.reactions.values())
    journal.commit(Batch([(one, incident.id)], list(changes.incidents.values()), reactions))
    journal.close()
    journal = Journal(tmp_path / "loop.sqlite")
    assert journal.finding(one.id) == one
    assert journal.known([one.id, incident.id]) == {one.id: incident.id}
    assert journal.open_incidents() == [incident]
    assert journal.live_reactions(0) == reactions
    assert [(found.id, len(of)) for found, of in journal.to_tell()] == [(incident.id, 2)]
    journal.told([(incident.id, incident.version)])
    assert journal.to_tell() == []


def test_a_flood_about_one_object_pushes_out_its_own_findings_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("supercloud.security.journal.FINDINGS", 100)
    journal = Journal(tmp_path / "loop.sqlite")
    quiet = finding(0, about=instance(1))
    journal.commit(Batch([(quiet, DOMAIN)]))
    for start in range(1, 3001, 500):
        journal.commit(Batch([(finding(number), DOMAIN) for number in range(start, start + 500)]))
    assert journal.finding(quiet.id) == quiet
    assert journal.finding(finding(3000).id) is not None
    assert journal.counts()["findings"] < 1700


def test_what_is_done_once_goes_nowhere_with_its_instance() -> None:
    """It was done where the instance was: at its next blanket it would be done again."""
    restart = {"action": "restart", "target": "device", "for": "1h"}
    world = Driven(policies(scans={"do": [CONTAIN, restart]}))
    world.engine._takes = LASTING | ONCE
    incident = world.take(finding(0))
    assert world.states() == {_R.VERIFIED: 2}
    ((_, goes),) = world.engine.leaving(incident.objects[0].id)
    assert [one.command.deed for one in goes] == [Deed.CONTAIN]
