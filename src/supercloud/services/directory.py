"""Who there is, whose each cloud is and which tokens are revoked: what every request has to know."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from sqlalchemy import select

from supercloud.model.kinds import Kind
from supercloud.model.names import Id, PublicKey
from supercloud.model.permissions import Role
from supercloud.model.trust import TrustKind
from supercloud.services.store.changes import Change
from supercloud.services.store.engine import Store
from supercloud.services.store.tables import Cloud, Principal, Provider, Revocation, Trust
from supercloud.trust.tokens import CloudAsked

#: Other controllers on the same PostgreSQL change it too, and nobody tells us. SQLite has one controller.
_SHARED_S = 1.0
_ABOUT = frozenset({Kind.CLOUD, Kind.PRINCIPAL, Kind.TOKEN, Kind.PROVIDER, Kind.TRUST})


@dataclass(frozen=True, slots=True)
class Shown:
    """That findings about a cloud are shown to those who have `to`, until then (the store's wall clock)."""

    to: Id
    until: float


@dataclass(frozen=True, slots=True)
class Known:
    """Of one principal. Operators have what is nobody's, too.

    Who has a cloud has those in it as well: in `clouds` each comes after the one that it is in, which is in
    `parents`, if the principal has that one.
    """

    key: PublicKey
    roles: frozenset[Role]
    clouds: tuple[CloudAsked, ...]
    parents: Mapping[Id, Id] = field(default_factory=dict)
    name: str = ""
    domains: frozenset[Id] = frozenset()
    #: Of another's cloud, by its id: the relations by which findings about it are shown to some of `clouds`.
    shown: Mapping[Id, tuple[Shown, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Snapshot:
    principals: Mapping[Id, Known]
    revoked: frozenset[str]


class Directory:
    """Read anew when something changed. A revocation holds here at once, at other controllers in a second."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._changes = 0
        self._read: tuple[int, float, Snapshot] | None = None
        self._turn = asyncio.Lock()

    def changed(self) -> None:
        """After the transaction: what is in memory counts no more."""
        self._changes += 1

    def told(self, changes: Sequence[Change]) -> None:
        """A listener of a feed's, so that whoever is told of a change is judged by what it made of things."""
        if any(one.kind in _ABOUT for one in changes):
            self.changed()

    async def look(self) -> Snapshot:
        """Raises: Unavailable."""
        if (known := self._good()) is not None:
            return known
        async with self._turn:
            if (known := self._good()) is not None:
                return known
            changes, read_at = self._changes, time.monotonic()
            snapshot = await self._load()
            self._read = (changes, read_at, snapshot)
            return snapshot

    def _good(self) -> Snapshot | None:
        if self._read is None:
            return None
        changes, read_at, snapshot = self._read
        stale = not self._store.sqlite and time.monotonic() - read_at > _SHARED_S
        return None if stale or changes != self._changes else snapshot

    async def _load(self) -> Snapshot:
        async with self._store.read() as session:
            principals = list(await session.scalars(select(Principal)))
            clouds = list(await session.scalars(select(Cloud).order_by(Cloud.created_at, Cloud.id)))
            revoked = frozenset(await session.scalars(select(Revocation.id)))
            domains = list(await session.execute(select(Provider.id, Provider.owner)))
            relations = list(await session.execute(_SHOWN))
        by_owner: defaultdict[Id | None, list[Cloud]] = defaultdict(list)
        by_parent: defaultdict[Id, list[Cloud]] = defaultdict(list)
        for cloud in clouds:
            by_owner[cloud.owner].append(cloud)
            if cloud.parent is not None:
                by_parent[cloud.parent].append(cloud)
        domains_of: defaultdict[Id | None, set[Id]] = defaultdict(set)
        for domain, owner in domains:
            domains_of[owner].add(domain)
        shown_to: defaultdict[Id, dict[Id, list[Shown]]] = defaultdict(dict)
        for of, to, until in relations:
            shown_to[to].setdefault(of, []).append(Shown(to, until))
        known = {
            row.id: _with_shown(
                replace(_known(row, by_owner, by_parent), domains=_domains(row, domains_of)), shown_to
            )
            for row in principals
        }
        return Snapshot(known, revoked)


_SHOWN = select(Trust.origin, Trust.to, Trust.expires_at).where(
    Trust.kind == TrustKind.SEE_FINDINGS.value, Trust.revoked_at.is_(None)
)


def _with_shown(known: Known, shown_to: Mapping[Id, Mapping[Id, list[Shown]]]) -> Known:
    found: defaultdict[Id, list[Shown]] = defaultdict(list)
    if shown_to:
        for own in known.clouds:
            for cloud, by in shown_to.get(own.id, {}).items():
                found[cloud] += by
    return replace(known, shown={cloud: tuple(by) for cloud, by in found.items()}) if found else known


def _known(
    row: Principal, by_owner: Mapping[Id | None, list[Cloud]], by_parent: Mapping[Id, list[Cloud]]
) -> Known:
    roles = frozenset(Role(one) for one in row.roles)
    nobodys = by_owner.get(None, []) if Role.OPERATOR in roles else []
    own = [*by_owner.get(row.id, []), *nobodys]
    every = _with_nested(own, by_parent)
    clouds = tuple(CloudAsked(one.id, one.name) for one in every.values())
    parents = {one.id: one.parent for one in every.values() if one.parent in every}
    return Known(row.key, roles, clouds, parents, row.name)


def _domains(row: Principal, by_owner: Mapping[Id | None, set[Id]]) -> frozenset[Id]:
    nobodys = by_owner.get(None, set()) if Role.OPERATOR in row.roles else set()
    return frozenset(by_owner.get(row.id, set()) | nobodys)


def _with_nested(own: Sequence[Cloud], by_parent: Mapping[Id, list[Cloud]]) -> dict[Id, Cloud]:
    """These, and all that are in them, each after the one that it is in."""
    found: dict[Id, Cloud] = {}
    left = deque(own)
    while left:
        cloud = left.popleft()
        found.pop(cloud.id, None)  # it was there as somebody's own: it comes after its parent now
        found[cloud.id] = cloud
        left.extend(by_parent.get(cloud.id, []))
    return found
