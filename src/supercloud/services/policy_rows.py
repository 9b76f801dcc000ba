"""Versions of policies as they are kept: which one counts where, and what of it is said."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from sqlalchemy import and_, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from supercloud.model.names import Id
from supercloud.ports.loop import LoopPolicy
from supercloud.security import usual
from supercloud.security.policy import PolicyFile, dry
from supercloud.services.store.security import AppliedPolicy, PolicyRow
from supercloud.services.store.tables import Blanket


async def horizontal(session: AsyncSession, cloud: Id) -> PolicyFile | None:
    """What a cloud does over all of its blankets; None: nothing was said."""
    row = await session.scalar(
        select(PolicyRow)
        .where(PolicyRow.cloud == cloud, PolicyRow.horizontal.is_(True))
        .order_by(PolicyRow.number.desc())
        .limit(1)
    )
    return None if row is None or row.policy is None else _read(row)


class Placed(Protocol):
    """A row of a blanket, as far as policies go."""

    @property
    def id(self) -> Id: ...

    @property
    def cloud(self) -> Id: ...


async def wanted(session: AsyncSession, blankets: Sequence[Placed]) -> dict[Id, PolicyRow]:
    """What each is to go by: its own, or its cloud's. Of whom nothing was ever said is not in it."""
    if not blankets:
        return {}
    ids = {one.id for one in blankets}
    of = or_(
        PolicyRow.blanket.in_(ids),
        and_(PolicyRow.blanket.is_(None), PolicyRow.cloud.in_({one.cloud for one in blankets})),
    )
    newest = (
        select(PolicyRow.cloud, PolicyRow.blanket, func.max(PolicyRow.number).label("number"))
        .where(of, PolicyRow.horizontal.is_(False))
        .group_by(PolicyRow.cloud, PolicyRow.blanket)
        .subquery()
    )
    same_blanket = or_(
        PolicyRow.blanket == newest.c.blanket, and_(PolicyRow.blanket.is_(None), newest.c.blanket.is_(None))
    )
    rows = await session.scalars(
        select(PolicyRow)
        .join(
            newest,
            and_(PolicyRow.cloud == newest.c.cloud, same_blanket, PolicyRow.number == newest.c.number),
        )
        .where(PolicyRow.horizontal.is_(False))
    )
    by_place = {row.blanket or row.cloud: row for row in rows}
    found = dict[Id, PolicyRow]()
    for one in blankets:
        own, cloud = by_place.get(one.id), by_place.get(one.cloud)
        if (version := own if own is not None and (own.policy or cloud is None) else cloud) is not None:
            found[one.id] = version
    return found


async def late(session: AsyncSession, blankets: Sequence[Id]) -> list[Id]:
    """Those that did not yet take what is wanted of them."""
    query = select(Blanket.id, Blanket.cloud).where(Blanket.id.in_(blankets))
    rows = (await session.execute(query)).all()  # thousands, which are large as a whole
    found = await wanted(session, rows)
    has = await _applied(session, found)
    return [one for one, version in found.items() if has.get(one) != version.id]


async def _applied(session: AsyncSession, blankets: Collection[Id]) -> dict[Id, Id]:
    rows = await session.scalars(select(AppliedPolicy).where(AppliedPolicy.blanket.in_(blankets)))
    return {row.blanket: row.policy for row in rows}


def _read(row: PolicyRow) -> PolicyFile:
    found = PolicyFile.model_validate_json(row.policy or "")
    return dry(found) if row.dry_run else found


def said(row: PolicyRow) -> LoopPolicy:
    """As a blanket is told."""
    if row.policy is None:
        return LoopPolicy(policy=usual.POLICY.model_dump_json(by_alias=True))
    if not row.dry_run:
        return LoopPolicy(policy=row.policy, rules=row.rules)
    policy = _read(row).model_dump_json(by_alias=True, exclude_unset=True)
    return LoopPolicy(policy=policy, rules=row.rules)
