"""Reactions of the loop: OpenC2 commands about one object, their opposites, and the states they go through.

What only a provider can do to its own platform is an order (model.orders); what the loop does where it stands
is a `Deed`. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

from supercloud.model.findings import Object
from supercloud.model.limits import Limits
from supercloud.model.names import Id, Ipv4, Name
from supercloud.model.openc2 import ActionTarget

#: Of OpenC2's extensions: targets that it has no word for.
PROFILE = "x-supercloud"
#: Of one reaction that lasts, at most: who wants it for longer decides again.
LONGEST_S = 7 * 86400.0


class Deed(ActionTarget):
    """An action and its target, as OpenC2 names them."""

    CONTAIN = "contain:device"
    RELEASE = "allow:device"
    DENY = "deny:ipv4_net"
    ALLOW = "allow:ipv4_net"
    LIMIT = "set:x-supercloud:rate"
    UNLIMIT = "delete:x-supercloud:rate"
    PAUSE = "stop:x-supercloud:vcpus"
    RESUME = "start:x-supercloud:vcpus"
    RESTART = "restart:device"
    RENEW = "restart:x-supercloud:component"
    KEEP = "copy:x-supercloud:memory"
    SCAN = "scan:x-supercloud:memory"
    MOVE = "set:x-supercloud:blanket"
    QUARANTINE = "contain:x-supercloud:blanket"
    ADMIT = "allow:x-supercloud:blanket"
    EVACUATE = "contain:x-supercloud:domain"
    RETURN = "allow:x-supercloud:domain"
    ROTATE = "update:x-supercloud:keys"
    RESTORE = "restore:x-supercloud:volume"


_D = Deed
MEANINGS: Mapping[Deed, str] = {
    _D.CONTAIN: "nothing goes through the instance's ports, either way",
    _D.RELEASE: "it is contained no more",
    _D.DENY: "nothing goes between the blanket's instances and this address, either way",
    _D.ALLOW: "what was denied with this address goes through again",
    _D.LIMIT: "no more than so many kilobytes a second come out of each of the instance's ports",
    _D.UNLIMIT: "as much as it sends goes through again",
    _D.PAUSE: "its processors stand still; its memory is kept",
    _D.RESUME: "they go on, if its run right allows",
    _D.RESTART: "its machine is reset and boots from its disk; its memory is lost",
    _D.RENEW: "a program of the blanket ends, and its supervisor begins it anew",
    _D.KEEP: "its memory and what was known are kept, sealed to the owner",
    _D.SCAN: "its memory is scanned now, by its blanket's YARA rules",
    _D.MOVE: "it moves live to another blanket",
    _D.QUARANTINE: "nothing new comes to the blanket, and its instances move live to others",
    _D.ADMIT: "the blanket takes instances again",
    _D.EVACUATE: "nothing new comes to the cloud's blankets in the domain; their instances move out of it",
    _D.RETURN: "the cloud's blankets in the domain take instances again",
    _D.ROTATE: "the cloud's blankets change the keys of their mesh",
    _D.RESTORE: "it ends, its volume goes back to a snapshot or its image, and it starts again",
}
#: Of what lasts. What is done once has none: nothing of it is there to be taken back.
OPPOSITES: Mapping[Deed, Deed] = {
    _D.CONTAIN: _D.RELEASE,
    _D.RELEASE: _D.CONTAIN,
    _D.DENY: _D.ALLOW,
    _D.ALLOW: _D.DENY,
    _D.LIMIT: _D.UNLIMIT,
    _D.UNLIMIT: _D.LIMIT,
    _D.PAUSE: _D.RESUME,
    _D.RESUME: _D.PAUSE,
    _D.QUARANTINE: _D.ADMIT,
    _D.ADMIT: _D.QUARANTINE,
    _D.EVACUATE: _D.RETURN,
    _D.RETURN: _D.EVACUATE,
}
#: At a blanket: what lasts there for a time, and what is done once, and not again for that time.
LASTING = frozenset({_D.CONTAIN, _D.DENY, _D.LIMIT, _D.PAUSE})
ONCE = frozenset({_D.RESTART, _D.RENEW, _D.KEEP, _D.SCAN})
#: What nobody but the control plane can do, which knows of more than one blanket.
GOVERNED = frozenset({_D.MOVE, _D.QUARANTINE, _D.EVACUATE, _D.ROTATE, _D.RESTORE})
#: What a policy may do by itself. The others take one of these back.
POLICED = LASTING | ONCE | GOVERNED


class Aspect(StrEnum):
    """Of an object: of two reactions that change the same one differently, only one can hold."""

    PORT = "port"
    NET = "net"
    RATE = "rate"
    VCPUS = "vcpus"
    POWER = "power"
    PROGRAM = "program"
    MEMORY = "memory"
    SCAN = "scan"
    PLACE = "place"
    ADMISSION = "admission"
    KEYS = "keys"
    DISK = "disk"


ASPECTS: Mapping[Deed, Aspect] = {
    _D.CONTAIN: Aspect.PORT,
    _D.RELEASE: Aspect.PORT,
    _D.DENY: Aspect.NET,
    _D.ALLOW: Aspect.NET,
    _D.LIMIT: Aspect.RATE,
    _D.UNLIMIT: Aspect.RATE,
    _D.PAUSE: Aspect.VCPUS,
    _D.RESUME: Aspect.VCPUS,
    _D.RESTART: Aspect.POWER,
    _D.RENEW: Aspect.PROGRAM,
    _D.KEEP: Aspect.MEMORY,
    _D.SCAN: Aspect.SCAN,
    _D.MOVE: Aspect.PLACE,
    _D.QUARANTINE: Aspect.ADMISSION,
    _D.ADMIT: Aspect.ADMISSION,
    _D.EVACUATE: Aspect.ADMISSION,
    _D.RETURN: Aspect.ADMISSION,
    _D.ROTATE: Aspect.KEYS,
    _D.RESTORE: Aspect.DISK,
}
#: Of one machine: what is done there before counts for what is done after, as a policy's order has it. A copy
#: of what was paused first is whole, and one after its machine was reset is of nothing. A scan takes too long
#: for anything to wait for it.
ONE_AFTER_ANOTHER = frozenset({Aspect.VCPUS, Aspect.MEMORY, Aspect.POWER})


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One, whose `id` makes it the same however often it is given. `until`: seconds since the epoch."""

    id: Id
    deed: Deed
    about: Object
    until: float | None = None
    net: Ipv4 | None = None  # of DENY
    kbytes: Annotated[int, Limits(ge=1, le=10_000_000)] | None = None  # a second, of LIMIT
    component: Name | None = None  # of RENEW
    snapshot: Name | None = None  # of RESTORE; None: its image

    @property
    def subject(self) -> tuple[str, Aspect]:
        """Of what it changes which aspect: an address is one thing, whoever it was found with."""
        aspect = ASPECTS[self.deed]
        if aspect is Aspect.PROGRAM:
            return (f"{self.about.id}/{self.component}", aspect)
        return (self.net or "" if aspect is Aspect.NET else self.about.id, aspect)

    def same(self, other: Command) -> bool:
        """Whether both come to the same, but for how long."""
        mine, theirs = ((one.deed, one.subject, one.kbytes, one.snapshot) for one in (self, other))
        return mine == theirs

    def as_openc2(self, now: float) -> dict[str, Any]:
        """OpenC2 1.0."""
        said: Any = {"device_id": self.about.id}
        if self.deed.target == "ipv4_net":
            said = f"{self.net}/32"
        elif self.kbytes is not None:
            said = {"device_id": self.about.id, "kbytes_per_second": self.kbytes}
        elif self.component is not None:
            said = {"device_id": self.about.id, "component": self.component}
        elif self.snapshot is not None:
            said = {"device_id": self.about.id, "snapshot": self.snapshot}
        args: dict[str, Any] = {"response_requested": "complete"}
        if self.until is not None:
            args["duration"] = max(1, int((self.until - now) * 1000))
        return {
            "action": self.deed.action,
            "target": {self.deed.target: said},
            "args": args,
            "actuator": {PROFILE: {"object": self.about.id}},
            "command_id": self.id,
        }


class ReactionState(StrEnum):
    """`INTENDED` is durable before anything is done, so that after a crash its effect is looked up."""

    ASKED = "asked"  # a person has to say so first
    INTENDED = "intended"
    DONE = "done"
    VERIFIED = "verified"
    UNVERIFIED = "unverified"  # done, and it did not help; its effect is left, for a person to look
    UNDOING = "undoing"
    #: Ends.
    DRY = "dry"  # it would have been done
    REFUSED = "refused"  # by a bound, by a person, or because nobody here can
    OVERRULED = "overruled"  # by another reaction that comes before it
    LAPSED = "lapsed"  # its time is over
    UNDONE = "undone"
    ESCALATED = "escalated"  # it could neither be done nor undone, and a person has to look


_S = ReactionState
REACTION_TRANSITIONS: Mapping[ReactionState, frozenset[ReactionState]] = {
    _S.ASKED: frozenset({_S.INTENDED, _S.REFUSED, _S.OVERRULED, _S.LAPSED}),
    _S.INTENDED: frozenset({_S.DONE, _S.UNDOING, _S.ESCALATED, _S.LAPSED}),
    _S.DONE: frozenset({_S.VERIFIED, _S.UNVERIFIED, _S.UNDOING, _S.LAPSED}),
    _S.VERIFIED: frozenset({_S.UNVERIFIED, _S.UNDOING, _S.LAPSED}),
    _S.UNVERIFIED: frozenset({_S.UNDOING, _S.LAPSED}),
    _S.UNDOING: frozenset({_S.UNDONE, _S.ESCALATED}),
    _S.DRY: frozenset(),
    _S.REFUSED: frozenset(),
    _S.OVERRULED: frozenset(),
    _S.LAPSED: frozenset(),
    _S.UNDONE: frozenset(),
    _S.ESCALATED: frozenset(),
}
#: It has, or may have, an effect.
IN_FORCE = frozenset({_S.INTENDED, _S.DONE, _S.VERIFIED, _S.UNVERIFIED, _S.UNDOING})
ENDED = frozenset(state for state, after in REACTION_TRANSITIONS.items() if not after)
_GOES_ALONG = (IN_FORCE | {_S.ASKED}) - {_S.UNDOING}
#: Why a reaction ended at a blanket that its object left: it is in force where that went.
LEFT = "what it is about is not here any more"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reaction:
    """A command, why it was decided, and how far it is. Moments are seconds since the epoch.

    `rank`: who comes first where two want different things of one aspect (security.policy).
    """

    command: Command
    incident: Id
    finding: Id
    rule: str
    policy: str
    step: int
    rank: tuple[int, int, int]
    state: ReactionState
    why: str = ""
    decided_at: float
    intended_at: float | None = None
    done_at: float | None = None
    ended_at: float | None = None
    #: What was decided about proof: quiet for so long after it was done, seen by then, and what else.
    quiet_s: float = 0.0
    within_s: float = 30.0
    undo: bool = True  # if it is not verified, or fails
    escalate: bool = True
    tries: int = 0
    by: Id | None = None  # the blanket on whose word alone it rests (model.findings.Finding.by)

    @property
    def id(self) -> Id:
        return self.command.id

    @property
    def goes_along(self) -> bool:
        """With what it is about, wherever that goes: what is in force, and what a person was asked. What is
        done once was done where that was."""
        return self.state in _GOES_ALONG and (self.command.deed not in ONCE or self.state is _S.ASKED)

    @property
    def has_effect(self) -> bool:
        """It was done, and is not being undone."""
        return self.state in {_S.DONE, _S.VERIFIED, _S.UNVERIFIED}

    @property
    def is_over(self) -> bool:
        """It has ended, and not because its object left, or because it could not be done."""
        undone = self.state in {_S.UNDONE, _S.ESCALATED}
        return self.state in ENDED and self.why != LEFT and not (undone and self.done_at is None)
