"""A cloud as it would have to be asked for: one reading of the store, turned back into requests."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from sqlalchemy import Select, and_, or_, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from supercloud.model.levels import Level
from supercloud.model.names import Id, Name
from supercloud.ports.platform import Flavour
from supercloud.services.placing import placement_of
from supercloud.services.quotas import quota_of
from supercloud.services.refs import within
from supercloud.services.requests import (
    AddBlanket,
    CreateCloud,
    CreateNetwork,
    CreateVolume,
    ImageRef,
    Publish,
    RunInstance,
)
from supercloud.services.sharing import is_own
from supercloud.services.store.tables import (
    Blanket,
    Cloud,
    Image,
    Instance,
    Network,
    NicRow,
    Provider,
    Published,
    Volume,
    VolumeCopy,
)
from supercloud.services.views import WantedCloud


async def of(session: AsyncSession, cloud: Cloud) -> WantedCloud:
    """All of it, each kind by name."""
    instances = {row.id: row for row in await session.scalars(_in(Instance, cloud))}
    names = {identity: row.name for identity, row in instances.items()}
    attached = await _listed(
        session,
        select(Volume.instance, Volume.name)
        .where(Volume.cloud == cloud.id, Volume.instance.is_not(None), Volume.position > 0)
        .order_by(Volume.position),
    )
    return WantedCloud(
        cloud=CreateCloud(
            name=cloud.name,
            cpu_model=cloud.cpu_model,
            right_length_s=cloud.length_s,
            right_margin_s=cloud.margin_s,
            right_grace_s=cloud.grace_s,
            parent=await _parent(session, cloud),
            quota=quota_of(cloud),
        ),
        blankets=await _blankets(session, cloud),
        networks=tuple(
            CreateNetwork(name=row.name, cloud=cloud.name, cidr=row.cidr, level=Level(row.level))
            for row in await session.scalars(_in(Network, cloud))
        ),
        volumes=await _volumes(session, cloud),
        instances=await _instances(session, cloud, instances),
        attached={
            name: tuple(attached[identity]) for identity, name in names.items() if identity in attached
        },
        user_data=tuple(row.name for row in instances.values() if row.user_data is not None),
    )


async def _parent(session: AsyncSession, cloud: Cloud) -> Name | None:
    """The cloud that it is in, if that exists for the caller."""
    query = select(Cloud.name).where(Cloud.id == cloud.parent, within(session, Cloud.id))
    found: Name | None = await session.scalar(query)
    return found


def _in(table: type[Any], cloud: Cloud) -> Select[Any]:
    return select(table).where(table.cloud == cloud.id).order_by(table.name)


async def _blankets(session: AsyncSession, cloud: Cloud) -> tuple[AddBlanket, ...]:
    around = aliased(Blanket)
    query = (
        select(Blanket, Provider.name, around)
        .join(Provider, Provider.id == Blanket.provider)
        .outerjoin(around, around.id == Blanket.parent)
    )
    rows = await session.execute(query.where(Blanket.cloud == cloud.id).order_by(Blanket.name))
    return tuple(
        AddBlanket(
            name=row.name,
            cloud=cloud.name,
            provider=provider if parent is None else None,
            # Another cloud's has no name that would be sure to mean it.
            parent=None if parent is None else parent.name if parent.cloud == cloud.id else parent.id,
            flavour=Flavour(row.wanted["flavour"]),
            vcpus=row.wanted["vcpus"],
            memory_mib=row.wanted["memory_mib"],
            disk_bytes=row.wanted["disk_bytes"],
            debug_shell=row.wanted.get("debug_shell", False),
        )
        for row, provider, parent in rows
    )


async def _volumes(session: AsyncSession, cloud: Cloud) -> tuple[CreateVolume, ...]:
    """Those that no instance boots from. An attached one is where its instance is; another, where its data
    is, or will be."""
    here, there = aliased(Blanket), aliased(Blanket)
    rows = await session.execute(
        select(Volume, here.name, there.name)
        .outerjoin(VolumeCopy, and_(VolumeCopy.volume == Volume.id, VolumeCopy.current))
        .outerjoin(here, here.id == VolumeCopy.blanket)
        .outerjoin(there, there.id == Volume.wanted_on)
        .where(Volume.cloud == cloud.id, or_(Volume.instance.is_(None), Volume.position > 0))
        .order_by(Volume.name)
    )
    images = await _images(session, cloud)
    return tuple(
        CreateVolume(
            name=row.name,
            cloud=cloud.name,
            size_bytes=row.size_bytes,
            on=(has or wanted) if row.instance is None else None,
            image=images[row.image] if row.image else None,
            level=Level(row.level),
        )
        for row, has, wanted in rows
    )


async def _instances(
    session: AsyncSession, cloud: Cloud, rows: dict[Id, Instance]
) -> tuple[RunInstance, ...]:
    blankets = dict((await session.execute(select(Blanket.id, Blanket.name))).all())
    images = await _images(session, cloud)
    boots = select(Volume.instance, Volume.size_bytes).where(Volume.cloud == cloud.id, Volume.position == 0)
    disks = dict((await session.execute(boots.where(Volume.instance.is_not(None)))).all())
    networks = await _listed(
        session,
        select(NicRow.instance, Network.name)
        .join(Network, Network.id == NicRow.network)
        .where(NicRow.cloud == cloud.id)
        .order_by(NicRow.position),
    )
    ports = await _listed(
        session,
        select(Published.instance, Published)
        .where(Published.cloud == cloud.id)
        .order_by(Published.port, Published.at),
    )
    return tuple(
        RunInstance(
            name=row.name,
            cloud=cloud.name,
            image=images[row.image],
            on=blankets.get(row.blanket or ""),  # which may be removed while we read
            memory_mib=row.memory_mib,
            vcpus=row.vcpus,
            disk_bytes=disks.get(identity),
            networks=tuple(networks[identity]),
            publish=tuple(Publish(port=one.port, at=one.at) for one in ports[identity]),
            ssh_keys=tuple(row.ssh_keys),
            hold=row.hold,
            group=row.group,
            placement=placement_of(row),
            level=Level(row.level),
        )
        for identity, row in rows.items()
    )


async def _images(session: AsyncSession, cloud: Cloud) -> dict[Id, ImageRef]:
    """What its things begin with: its own images by their names, others' by their digests."""
    used = select(Image).join(Volume, Volume.image == Image.id).where(Volume.cloud == cloud.id).distinct()
    booted = select(Image).join(Instance, Instance.image == Image.id).where(Instance.cloud == cloud.id)
    rows = {row.id: row for query in (used, booted) for row in (await session.scalars(query)).all()}
    return {
        identity: row.name if await is_own(session, cloud.id, row) else row.digest
        for identity, row in rows.items()
    }


async def _listed(session: AsyncSession, query: Select[*tuple[Any, ...]]) -> defaultdict[Id, list[Any]]:
    """Of rows of an instance and something that it has."""
    found: defaultdict[Id, list[Any]] = defaultdict(list)
    for instance, one in (await session.execute(query)).all():
        found[instance].append(one)
    return found
