"""Trust relations by which something is let to a cloud, as whoever is about to let it asks for them: of the
kinds that are about a whole cloud, the one where the descent began; and those about a blanket. For images:
services.sharing.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from supercloud.model.names import Id
from supercloud.model.trust import TrustKind
from supercloud.services.store.tables import Trust
from supercloud.services.store.time import wall


async def granting(
    session: AsyncSession, to: Collection[Id], kind: TrustKind, *, origin: Id | None = None
) -> Sequence[Trust]:
    """The active ones of a kind that trust one of these clouds, those that end last first. `origin`: about
    this cloud only."""
    if not to:
        return ()
    query = select(Trust).where(
        Trust.to.in_(to),
        Trust.kind == kind.value,
        Trust.revoked_at.is_(None),
        Trust.expires_at > await wall(session),
    )
    if origin is not None:
        query = query.where(Trust.origin == origin)
    return (await session.scalars(query.order_by(Trust.expires_at.desc(), Trust.id))).all()


async def lending(
    session: AsyncSession, to: Id, blanket: Id, kind: TrustKind | None = None
) -> Sequence[Trust]:
    """The active ones, of one kind or of both, by which a cloud may have blankets in this one."""
    kinds = (TrustKind.PLACE, TrustKind.MIGRATE_TO) if kind is None else (kind,)
    query = select(Trust).where(
        Trust.to == to,
        Trust.blanket == blanket,
        Trust.kind.in_([one.value for one in kinds]),
        Trust.revoked_at.is_(None),
        Trust.expires_at > await wall(session),
    )
    return (await session.scalars(query.order_by(Trust.id))).all()
