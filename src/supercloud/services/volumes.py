"""Volumes: asking for them, showing them. What touches data is in volume_operations."""

from __future__ import annotations

import time

from sqlalchemy import Select, select
from sqlalchemy.ext.asyncio import AsyncSession

from supercloud.model import levels
from supercloud.model.errors import Conflict, InvalidInput, NotFound, Refused
from supercloud.model.levels import Level
from supercloud.model.names import Id, Name, SizeBytes, new_id
from supercloud.model.quota import Amounts
from supercloud.model.states import AT_REST
from supercloud.model.units import format_size
from supercloud.services import quotas
from supercloud.services.demands import facts_of, volume_demand
from supercloud.services.pages import EVERYTHING, Page, Part
from supercloud.services.parts import Parts
from supercloud.services.refs import (
    find_blanket,
    find_cloud,
    find_instance,
    find_volume,
    own_cloud,
    owned,
    within,
)
from supercloud.services.requests import CreateVolume, Ref
from supercloud.services.restoring import check_restore
from supercloud.services.rules import check_volume_size
from supercloud.services.sharing import usable_image
from supercloud.services.store.tables import Blanket, Cloud, Image, Instance, Provider, Volume, VolumeCopy
from supercloud.services.views import OperationView, VolumeView

_SNAPSHOTS = 64
_DISKS = 20


class Volumes:
    """The part of Northbound about volumes."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def create_volume(self, request: CreateVolume) -> VolumeView:
        """Its data is made where it is first attached."""
        async with self._parts.store.write() as session:
            cloud = await own_cloud(session, request.cloud)
            image = await usable_image(session, cloud, request.image) if request.image else None
            if image is not None and not image.complete:
                raise Conflict(
                    f"image {image.name} is not complete yet",
                    hint="wait until it is uploaded, or import it again",
                )
            size = check_size(request.size_bytes, image)
            on = await find_blanket(session, request.on, cloud.id) if request.on else None
            if await session.scalar(
                select(Volume.id).where(Volume.cloud == cloud.id, Volume.name == request.name)
            ):
                raise Conflict(
                    f"cloud {cloud.name} has a volume {request.name} already",
                    hint=f"supercloud volume show {request.name}, or another name",
                )
            await quotas.check(session, cloud, Amounts(disk_bytes=size))
            level = request.level or Level.OPEN
            row = Volume(
                id=new_id(),
                cloud=cloud.id,
                name=request.name,
                size_bytes=size,
                image=image.id if image else None,
                wanted_on=on.id if on else None,
                level=level,
                snapshots=[],
                position=0,
                created_at=time.time(),
            )
            if on is not None:
                await _check_level(session, row, on.id)
            session.add(row)
            await session.flush()
            return await _shown(session, row)

    async def volumes(self, *, cloud: Ref | None = None, page: Page = EVERYTHING) -> Part[VolumeView]:
        async with self._parts.store.read() as session:
            query = _query().where(within(session, Volume.cloud), *page.picks(Volume.name))
            if cloud is not None:
                query = query.where(Volume.cloud == (await find_cloud(session, cloud)).id)
            rows = (await session.execute(page.of(query, Volume.cloud, Volume.name))).all()
        return page.part(rows, lambda row: (row[0].cloud, row[0].name), lambda row: _view(*row))

    async def volume(self, ref: Ref, *, cloud: Ref | None = None) -> VolumeView:
        async with self._parts.store.read() as session:
            return await _shown(session, await find_volume(session, ref, cloud))

    async def attach_volume(self, ref: Ref, *, instance: Ref, cloud: Ref | None = None) -> OperationView:
        operations = self._parts.operations
        async with self._parts.store.write() as session:
            found = await find_volume(session, ref, cloud)
            await own_cloud(session, found.cloud)
            row = await session.get(Volume, found.id, populate_existing=True)
            if row is None:
                raise NotFound(f"volume {found.name} was removed")
            if row.lost is not None:
                raise Conflict(f"volume {row.name} is lost: {row.lost}", hint="remove it, and make another")
            owner = await find_instance(session, instance, row.cloud)
            if row.instance not in {None, owner.id}:
                raise Conflict(
                    f"volume {row.name} is attached to another instance",
                    hint=f"supercloud volume detach {row.name}",
                )
            if owner.blanket is not None and await _home(session, row) not in {None, owner.blanket}:
                raise Conflict(
                    f"volume {row.name} is in another blanket",
                    hint=f"migrate {owner.name} there first, or attach it to an instance there",
                )
            disks = list(await session.scalars(select(Volume.position).where(Volume.instance == owner.id)))
            if len(disks) >= _DISKS:
                raise Conflict(
                    f"instance {owner.name} has {len(disks)} volumes, which is all it can have",
                    hint="detach one",
                )
            if owner.blanket is not None:
                await _check_level(session, row, owner.blanket)
            await operations.need_free(session, row.id)
            operation = await operations.record(
                session,
                "volume.attach",
                object_id=row.id,
                name=row.name,
                cloud=row.cloud,
                intent={"volume": row.id, "instance": owner.id},
                join_key=owner.id,
            )
        return await operations.started(operation)

    async def detach_volume(self, ref: Ref, *, cloud: Ref | None = None) -> OperationView:
        async with self._parts.store.read() as session:
            row = await find_volume(session, ref, cloud)
        if row.instance is None:
            raise Conflict(f"volume {row.name} is not attached", hint=f"supercloud volume show {row.name}")
        if row.position == 0:
            raise Conflict(
                f"instance boots from volume {row.name}, which stays with it",
                hint="supercloud vm rm removes both",
            )
        return await self._begin_on_volume(row, "volume.detach", {"volume": row.id, "instance": row.instance})

    async def resize_volume(
        self, ref: Ref, *, size_bytes: SizeBytes, cloud: Ref | None = None
    ) -> OperationView:
        async with self._parts.store.write() as session:
            found = await find_volume(session, ref, cloud)
            owner = await own_cloud(session, found.cloud)
            row = await session.get(Volume, found.id, populate_existing=True)
            if row is None:
                raise NotFound(f"volume {found.name} was removed")
            if size_bytes < row.size_bytes:
                raise InvalidInput(f"volume {row.name} has {format_size(row.size_bytes)} and can only grow")
            await quotas.check_growth(session, owner, row, size_bytes)
            intent: dict[str, object] = {"volume": row.id, "size_bytes": check_size(size_bytes, None)}
            operation = await self._recorded(session, row, "volume.resize", intent)
        return await self._parts.operations.started(operation)

    async def snapshot_volume(self, ref: Ref, *, snapshot: Name, cloud: Ref | None = None) -> OperationView:
        async with self._parts.store.read() as session:
            row = await find_volume(session, ref, cloud)
        if len(row.snapshots) >= _SNAPSHOTS:
            raise Conflict(
                f"volume {row.name} has {_SNAPSHOTS} snapshots, which is all it can have",
                hint="back it up to an image, or make another volume",
            )
        return await self._begin_on_volume(row, "volume.snapshot", {"volume": row.id, "snapshot": snapshot})

    async def restore_volume(
        self, ref: Ref, *, snapshot: Name | None, cloud: Ref | None = None
    ) -> OperationView:
        """
        Raises:
            Conflict: it has nothing like that to go back to, or an instance runs with it.
        """
        async with self._parts.store.read() as session:
            row = await find_volume(session, ref, cloud)
            owner = None if row.instance is None else await session.get(Instance, row.instance)
        check_restore(row, snapshot)
        if owner is not None and owner.state not in AT_REST:
            raise Conflict(
                f"instance {owner.name} has volume {row.name} and is {owner.state}",
                hint=f"supercloud vm stop {owner.name}, or supercloud vm restore {owner.name}",
            )
        return await self._begin_on_volume(row, "volume.restore", {"volume": row.id, "snapshot": snapshot})

    async def back_up_volume(self, ref: Ref, *, image: Name, cloud: Ref | None = None) -> OperationView:
        async with self._parts.store.read() as session:
            row = await find_volume(session, ref, cloud)
            copy = await session.scalar(
                select(VolumeCopy.id).where(VolumeCopy.volume == row.id, VolumeCopy.current.is_(True))
            )
            taken = await session.scalar(
                select(Image.id).where(Image.name == image, owned(session, Image.owner))
            )
        if copy is None:
            raise Conflict(f"volume {row.name} has no data yet", hint="attach it first")
        intent: dict[str, object] = {"volume": row.id, "image": image}
        joins = await self._parts.operations.under_way(row.instance or row.id, "volume.backup", intent)
        if taken and not joins:
            raise Conflict(f"there is an image {image} already", hint="choose another --to")
        return await self._begin_on_volume(row, "volume.backup", intent)

    async def remove_volume(self, ref: Ref, *, cloud: Ref | None = None) -> OperationView:
        async with self._parts.store.read() as session:
            row = await find_volume(session, ref, cloud)
        if row.instance is not None:
            raise Conflict(f"volume {row.name} is attached", hint=f"supercloud volume detach {row.name}")
        return await self._begin_on_volume(row, "volume.remove", {"volume": row.id})

    async def _begin_on_volume(self, row: Volume, kind: str, intent: dict[str, object]) -> OperationView:
        async with self._parts.store.write() as session:
            operation = await self._recorded(session, row, kind, intent)
        return await self._parts.operations.started(operation)

    async def _recorded(self, session: AsyncSession, row: Volume, kind: str, intent: dict[str, object]) -> Id:
        """What touches an attached volume excludes whatever else touches its instance."""
        return await self._parts.operations.record(
            session,
            kind,
            object_id=row.id,
            name=row.name,
            cloud=row.cloud,
            intent=intent,
            join_key=row.instance or row.id,
        )


def check_size(size: SizeBytes, image: Image | None) -> SizeBytes:
    """
    Raises:
        InvalidInput: not whole MiB, or smaller than its image.
    """
    check_volume_size(size)
    if image is not None and size < image.virtual_bytes:
        raise InvalidInput(
            f"image {image.name} needs at least {image.virtual_bytes} bytes",
            hint="a larger size, or none: then it is the image's",
        )
    return size


async def _check_level(session: AsyncSession, row: Volume, blanket: Id) -> None:
    """
    Raises:
        Refused: its level cannot be held there.
    """
    there = await session.get_one(Blanket, blanket)
    facts = facts_of(there, await session.get_one(Provider, there.provider))
    if no := levels.objection((volume_demand(row),), facts):
        raise Refused(f"volume {row.name} may not be in blanket {there.name}: {no}")


def _query() -> Select[Volume, str, str, str, str]:
    return (
        select(Volume, Cloud.name, Image.name, Instance.name, Blanket.name)
        .join(Cloud, Cloud.id == Volume.cloud)
        .outerjoin(Image, Image.id == Volume.image)
        .outerjoin(Instance, Instance.id == Volume.instance)
        .outerjoin(VolumeCopy, (VolumeCopy.volume == Volume.id) & VolumeCopy.current)
        .outerjoin(Blanket, Blanket.id == VolumeCopy.blanket)
    )


async def _home(session: AsyncSession, volume: Volume) -> Id | None:
    """The blanket that has its data, or that is to have it; None where it may be made anywhere."""
    there: Id | None = await session.scalar(
        select(VolumeCopy.blanket).where(VolumeCopy.volume == volume.id, VolumeCopy.current.is_(True))
    )
    return there or volume.wanted_on


async def _shown(session: AsyncSession, row: Volume) -> VolumeView:
    found = (await session.execute(_query().where(Volume.id == row.id))).one()
    return _view(found[0], found[1], found[2], found[3], found[4])


def _view(
    row: Volume, cloud: str, image: str | None, instance: str | None, blanket: str | None
) -> VolumeView:
    return VolumeView(
        id=row.id,
        name=row.name,
        cloud=cloud,
        cloud_id=row.cloud,
        size_bytes=row.size_bytes,
        image=image,
        instance=instance,
        blanket=blanket,
        snapshots=tuple(row.snapshots),
        lost=row.lost,
        level=Level(row.level),
    )
