"""The engine: finding, incident, decision, reaction, proof, compensation. One state machine without I/O.

It is told what happened (`take`, `did`, `looked`, `undid`, `tick`) and says what to do next, as `Action`s;
what it changed is `changes`, which whoever runs it makes durable before it does anything (`loop.py`). Given
the same, it says the same, so that a crash that lost its answer loses nothing.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from supercloud.model.errors import Conflict, NotFound
from supercloud.model.findings import Finding, Object
from supercloud.model.incidents import (
    EntryKind,
    Incident,
    IncidentState,
)
from supercloud.model.names import Id
from supercloud.model.reactions import (
    ENDED,
    IN_FORCE,
    LEFT,
    REACTION_TRANSITIONS,
    Deed,
    Reaction,
    ReactionState,
)
from supercloud.model.states import move
from supercloud.security.book import Book
from supercloud.security.decide import Decision, Ground, applicable, decisions
from supercloud.security.openincidents import BY_OBJECT, OPEN, QUIET_S, Joining, OpenIncidents, nowhere
from supercloud.security.policy import PolicyFile

#: Of one incident, decisions of any kind.
DECISIONS = 500
#: So often something is tried again, each time after twice as long.
TRIES, RETRY_S = 4, 0.25
#: A packet that was under way, a second by a detector's clock: no sign that a reaction did not work.
SETTLE_S = 1.0
_R, _I = ReactionState, IncidentState


class Doing(StrEnum):
    DO = "do"
    LOOK = "look"
    UNDO = "undo"


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """What is to be done now, and its outcome told. `after`: seconds to wait before it."""

    doing: Doing
    reaction: Reaction
    after: float = 0.0


@dataclass(slots=True)
class Changes:
    incidents: dict[Id, Incident]
    reactions: dict[Id, Reaction]


class Engine:
    """`takes`: what can be done here. `within`: what an object is in, so that layers join. `most`: open
    incidents."""

    def __init__(
        self,
        policies: PolicyFile,
        *,
        takes: Collection[Deed],
        within: Callable[[Object], Object | None] = nowhere,
        joining: Joining = BY_OBJECT,
        most: int = OPEN,
        incidents: Iterable[Incident] = (),
        reactions: Iterable[Reaction] = (),
    ) -> None:
        self.policies = policies
        self._takes = takes
        self.book = Book()
        self._due: list[tuple[float, Id]] = []
        self._open = OpenIncidents(self.book, within=within, joining=joining, most=most, wait=self._wait)
        self._changed: dict[Id, Reaction] = {}
        for incident in sorted(incidents, key=lambda one: one.last_at):
            self._open.put(incident)
        for reaction in sorted(reactions, key=lambda one: one.decided_at):
            self.book.put(reaction)
            self._await_again(reaction)
        self.changes()

    @property
    def incidents(self) -> Mapping[Id, Incident]:
        """The open ones, the one that changed last at the end."""
        return self._open.every

    def changes(self) -> Changes:
        """Since the last time."""
        found = Changes(self._open.changed, self._changed)
        self._open.changed, self._changed = {}, {}
        return found

    def recover(self) -> list[Action]:
        """After a restart: what was intended is looked up, never assumed; what was being undone goes on."""
        found = []
        # In the order in which a policy has them: what was decided at one moment is told apart by its step.
        for one in sorted(self.book, key=lambda one: (one.decided_at, one.step)):
            if one.state is _R.INTENDED:
                found.append(Action(doing=Doing.LOOK, reaction=one))
            elif one.state is _R.UNDOING:
                found.append(Action(doing=Doing.UNDO, reaction=one))
        return found

    def wanted(self, action: Action) -> bool:
        """Whether it still is, when its turn comes: what is about one thing waits for what came before it,
        and may have been decided otherwise meanwhile."""
        one = self.book.get(action.reaction.id)
        if one is None or one.state in ENDED:
            return False
        return action.doing is not Doing.DO or one.state is _R.INTENDED

    # ------------------------------------------------------------ a finding

    def take(self, finding: Finding, now: float) -> tuple[Incident, list[Action]]:
        """Which incident it belongs to, and what follows. Each finding once: who calls knows it by its id."""
        incident = self._open.joined(finding, now)
        actions = self._seen_again(finding, now)
        for index, name, policy in applicable(self.policies, finding, incident):
            if not policy.do:
                self._open.escalate(incident.id, now, f"policy {name}: a person has to look")
                continue
            if len(self.book.of_incident(incident.id)) >= DECISIONS:
                self._open.escalate(incident.id, now, f"{DECISIONS} decisions are all that an incident has")
                break
            ground = Ground(
                policies=self.policies,
                takes=self._takes,
                book=self.book,
                now=now,
                finding=finding,
                incident=incident,
            )
            for decision in decisions(ground, index, name, policy):
                actions += self._decided(decision, now)
        return self.incidents[incident.id], actions

    def _seen_again(self, finding: Finding, now: float) -> list[Action]:
        """It goes on after something was done about it: so that has not worked."""
        found = []
        for reaction in self.book.about(finding.object.id):
            if (
                reaction.state is _R.DONE
                and reaction.quiet_s > 0
                and reaction.rule == (finding.rule or finding.title)
                and reaction.done_at is not None
                and finding.at > reaction.done_at + SETTLE_S
            ):
                found += self._unverified(reaction, now, "it was seen again")
        return found

    # ------------------------------------------------------------ decisions

    def _decided(self, decision: Decision, now: float) -> list[Action]:
        reaction, actions = decision.reaction, list[Action]()
        for loser in decision.overrules:
            why = f"{reaction.command.deed} by policy {reaction.policy} comes before it"
            actions += self._undo(loser, now, f"overruled: {why}")
        self._set(reaction)
        said = f"policy {reaction.policy}: {reaction.command.deed}, {reaction.state}"
        why = f": {reaction.why}" if reaction.why else ""
        self._open.note(reaction.incident, EntryKind.DECISION, now, said + why, of=reaction.id)
        if decision.escalates:
            self._open.escalate(reaction.incident, now, reaction.why)
        if reaction.state is _R.INTENDED:
            actions.append(Action(doing=Doing.DO, reaction=reaction))
        self._open.settle(reaction.incident, now)
        return actions

    def answer(self, reaction: Id, *, yes: bool, by: str, now: float) -> list[Action]:
        """A person's, to one that asked.

        Raises:
            NotFound; Conflict: it does not ask any more.
        """
        known = self.book.get(reaction)
        if known is None:
            raise NotFound(f"there is no reaction {reaction}")
        if known.state is not _R.ASKED:
            raise Conflict(f"reaction {reaction} is {known.state}")
        to = _R.INTENDED if yes else _R.REFUSED
        changed = self._to(known, to, now, f"{'allowed' if yes else 'refused'} by {by}")
        if yes:
            changed = replace(changed, intended_at=now)
            self._set(changed)
        self._open.settle(known.incident, now)
        return [Action(doing=Doing.DO, reaction=changed)] if yes else []

    # ------------------------------------------------------------ outcomes

    def did(self, reaction: Id, now: float, error: str | None, *, again: bool = False) -> list[Action]:
        """What came of DO. `again`: trying once more may help."""
        known = self.book[reaction]
        if known.state is not _R.INTENDED:
            return []
        if error is None:
            self._set(replace(self._to(known, _R.DONE, now, ""), done_at=now, tries=0))
            self._open.settle(known.incident, now)
            if not known.quiet_s:
                return self._proof(self.book[reaction])
            self._wait(known.id, now + known.quiet_s)
            return []
        if again and known.tries + 1 < TRIES:
            tried = replace(known, tries=known.tries + 1)
            self._set(tried)
            return [Action(doing=Doing.DO, reaction=tried, after=RETRY_S * 2**known.tries)]
        if known.escalate:
            self._open.escalate(known.incident, now, f"{known.command.deed} could not be done: {error}")
        return self._undo(known, now, f"it could not be done: {error}")

    def looked(self, reaction: Id, now: float, there: bool | None) -> list[Action]:  # noqa: PLR0911
        """What came of LOOK; None: nobody could look."""
        known = self.book[reaction]
        match known.state:
            case _R.INTENDED:  # after a restart
                if there:
                    return self.did(reaction, now, None)
                if known.command.until is not None and now >= known.command.until:
                    self._to(known, _R.LAPSED, now, "its time was over when it was looked up")
                    self._open.settle(known.incident, now)
                    return []
                return [Action(doing=Doing.DO, reaction=known)]
            case _R.DONE:
                if there:
                    self._to(known, _R.VERIFIED, now, "its effect is there, and it was quiet")
                    self._wait(known.id, known.command.until)
                    self._open.settle(known.incident, now)
                    return []
                if there is None and known.done_at is not None and now < known.done_at + known.within_s:
                    return [Action(doing=Doing.LOOK, reaction=known, after=RETRY_S)]
                return self._unverified(known, now, "its effect is not there")
        return []

    def undid(self, reaction: Id, now: float, error: str | None) -> list[Action]:
        """What came of UNDO."""
        known = self.book[reaction]
        if known.state in ENDED:
            return []
        over = known.command.until is not None and now >= known.command.until
        if error is None:
            lapsed = over and known.state is not _R.UNDOING
            self._to(
                known, _R.LAPSED if lapsed else _R.UNDONE, now, "its time is over" if lapsed else known.why
            )
            self._open.settle(known.incident, now)
            return []
        if known.tries + 1 < TRIES:
            tried = replace(known, tries=known.tries + 1)
            self._set(tried)
            return [Action(doing=Doing.UNDO, reaction=tried, after=RETRY_S * 2**known.tries)]
        if known.state is not _R.UNDOING:
            known = self._to(known, _R.UNDOING, now, "its time is over")
        self._to(known, _R.ESCALATED, now, f"it could not be undone: {error}")
        self._open.escalate(known.incident, now, f"{known.command.deed} could not be undone: {error}")
        return []

    def _proof(self, reaction: Reaction) -> list[Action]:
        return [Action(doing=Doing.LOOK, reaction=reaction)]

    def _unverified(self, reaction: Reaction, now: float, why: str) -> list[Action]:
        if reaction.escalate:
            self._open.escalate(reaction.incident, now, f"{reaction.command.deed} did not help: {why}")
        if reaction.undo:
            return self._undo(reaction, now, why)
        self._to(reaction, _R.UNVERIFIED, now, why)
        self._wait(reaction.id, reaction.command.until)
        return []

    def _undo(self, reaction: Reaction, now: float, why: str) -> list[Action]:
        changed = replace(self._to(reaction, _R.UNDOING, now, why), tries=0)
        self._set(changed)
        return [Action(doing=Doing.UNDO, reaction=changed)]

    # ------------------------------------------------------------ time

    def next_due(self) -> float | None:
        """When `tick` has something to do."""
        return self._due[0][0] if self._due else None

    def tick(self, now: float) -> list[Action]:
        """Proofs that are due, and what is over."""
        found = []
        while self._due and self._due[0][0] <= now:
            _, name = heapq.heappop(self._due)
            if name in self.incidents:
                self._close_if_quiet(name, now)
            elif (reaction := self.book.get(name)) is not None:
                found += self._due_now(reaction, now)
        self._forget_old(now)
        return found

    def _due_now(self, reaction: Reaction, now: float) -> list[Action]:
        until = reaction.command.until
        if until is not None and now >= until and reaction.state in {_R.DONE, _R.VERIFIED, _R.UNVERIFIED}:
            return [Action(doing=Doing.UNDO, reaction=reaction)]
        if reaction.state is _R.DONE:
            return self._proof(reaction)
        return []

    def _close_if_quiet(self, name: Id, now: float) -> None:
        incident = self.incidents[name]
        reactions = self.book.of_incident(name)
        busy = any(one.state in IN_FORCE or one.state is _R.ASKED for one in reactions)
        if busy or incident.state is _I.ESCALATED or now < incident.last_at + QUIET_S:
            self._wait(name, max(now, incident.last_at) + QUIET_S)
            return
        self._open.note(name, EntryKind.STATE, now, f"closed: quiet for {QUIET_S:.0f} s")
        self._open.become(name, _I.CLOSED, now)

    def _forget_old(self, now: float) -> None:
        self.book.forget(now, self.incidents)

    def close(self, incident: Id, *, by: str, undo: bool, now: float) -> list[Action]:
        """By a person, who may have all undone that is in force.

        Raises:
            NotFound: it is not open.
        """
        if incident not in self.incidents:
            raise NotFound(f"there is no open incident {incident}")
        actions = []
        for reaction in self.book.of_incident(incident):
            if reaction.state is _R.ASKED:
                self._to(reaction, _R.REFUSED, now, f"its incident was closed by {by}")
            elif undo and reaction.state in IN_FORCE - {_R.UNDOING}:
                actions += self._undo(reaction, now, f"its incident was closed by {by}")
        self._open.note(incident, EntryKind.STATE, now, f"closed by {by}")
        self._open.become(incident, _I.CLOSED, now)
        return actions

    # ------------------------------------------------------------ an instance that moves

    def leaving(self, name: Id) -> list[tuple[Incident, list[Reaction]]]:
        """What is to be in force about an object wherever it goes on, and what a person was asked about it:
        each incident, with nothing in it about anything else."""
        found: dict[Id, list[Reaction]] = {}
        for one in self.book:
            if one.command.about.id == name and one.goes_along and one.incident in self.incidents:
                found.setdefault(one.incident, []).append(one)
        return [(self.incidents[one].only_about(name), reactions) for one, reactions in found.items()]

    def adopt(self, incident: Incident, reactions: Iterable[Reaction], now: float) -> list[Action]:
        """What another blanket's loop did about what comes here: with its past, to be done here anew."""
        if incident.id not in self.incidents:
            self._open.make_room(now)
            state = _I.ESCALATED if incident.state is _I.ESCALATED else _I.OPEN
            self._open.put(
                replace(incident, state=state, last_at=now, closed_at=None, version=incident.version + 1)
            )
        actions = []
        for one in reactions:
            known = self.book.get(one.id)
            if known is not None and known.state not in ENDED:
                if known.state is _R.INTENDED:
                    actions.append(Action(doing=Doing.DO, reaction=known))
                continue
            asked = one.state is _R.ASKED
            fresh = replace(one, state=_R.ASKED if asked else _R.INTENDED, tries=0, done_at=None, why="")
            self._set(fresh)
            said = (
                f"policy {one.policy}: {one.command.deed} came with {one.command.about.kind}, {fresh.state}"
            )
            self._open.note(incident.id, EntryKind.DECISION, now, said, of=one.id)
            if not asked:
                actions.append(Action(doing=Doing.DO, reaction=fresh))
        self._open.settle(incident.id, now)
        return actions

    def left(self, name: Id, now: float) -> list[Action]:
        """An object is in another blanket now, and with it what is in force about it."""
        actions = list[Action]()
        for one in self.book.about(name):
            if one.state is not _R.UNDOING and one.command.about.id == name:
                actions += self._undo(one, now, LEFT)
        for incident in [one for one in self.incidents.values() if name in {of.id for of in one.objects}]:
            for one in self.book.of_incident(incident.id):
                if one.state is _R.ASKED and one.command.about.id == name:
                    self._to(one, _R.REFUSED, now, LEFT)
            if {of.id for of in incident.objects} == {name}:
                self._open.note(incident.id, EntryKind.STATE, now, f"closed: {LEFT}")
                self._open.become(incident.id, _I.CLOSED, now)
        return actions

    # ------------------------------------------------------------ what is kept

    def _to(self, reaction: Reaction, state: ReactionState, now: float, why: str) -> Reaction:
        changed = replace(
            reaction,
            state=move(REACTION_TRANSITIONS, reaction.state, state),
            why=why[:400],
            ended_at=now if state in ENDED else None,
        )
        self._set(changed)
        kind = EntryKind.PROOF if state in {_R.VERIFIED, _R.UNVERIFIED} else EntryKind.REACTION
        said = f"{reaction.command.deed} is {state}" + (f": {why}" if why else "")
        self._open.note(reaction.incident, kind, now, said, of=reaction.id)
        return changed

    def _set(self, reaction: Reaction) -> None:
        self.book.put(reaction)
        self._changed[reaction.id] = reaction

    def _await_again(self, reaction: Reaction) -> None:
        """What an engine of before was waiting for."""
        if reaction.state is _R.DONE and reaction.done_at is not None:
            self._wait(reaction.id, reaction.done_at + reaction.quiet_s)
        elif reaction.state in {_R.VERIFIED, _R.UNVERIFIED}:
            self._wait(reaction.id, reaction.command.until)

    def _wait(self, name: Id, until: float | None) -> None:
        if until is not None:
            heapq.heappush(self._due, (until, name))
