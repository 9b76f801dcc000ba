"""Trust relations between clouds: what one lets another do, until when, and what may be passed on. Pure.

A relation is directed: `cloud` grants it, `to` is trusted by it. One that was made from another (`parent`)
passes that one on. It is never wider, lasts never longer and ends with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from supercloud.model.errors import Exhausted, InvalidInput, Refused
from supercloud.model.names import Id


class TrustKind(StrEnum):
    """What is let: each kind has its thing (`THINGS`), and one place that asks for it before it acts."""

    SHARE_IMAGE = "share-image"  # begin volumes and instances with an image
    CONNECT = "connect"  # begin connections to the instances of a network, from those of one of its own
    SEE_FINDINGS = "see-findings"  # read what was found about its machines, its domains and by its blankets
    ORDER_REACTIONS = "order-reactions"  # have providers do some things to its machines, and its blankets
    PLACE = "place"  # have blankets of its own inside a blanket, and instances in those
    MIGRATE_TO = "migrate-to"  # the same, for instances that move there running: nothing begins there


#: What a relation of each kind is about.
THINGS = {
    TrustKind.SHARE_IMAGE: "image",
    TrustKind.CONNECT: "network",
    TrustKind.SEE_FINDINGS: "cloud",
    TrustKind.ORDER_REACTIONS: "cloud",
    TrustKind.PLACE: "blanket",
    TrustKind.MIGRATE_TO: "blanket",
}


class TrustState(StrEnum):
    ACTIVE = "active"
    EXPIRED = "expired"
    REVOKED = "revoked"


#: Seconds that a relation lasts at most, and if nobody says how long.
LONGEST_S, USUAL_S = 400 * 86400.0, 30 * 86400.0
#: From the cloud whose thing it is to the last one that is trusted.
LINKS = 4
#: Active ones that one cloud has granted. So a list, a graph and a revocation have an end.
MOST = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """`depth`: of how many links it is the last; 1: the thing is its own cloud's."""

    id: Id
    kind: TrustKind
    cloud: Id
    to: Id
    thing: Id  # that it is about
    parent: Id | None
    depth: int
    delegable: bool
    expires_at: float  # seconds since the epoch, by the store's clock
    revoked_at: float | None = None
    reactions: frozenset[str] = frozenset()  # of kind order-reactions: which (model.orders.Reaction)

    def state(self, now: float) -> TrustState:
        if self.revoked_at is not None:
            return TrustState.REVOKED
        return TrustState.ACTIVE if now < self.expires_at else TrustState.EXPIRED


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What is asked to be granted. `lasts_s` None: the usual time, or as long as what it is made from."""

    kind: TrustKind
    cloud: Id
    to: Id
    thing: Id
    lasts_s: float | None
    delegable: bool
    reactions: frozenset[str] = frozenset()


def grant(wish: Wish, identity: Id, *, parent: Relation | None, now: float, active: int) -> Relation:
    """The relation that comes of it. `active`: how many the cloud has granted already.

    Raises:
        InvalidInput: to itself, or for no time that may be.
        Refused: more than what it is made from.
        Exhausted: it has granted as many as it can.
    """
    if wish.cloud == wish.to:
        raise InvalidInput("a cloud needs no trust of its own", hint="name another cloud")
    if active >= MOST:
        raise Exhausted(f"this cloud has granted {active} trust relations, which is all it can")
    if parent is None:
        expires_at = now + _bounded(USUAL_S if wish.lasts_s is None else wish.lasts_s)
    else:
        expires_at = _passed_on(wish, parent, now)
    return Relation(
        id=identity,
        kind=wish.kind,
        cloud=wish.cloud,
        to=wish.to,
        thing=wish.thing,
        parent=None if parent is None else parent.id,
        depth=1 if parent is None else parent.depth + 1,
        delegable=wish.delegable,
        expires_at=expires_at,
        reactions=wish.reactions,
    )


def _bounded(lasts_s: float) -> float:
    if not 0 < lasts_s <= LONGEST_S:
        raise InvalidInput(f"a trust relation lasts at most {LONGEST_S / 86400:.0f} days")
    return lasts_s


def _passed_on(wish: Wish, parent: Relation, now: float) -> float:
    """When it ends."""
    if parent.state(now) is not TrustState.ACTIVE:
        raise Refused(f"the relation that it would be made from is {parent.state(now)}")
    if (parent.to, parent.kind, parent.thing) != (wish.cloud, wish.kind, wish.thing):
        raise Refused("the relation that it would be made from is about something else")
    if more := wish.reactions - parent.reactions:
        raise Refused(f"what it would be made from does not let {', '.join(sorted(more))}")
    if not parent.delegable:
        raise Refused("that was not granted to be passed on", hint="ask for it with --delegable")
    if parent.depth >= LINKS:
        raise Refused(f"that was passed on {LINKS - 1} times already, which is all it can be")
    if wish.lasts_s is None:
        return min(now + USUAL_S, parent.expires_at)
    expires_at = now + _bounded(wish.lasts_s)
    if expires_at > parent.expires_at:
        raise Refused(
            f"it would last longer than what it is made from, which ends in {parent.expires_at - now:.0f} s",
            hint="leave --until out to have it last as long",
        )
    return expires_at


def to_pass_on(found: Iterable[Relation], *, now: float) -> Relation | None:
    """Of those that trust a cloud with one thing, the one that lets it pass that on, the farthest and for the
    longest; None: none does."""
    usable = [one for one in found if one.state(now) is TrustState.ACTIVE and one.delegable]
    return max(usable, key=lambda one: (one.depth < LINKS, one.expires_at), default=None)


def descending(of: Iterable[Id], among: Sequence[Relation]) -> tuple[Id, ...]:
    """Those of `among` that were made from one of `of`, however far; in the order of descent."""
    known, found = set(of), list[Id]()
    more = True
    while more:
        new = [one.id for one in among if one.parent in known and one.id not in known]
        more = bool(new)
        known.update(new)
        found += new
    return tuple(found)
