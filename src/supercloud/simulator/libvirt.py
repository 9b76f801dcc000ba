"""ports.hypervisor of one blanket over made-up QEMUs, as libvirt does it: its own process, its own ideas.

A transfer belongs to libvirtd and outlives the agent. At its end the source is stopped, the target has
everything, and only when the source's libvirt hears so does it end the source; if it never hears, it lets the
source go on by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from supercloud.model.errors import Conflict, Failed, NotFound
from supercloud.model.names import Id
from supercloud.ports.agent import Disk, InstanceSpec, Progress, RunState
from supercloud.ports.hypervisor import DomainEvent, Route, TransferStatus, Watch
from supercloud.ports.platform import Flavour
from supercloud.simulator.qemu import RUN_STATE, DiskFile, Qemu, Shows

if TYPE_CHECKING:
    from supercloud.simulator.blanket import SimBlanket

#: libvirt's keepalive between two of its daemons, until either gives the other up.
_SILENCE_S = 15.0
_LOOK_S = 0.5


@dataclass
class _Job:
    failed: str | None = None
    over: bool = False
    cancelled: bool = False
    done: float = 0.0


class SimHypervisor:
    """Hypervisor, MigratingHypervisor, DiskHypervisor and Console of one blanket."""

    def __init__(self, blanket: SimBlanket, random: Random) -> None:
        self._blanket = blanket
        self._random = random
        self._jobs: dict[Id, _Job] = {}
        self._listeners: list[tuple[asyncio.Queue[DomainEvent], Any]] = []
        self.ignores_shutdown = False

    async def _act(self, what: str) -> None:
        """A call to libvirtd: a step, and a moment."""
        await self._blanket.trace.step("libvirt", what)
        await asyncio.sleep(self._random.uniform(0.001, 0.01))

    def _find(self, instance: Id) -> Qemu:
        found = self._blanket.processes.present.get(instance)
        if found is None:
            raise NotFound(f"no instance {instance} here")
        return found

    # ------------------------------------------------------------ Hypervisor

    async def flavour(self) -> Flavour:
        return Flavour.KVM

    async def start(self, spec: InstanceSpec, user_data: bytes | None, *, paused: bool = False) -> None:
        await self._act("start")
        if spec.id in self._blanket.processes.present:
            return
        self._blanket.seeded(user_data)
        disks = [self._blanket.opened(disk.volume) for disk in spec.disks]
        shows = Shows.PAUSED if paused else Shows.RUNNING
        self._blanket.processes.begin(spec.id, disks, shows, "booted")

    async def pause(self, instance: Id) -> None:
        await self._act("pause")
        qemu = self._find(instance)
        if qemu.shows is Shows.RUNNING:
            self._blanket.processes.show(qemu, Shows.PAUSED, "paused by libvirt")

    async def resume(self, instance: Id) -> None:
        await self._act("resume")
        qemu = self._find(instance)
        if qemu.shows in (Shows.INCOMING, Shows.HANDING_OVER):
            raise Conflict(f"instance {instance} is {qemu.shows}")
        self._blanket.processes.show(qemu, Shows.RUNNING, "resumed")

    async def shutdown(self, instance: Id) -> None:
        await self._act("shutdown")
        qemu = self._find(instance)
        if not self.ignores_shutdown:
            self._blanket.network.later(
                self._random.uniform(1, 5), lambda: self._blanket.processes.end(qemu, "shut down")
            )

    async def reboot(self, instance: Id) -> None:
        await self._act("reboot")
        self._find(instance)

    async def destroy(self, instance: Id) -> None:
        await self._act("destroy")
        qemu = self._blanket.processes.present.get(instance)
        if qemu is not None:
            self._blanket.processes.end(qemu, "destroyed")

    async def state(self, instance: Id) -> RunState:
        qemu = self._blanket.processes.present.get(instance)
        return RunState.ABSENT if qemu is None else RUN_STATE[qemu.shows]

    async def list(self) -> dict[Id, RunState]:
        return {instance: RUN_STATE[qemu.shows] for instance, qemu in self._blanket.processes.present.items()}

    async def events(self) -> AsyncIterator[DomainEvent]:
        queue: asyncio.Queue[DomainEvent] = asyncio.Queue()
        self._listeners.append((queue, self._blanket.agent_process))
        for instance, state in (await self.list()).items():
            queue.put_nowait(DomainEvent(instance=instance, state=state, detail="seen"))
        while True:
            yield await queue.get()

    def changed(self, qemu: Qemu, why: str) -> None:
        """Tell whoever listens, a moment later."""
        state = RUN_STATE[qemu.shows] if self._blanket.processes.alive(qemu) else RunState.ABSENT
        event = DomainEvent(instance=qemu.instance, state=state, detail=why)
        self._listeners = [(queue, owner) for queue, owner in self._listeners if not owner.dead]
        for queue, owner in self._listeners:
            self._blanket.network.later(
                self._random.uniform(0.001, 0.02), partial(owner.call, queue.put_nowait, event)
            )

    # ------------------------------------------------------------ DiskHypervisor, Console: not simulated

    async def attach(self, instance: Id, disk: Disk) -> None:
        raise Failed("not simulated")

    async def detach(self, instance: Id, disk: Disk) -> None:
        raise Failed("not simulated")

    async def resize(self, instance: Id, disk: Disk) -> None:
        raise Failed("not simulated")

    async def back_up(self, instance: Id, volume: Id, into: Path, secret: Id, watch: Watch) -> None:
        raise Failed("not simulated")

    async def console(self, instance: Id) -> Any:
        raise Failed("not simulated")

    # ------------------------------------------------------------ MigratingHypervisor

    async def receive(self, spec: InstanceSpec, user_data: bytes | None) -> None:
        await self._act("receive")
        self._blanket.seeded(user_data)

    async def send(self, instance: Id, spec: InstanceSpec, route: Route) -> None:
        await self._act("send")
        qemu = self._find(instance)
        known = self._jobs.get(instance)
        if known is not None and not known.over:
            return
        job = self._jobs[instance] = _Job()
        self._blanket.libvirtd.spawn(self._transfer(job, qemu, spec, route.libvirt.name))

    async def transfer(self, instance: Id) -> TransferStatus:
        job = self._jobs.get(instance)
        if job is None:
            if instance not in self._blanket.processes.present:
                raise NotFound("no transfer")
            return TransferStatus(over=True, failed="no transfer is under way any more")
        alive = instance in self._blanket.processes.present
        progress = Progress(total_bytes=100, done_bytes=int(job.done * 100))
        sent = alive and not job.over and self._find(instance).shows is Shows.HANDING_OVER
        failed = job.failed if alive else None
        return TransferStatus(over=job.over, sent=sent, failed=failed, progress=progress)

    async def cancel(self, instance: Id) -> None:
        await self._act("cancel")
        if (job := self._jobs.get(instance)) is not None:
            job.cancelled = True

    # ------------------------------------------------------------ what libvirtd does by itself

    async def _transfer(self, job: _Job, qemu: Qemu, spec: InstanceSpec, operation: Id) -> None:
        processes = self._blanket.processes
        try:
            target = await self._reach(operation)
            copy = await self._begin_there(target, spec)
            await self._copy(job, qemu, target, copy)
            processes.show(qemu, Shows.HANDING_OVER, "sent")
            await self._finish(qemu, target, copy)
        except Failed as error:
            job.failed, job.over = error.message, True
            if processes.alive(qemu) and qemu.shows is Shows.HANDING_OVER:
                self._blanket.say("libvirt lets the source go on")
                self._blanket.libvirt_resumed(qemu)
                processes.show(qemu, Shows.RUNNING, "resumed by libvirt")
            self.changed(qemu, "job over")
        else:
            job.over, job.done = True, 1.0
            processes.end(qemu, "migrated")

    async def _reach(self, operation: Id) -> SimBlanket:
        target = self._blanket.landing(operation)
        if target is None or not self._hears(target):
            raise Failed("cannot connect to the target's libvirt")
        return target

    def _hears(self, target: SimBlanket) -> bool:
        return self._blanket.network.hears(self._blanket.machine.name, target.machine.name)

    async def _begin_there(self, target: SimBlanket, spec: InstanceSpec) -> Qemu:
        def begin() -> Qemu:
            if spec.id in target.processes.present:
                raise Failed("the target has such a domain already")
            disks = [DiskFile(disk.volume, "", []) for disk in spec.disks]
            for place, disk in enumerate(spec.disks):
                try:
                    disks[place] = target.opened(disk.volume)
                except NotFound as error:
                    raise Failed(error.message) from error
            return target.processes.begin(spec.id, disks, Shows.INCOMING, "receiving")

        made: Qemu = await self._ask(target, begin)
        target.libvirtd.spawn(target.hypervisor._give_up_when_silent(made, self._blanket))
        return made

    async def _give_up_when_silent(self, copy: Qemu, source: SimBlanket) -> None:
        """At the target: an incoming copy whose sender is gone for good is ended."""
        silent_s = 0.0
        while self._blanket.processes.alive(copy) and copy.shows is Shows.INCOMING:
            await asyncio.sleep(_LOOK_S)
            heard = self._hears(source) and source.libvirtd.runs and copy.instance in source.processes.present
            silent_s = 0.0 if heard else silent_s + _LOOK_S
            if silent_s > _SILENCE_S:
                self._blanket.processes.end(copy, "its sender is gone")

    async def _copy(self, job: _Job, qemu: Qemu, target: SimBlanket, copy: Qemu) -> None:
        takes_s, silent_s = self._random.uniform(1.5, 6), 0.0
        processes = self._blanket.processes
        while job.done < 1.0:
            await asyncio.sleep(_LOOK_S)
            if not processes.alive(qemu):
                job.over = True
                self._end_there(target, copy)
                raise Failed("the instance ended")
            if job.cancelled:
                self._end_there(target, copy)
                raise Failed("cancelled")
            silent_s = 0.0 if self._hears(target) and target.libvirtd.runs else silent_s + _LOOK_S
            if silent_s > _SILENCE_S or (silent_s == 0.0 and not target.processes.alive(copy)):
                self._end_there(target, copy)
                raise Failed("the target is gone")
            if silent_s == 0.0:
                job.done = min(1.0, job.done + _LOOK_S / takes_s)

    async def _finish(self, qemu: Qemu, target: SimBlanket, copy: Qemu) -> None:
        """The last pages, and the target's word that it has them."""

        def complete() -> None:
            if not target.processes.alive(copy):
                raise Failed("the target is gone")
            for here, there in zip(qemu.disks, copy.disks, strict=True):
                there.synced[:] = here.synced
            shows = Shows.RUNNING if self._blanket.bugs.target_runs_at_once else Shows.PAUSED
            target.processes.show(copy, shows, "complete")

        await self._ask(target, complete)

    def _end_there(self, target: SimBlanket, copy: Qemu) -> None:
        def end() -> None:
            if copy.shows is Shows.INCOMING:
                target.processes.end(copy, "its sender gave up")

        self._blanket.network.when_heard(
            self._blanket.machine.name,
            target.machine.name,
            lambda: target.libvirtd.call(end),
        )

    async def _ask(self, target: SimBlanket, act: Callable[[], Any]) -> Any:
        """One request to the target's libvirtd. Failed: refused, or no answer came, whatever it did."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        network, here, there = self._blanket.network, self._blanket.machine.name, target.machine.name
        libvirtd = self._blanket.libvirtd

        def settle(result: Any, error: Failed | None) -> None:
            if not answer.done():
                answer.set_exception(error) if error else answer.set_result(result)

        def serve() -> None:
            network.trace.count(f"{target.name}.libvirtd: {act.__name__}")
            try:
                said: tuple[Any, Failed | None] = (act(), None)
            except Failed as error:
                said = (None, error)
            network.later(
                network.latency_s(),
                lambda: network.when_heard(here, there, lambda: libvirtd.call(settle, *said)),
            )

        network.trace.count(f"{self._blanket.name}.libvirtd: asks to {act.__name__}")
        network.later(
            network.latency_s(), lambda: network.when_heard(here, there, lambda: target.libvirtd.call(serve))
        )
        try:
            async with asyncio.timeout(_SILENCE_S):
                return await answer
        except TimeoutError as error:
            raise Failed("the target's libvirt does not answer") from error
