"""What sagas know and change of the store: instances, volumes' copies, where things are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import structlog
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from supercloud.model.errors import Conflict, DataLost, NotFound, Refused, Unavailable
from supercloud.model.names import Digest, Id, Ipv4, new_id
from supercloud.model.states import INSTANCE_TRANSITIONS, InstanceState, move
from supercloud.ports.agent import Agent, Disk, InstanceSpec, Nic, SealedKey, UserData
from supercloud.ports.keystore import KeyStore
from supercloud.ports.loop import Guard, GuardRef
from supercloud.ports.overlay import MeshReport
from supercloud.ports.rights import RightsStore
from supercloud.services import guards, guests, loop_orders, sharing
from supercloud.services.parts import Parts
from supercloud.services.sagas.world import CopyFacts, DiskFacts, InstanceFacts
from supercloud.services.store.tables import (
    LOCKED,
    Blanket,
    Cloud,
    Image,
    Instance,
    NicRow,
    Volume,
    VolumeCopy,
)
from supercloud.services.store.time import wall

_log = structlog.get_logger(__name__)


class StoreWorld:
    """services.sagas.world.World over the store and the connected agents."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._store = parts.store
        self.rights: RightsStore = parts.rights
        self.keys: KeyStore = parts.keys

    def agent(self, blanket: Id) -> Agent:
        """Its calls raise Unavailable while the blanket is not connected."""
        return self._parts.agents.agent(blanket)

    async def instance(self, instance: Id) -> InstanceFacts:
        """
        Raises:
            NotFound.
        """
        async with self._store.read() as session:
            return await facts(session, instance)

    async def set_state(
        self,
        instance: Id,
        state: InstanceState,
        *,
        blanket: Id | None = None,
        reason: str = "",
        seen: InstanceState | None = None,
    ) -> None:
        """`seen`: what it was when this was concluded.

        Raises:
            Conflict: the life cycle forbids it, or it is not as it was seen any more.
        """
        async with self._store.write() as session:
            row = await session.get(Instance, instance, with_for_update=LOCKED)
            if row is None:
                raise NotFound(f"there is no instance {instance}")
            if seen is not None and row.state != seen:
                raise Conflict(f"instance {row.name} is {row.state} by now")
            row.state = move(INSTANCE_TRANSITIONS, InstanceState(row.state), state)
            row.reason = reason
            if blanket is not None:
                row.blanket = blanket

    async def guard(self, instance: Id, *, operation: Id, source: Id, target: Id) -> Guard:
        """Its security state at `source`, as `target` is to take it over. A source that does not answer, or
        has no loop, adds nothing to what horizontal loops ordered there."""
        try:
            found = await self._parts.agents.agent(source).loop.guard(
                GuardRef(operation=operation, instance=instance)
            )
        except (NotFound, Unavailable) as error:
            _log.info("guard.not_given", instance=instance, blanket=source, why=error.message)
            found = Guard(operation=operation, instance=instance, at=0.0)
        async with self._store.read() as session:
            ordered = await loop_orders.going_with(session, instance, source=source, target=target)
        return replace(found, ordered=ordered)

    async def take_over(self, guard: Guard, *, target: Id) -> None:
        """On return it is in force there.

        Raises:
            Refused: it has no loop, or the agent of before.
            Failed, Unavailable.
        """
        try:
            await self._parts.agents.agent(target).loop.take_over(guard)
        except NotFound as error:
            raise Refused(
                f"blanket {target} cannot hold what is in force about it", hint="supercloud blanket upgrade"
            ) from error

    async def kept_guard(self, instance: Id, *, operation: Id, target: Id) -> Guard:
        """Its security state as `target` is to take it over when it starts there: what the blanket that had
        it told last, and what horizontal loops order about it."""
        async with self._store.read() as session:
            return Guard(
                operation=operation,
                instance=instance,
                at=await wall(session),
                held=await guards.kept(session, instance),
                ordered=await loop_orders.coming_with(session, instance, target=target),
            )

    async def guard_moved(self, instance: Id) -> None:
        """What horizontal loops ordered about it is ordered where it is to be done now."""
        await self._parts.horizontal.moved(instance)

    async def cancel_asked(self, operation: Id) -> bool:
        """Whether somebody wants the operation given up, where it still can be."""
        return await self._parts.operations.cancel_asked(operation)

    async def mesh_address(self, blanket: Id) -> Ipv4:
        async with self._store.read() as session:
            row = await session.get(Blanket, blanket)
        if row is None:
            raise NotFound(f"there is no blanket {blanket}")
        return row.mesh_address

    async def locate(self, instance: Id) -> None:
        """Tell every blanket of its cloud who holds the instance's right now."""
        await self._parts.meshes.locate(instance)

    # ------------------------------------------------------------ copies of volumes

    async def first_copy(self, volume: Id, *, blanket: Id) -> CopyFacts:
        """The volume's current copy; one at `blanket` is recorded if there is none yet.

        Raises:
            Conflict: the volume's data is in another blanket.
            DataLost: it had data, and nobody has them any more.
            Refused: the blanket is inside another cloud's, which lets nothing come there any more.
        """
        async with self._store.write() as session:
            row = await _volume(session, volume)
            copy = await _current(session, volume)
            if copy is None and row.lost is not None:
                raise DataLost(f"volume {row.name} is lost: {row.lost}", hint="remove it, and make another")
            if copy is None:
                await guests.check_coming(session, blanket)
                copy = VolumeCopy(
                    id=new_id(), volume=volume, cloud=row.cloud, blanket=blanket, current=True, made=False
                )
                session.add(copy)
            elif copy.blanket != blanket:
                raise Conflict(
                    f"volume {row.name} is in another blanket", hint="migrate the instance instead"
                )
            return _copy_facts(copy)

    async def reserve_copy(self, operation: Id, *, volume: Id, blanket: Id) -> CopyFacts:
        """The operation's own copy at `blanket`, which is not the volume yet.

        Raises: Refused, as first_copy.
        """
        async with self._store.write() as session:
            row = await _volume(session, volume)
            found = await session.scalar(
                select(VolumeCopy).where(
                    VolumeCopy.operation == operation,
                    VolumeCopy.volume == volume,
                    VolumeCopy.blanket == blanket,
                )
            )
            if found is not None:
                return _copy_facts(found)
            await guests.check_coming(session, blanket)
            copy = VolumeCopy(
                id=new_id(),
                volume=volume,
                cloud=row.cloud,
                blanket=blanket,
                operation=operation,
                current=False,
                made=False,
            )
            session.add(copy)
            return _copy_facts(copy)

    async def note_made(self, copy: Id) -> None:
        """Its blanket has made it: nothing may be made in its place any more."""
        async with self._store.write() as session:
            row = await session.get(VolumeCopy, copy)
            if row is not None:
                row.made = True

    async def promote_copies(self, operation: Id) -> None:
        """The operation's copies become the volumes; the former ones become its leftovers."""
        async with self._store.write() as session:
            reserved = await session.scalars(
                select(VolumeCopy).where(VolumeCopy.operation == operation, VolumeCopy.current.is_(False))
            )
            for copy in list(reserved):
                former = await _current(session, copy.volume)
                if former is not None and former.operation == operation:
                    continue  # promoted before: this one is the leftover
                if former is not None:
                    former.current, former.operation = False, operation
                    await session.flush()  # one current copy at a time, says the index
                copy.current, copy.operation = True, operation

    async def leftovers(self, operation: Id) -> tuple[CopyFacts, ...]:
        """The operation's copies that are not the volume (any more)."""
        async with self._store.read() as session:
            rows = await session.scalars(
                select(VolumeCopy)
                .where(VolumeCopy.operation == operation, VolumeCopy.current.is_(False))
                .order_by(VolumeCopy.id)
            )
            return tuple(_copy_facts(row) for row in rows)

    async def drop_copy(self, copy: Id) -> None:
        """Forget it; its data and its key are gone by now."""
        async with self._store.write() as session:
            row = await session.get(VolumeCopy, copy)
            if row is not None:
                await session.delete(row)

    async def image_key(self, *, cloud: Id, digest: Digest, blanket: Id) -> SealedKey:
        """
        Raises:
            Refused: the image is another cloud's, and not shared with this one.
        """
        async with self._store.read() as session:
            await sharing.check_digest(session, cloud, digest)
        return await self.keys.image_key(cloud=cloud, digest=digest, blanket=blanket)

    # ------------------------------------------------------------ keys of a cloud's mesh

    async def keys_reported(self, blanket: Id, report: MeshReport) -> None:
        await self._parts.meshes.heard(blanket, report)

    async def blankets(self, cloud: Id) -> tuple[Id, ...]:
        """The cloud's blankets that are connected, or were a moment ago."""
        async with self._store.read() as session:
            rows = await session.scalars(
                select(Blanket.id)
                .where(Blanket.cloud == cloud, Blanket.revoked.is_(False))
                .order_by(Blanket.id)
            )
            return tuple(one for one in rows if self._parts.agents.is_expected(one))

    async def spread(self, cloud: Id) -> tuple[Id, ...]:
        """Apply the cloud's meshes; those of `blankets` that did not take theirs."""
        return await self._parts.meshes.spread(cloud, patient=True)


async def _volume(session: AsyncSession, volume: Id) -> Volume:
    row = await session.get(Volume, volume, with_for_update=LOCKED)
    if row is None:
        raise NotFound(f"there is no volume {volume}")
    return row


def _copy_facts(row: VolumeCopy) -> CopyFacts:
    return CopyFacts(volume=row.volume, copy=row.id, blanket=row.blanket, made=row.made)


async def _current(session: AsyncSession, volume: Id) -> VolumeCopy | None:
    found: VolumeCopy | None = await session.scalar(
        select(VolumeCopy).where(VolumeCopy.volume == volume, VolumeCopy.current.is_(True))
    )
    return found


async def facts(session: AsyncSession, instance: Id) -> InstanceFacts:
    """
    Raises:
        NotFound.
    """
    row = await session.get(Instance, instance)
    if row is None:
        raise NotFound(f"there is no instance {instance}")
    cloud = await session.get_one(Cloud, row.cloud)
    disks = await _disks(session, instance)
    nics = await session.scalars(select(NicRow).where(NicRow.instance == instance).order_by(NicRow.position))
    spec = InstanceSpec(
        id=row.id,
        name=row.name,
        cloud=row.cloud,
        vcpus=row.vcpus,
        memory_mib=row.memory_mib,
        cpu_model=cloud.cpu_model,
        disks=tuple(
            Disk(volume=disk.volume, size_bytes=disk.size_bytes, boot=place == 0)
            for place, disk in enumerate(disks)
        ),
        nics=tuple(Nic(network=nic.network, mac=nic.mac, ip=nic.ip) for nic in nics),
        ssh_keys=tuple(row.ssh_keys),
    )
    return InstanceFacts(
        spec=spec,
        state=InstanceState(row.state),
        blanket=row.blanket,
        disks=tuple(disks),
        user_data=_user_data(row),
    )


def _user_data(row: Instance) -> UserData | None:
    if row.user_data is None or row.user_data_digest is None:
        return None
    return UserData(digest=row.user_data_digest, ciphertext=row.user_data)


async def _disks(session: AsyncSession, instance: Id) -> Sequence[DiskFacts]:
    rows = await session.execute(
        select(Volume, Image.digest, Image.size_bytes)
        .outerjoin(Image, Image.id == Volume.image)
        .where(Volume.instance == instance)
        .order_by(Volume.position)
    )
    return [
        DiskFacts(volume=volume.id, size_bytes=volume.size_bytes, base=digest, image_bytes=size or 0)
        for volume, digest, size in rows
    ]
