"""What a policy says about a finding of an incident: which commands, or why not. Pure."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from supercloud.model.findings import Finding, Layer
from supercloud.model.incidents import Incident
from supercloud.model.names import Id, Ipv4, Name, is_name
from supercloud.model.reactions import Command, Deed, Reaction, ReactionState
from supercloud.security.book import Book
from supercloud.security.match import in_net
from supercloud.security.policy import Do, Mode, Policy, PolicyFile, When, protects

_REACTIONS = uuid.UUID("c1a4b1e2-9a35-4a1d-8d54-0f1f5d7e6b02")
#: What was refused is looked at again after so long, and no sooner however many findings come.
AGAIN_S = 60.0
_S = ReactionState


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """`reaction` is INTENDED, ASKED, DRY, REFUSED or OVERRULED. `overrules`: those whose place it takes."""

    reaction: Reaction
    overrules: tuple[Reaction, ...] = ()
    escalates: bool = False


def applicable(
    policies: PolicyFile, finding: Finding, incident: Incident
) -> Iterator[tuple[int, Name, Policy]]:
    """Those whose `when` holds, the first in the stated order first."""
    found = [
        (index, name, policy)
        for index, (name, policy) in enumerate(policies.policies.items())
        if _holds(policy.when, finding, incident)
    ]
    yield from sorted(found, key=lambda one: (-one[2].priority, one[0]))


def _holds(when: When, finding: Finding, incident: Incident) -> bool:
    if not (like(when.rule, finding.rule or "") or like(when.rule, finding.title)):
        return False
    if when.layer not in {None, finding.layer} or when.object not in {None, finding.object.kind}:
        return False
    if finding.severity.rank < when.severity.rank:
        return False
    relation = when.relation
    return relation is None or any(
        like(relation.to, one.rule)
        and relation.layer in {None, one.layer}
        and one.first <= finding.at
        and one.last >= finding.at - relation.within
        and (one.rule, one.object) != (finding.rule, finding.object)
        for one in incident.seen
    )


def like(pattern: str, text: str) -> bool:
    """`*` stands for anything; nothing else has a meaning of its own."""
    return fnmatchcase(text, pattern.replace("[", "[[]").replace("?", "[?]"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What is there when a policy is looked at, and the finding that it is looked at for."""

    policies: PolicyFile
    takes: Collection[Deed]
    book: Book
    now: float
    finding: Finding
    incident: Incident


def decisions(ground: Ground, index: int, name: Name, policy: Policy) -> Iterator[Decision]:
    """Of one policy, in its order. Whoever asks puts each into the book before it asks for the next."""
    rank = (policy.priority, ground.finding.severity.rank, -index)
    for step, do in enumerate(policy.do):
        found = _Step(ground, name=name, policy=policy, rank=rank, step=step, do=do).decision()
        if found is not None:
            yield found


class _Step:
    """One reaction of one policy."""

    def __init__(
        self, ground: Ground, *, name: Name, policy: Policy, rank: tuple[int, int, int], step: int, do: Do
    ) -> None:
        self._ground = ground
        self._book = ground.book
        self._finding = ground.finding
        self._incident = ground.incident
        self._rank = rank
        self._name = name
        self._policy = policy
        self._step = step
        self._do = do

    def decision(self) -> Decision | None:
        """None: it is in force, or was refused a moment ago."""
        net = proven_source(self._finding) if self._do.deed is Deed.DENY else None
        component = component_of(self._finding) if self._do.deed is Deed.RENEW else None
        what = net or component
        key = (self._incident.id, self._name, self._step, self._finding.object.id, what)
        own = self._book.tries(key)
        if any(not self._over(one) for one in own):
            return None
        command = Command(
            id=self._id(what, len(own)),
            deed=self._do.deed,
            about=self._finding.object,
            until=self._ground.now + self._do.duration,
            net=net,
            kbytes=self._do.kbytes,
            component=component,
            snapshot=self._do.snapshot,
        )
        if (why := self._refusal(command)) is not None:
            refused = self._reaction(command, _S.REFUSED, why)
            return Decision(reaction=refused, escalates="escalate" in self._policy.otherwise)
        return self._against_others(command)

    def _over(self, one: Reaction) -> bool:
        if one.state in {_S.LAPSED, _S.UNDONE}:
            return True
        return one.ended_at is not None and self._ground.now >= one.ended_at + AGAIN_S

    def _id(self, what: str | None, before: int) -> Id:
        """The same for the same decision, also after a crash that lost it."""
        parts = (self._incident.id, self._name, self._step, self._finding.object.id, what, before)
        return str(uuid.uuid5(_REACTIONS, "/".join(map(str, parts))))

    def _refusal(self, command: Command) -> str | None:
        if self._do.deed is Deed.DENY and command.net is None:
            return "the address that it came from is not proven to be its sender's"
        if self._do.deed is Deed.RENEW and command.component is None:
            return "the finding names no program of a blanket"
        for never in (self._policy.bounds.never, self._ground.policies.protected):
            if (entry := protects(never, object=command.about.id, net=command.net)) is not None:
                return f"nothing is done to {entry}"
        if command.deed not in self._ground.takes:
            return f"nobody here can do {command.deed}"
        return self._beyond(command)

    def _beyond(self, command: Command) -> str | None:
        bounds, subjects = self._policy.bounds, self._book.subjects(self._name)
        if len(subjects | {command.subject[0]}) > bounds.objects:
            return f"it is in force for {len(subjects)} objects, which is its bound"
        lately = self._book.lately(self._name, self._ground.now)
        if lately >= bounds.per_hour:
            return f"it has reacted {lately} times within an hour, which is its bound"
        return self._beyond_its_share(command, self._finding.by)

    def _beyond_its_share(self, command: Command, by: Id | None) -> str | None:
        """Of what rests on another's word: who lies may use up no more of the bounds than its share."""
        if by is None:
            return None
        bounds = self._policy.bounds
        subjects = self._book.subjects(self._name, by=by)
        if len(subjects | {command.subject[0]}) > max(1, int(bounds.objects * bounds.share)):
            return f"it is in force for {len(subjects)} objects on blanket {by}'s word, which is its share"
        lately = self._book.lately(self._name, self._ground.now, by=by)
        if lately >= max(1, int(bounds.per_hour * bounds.share)):
            return f"it has reacted {lately} times within an hour on blanket {by}'s word, which is its share"
        return None

    def _against_others(self, command: Command) -> Decision:
        others = self._book.in_force(command.subject)
        for one in others:
            if one.command.same(command):
                return self._lost(command, one, "does the same already")
        stronger = next((one for one in others if one.rank >= self._rank), None)
        if stronger is not None:
            return self._lost(command, stronger, "comes before it")
        if self._policy.mode is Mode.DRY_RUN:
            return Decision(reaction=self._reaction(command, _S.DRY, "it would have been done"))
        if self._policy.mode is Mode.ASK:
            return Decision(reaction=self._reaction(command, _S.ASKED, "a person has to say so"))
        return Decision(reaction=self._reaction(command, _S.INTENDED, ""), overrules=tuple(others))

    def _lost(self, command: Command, to: Reaction, how: str) -> Decision:
        why = f"{to.command.deed} by policy {to.policy} {how}"
        return Decision(reaction=self._reaction(command, _S.OVERRULED, why))

    def _reaction(self, command: Command, state: ReactionState, why: str) -> Reaction:
        now, verify, otherwise = self._ground.now, self._policy.verify, self._policy.otherwise
        ended = state in {_S.REFUSED, _S.OVERRULED, _S.DRY}
        return Reaction(
            command=command,
            incident=self._incident.id,
            finding=self._finding.id,
            rule=self._finding.rule or self._finding.title,
            policy=self._name,
            step=self._step,
            rank=self._rank,
            state=state,
            why=why,
            decided_at=now,
            intended_at=now if state is _S.INTENDED else None,
            ended_at=now if ended else None,
            quiet_s=verify.quiet,
            within_s=max(verify.within, verify.quiet),
            undo="undo" in otherwise,
            escalate="escalate" in otherwise,
            by=self._finding.by,
        )


def proven_source(finding: Finding) -> Ipv4 | None:
    """Where it came from, if its detector saw the address where nobody could have forged it. What is in a
    packet otherwise is whoever's a sender wrote there, and no reason to do anything to them."""
    for one in finding.evidence:
        data, source = one.get("data"), one.get("src_endpoint")
        if isinstance(data, dict) and data.get("proven") is True and isinstance(source, dict):
            address = source.get("ip")
            if isinstance(address, str) and in_net(address, "0.0.0.0/0"):
                return address
    return None


def component_of(finding: Finding) -> Name | None:
    """The program of a blanket that it is about, by the word of the blanket's own detector."""
    if finding.layer is not Layer.L1:
        return None
    for one in finding.evidence:
        data = one.get("data")
        name = data.get("component") if isinstance(data, dict) else None
        if isinstance(name, str) and is_name(name):
            return name
    return None
