"""Of a blanket's vertical loop: what its agent does for the control plane, and what it is told to go by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Protocol

from supercloud.model.incidents import Incident
from supercloud.model.limits import Limits
from supercloud.model.names import Id, Text
from supercloud.model.reactions import LONGEST_S, Command, Reaction

#: Of a policy, and of rules, as JSON.
POLICY_BYTES, RULES_BYTES = 256 << 10, 2 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopPolicy:
    """What the loop does by itself: security.policy.PolicyFile and security.terms.RuleSet, each as JSON.
    Without rules it keeps those that it began with."""

    policy: Annotated[str, Limits(max_length=POLICY_BYTES)]
    rules: Annotated[str, Limits(max_length=RULES_BYTES)] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseIncident:
    """`undo`: with all undone that is in force because of it. `by`: who says so."""

    incident: Id
    by: Annotated[Text, Limits(max_length=200)]
    undo: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerReaction:
    """To one that asks first (mode `ask`). `by`: who says so."""

    reaction: Id
    by: Annotated[Text, Limits(max_length=200)]
    yes: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderDeed:
    """What was decided elsewhere: by the horizontal loop of cloud `by`. `left_s`: how long it holds, counted
    from when it is done; its `until` is by another clock."""

    command: Command
    left_s: Annotated[float, Limits(gt=0, le=LONGEST_S)]
    by: Id


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderedRef:
    """Of what was ordered: its command."""

    command: Id


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """An incident about an instance, and of its reactions those that go on wherever the instance is."""

    incident: Incident
    reactions: tuple[Reaction, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardRef:
    """Of the security state of an instance that `operation` moves."""

    operation: Id
    instance: Id


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """The security state of an instance in the blanket that it leaves: `held` by that blanket's loop, whose
    clock says `at`, and `ordered` there by horizontal loops, as the next blanket is ordered it."""

    operation: Id
    instance: Id
    at: float
    held: Annotated[tuple[Held, ...], Limits(max_length=64)] = ()
    ordered: Annotated[tuple[OrderDeed, ...], Limits(max_length=64)] = ()

    def __bool__(self) -> bool:
        return bool(self.held or self.ordered)


class LoopAgent(Protocol):
    """A group that an agent may lack: one without a packet filter of its own, or older than this."""

    async def apply(self, request: LoopPolicy) -> None:
        """Durable on return; the loop goes by it from its next event on. The same again changes nothing.
        Raises: InvalidInput."""
        ...

    async def policy(self) -> LoopPolicy: ...

    async def close(self, request: CloseIncident) -> None:
        """Closed already: fine. Raises: Unavailable (the loop is being begun anew)."""
        ...

    async def answer(self, request: AnswerReaction) -> None:
        """Raises: NotFound, Conflict (it does not ask any more), Unavailable."""
        ...

    async def order(self, request: OrderDeed) -> None:
        """Its effect is there on return, and comes back by itself after a reboot; at its time it ends by
        itself, whoever is away then. The same again changes nothing, nor how long it lasts.

        Raises: Refused (the policy here protects what it is about), Conflict (this blanket does the same by
        itself), NotFound (what it is about is not here), Failed, Exhausted, Unavailable.
        """
        ...

    async def ordered(self, request: OrderedRef) -> bool:
        """Whether its effect is there: looked at, never remembered."""
        ...

    async def recall(self, request: OrderedRef) -> None:
        """On return its effect is not there. Repeatable. Raises: Failed, Unavailable."""
        ...

    async def guard(self, request: GuardRef) -> Guard:
        """What its own loop does about an instance: what has to be in force wherever that goes on.
        Raises: Unavailable."""
        ...

    async def take_over(self, request: Guard) -> None:
        """On return all of it is in force here, though the instance is still to come. Of one operation, what
        was taken over once is not again: it may have been undone here since.

        Raises: Refused (something in it is not about that instance), Failed, Unavailable.
        """
        ...
