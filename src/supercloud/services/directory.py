"""Who there is, whose each cloud is and which tokens are revoked: what every request has to know."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import select

from supercloud.model.names import Id, PublicKey
from supercloud.model.permissions import Role
from supercloud.services.store.changes import Change, Kind
from supercloud.services.store.engine import Store
from supercloud.services.store.tables import Cloud, Principal, Revocation
from supercloud.trust.tokens import CloudAsked

#: Other controllers on the same PostgreSQL change it too, and nobody tells us. SQLite has one controller.
_SHARED_S = 1.0
_ABOUT = frozenset({Kind.CLOUD, Kind.PRINCIPAL, Kind.TOKEN})


@dataclass(frozen=True, slots=True)
class Known:
    """Of one principal. Operators have what is nobody's, too."""

    key: PublicKey
    roles: frozenset[Role]
    clouds: tuple[CloudAsked, ...]


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
            clouds = (await session.execute(select(Cloud.owner, Cloud.id, Cloud.name))).all()
            revoked = frozenset(await session.scalars(select(Revocation.id)))
        by_owner: defaultdict[Id | None, list[CloudAsked]] = defaultdict(list)
        for owner, identity, name in clouds:
            by_owner[owner].append(CloudAsked(identity, name))
        return Snapshot({row.id: _known(row, by_owner) for row in principals}, revoked)


def _known(row: Principal, by_owner: Mapping[Id | None, list[CloudAsked]]) -> Known:
    roles = frozenset(Role(one) for one in row.roles)
    nobodys = by_owner.get(None, []) if Role.OPERATOR in roles else []
    return Known(row.key, roles, (*by_owner.get(row.id, []), *nobodys))
