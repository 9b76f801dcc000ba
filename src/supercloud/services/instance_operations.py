"""The works of `instance.*`: the sagas, with their intents taken apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, select, update

from supercloud.model.errors import Refused, Unavailable
from supercloud.model.names import Id
from supercloud.ports.agent import InstanceRef, StopMode
from supercloud.ports.durable import Saga
from supercloud.services import mesh
from supercloud.services.instance_views import placed_of
from supercloud.services.operations import Intent
from supercloud.services.parts import Parts
from supercloud.services.placement import Placement
from supercloud.services.sagas.migrate import migrate
from supercloud.services.sagas.start import end, start, stop
from supercloud.services.sagas.world import World
from supercloud.services.store.tables import LOCKED, Blanket, Instance, Published, Right, Volume
from supercloud.services.volume_operations import VolumeOperations


@dataclass(frozen=True, slots=True)
class InstanceOperations:
    parts: Parts
    world: World
    volumes: VolumeOperations
    placement: Placement

    async def start(self, saga: Saga, intent: Intent) -> dict[str, Any]:
        """Of `instance.run` too, whose rows are there already."""
        await start(saga, self.world, instance=intent["instance"], blanket=intent["blanket"])
        await self.placement.follow(intent["instance"])
        async with self.parts.store.read() as session:
            row = await session.get(Instance, intent["instance"])
            blanket = await session.get(Blanket, intent["blanket"])
        return {
            **intent,
            "blanket_name": None if blanket is None else blanket.name,
            "placed": "" if row is None else placed_of(row.placed, intent["blanket"]),
        }

    async def stop(self, saga: Saga, intent: Intent) -> dict[str, Any]:
        await stop(saga, self.world, instance=intent["instance"], mode=StopMode(intent["mode"]))
        return dict(intent)

    async def restore(self, saga: Saga, intent: Intent) -> dict[str, Any]:
        """Its machine ends as if its power was cut: what it runs is not trusted to end by itself. What is in
        force about it is its blanket's, and stays so."""
        instance, blanket = intent["instance"], intent["blanket"]
        volume, snapshot = intent["volume"], intent["snapshot"]
        await saga.step("look", lambda: self.volumes.goes_back(volume, snapshot), type(None))
        await stop(saga, self.world, instance=instance, mode=StopMode.DESTROY, timeout_s=0.0)
        await saga.progress("putting its volume back", done=0.3)
        await saga.step("restore", lambda: self.volumes.put_back(volume, snapshot), type(None))
        await start(saga, self.world, instance=instance, blanket=blanket)
        return dict(intent)

    async def migrate(self, saga: Saga, intent: Intent) -> dict[str, Any]:
        return await migrate(saga, self.world, instance=intent["instance"], target=intent["target"])

    async def reboot(self, saga: Saga, intent: Intent) -> dict[str, Any]:
        instance: Id = intent["instance"]

        async def ask() -> None:
            holder = (await self.world.rights.standing(instance)).record.holder
            if holder is None:
                raise Refused("the instance does not run")
            await self.world.agent(holder).instances.reboot(InstanceRef(instance=instance))

        await saga.step("reboot", ask, type(None))
        return dict(intent)

    async def remove(self, saga: Saga, intent: Intent) -> dict[str, Any]:
        """Its own first volume and its user data's key go with it; other volumes are only detached."""
        instance: Id = intent["instance"]
        force: bool = intent["force"]
        await saga.progress("stopping")
        await saga.step("stop", lambda: self._stopped(instance, force=force), type(None))
        await saga.progress("removing its volume", done=0.4)
        await saga.step("volumes", lambda: self._discard(instance, force=force), type(None))
        await saga.step("forget", lambda: self._forget(instance), type(None))
        return dict(intent)

    async def _stopped(self, instance: Id, *, force: bool) -> None:
        """With `force`, an unreachable holder whose right is over counts as stopped."""
        standing = await self.world.rights.standing(instance)
        holder = standing.record.holder
        if holder is None:
            return
        try:
            await end(self.world, instance, StopMode.DESTROY, 0.0)
        except Unavailable:
            if not force or standing.free_in_s != 0:
                raise
            await self.world.rights.surrender(instance, by=holder, epoch=standing.record.epoch)

    async def _discard(self, instance: Id, *, force: bool) -> None:
        async with self.parts.store.read() as session:
            row = await session.get(Instance, instance)
            own = await session.scalar(
                select(Volume.id).where(Volume.instance == instance, Volume.position == 0)
            )
        if row is None:
            return
        reachable = row.blanket is not None and await self.parts.agents.comes_back(row.blanket)
        if not reachable and row.blanket is not None and not force:
            raise Unavailable("the blanket that holds its volume is not connected", hint="wait, or --force")
        if reachable and row.blanket is not None:
            await self.world.agent(row.blanket).instances.remove(InstanceRef(instance=instance))
        if own is not None:
            await self.volumes.discard(own, reachable=reachable)
        if row.user_data_digest is not None:
            await self.parts.keys.destroy_user_data_key(digest=row.user_data_digest)

    async def _forget(self, instance: Id) -> None:
        async with self.parts.store.write() as session:
            row = await session.get(Instance, instance, with_for_update=LOCKED)
            if row is None:
                return
            ports = list(await session.scalars(select(Published.at).where(Published.instance == instance)))
            await session.execute(
                update(Volume).where(Volume.instance == instance).values(instance=None, position=0)
            )
            await session.execute(delete(Right).where(Right.instance == instance))
            await session.execute(delete(Instance).where(Instance.id == instance))
            await mesh.changed(session, row.cloud)
        for at in ports:
            await self.parts.publisher.silence(at)
        await self.parts.meshes.spread(row.cloud)
