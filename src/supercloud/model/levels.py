"""Security levels: what each means, and by what each platform and blanket holds it.

A level is a table, not code: `RULES` says from which level on each rule holds, for what, and which mechanisms
hold it; a mechanism says which facts of a place it takes. So a higher level has every rule of a lower one,
and never allows a place that a lower one refuses. What no mechanism holds in a place, or what is not known of
it, is not given there, and said so: nothing is held because nobody looked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from supercloud.model.errors import InvalidInput
from supercloud.model.names import Name


class Level(StrEnum):
    """From the lowest to the highest."""

    OPEN = "open"  # what always holds
    BASELINE = "baseline"
    HARDENED = "hardened"
    ISOLATED = "isolated"

    @property
    def rank(self) -> int:
        return _ORDER.index(self)

    def means(self, other: Level) -> bool:
        """Whether it has all that `other` has."""
        return self.rank >= other.rank


_ORDER = tuple(Level)


class Thing(StrEnum):
    """What has a level."""

    INSTANCE = "instance"
    NETWORK = "network"
    VOLUME = "volume"


class Fact(StrEnum):
    """What decides whether a mechanism holds, in the words of a refusal."""

    CONFIDENTIALITY = "the platform's confidentiality"
    ACCELERATOR = "the platform's accelerator"
    FLAVOUR = "the blanket's flavour"
    SHELL = "the debug shell on the blanket's console"
    TOOLS = "access of libvirt tools to the blanket"
    FILTER = "the blanket's filter of ways out"
    COMPANY = "company in the blanket"
    RIGHT = "the mode of its run right"


#: Values of facts that only we give. The others are a platform's, or a blanket's, own words.
PRESENT, ABSENT = "present", "absent"
STRICT, HOLD = "strict", "hold"
#: Of an instance, wherever it is: no move changes them.
OWN = frozenset({Fact.RIGHT})

Facts = Mapping[Fact, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mechanism:
    """One way to hold a rule. It does where each fact that it takes has one of the values."""

    name: str
    takes: Mapping[Fact, frozenset[str]]

    def lacks(self, facts: Facts) -> str | None:
        """Why it does not hold there, or nothing."""
        for fact, values in self.takes.items():
            if (found := facts.get(fact)) is None:
                return f"{fact} is not known"
            if found not in values:
                return f"{fact} is {found}, not {' or '.join(sorted(values))}"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """`since`: the lowest level that has it. `by`: any one of these holds it."""

    name: Name
    says: str
    since: Level
    of: frozenset[Thing]
    by: tuple[Mechanism, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruling:
    """A rule in one place: held `by` a mechanism, or not given, and why."""

    rule: Rule
    by: str | None
    why: str = ""

    @property
    def held(self) -> bool:
        return self.by is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """A level that has to be held where an instance is: its own, its network's or its volume's."""

    thing: Thing
    name: Name
    level: Level
    own: Facts = field(default_factory=dict)  # of the thing itself

    @property
    def of(self) -> str:
        return f"{self.thing} {self.name}"


# ---------------------------------------------------------------- the table


def _takes(fact: Fact, *values: str) -> dict[Fact, frozenset[str]]:
    return {fact: frozenset(values)}


#: Flavours whose blankets run our own drivers of volumes, overlay and run rights.
_OUR_BLANKETS = _takes(Fact.FLAVOUR, "kvm", "tcg")
_ALL = frozenset(Thing)
NO_WAY_OUT, NO_TOOLS = "no-way-out", "no-tools"

RULES: tuple[Rule, ...] = (
    Rule(
        name="encrypted-disks",
        says="disks are encrypted, each copy with a key of its own",
        since=Level.OPEN,
        of=frozenset({Thing.INSTANCE, Thing.VOLUME}),
        by=(Mechanism(name="LUKS, keys released to one blanket by the key store", takes=_OUR_BLANKETS),),
    ),
    Rule(
        name="one-copy",
        says="at most one copy has effects that others accept",
        since=Level.OPEN,
        of=frozenset({Thing.INSTANCE}),
        by=(
            Mechanism(
                name="run right with an epoch, checked by store, peers and key store", takes=_OUR_BLANKETS
            ),
        ),
    ),
    Rule(
        name="encrypted-traffic",
        says="traffic between blankets is encrypted",
        since=Level.OPEN,
        of=frozenset({Thing.NETWORK}),
        by=(Mechanism(name="WireGuard mesh, nothing else on the underlay", takes=_OUR_BLANKETS),),
    ),
    Rule(
        name="own-addresses",
        says="each instance speaks as itself only, from where it runs",
        since=Level.OPEN,
        of=frozenset({Thing.NETWORK}),
        by=(Mechanism(name="nftables at each port and peer, locked entries", takes=_OUR_BLANKETS),),
    ),
    Rule(
        name="closed-inwards",
        says="nothing from outside reaches an instance but at published ports, and from connected networks",
        since=Level.OPEN,
        of=frozenset({Thing.NETWORK}),
        by=(Mechanism(name="nftables, ingress denied by default", takes=_OUR_BLANKETS),),
    ),
    Rule(
        name="no-shell",
        says="nobody has a shell in the blanket",
        since=Level.BASELINE,
        of=_ALL,
        by=(Mechanism(name="a blanket made without a debug shell", takes=_takes(Fact.SHELL, ABSENT)),),
    ),
    Rule(
        name=NO_TOOLS,
        says="no tools but supercloud's own were let in to the blanket",
        since=Level.BASELINE,
        of=_ALL,
        by=(Mechanism(name="a blanket that no tools were let in to", takes=_takes(Fact.TOOLS, ABSENT)),),
    ),
    Rule(
        name="apart-in-blanket",
        says="the processor keeps instances apart from their blanket",
        since=Level.HARDENED,
        of=_ALL,
        by=(Mechanism(name="hardware-assisted virtualization (KVM)", takes=_takes(Fact.FLAVOUR, "kvm")),),
    ),
    Rule(
        name="apart-on-platform",
        says="the processor keeps the blanket apart from what else the platform runs",
        since=Level.HARDENED,
        of=_ALL,
        by=(
            Mechanism(
                name="the platform's accelerator, proven by a boot", takes=_takes(Fact.ACCELERATOR, "kvm")
            ),
        ),
    ),
    Rule(
        name="ends-with-its-right",
        says="it stops where nobody renews its run right",
        since=Level.HARDENED,
        of=frozenset({Thing.INSTANCE}),
        by=(
            Mechanism(name="strict run right, held by keeper and watchdog", takes=_takes(Fact.RIGHT, STRICT)),
        ),
    ),
    Rule(
        name="closed-memory",
        says="the platform's admin cannot read the blanket's memory, nor so its keys",
        since=Level.ISOLATED,
        of=_ALL,
        by=(
            Mechanism(
                name="the platform's declared confidentiality",
                takes=_takes(Fact.CONFIDENTIALITY, "enforced"),
            ),
        ),
    ),
    Rule(
        name="alone",
        says="it shares its blanket with no other instance",
        since=Level.ISOLATED,
        of=frozenset({Thing.INSTANCE}),
        by=(Mechanism(name="placement", takes=_takes(Fact.COMPANY, ABSENT)),),
    ),
    Rule(
        name=NO_WAY_OUT,
        says="no instance on it reaches anything outside of it, names of the world included",
        since=Level.ISOLATED,
        of=frozenset({Thing.NETWORK}),
        by=(
            Mechanism(
                name="nftables: no forwarding out; DNS of its own names only",
                takes=_takes(Fact.FILTER, PRESENT),
            ),
        ),
    ),
)


# ---------------------------------------------------------------- what follows from it


def rules_of(level: Level, thing: Thing) -> tuple[Rule, ...]:
    """All that the level means for such a thing."""
    return tuple(rule for rule in RULES if thing in rule.of and level.means(rule.since))


def has(level: Level, thing: Thing, rule: Name) -> bool:
    """Whether the level means this rule for such a thing."""
    return any(one.name == rule for one in rules_of(level, thing))


def ruling(rule: Rule, facts: Facts) -> Ruling:
    """How the rule stands where these facts hold."""
    reasons = []
    for mechanism in rule.by:
        if (lack := mechanism.lacks(facts)) is None:
            return Ruling(rule=rule, by=mechanism.name)
        reasons.append(lack)
    return Ruling(rule=rule, by=None, why="; ".join(reasons) or "nothing gives it yet")


def rulings(demand: Demand, facts: Facts) -> tuple[Ruling, ...]:
    """How each rule of a demand stands there: what the level is compiled to."""
    every = {**facts, **demand.own}
    return tuple(ruling(rule, every) for rule in rules_of(demand.level, demand.thing))


def objection(demands: Iterable[Demand], facts: Facts) -> str | None:
    """Why a place cannot give what is demanded, or nothing."""
    for demand in demands:
        for found in rulings(demand, facts):
            if not found.held:
                return f"{demand.of} is {demand.level} ({found.rule.says}), and {found.why}"
    return None


def given(facts: Facts) -> Level | None:
    """The highest level of which every rule, of whatever thing, is held there for who comes alone and keeps
    to its right; None: not even the lowest is."""
    every = {**facts, Fact.COMPANY: ABSENT, **own_facts(hold=False)}
    lacking = [rule.since for rule in RULES if not ruling(rule, every).held]
    return max(
        (one for one in Level if not any(one.means(low) for low in lacking)), key=_ORDER.index, default=None
    )


def stays_alone(level: Level) -> bool:
    """Whether an instance of this level shares its blanket with nobody, so that nobody comes to it."""
    return any(Fact.COMPANY in one.takes for rule in rules_of(level, Thing.INSTANCE) for one in rule.by)


def check_own(demand: Demand) -> None:
    """That no place is needed to see that it cannot be.

    Raises:
        InvalidInput: what the thing is itself breaks a rule of its level.
    """
    for rule in rules_of(demand.level, demand.thing):
        if rule.by and all(one.takes.keys() <= OWN for one in rule.by):
            found = ruling(rule, demand.own)
            if not found.held:
                raise InvalidInput(f"{demand.of} cannot be {demand.level} ({rule.says}): {found.why}")


def own_facts(*, hold: bool) -> Facts:
    """Of an instance."""
    return {Fact.RIGHT: HOLD if hold else STRICT}
