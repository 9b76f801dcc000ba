"""Where an instance may be, as its owner declares it, and which blanket that makes it.

`Placement` is what is declared; a `Site` is a blanket with what its provider says of itself. What a provider
does not say (where it is, what it costs) fulfils no demand. Placement is decided by what is written down:
whether a blanket really has the room or the CPU is for whoever starts or moves something there to find out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Annotated

from supercloud.model import levels
from supercloud.model.errors import InvalidInput, Refused
from supercloud.model.levels import Demand, Fact, Facts, Level
from supercloud.model.limits import Limits
from supercloud.model.names import Id, Name

#: A place, from the large to the small, its parts joined by hyphens: `de`, `de-by`, `eu-central-1`.
Location = Name
#: ISO 4217.
Currency = Annotated[str, Limits(pattern=r"^[A-Z]{3}$")]
#: A decimal number as text, so that what was written is what is computed with.
Amount = Annotated[str, Limits(pattern=r"^[0-9]{1,9}(\.[0-9]{1,6})?$")]
Names = Annotated[tuple[Name, ...], Limits(max_length=64)]
#: So many blankets are named in one refusal.
_TOLD = 8


class Confidentiality(StrEnum):
    """Whether a platform's admin is kept from reading a blanket's memory (docs/threat-model.md)."""

    ENFORCED = "enforced"  # below the admin: micro-hypervisor or confidential VM
    PROCEDURAL = "procedural"  # by promise and audit only


class Apart(StrEnum):
    """What two instances that are kept apart do not have in common."""

    BLANKET = "blanket"
    DOMAIN = "domain"


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """Of a provider: for a vCPU and for a GiB of an instance's memory, each for an hour."""

    currency: Currency
    vcpu_hour: Amount = "0"
    gib_hour: Amount = "0"

    def of(self, vcpus: int, memory_mib: int) -> Decimal:
        """For an hour of such an instance."""
        return vcpus * Decimal(self.vcpu_hour) + Decimal(memory_mib) / 1024 * Decimal(self.gib_hour)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """At most so much for an hour."""

    amount: Amount
    currency: Currency

    def __str__(self) -> str:
        return f"{self.amount} {self.currency}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """What an instance asks of where it is. What is left out is not asked."""

    domains: Names = ()  # one of these
    not_domains: Names = ()  # none of these
    locations: Names = ()  # in one of these: `de` has `de-by` in it
    max_cost: Cost | None = None
    confidentiality: Confidentiality | None = None  # so much, or more
    apart_from: Names = ()  # instances, or groups of them, that are not where it is
    apart_by: Apart = Apart.BLANKET

    def check(self, instance: Name) -> None:
        """
        Raises:
            InvalidInput: nothing could ever fulfil it.
        """
        if both := sorted(set(self.domains) & set(self.not_domains)):
            raise InvalidInput(f"domain {both[0]} is both allowed and denied")
        if instance in self.apart_from:
            raise InvalidInput(f"instance {instance} cannot be kept apart from itself")


#: Asks for nothing.
ANYWHERE = Placement()


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """An instance to be placed."""

    name: Name
    vcpus: int
    memory_mib: int
    placement: Placement = ANYWHERE
    group: Name | None = None
    demands: tuple[Demand, ...] = ()  # its security level, and those of its networks and volumes


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A blanket that an instance could be in. `facts`: what decides which levels can be held there."""

    id: Id
    name: Name
    domain: Name
    location: str | None = None
    price: Price | None = None
    confidentiality: Confidentiality = Confidentiality.PROCEDURAL
    facts: Facts = field(default_factory=dict)
    closed: str = ""  # why nothing new comes there at all
    connected: bool = True  # at this moment; else it is expected back
    free_mib: int | None = None  # what its instances leave of its memory; None: not known
    instances: int = 0
    holds_blankets: bool = False  # others are inside it


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """Another instance of the same cloud: where it is, and where it is about to be."""

    name: Name
    group: Name | None = None
    placement: Placement = ANYWHERE
    level: Level = Level.OPEN
    blankets: frozenset[Id] = frozenset()
    domains: frozenset[Name] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    blanket: Id
    name: Name
    reason: str  # in words


def objection(subject: Subject, site: Site, neighbours: Sequence[Neighbour] = ()) -> str | None:
    """Why `subject` may not be there, or nothing. Room is not looked at."""
    asked = subject.placement
    for said in (
        _of_domain(asked, site),
        _of_location(asked, site),
        _of_confidentiality(asked, site),
        _of_cost(subject, site),
        of_levels(subject, site, neighbours),
    ):
        if said is not None:
            return said
    for one in neighbours:
        apart = _apart(subject, one)
        if Apart.DOMAIN in apart and site.domain in one.domains:
            return f"{one.name}, which it is kept apart from, is in domain {site.domain}"
        if apart and site.id in one.blankets:
            return f"{one.name}, which it is kept apart from, is there"
    return None


def of_levels(subject: Subject, site: Site, neighbours: Iterable[Neighbour] = ()) -> str | None:
    """Why what its levels demand is not held there, or nothing. Staying alone holds both ways, too."""
    near = [one for one in neighbours if site.id in one.blankets]
    for one in near:
        if levels.stays_alone(one.level):
            return f"{one.name}, which is {one.level} and stays alone in its blanket, is there"
    return levels.objection(subject.demands, facts_of(site, near))


def facts_of(site: Site, near: Sequence[Neighbour]) -> Facts:
    """Of a blanket, with the instances that are there besides. A blanket inside it is company, too."""
    alone = not near and not site.holds_blankets
    return {**site.facts, Fact.COMPANY: levels.ABSENT if alone else levels.PRESENT}


def ranked(
    subject: Subject, sites: Iterable[Site], neighbours: Sequence[Neighbour] = ()
) -> tuple[list[Choice], dict[Name, str]]:
    """Where it may go, the best first, and of the others why not, by their names.

    The best is connected, has the fewest instances, and then the lowest price.
    """
    fit: list[Site] = []
    refused: dict[Name, str] = {}
    for site in sorted(sites, key=lambda one: one.name):
        why = site.closed or objection(subject, site, neighbours) or _of_room(subject, site)
        if why:
            refused[site.name] = why
        else:
            fit.append(site)
    fit.sort(key=lambda site: (not site.connected, site.instances, _cost_key(subject, site), site.name))
    return [_choice(site, len(fit), len(refused)) for site in fit], refused


def choose(subject: Subject, sites: Iterable[Site], neighbours: Sequence[Neighbour] = ()) -> Choice:
    """The best that there is.

    Raises:
        Refused: none, saying for each why not.
    """
    found, refused = ranked(subject, sites, neighbours)
    if not found:
        raise nowhere(subject.name, refused)
    return found[0]


def nowhere(instance: Name, refused: dict[Name, str]) -> Refused:
    """That no blanket fits, and why each does not."""
    if not refused:
        return Refused("this cloud has no blanket", hint="supercloud blanket add NAME --cloud … --provider …")
    said = [f"{name}: {why}" for name, why in list(refused.items())[:_TOLD]]
    more = len(refused) - len(said)
    return Refused(
        f"no blanket fits instance {instance}: " + "; ".join(said) + (f"; and {more} more" if more else "")
    )


def _choice(site: Site, fit: int, refused: int) -> Choice:
    load = "no instance" if not site.instances else f"{site.instances} instance" + "s" * (site.instances > 1)
    if fit == 1:
        reason = "the only blanket that fits" if refused else "the only blanket"
    else:
        reason = f"it has {load}, the fewest of {fit} blankets" + (" that fit" if refused else "")
    if refused:
        reason += f", {refused} do not" if refused > 1 else ", 1 does not"
    return Choice(blanket=site.id, name=site.name, reason=reason)


def _of_domain(asked: Placement, site: Site) -> str | None:
    if site.domain in asked.not_domains:
        return f"domain {site.domain} is denied"
    if asked.domains and site.domain not in asked.domains:
        return f"domain {site.domain} is not among {', '.join(asked.domains)}"
    return None


def _of_location(asked: Placement, site: Site) -> str | None:
    if not asked.locations:
        return None
    if site.location is None:
        return f"domain {site.domain} does not say where it is"
    if any(is_within(site.location, one) for one in asked.locations):
        return None
    return f"domain {site.domain} is in {site.location}, not in {' or '.join(asked.locations)}"


def is_within(location: str, place: str) -> bool:
    """Whether `location` is `place` or a part of it."""
    return location == place or location.startswith(f"{place}-")


def _of_confidentiality(asked: Placement, site: Site) -> str | None:
    if (
        asked.confidentiality is Confidentiality.ENFORCED
        and site.confidentiality is not asked.confidentiality
    ):
        return f"the platform of domain {site.domain} does not enforce confidentiality"
    return None


def _of_cost(subject: Subject, site: Site) -> str | None:
    limit = subject.placement.max_cost
    if limit is None:
        return None
    if site.price is None:
        return f"domain {site.domain} does not say what it costs"
    if site.price.currency != limit.currency:
        return f"domain {site.domain} is paid in {site.price.currency}, the limit is in {limit.currency}"
    cost = site.price.of(subject.vcpus, subject.memory_mib)
    if cost > Decimal(limit.amount):
        return f"an hour in domain {site.domain} costs {_plain(cost)} {limit.currency}, more than {limit}"
    return None


def _plain(amount: Decimal) -> str:
    return f"{amount:f}".rstrip("0").rstrip(".") if "." in f"{amount:f}" else f"{amount:f}"


def _of_room(subject: Subject, site: Site) -> str | None:
    if site.free_mib is not None and subject.memory_mib > site.free_mib:
        return f"it has {max(0, site.free_mib)} MiB left, {subject.memory_mib} are needed"
    return None


def _apart(subject: Subject, other: Neighbour) -> set[Apart]:
    """How the two are kept apart, whichever of them asks for it."""
    ways = set()
    if _names(subject.placement, other.name, other.group):
        ways.add(subject.placement.apart_by)
    if _names(other.placement, subject.name, subject.group):
        ways.add(other.placement.apart_by)
    return ways


def _names(placement: Placement, name: Name, group: Name | None) -> bool:
    return name in placement.apart_from or (group is not None and group in placement.apart_from)


def _cost_key(subject: Subject, site: Site) -> tuple[bool, str, Decimal]:
    """Prices are compared where they are in one currency; a price that is not known comes last."""
    if site.price is None:
        return True, "", Decimal(0)
    return False, site.price.currency, site.price.of(subject.vcpus, subject.memory_mib)
