"""Instances as they are shown: a handful of queries, however many there are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from sqlalchemy import Select, select
from sqlalchemy.ext.asyncio import AsyncSession

from supercloud.model.names import Id
from supercloud.model.states import InstanceState
from supercloud.services.northbound import InstanceView
from supercloud.services.publish import HOST
from supercloud.services.store.rights import SqlRights
from supercloud.services.store.tables import (
    Blanket,
    Cloud,
    Image,
    Instance,
    Network,
    NicRow,
    Published,
    Right,
    Volume,
)

T = TypeVar("T")


async def views(
    session: AsyncSession, rights: SqlRights, *, cloud: Id | None = None, instance: Id | None = None
) -> list[InstanceView]:
    """One instance's, one cloud's, or all, by cloud and name."""
    query = (
        select(Instance, Cloud.name, Blanket.name, Image.name, Right)
        .join(Cloud, Cloud.id == Instance.cloud)
        .join(Image, Image.id == Instance.image)
        .join(Right, Right.instance == Instance.id)
        .outerjoin(Blanket, Blanket.id == Instance.blanket)
        .order_by(Cloud.name, Instance.name)
    )
    rows = (await session.execute(_only(query, Instance.cloud, Instance.id, cloud, instance))).all()
    nics = await _nics(session, cloud, instance)
    volumes = _grouped(
        await session.execute(
            _only(
                select(Volume.instance, Volume.name).order_by(Volume.position),
                Volume.cloud,
                Volume.instance,
                cloud,
                instance,
            )
        )
    )
    published = _grouped(
        (one.instance, f"{HOST}:{one.at}->{one.port}")
        for one in await session.scalars(
            _only(
                select(Published).order_by(Published.at), Published.cloud, Published.instance, cloud, instance
            )
        )
    )
    now = await rights.now(session)
    return [
        _view(
            (row, right),
            (cloud_name, blanket, image),
            now=now,
            nics=nics[row.id],
            volumes=volumes[row.id],
            published=published[row.id],
        )
        for row, cloud_name, blanket, image, right in rows
    ]


async def _nics(
    session: AsyncSession, cloud: Id | None, instance: Id | None
) -> defaultdict[Id, list[tuple[NicRow, str]]]:
    query = select(NicRow, Network.name).join(Network, Network.id == NicRow.network).order_by(NicRow.position)
    found = await session.execute(_only(query, NicRow.cloud, NicRow.instance, cloud, instance))
    return _grouped((nic.instance, (nic, name)) for nic, name in found)


def _only(query: Select[*tuple[Any, ...]], of: Any, by: Any, cloud: Id | None, instance: Id | None) -> Any:
    if instance is not None:
        return query.where(by == instance)
    return query if cloud is None else query.where(of == cloud)


def _grouped(pairs: Iterable[Any]) -> defaultdict[Id, list[Any]]:
    groups: defaultdict[Id, list[Any]] = defaultdict(list)
    for key, value in pairs:
        groups[key].append(value)
    return groups


def _view(
    rows: tuple[Instance, Right],
    names: tuple[str, str | None, str],
    *,
    now: float,
    nics: Sequence[tuple[NicRow, str]],
    volumes: Sequence[str],
    published: Sequence[str],
) -> InstanceView:
    row, right = rows
    cloud, blanket, image = names
    return InstanceView(
        id=row.id,
        name=row.name,
        cloud=cloud,
        state=InstanceState(row.state),
        blanket=blanket,
        epoch=right.epoch,
        right_left_s=max(0.0, right.expires_at - now) if right.holder else None,
        hold=row.hold,
        vcpus=row.vcpus,
        memory_mib=row.memory_mib,
        image=image,
        addresses=tuple(nic.ip for nic, _ in nics),
        macs=tuple(nic.mac for nic, _ in nics),
        networks=tuple(name for _, name in nics),
        volumes=tuple(volumes),
        published=tuple(published),
        reason=row.reason,
        created_at=row.created_at,
    )
