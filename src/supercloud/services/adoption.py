"""Adopting what tools made: its disk becomes an image, its definition goes, an instance begins with that.

So there is never a moment at which both could run: an instance is started once the foreign VM is forgotten,
and what is forgotten was shut off. The disk itself stays in the blanket, for its owner to delete. If no
instance comes of it in the end, the image is there, and one can be run with it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from supercloud.model.errors import Conflict, Failed, NotFound, SupercloudError
from supercloud.model.levels import Level
from supercloud.model.names import MIB, Id, Name, new_id
from supercloud.model.quota import Amounts
from supercloud.model.states import OperationState
from supercloud.ports.agent import MadeImage
from supercloud.ports.durable import Saga
from supercloud.ports.tools import ForeignRef, ForeignVm, TakeDisk
from supercloud.services import quotas
from supercloud.services.instances import Instances, place
from supercloud.services.operations import Intent
from supercloud.services.parts import Parts
from supercloud.services.refs import find_blanket, own_cloud, owned
from supercloud.services.requests import AdoptVm, RunInstance
from supercloud.services.rules import check_instance, check_volume_size
from supercloud.services.sagas.world import CopyFacts, World
from supercloud.services.store.tables import Blanket, Image, Instance, Operation, Volume, VolumeCopy
from supercloud.services.tools import made_in
from supercloud.services.views import OperationView
from supercloud.services.volume_backup import VolumeBackups, insist
from supercloud.wire.codec import from_json, to_json

_MAKING, _STORING = "making an image of its disk", "storing the image"
_LOOK_S = 10.0


class Adopting:
    """The part of Northbound about adopting."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def adopt_vm(self, request: AdoptVm) -> OperationView:
        """
        Raises:
            Conflict: the VM's obstacle; its blanket is not connected; or the instance's, or the image's, name
                is taken.
            InvalidInput: no instance is as its blanket says that the VM is.
            Refused: no blanket may have such an instance, or no quota is left.
        """
        parts = self._parts
        async with parts.store.read() as session:
            blanket = await find_blanket(session, request.blanket, request.cloud)
        vm = _the_one(await made_in(parts, blanket), request, blanket)
        if vm.obstacle:
            raise Conflict(f"{vm.name} cannot be adopted: {vm.obstacle}")
        check_volume_size(_whole_mib(vm))
        running = from_json(RunInstance, to_json(RunInstance, _instance(request, vm)))  # within its bounds
        check_instance(running)
        async with parts.store.write() as session:
            cloud = await own_cloud(session, request.cloud)
            intent = {
                "blanket": blanket.id,
                "cloud": cloud.id,
                "vm": to_json(ForeignVm, vm),
                "request": to_json(AdoptVm, request),
            }
            key = f"{blanket.id}:{vm.id}"
            operation = await parts.operations.record(
                session,
                "blanket.adopt",
                object_id=blanket.id,
                name=blanket.name,
                cloud=cloud.id,
                intent=intent,
                join_key=key,
                phase=f"adopts {request.name}",
            )
            if not await _under_way(session, operation):
                await _check_names(session, cloud.id, request.name)
                more = Amounts(vcpus=vm.vcpus, memory_mib=vm.memory_mib, disk_bytes=_whole_mib(vm))
                await quotas.check(session, cloud, more)
                await place(session, parts, cloud.id, running)
        return await parts.operations.started(operation)


def _the_one(found: list[ForeignVm], request: AdoptVm, blanket: Blanket) -> ForeignVm:
    for vm in found:
        if request.vm in {vm.id, vm.name}:
            return vm
    raise NotFound(
        f"there is no VM {request.vm} of tools in blanket {blanket.name}",
        hint=f"supercloud blanket vms {blanket.name} shows which there are",
    )


async def _under_way(session: AsyncSession, operation: Id) -> bool:
    """Whether it is joined, and not this request's own: that has not begun."""
    return (await session.get_one(Operation, operation)).state != OperationState.PENDING


async def _check_names(session: AsyncSession, cloud: Id, name: Name) -> None:
    if await session.scalar(select(Instance.id).where(Instance.cloud == cloud, Instance.name == name)):
        raise Conflict(f"there is an instance {name} already", hint="choose another --name")
    if await session.scalar(select(Image.id).where(Image.name == name, owned(session, Image.owner))):
        raise Conflict(f"there is an image {name} already", hint="choose another --name")


def _instance(
    request: AdoptVm, vm: ForeignVm, cloud: Id | None = None, image: Id | None = None
) -> RunInstance:
    return RunInstance(
        name=request.name,
        cloud=cloud or request.cloud,
        image=image or request.name,
        on=request.on,
        memory_mib=vm.memory_mib,
        vcpus=vm.vcpus,
        networks=request.networks,
        ssh_keys=request.ssh_keys,
        hold=request.hold,
        level=request.level,
    )


def _whole_mib(vm: ForeignVm) -> int:
    return -(-vm.disk_bytes // MIB) * MIB


@dataclass(frozen=True, slots=True)
class Adoptions:
    """The work of `blanket.adopt`."""

    parts: Parts
    world: World
    backups: VolumeBackups
    instances: Instances

    async def adopt(self, saga: Saga, intent: Intent) -> dict[str, Any]:
        blanket: Id = intent["blanket"]
        vm, request = from_json(ForeignVm, intent["vm"]), from_json(AdoptVm, intent["request"])
        cloud: Id = intent["cloud"]
        copy = await saga.step(
            "reserve", lambda: self._reserve(saga.operation, cloud, blanket, vm, request.name), CopyFacts
        )
        try:
            await saga.progress(_MAKING, done=0.0)
            made = await saga.step("make", lambda: self._make(saga, cloud, copy, vm), MadeImage)
            await saga.step("register", lambda: self.backups.register(copy, request.name, made), type(None))
            await saga.progress(_STORING, done=0.0)
            await saga.step("store", lambda: self.backups.store(saga, copy), type(None))
            await saga.step("forget", lambda: self._forget(blanket, vm), type(None))
        except SupercloudError:
            await saga.progress("cleaning up")
            await saga.step("undo", lambda: self._undo(copy), type(None))
            raise
        await saga.step("tidy", lambda: self._tidy(copy), type(None))
        await saga.progress("running the instance")
        running = await saga.step("run", lambda: self._run(copy, cloud, vm, request), str)
        instance = await saga.step("await", lambda: self._ended(running, request.name), str)
        return {"instance": instance, "name": request.name, "image": copy.copy, "vm": vm.id}

    # ------------------------------------------------------------ steps

    async def _reserve(self, operation: Id, cloud: Id, blanket: Id, vm: ForeignVm, name: Name) -> CopyFacts:
        """A volume for the time being, whose copy the image is made as, so that whatever becomes of the
        operation, it is known or found as an orphan."""
        async with self.parts.store.write() as session:
            found = await session.scalar(select(VolumeCopy).where(VolumeCopy.operation == operation))
            if found is None:
                owner = await own_cloud(session, cloud)
                await quotas.check(session, owner, Amounts(disk_bytes=_whole_mib(vm)))
                called = f"{name[:54]}-adopted"
                if await session.scalar(
                    select(Volume.id).where(Volume.cloud == cloud, Volume.name == called)
                ):
                    raise Conflict(f"there is a volume {called} already")
                volume = Volume(
                    id=new_id(),
                    cloud=cloud,
                    name=called,
                    size_bytes=_whole_mib(vm),
                    wanted_on=blanket,
                    level=Level.OPEN,
                    snapshots=[],
                    position=0,
                    created_at=time.time(),
                )
                session.add(volume)
                await session.flush()
                found = VolumeCopy(
                    id=new_id(),
                    volume=volume.id,
                    cloud=cloud,
                    blanket=blanket,
                    operation=operation,
                    current=False,
                    made=False,
                )
                session.add(found)
            return CopyFacts(volume=found.volume, copy=found.id, blanket=blanket)

    async def _make(self, saga: Saga, cloud: Id, copy: CopyFacts, vm: ForeignVm) -> MadeImage:
        key = await self.parts.keys.volume_key(
            cloud=cloud, volume=copy.volume, copy=copy.copy, blanket=copy.blanket
        )
        request = TakeDisk(vm=vm.id, volume=copy.volume, into=copy.copy, into_key=key)
        agent = self.parts.agents.agent(copy.blanket)
        while True:
            report = await insist(lambda: agent.tools.take(request))
            if report.image is not None:
                return report.image
            await self.backups.going_on(saga, _MAKING, report.done)

    async def _forget(self, blanket: Id, vm: ForeignVm) -> None:
        """
        Raises:
            Conflict: it was started meanwhile, so that what was taken of it is old.
        """
        agent = self.parts.agents.agent(blanket)
        await insist(lambda: agent.tools.forget(ForeignRef(vm=vm.id)))

    async def _undo(self, copy: CopyFacts) -> None:
        await self.backups.undo(copy)
        await self._drop(copy.volume)

    async def _tidy(self, copy: CopyFacts) -> None:
        await self.backups.discard(copy)
        await self._drop(copy.volume)

    async def _drop(self, volume: Id) -> None:
        async with self.parts.store.write() as session:
            await session.execute(delete(Volume).where(Volume.id == volume))

    async def _run(self, copy: CopyFacts, cloud: Id, vm: ForeignVm, request: AdoptVm) -> Id:
        async with self.parts.store.read() as session:
            begun: Id | None = await session.scalar(
                select(Operation.id)
                .join(Instance, Instance.id == Operation.object)
                .where(Instance.image == copy.copy, Operation.kind == "instance.run")
            )
        if begun is not None:
            return begun
        try:
            return (await self.instances.run_instance(_instance(request, vm, cloud, copy.copy))).id
        except SupercloudError as error:
            raise type(error)(
                f"its disk is image {request.name} now, but no instance came of it: {error.message}",
                hint=f"supercloud vm run {request.name} --image {request.name}",
            ) from error

    async def _ended(self, operation: Id, name: Name) -> Id:
        view = await self.parts.operations.view(operation)
        while view.ended_at is None:
            view = await self.parts.operations.view(operation, wait_s=_LOOK_S)
        if view.state is not OperationState.SUCCEEDED:
            why = (view.error or {}).get("message", "it was cancelled")
            raise Failed(
                f"instance {name} is there, but does not run: {why}", hint=f"supercloud vm start {name}"
            )
        return view.object
