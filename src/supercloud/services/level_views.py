"""What is asked and shown of security levels: values of `services.northbound`."""

from __future__ import annotations

from dataclasses import dataclass

from supercloud.model.levels import Level, Thing
from supercloud.model.names import Id, Name


@dataclass(frozen=True, slots=True, kw_only=True)
class SetLevel:
    """From now on. A lower one is refused unless it is said that it is to be `lower`."""

    level: Level
    lower: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MustMove:
    """What is where its levels cannot be held, or is on its way there."""

    thing: Thing
    name: Name
    blanket: Name
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelChange:
    thing: Thing
    id: Id
    name: Name
    was: Level
    level: Level
    must_move: tuple[MustMove, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleView:
    """A rule that a level means, and whose level that is: the thing's own, its network's, its volume's."""

    rule: Name
    says: str
    since: Level  # the lowest level that means it
    of: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RulingView:
    """Held `by` a mechanism, or (None) not given, and why."""

    rule: Name
    of: str
    held: bool
    by: str | None
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceView:
    """A blanket of the cloud, or (`blanket` None) one that could be added on a provider's platform."""

    blanket: Name | None
    provider: Name
    kind: str  # of the platform
    here: bool  # it is there now
    allowed: bool  # every rule is held there, and nobody else there stays alone
    why: str  # it is not
    rules: tuple[RulingView, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelView:
    """`level`: the one that is explained; `now`: the one that it has."""

    thing: Thing
    id: Id
    name: Name
    cloud: Name
    now: Level
    level: Level
    rules: tuple[RuleView, ...]
    places: tuple[PlaceView, ...]
    left_out: int  # so many places more are not shown
