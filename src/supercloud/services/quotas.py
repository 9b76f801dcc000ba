"""What clouds have taken of their quotas, counted in the transaction that takes more.

Whoever takes more holds the cloud's row locked until it commits (`refs.own_cloud`; SQLite has one writer), so
that of many who ask at once each sees what those before it took. A slice is taken with the parent's row
locked, always before the nested cloud's own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from supercloud.model.names import Id
from supercloud.model.quota import UNLIMITED, Amounts, Quota, Slice, check_room, taken
from supercloud.services.store.tables import Blanket, Cloud, Instance, Operation, Volume
from supercloud.wire.codec import from_json, to_json


def quota_of(row: Cloud) -> Quota:
    return UNLIMITED if row.quota is None else from_json(Quota, row.quota)


def kept(quota: Quota) -> dict[str, Any]:
    """As its column has it."""
    found: dict[str, Any] = to_json(Quota, quota)
    return found


async def check(session: AsyncSession, cloud: Cloud, asked: Amounts) -> None:
    """Whether a cloud whose row is locked can have so much more.

    Raises:
        OverQuota.
    """
    quota = quota_of(cloud)
    if quota != UNLIMITED:
        check_room(cloud.name, quota, await taken_of(session, cloud.id), asked)


async def check_blanket(session: AsyncSession, cloud: Cloud, provider: Id) -> None:
    """The same for one more blanket, of this provider.

    Raises:
        OverQuota.
    """
    there = select(Blanket.id).where(Blanket.cloud == cloud.id, Blanket.provider == provider)
    new = await session.scalar(there.limit(1)) is None
    await check(session, cloud, Amounts(blankets=1, domains=int(new)))


async def taken_of(session: AsyncSession, cloud: Id) -> Amounts:
    """Of one cloud's quota."""
    return taken(await used_of(session, cloud), await slices_of(session, cloud))


async def used_of(session: AsyncSession, cloud: Id) -> Amounts:
    """By its own things. A volume that is about to grow counts as grown."""
    return (await _used(session, (cloud,)))[cloud]


async def slices_of(session: AsyncSession, cloud: Id, *, but: Id | None = None) -> tuple[Slice, ...]:
    """Of the clouds within it, but one."""
    rows = await session.scalars(select(Cloud).where(Cloud.parent == cloud).order_by(Cloud.name, Cloud.id))
    return tuple(Slice(cloud=row.name, quota=quota_of(row)) for row in rows if row.id != but)


async def taken_of_all(session: AsyncSession, clouds: Sequence[Cloud]) -> dict[Id, Amounts]:
    """Of several clouds' quotas; `clouds` need not have those within them."""
    every = tuple(row.id for row in clouds)
    found = await _used(session, every)
    for row in await session.scalars(select(Cloud).where(Cloud.parent.in_(every))):
        found[row.parent or ""] += quota_of(row).amounts
    return found


async def check_growth(session: AsyncSession, cloud: Cloud, volume: Volume, size: int) -> None:
    """The same for a volume that is to have `size` bytes; asked for again, it counts once.

    Raises:
        OverQuota.
    """
    growing = (await _growing(session, (cloud.id,), volume.id))[cloud.id]
    await check(session, cloud, Amounts(disk_bytes=max(0, size - volume.size_bytes - growing)))


async def _used(session: AsyncSession, clouds: tuple[Id, ...]) -> dict[Id, Amounts]:
    # Before the volumes themselves: one that has grown in between counts twice rather than not at all.
    growing = await _growing(session, clouds)
    computed = await _by_cloud(
        session, Instance.cloud, clouds, func.sum(Instance.vcpus), func.sum(Instance.memory_mib)
    )
    disks = await _by_cloud(session, Volume.cloud, clouds, func.sum(Volume.size_bytes))
    blankets = await _by_cloud(
        session, Blanket.cloud, clouds, func.count(), func.count(Blanket.provider.distinct())
    )
    return {
        one: Amounts(
            vcpus=computed[one][0],
            memory_mib=computed[one][1],
            disk_bytes=disks[one][0] + growing[one],
            blankets=blankets[one][0],
            domains=blankets[one][1],
        )
        for one in clouds
    }


async def _by_cloud(
    session: AsyncSession, cloud: InstrumentedAttribute[str], clouds: tuple[Id, ...], *sums: Any
) -> dict[Id, tuple[int, ...]]:
    found = dict.fromkeys(clouds, (0,) * len(sums))
    rows = await session.execute(select(cloud, *sums).where(cloud.in_(clouds)).group_by(cloud))
    return found | {row[0]: tuple(int(one) for one in row[1:]) for row in rows}


async def _growing(session: AsyncSession, clouds: tuple[Id, ...], volume: Id | None = None) -> Counter[Id]:
    """What volumes, or one of them, are about to grow by: an operation has begun, the row is as before."""
    query = (
        select(Volume.cloud, Operation.intent, Volume.size_bytes)
        .join(Operation, Operation.object == Volume.id)
        .where(Operation.kind == "volume.resize", Operation.ended_at.is_(None), Volume.cloud.in_(clouds))
    )
    if volume is not None:
        query = query.where(Volume.id == volume)
    more: Counter[Id] = Counter()
    for cloud, intent, size in await session.execute(query):
        more[cloud] += max(0, intent["size_bytes"] - size)
    return more
