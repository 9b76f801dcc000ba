"""What touches volumes' data: attach, detach, resize, snapshot, remove."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, func, select

from supercloud.model.errors import Conflict, DataLost, NotFound
from supercloud.model.names import Id
from supercloud.model.states import InstanceState
from supercloud.ports.agent import (
    AttachVolume,
    Disk,
    ResizeVolume,
    RestoreVolume,
    SealedKey,
    SnapshotVolume,
    VolumeRef,
)
from supercloud.ports.durable import Saga
from supercloud.services.operations import Intent
from supercloud.services.parts import Parts
from supercloud.services.sagas import disks
from supercloud.services.sagas.world import DiskFacts, World
from supercloud.services.store.tables import LOCKED, Image, Instance, Volume, VolumeCopy

_LIVE = frozenset({InstanceState.RUNNING, InstanceState.PAUSED})


@dataclass(frozen=True, slots=True)
class SeenVolume:
    """A volume as its operation finds it."""

    row: Volume
    copy: VolumeCopy | None
    image: Image | None
    instance: Instance | None

    @property
    def live(self) -> bool:
        return self.instance is not None and self.instance.state in _LIVE


def _disk(seen: SeenVolume) -> DiskFacts:
    return DiskFacts(
        volume=seen.row.id,
        size_bytes=seen.row.size_bytes,
        base=seen.image.digest if seen.image else None,
        image_bytes=seen.image.size_bytes if seen.image else 0,
    )


@dataclass(frozen=True, slots=True)
class VolumeOperations:
    """The works of `volume.*`. Each reads what it needs anew in each step, and remembers no key."""

    parts: Parts
    world: World

    async def attach(self, saga: Saga, intent: Intent) -> dict[str, Any]:
        await saga.progress("preparing the volume")
        await saga.step("record", lambda: self._claim(intent["volume"], intent["instance"]), type(None))
        await saga.progress("attaching", done=0.5)
        await saga.step("attach", lambda: self._plug(intent["volume"]), type(None))
        return dict(intent)

    async def detach(self, saga: Saga, intent: Intent) -> dict[str, Any]:
        await saga.step("detach", lambda: self._unplug(intent["volume"]), type(None))
        return dict(intent)

    async def resize(self, saga: Saga, intent: Intent) -> dict[str, Any]:
        await saga.step("resize", lambda: self._resize(intent["volume"], intent["size_bytes"]), type(None))
        return dict(intent)

    async def snapshot(self, saga: Saga, intent: Intent) -> dict[str, Any]:
        await saga.step("snapshot", lambda: self._snapshot(intent["volume"], intent["snapshot"]), type(None))
        return dict(intent)

    async def restore(self, saga: Saga, intent: Intent) -> dict[str, Any]:
        volume, snapshot = intent["volume"], intent["snapshot"]
        await saga.step("restore", lambda: self.put_back(volume, snapshot), type(None))
        return dict(intent)

    async def remove(self, saga: Saga, intent: Intent) -> dict[str, Any]:
        await saga.step("remove", lambda: self.discard(intent["volume"]), type(None))
        return dict(intent)

    # ------------------------------------------------------------ steps

    async def _claim(self, volume: Id, instance: Id) -> None:
        async with self.parts.store.write() as session:
            row = await session.get(Volume, volume, with_for_update=LOCKED)
            if row is None:
                raise NotFound("the volume was removed")
            if row.instance == instance:
                return
            if row.instance is not None:
                raise Conflict(f"volume {row.name} is attached to another instance")
            highest = await session.scalar(
                select(func.max(Volume.position)).where(Volume.instance == instance)
            )
            row.instance, row.position = instance, (highest or 0) + 1

    async def _plug(self, volume: Id) -> None:
        """Into a running instance; one that does not run finds it at its next start."""
        seen = await self.look(volume)
        instance = seen.instance
        if instance is None or instance.blanket is None or not seen.live:
            return
        try:
            copy = await self.world.first_copy(volume, blanket=instance.blanket)
            await disks.ready_copy(self.world, seen.row.cloud, _disk(seen), copy)
            await self.world.agent(instance.blanket).volumes.attach(
                AttachVolume(instance=instance.id, disk=Disk(volume=volume, size_bytes=seen.row.size_bytes))
            )
        except (Conflict, DataLost):
            await self._unclaim(volume)
            raise

    async def base(self, seen: SeenVolume, blanket: Id) -> tuple[str | None, SealedKey | None]:
        """The image below it, and that one's key for the blanket."""
        if seen.image is None:
            return None, None
        digest = seen.image.digest
        return digest, await self.world.image_key(cloud=seen.row.cloud, digest=digest, blanket=blanket)

    async def _unplug(self, volume: Id) -> None:
        seen = await self.look(volume)
        if seen.instance is None:
            return
        if seen.live and seen.instance.blanket is not None:
            await self.world.agent(seen.instance.blanket).volumes.detach(
                AttachVolume(
                    instance=seen.instance.id, disk=Disk(volume=volume, size_bytes=seen.row.size_bytes)
                )
            )
        await self._unclaim(volume)

    async def _unclaim(self, volume: Id) -> None:
        async with self.parts.store.write() as session:
            row = await session.get(Volume, volume, with_for_update=LOCKED)
            if row is not None:
                row.instance, row.position = None, 0

    async def _resize(self, volume: Id, size_bytes: int) -> None:
        seen = await self.look(volume)
        if seen.copy is not None:
            await self.world.agent(seen.copy.blanket).volumes.resize(
                ResizeVolume(volume=volume, size_bytes=size_bytes, instance=self._live_in(seen))
            )
        async with self.parts.store.write() as session:
            row = await session.get(Volume, volume, with_for_update=LOCKED)
            if row is not None:
                row.size_bytes = max(row.size_bytes, size_bytes)

    async def _snapshot(self, volume: Id, name: str) -> None:
        seen = await self.look(volume)
        if seen.copy is None:
            raise Conflict(f"volume {seen.row.name} has no data yet", hint="attach it to an instance first")
        report = await self.world.agent(seen.copy.blanket).volumes.snapshot(
            SnapshotVolume(volume=volume, snapshot=name, instance=self._live_in(seen))
        )
        async with self.parts.store.write() as session:
            row = await session.get(Volume, volume, with_for_update=LOCKED)
            if row is not None:
                row.snapshots = list(report.snapshots)

    async def put_back(self, volume: Id, snapshot: str | None) -> None:
        """To a snapshot, or to its image.

        Raises:
            Conflict: it has no data yet. Refused: a process has it open. NotFound: there is nothing to
                go back to.
        """
        seen = await self.look(volume)
        if seen.copy is None:
            raise Conflict(f"volume {seen.row.name} has no data yet", hint="attach it to an instance first")
        blanket, cloud, copy = seen.copy.blanket, seen.row.cloud, seen.copy.id
        report = await self.world.agent(blanket).volumes.restore(
            RestoreVolume(
                volume=volume,
                copy=copy,
                key=await self.parts.keys.volume_key(cloud=cloud, volume=volume, copy=copy, blanket=blanket),
                size_bytes=seen.row.size_bytes,
                snapshot=snapshot,
                base=None if seen.image is None else seen.image.digest,
                instance=None if seen.instance is None else seen.instance.id,
            )
        )
        async with self.parts.store.write() as session:
            row = await session.get(Volume, volume, with_for_update=LOCKED)
            if row is not None:
                row.snapshots = list(report.snapshots)

    async def goes_back(self, volume: Id, snapshot: str | None) -> None:
        """
        Raises:
            Conflict: there is nothing to go back to: no image, or no such snapshot where its data is, which
                does not move with an instance. Unavailable: its blanket is away.
        """
        seen = await self.look(volume)
        if seen.copy is None:
            raise Conflict(f"volume {seen.row.name} has no data yet", hint="attach it to an instance first")
        if snapshot is None and seen.image is None:
            raise Conflict(f"volume {seen.row.name} begins with no image", hint="name a snapshot")
        reports = await self.world.agent(seen.copy.blanket).volumes.list()
        there = next((one.snapshots for one in reports if one.copy == seen.copy.id), ())
        if snapshot is not None and snapshot not in there:
            raise Conflict(
                f"volume {seen.row.name} has no snapshot {snapshot} where it is",
                hint="supercloud volume show",
            )

    async def discard(self, volume: Id, *, reachable: bool = True) -> None:
        """Every copy, every key, the row. Without `reachable`, data stays behind that nobody can open."""
        async with self.parts.store.read() as session:
            copies = list(await session.scalars(select(VolumeCopy).where(VolumeCopy.volume == volume)))
        for copy in copies:
            if reachable:
                await self.world.agent(copy.blanket).volumes.remove(VolumeRef(volume=volume, copy=copy.id))
            await self.parts.keys.destroy_key(volume=volume, copy=copy.id)
        async with self.parts.store.write() as session:
            await session.execute(delete(Volume).where(Volume.id == volume))

    @staticmethod
    def _live_in(seen: SeenVolume) -> Id | None:
        return seen.instance.id if seen.live and seen.instance is not None else None

    async def look(self, volume: Id) -> SeenVolume:
        async with self.parts.store.read() as session:
            row = await session.get(Volume, volume)
            if row is None:
                raise NotFound("the volume was removed")
            copy = await session.scalar(
                select(VolumeCopy).where(VolumeCopy.volume == volume, VolumeCopy.current.is_(True))
            )
            image = await session.get(Image, row.image) if row.image else None
            instance = await session.get(Instance, row.instance) if row.instance else None
        return SeenVolume(row, copy, image, instance)
