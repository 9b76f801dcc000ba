"""Instances: asking for them, and their streams."""

from __future__ import annotations

import time
from contextlib import suppress

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from supercloud.model.errors import (
    Conflict,
    InvalidInput,
    NotFound,
    Refused,
    SupercloudError,
    Unavailable,
)
from supercloud.model.levels import Level
from supercloud.model.names import MIB, Id, Name, SizeBytes, new_id
from supercloud.model.placement import Choice, Subject
from supercloud.model.quota import Amounts
from supercloud.model.right import RightTerms
from supercloud.model.states import InstanceState
from supercloud.ports.agent import StopMode, StreamKind, UserData
from supercloud.services import instance_views, mesh, placing, quotas
from supercloud.services.clouds import RENEW_EVERY_S
from supercloud.services.demands import network_demands
from supercloud.services.networks import plug
from supercloud.services.northbound import Stream
from supercloud.services.operations import Intent
from supercloud.services.pages import EVERYTHING, Page, Part
from supercloud.services.parts import Parts
from supercloud.services.preflight import check_migration
from supercloud.services.refs import (
    clouds_of,
    find_blanket,
    find_cloud,
    find_instance,
    find_network,
    own_cloud,
)
from supercloud.services.requests import PlaceInstance, Ref, RunInstance
from supercloud.services.restoring import RESTORE, check_restore, root_of
from supercloud.services.rules import NETWORKS, boot_volume, check_instance, level_of
from supercloud.services.sharing import check_instance as check_images
from supercloud.services.sharing import usable_image
from supercloud.services.store.rights import SqlRights
from supercloud.services.store.tables import (
    Cloud,
    Image,
    Instance,
    Operation,
    Published,
    Right,
    Volume,
)
from supercloud.services.views import InstanceView, OperationView
from supercloud.services.volumes import check_size


class Instances:
    """The part of Northbound about instances."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def run_instance(self, request: RunInstance) -> OperationView:
        check_instance(request)
        listening: list[int] = []
        identity = new_id()
        try:
            for one in request.publish if request.publish and not await self._known(request) else ():
                listening.append(await self._parts.publisher.listen(one.at, identity, one.port))
            operation, joined = await self._record(request, identity, listening)
        except BaseException:
            await self._not_needed(request, listening)
            raise
        if joined:
            await self._not_needed(request, listening)
        return await self._parts.operations.started(operation)

    async def _not_needed(self, request: RunInstance, listening: list[int]) -> None:
        """Give back what was made for an instance that does not come to be."""
        for at in listening:
            await self._parts.publisher.silence(at)
        if request.user_data is None:
            return
        with suppress(SupercloudError):  # the key store destroys by itself what nobody asks for
            async with self._parts.store.read() as session:
                used = await _user_of(session, request.user_data)
            if used is None:  # else the same request came before
                await self._parts.keys.destroy_user_data_key(digest=request.user_data.digest)

    async def instances(
        self,
        *,
        cloud: Ref | None = None,
        blanket: Ref | None = None,
        group: Name | None = None,
        page: Page = EVERYTHING,
    ) -> Part[InstanceView]:
        async with self._parts.store.read() as session:
            only = [] if group is None else [Instance.group == group]
            if blanket is not None:
                only.append(Instance.blanket == (await find_blanket(session, blanket, cloud)).id)
            clouds = await clouds_of(session, cloud)
            return await instance_views.views(
                session, self._parts.rights, clouds=clouds, only=only, page=page
            )

    async def instance(self, ref: Ref, *, cloud: Ref | None = None) -> InstanceView:
        async with self._parts.store.read() as session:
            clouds = await clouds_of(session, cloud)
            return await instance_views.view(session, self._parts.rights, ref, clouds=clouds)

    async def start_instance(self, ref: Ref, *, cloud: Ref | None = None) -> OperationView:
        """Where its data is, which has to fit its placement still.

        Raises:
            Refused: it does not; it has no data yet, and no blanket fits; or its image is shared no more.
        """
        parts = self._parts
        async with parts.store.write() as session:
            found = await find_instance(session, ref, cloud)
            await own_cloud(session, found.cloud)
            row = await again(session, found)
            await check_images(session, row)
            there = row.blanket is not None
            around = await placing.look(session, parts, row.cloud, but=row.id, arriving=there)
            subject = await placing.subject_of(session, row)
            if row.blanket is None:
                choice = around.choose(subject)
                row.placed = {choice.blanket: choice.reason}
            else:
                choice = around.asked_for(subject, row.blanket, new=False)
            operation = await parts.operations.record(
                session,
                "instance.start",
                object_id=row.id,
                name=row.name,
                cloud=row.cloud,
                intent={"instance": row.id, "blanket": choice.blanket},
            )
        return await parts.operations.started(operation)

    async def stop_instance(
        self, ref: Ref, *, cloud: Ref | None = None, mode: StopMode = StopMode.SHUTDOWN
    ) -> OperationView:
        row = await self._find(ref, cloud)
        return await self._begin_on_instance(row, "instance.stop", {"instance": row.id, "mode": mode.value})

    async def reboot_instance(self, ref: Ref, *, cloud: Ref | None = None) -> OperationView:
        row = await self._find(ref, cloud)
        if row.state != InstanceState.RUNNING:
            raise Conflict(
                f"instance {row.name} is {row.state}, not running",
                hint=f"supercloud vm show {row.name} says why",
            )
        return await self._begin_on_instance(row, "instance.reboot", {"instance": row.id})

    async def remove_instance(
        self, ref: Ref, *, cloud: Ref | None = None, force: bool = False
    ) -> OperationView:
        row = await self._find(ref, cloud)
        if row.state in {InstanceState.RUNNING, InstanceState.PAUSED, InstanceState.MIGRATING} and not force:
            raise Conflict(
                f"instance {row.name} is {row.state}", hint=f"supercloud vm stop {row.name}, or --force"
            )
        return await self._begin_on_instance(row, "instance.remove", {"instance": row.id, "force": force})

    async def restore_instance(
        self, ref: Ref, *, snapshot: Name | None, cloud: Ref | None = None
    ) -> OperationView:
        """
        Raises:
            Conflict: the volume that it boots from has nothing like that to go back to.
        """
        row = await self._find(ref, cloud)
        async with self._parts.store.read() as session:
            root = await root_of(session, row.id)
        check_restore(root, snapshot)
        if row.blanket is None:
            raise Conflict(f"instance {row.name} has never run", hint=f"supercloud vm start {row.name}")
        intent = {"instance": row.id, "blanket": row.blanket, "volume": root.id, "snapshot": snapshot}
        return await self._begin_on_instance(row, RESTORE, intent)

    async def migrate_instance(self, ref: Ref, *, to: Ref, cloud: Ref | None = None) -> OperationView:
        """
        Raises:
            Refused: the preflight's reason, or its placement's.
        """
        parts = self._parts
        row = await self._find(ref, cloud)
        async with parts.store.read() as session:
            target = await find_blanket(session, to, row.cloud)
        intent = {"instance": row.id, "target": target.id}
        if await parts.operations.under_way(row.id, "instance.migrate", intent):
            return await self._begin_on_instance(row, "instance.migrate", intent)
        await check_migration(parts, row, target)
        operation = await begin_migration(parts, row.id, target.id)
        return await parts.operations.started(operation)

    async def place_instance(
        self, ref: Ref, request: PlaceInstance, *, cloud: Ref | None = None
    ) -> InstanceView:
        async with self._parts.store.write() as session:
            row = await find_instance(session, ref, cloud)
            request.placement.check(row.name)
            await placing.check_domains(session, request.placement)
            row.group, row.placement = request.group, placing.kept(request.placement)
        return await self.instance(row.id)

    async def open_stream(
        self, ref: Ref, *, kind: StreamKind, port: int | None = None, cloud: Ref | None = None
    ) -> Stream:
        if (kind is StreamKind.TCP) != (port is not None):
            raise InvalidInput("a port belongs to a stream of kind tcp, and only to it")
        row = await self._find(ref, cloud)
        async with self._parts.store.read() as session:
            holder = await session.scalar(select(Right.holder).where(Right.instance == row.id))
        where = holder or (row.blanket if kind is StreamKind.LOG else None)
        if where is None:
            raise Unavailable(f"instance {row.name} does not run", hint=f"supercloud vm start {row.name}")
        return await self._parts.streams.open(where, row.id, kind, port)

    # ------------------------------------------------------------ inside

    async def _find(self, ref: Ref, cloud: Ref | None) -> Instance:
        async with self._parts.store.read() as session:
            return await find_instance(session, ref, cloud)

    async def _begin_on_instance(self, row: Instance, kind: str, intent: Intent) -> OperationView:
        operations = self._parts.operations
        async with self._parts.store.write() as session:
            operation = await operations.record(
                session, kind, object_id=row.id, name=row.name, cloud=row.cloud, intent=intent
            )
        return await operations.started(operation)

    async def _known(self, request: RunInstance) -> bool:
        async with self._parts.store.read() as session:
            cloud = await find_cloud(session, request.cloud)
            return await _named(session, cloud.id, request.name) is not None

    async def _record(self, request: RunInstance, identity: Id, ports: list[int]) -> tuple[Id, bool]:
        """The instance, its volume, addresses, published ports and operation, all or nothing."""
        operations = self._parts.operations
        async with self._parts.store.write() as session:
            cloud = await own_cloud(session, request.cloud)
            known = await _named(session, cloud.id, request.name)
            if known is not None:
                return await _joined(session, known), True
            image = await usable_image(session, cloud, request.image)
            if not image.complete:
                raise Conflict(f"image {image.name} is not complete", hint="import it again")
            size = boot_size(request, image)
            more = Amounts(vcpus=request.vcpus, memory_mib=request.memory_mib, disk_bytes=size)
            await quotas.check(session, cloud, more)
            choice = await place(session, self._parts, cloud.id, request)
            if request.user_data is not None and await _user_of(session, request.user_data) is not None:
                raise Conflict("this user data is another instance's", hint="encrypt it anew for each")
            await _insert(session, request, identity, (cloud, image), choice)
            for published, at in zip(request.publish, ports, strict=True):
                session.add(Published(at=at, cloud=cloud.id, instance=identity, port=published.port))
            await mesh.changed(session, cloud.id)
            operation = await operations.record(
                session,
                "instance.run",
                object_id=identity,
                name=request.name,
                cloud=cloud.id,
                intent={"instance": identity, "blanket": choice.blanket},
                phase=f"goes to blanket {choice.name}: {choice.reason}",
            )
        return operation, False


async def begin_migration(
    parts: Parts, instance: Id, target: Id, *, parent: Id | None = None, reason: str = "asked for"
) -> Id:
    """Record it, if the instance may be there: with its cloud locked, so that of several that are to be kept
    apart no two come to one place.

    Raises:
        Refused: it may not, or its image is shared no more.
    """
    async with parts.store.write() as session:
        found = await find_instance(session, instance, None)
        await own_cloud(session, found.cloud)
        row = await again(session, found)
        await check_images(session, row)
        around = await placing.look(session, parts, row.cloud, but=row.id, arriving=True)
        if target not in around.sites:
            raise Refused("the blanket was removed")
        around.asked_for(await placing.subject_of(session, row), target)
        row.placed = {row.blanket or "": (row.placed or {}).get(row.blanket or "", ""), target: reason}
        return await parts.operations.record(
            session,
            "instance.migrate",
            object_id=row.id,
            name=row.name,
            cloud=row.cloud,
            intent={"instance": row.id, "target": target},
            parent=parent,
        )


async def again(session: AsyncSession, found: Instance) -> Instance:
    """As it is now that its cloud is locked.

    Raises:
        NotFound: it was removed meanwhile.
    """
    row: Instance | None = await session.get(Instance, found.id, populate_existing=True)
    if row is None:
        raise NotFound(f"instance {found.name} was removed")
    return row


async def _named(session: AsyncSession, cloud: Id, name: Name) -> Instance | None:
    found: Instance | None = await session.scalar(
        select(Instance).where(Instance.cloud == cloud, Instance.name == name)
    )
    return found


async def _user_of(session: AsyncSession, data: UserData) -> Id | None:
    found: Id | None = await session.scalar(
        select(Instance.id).where(Instance.user_data_digest == data.digest)
    )
    return found


async def _joined(session: AsyncSession, known: Instance) -> Id:
    operation = await session.scalar(
        select(Operation.id).where(
            Operation.object == known.id, Operation.kind == "instance.run", Operation.ended_at.is_(None)
        )
    )
    if operation is None:
        raise Conflict(f"there is an instance {known.name} already", hint=f"supercloud vm show {known.name}")
    return operation


async def _insert(
    session: AsyncSession, request: RunInstance, identity: Id, of: tuple[Cloud, Image], choice: Choice
) -> None:
    cloud, image = of
    now = time.time()
    session.add(
        Instance(
            id=identity,
            cloud=cloud.id,
            name=request.name,
            state=InstanceState.CREATED,
            image=image.id,
            vcpus=request.vcpus,
            memory_mib=request.memory_mib,
            user_data=request.user_data.ciphertext if request.user_data is not None else None,
            user_data_digest=request.user_data.digest if request.user_data is not None else None,
            ssh_keys=list(request.ssh_keys),
            hold=request.hold,
            group=request.group,
            placement=placing.kept(request.placement),
            placed={choice.blanket: choice.reason},
            level=request.level or Level.OPEN,
            reason="",
            created_at=now,
        )
    )
    await session.flush()
    session.add(
        Volume(
            id=new_id(),
            cloud=cloud.id,
            name=boot_volume(request.name),
            size_bytes=boot_size(request, image),
            image=image.id,
            instance=identity,
            position=0,
            level=request.level or Level.OPEN,
            snapshots=[],
            created_at=now,
        )
    )
    terms = RightTerms(
        length_s=cloud.length_s, margin_s=cloud.margin_s, grace_s=cloud.grace_s, renew_every_s=RENEW_EVERY_S
    )
    SqlRights.create(session, identity, cloud=cloud.id, terms=terms, hold=request.hold)
    networks = [await find_network(session, ref, cloud.id) for ref in request.networks]
    if len({network.id for network in networks}) != len(networks):
        raise InvalidInput(NETWORKS)
    for position, network in enumerate(networks):
        await plug(session, network, identity, position)


def boot_size(request: RunInstance, image: Image) -> SizeBytes:
    """Of the volume that it boots from.

    Raises:
        InvalidInput: as check_size.
    """
    whole = -(-image.virtual_bytes // MIB) * MIB
    return check_size(request.disk_bytes or whole, image)


async def place(session: AsyncSession, parts: Parts, cloud: Id, request: RunInstance) -> Choice:
    """The blanket that is named, or the one that its placement makes it.

    Raises:
        Refused: the one may not have it, or none.
        NotFound: a domain that the placement names.
    """
    await placing.check_domains(session, request.placement)
    around = await placing.look(session, parts, cloud)
    networks = [await find_network(session, ref, cloud) for ref in request.networks]
    subject = Subject(
        name=request.name,
        vcpus=request.vcpus,
        memory_mib=request.memory_mib,
        placement=request.placement,
        group=request.group,
        demands=(level_of(request), *network_demands(networks)),
    )
    if request.on is None:
        return around.choose(subject)
    return around.asked_for(subject, (await find_blanket(session, request.on, cloud)).id)
