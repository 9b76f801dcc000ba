"""The engine and its journal, whatever is killed when: a Hypothesis state machine."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from loop_rig import CONTAIN, DENY, DOMAIN, Driven, finding, instance, policies, slow, tried

from supercloud.model.findings import Finding, Severity
from supercloud.model.names import Id
from supercloud.model.reactions import IN_FORCE, LASTING, Reaction, ReactionState
from supercloud.security.engine import Action, Doing, Engine
from supercloud.security.journal import Batch, Journal
from supercloud.security.simulated import SimulatedActuator

pytestmark = pytest.mark.unit
_R = ReactionState
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
