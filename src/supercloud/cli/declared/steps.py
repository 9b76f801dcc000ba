"""The values of a plan: steps, what cannot be done, and what the file does not speak of."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

from supercloud.cli.declared.tree import Path

#: Names a step in its plan, e.g. "create instance web".
Key = str


class Kind(StrEnum):
    PROVIDER = "provider"
    CLOUD = "cloud"
    NETWORK = "network"
    BLANKET = "blanket"
    VOLUME = "volume"
    INSTANCE = "instance"
    TRUST = "trust"

    @property
    def section(self) -> str:
        """Of the file, and of the API."""
        return self.value if self in {Kind.CLOUD, Kind.TRUST} else f"{self.value}s"


class Act(StrEnum):
    """What a step does to a thing. No thing has two of one kind in a plan."""

    CREATE = "create"
    RESIZE = "resize"
    SHRINK = "shrink"  # a quota, once there is less in it
    ATTACH = "attach"
    DETACH = "detach"
    MIGRATE = "migrate"
    PLACE = "place"  # say anew where it may be
    RAISE = "raise"  # its security level
    LOWER = "lower"
    START = "start"
    STOP = "stop"
    REMOVE = "remove"
    CLEAR = "clear"  # away what is left of a blanket that never came to be
    WAIT = "wait"  # for an operation that is under way already

    @property
    def takes_away(self) -> bool:
        """Whether it ends or cuts off something that is there."""
        return self in {Act.DETACH, Act.STOP, Act.REMOVE}


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request of the API. A `durable` one is answered with an operation, to be followed to its end.

    `user_data` is in clear: it is encrypted, and put into the body, as the request is made.
    """

    method: Literal["GET", "POST", "PUT", "DELETE"]
    path: str
    body: dict[str, Any] | None = None
    query: dict[str, str] = field(default_factory=dict)
    durable: bool = True
    user_data: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    act: Act
    kind: Kind
    name: str
    what: str  # in words, for people
    call: Call
    needs: frozenset[Key] = frozenset()  # steps that have to be done before

    @property
    def key(self) -> Key:
        return f"{self.act} {self.kind} {self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A difference that no step can end."""

    kind: Kind
    name: str
    path: Path  # in the file, of what differs
    why: str
    hint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Extra:
    """What is there and not in the file: left alone, unless it is pruned."""

    kind: Kind
    name: str
    what: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`steps` in an order in which they could be done one by one."""

    cloud: str
    steps: tuple[Step, ...]
    refusals: tuple[Refusal, ...]
    extras: tuple[Extra, ...]

    @property
    def differs(self) -> bool:
        return bool(self.steps or self.refusals)

    @property
    def lowered(self) -> tuple[Step, ...]:
        return tuple(step for step in self.steps if step.act is Act.LOWER)

    @property
    def taken_away(self) -> tuple[Step, ...]:
        return tuple(step for step in self.steps if step.act.takes_away)
