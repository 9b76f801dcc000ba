"""What the agent of a double does (blanket_double): each part of the agent port over dictionaries."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import secrets
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from supercloud.agent.backups import Making
from supercloud.model.errors import Conflict, Failed, NotFound
from supercloud.model.migration import Source, Target
from supercloud.ports import agent as a
from supercloud.ports import overlay as o
from supercloud.ports.loop import (
    AnswerReaction,
    CloseIncident,
    Guard,
    GuardRef,
    Held,
    LoopPolicy,
    OrderDeed,
    OrderedRef,
)
from supercloud.ports.scans import ScanMemory
from supercloud.ports.tools import ConnectTools, ForeignRef, ForeignVm, OpenHanded, TakeDisk
from supercloud.trust.announce import announce
from supercloud.trust.sealing import image_purpose, open_sealed, volume_purpose

if TYPE_CHECKING:
    from blanket_double import Double


class Part:
    def __init__(self, double: Double) -> None:
        self.double = double


class Instances(Part):
    async def start(self, request: a.StartInstance) -> a.InstanceReport:
        for disk in request.spec.disks:
            assert any(copy.volume == disk.volume for copy in self.double.copies.values())
        self.double.seed(request)
        if request.guard:
            await self.double.loop.take_over(request.guard)
        self.double.note_guard(request.spec.id, "started")
        await self.double.renewed(request.right)
        self.double.specs[request.spec.id] = request.spec
        still = request.spec.id in self.double.stands_still
        self.double.states[request.spec.id] = a.RunState.PAUSED if still else a.RunState.RUNNING
        return self.double.said(request.spec.id)

    async def resume(self, request: a.StartInstance) -> a.InstanceReport:
        self.double.note_guard(request.spec.id, "resumed")
        if self.double.state(request.spec.id) not in {a.RunState.PAUSED, a.RunState.RUNNING}:
            raise NotFound("no such copy")
        self.double.rights[request.spec.id] = request.right
        self.double.states[request.spec.id] = a.RunState.RUNNING
        return self.double.said(request.spec.id)

    async def stop(self, request: a.StopInstance) -> a.InstanceReport:
        if request.instance in self.double.states:
            self.double.states[request.instance] = a.RunState.DEFINED
        self.double.rights.pop(request.instance, None)
        return self.double.said(request.instance)

    async def reboot(self, request: a.InstanceRef) -> a.InstanceReport:
        return self.double.said(request.instance)

    async def remove(self, request: a.InstanceRef) -> None:
        if self.double.state(request.instance) is a.RunState.RUNNING:
            raise Conflict("it runs")
        self.double.states.pop(request.instance, None)
        self.double.seeds.pop(request.instance, None)

    async def inspect(self, request: a.InstanceRef) -> a.InstanceReport:
        return self.double.said(request.instance)

    async def list(self) -> list[a.InstanceReport]:
        return [self.double.said(instance) for instance in self.double.states]


class Volumes(Part):
    async def place_image(self, request: a.PlaceImage) -> None:
        if request.digest in self.double.images:
            return
        content = b""
        async with self.double.dialer.image(request.digest, 0) as connection:
            async for frame in connection:
                content += frame if isinstance(frame, bytes) else b""
        assert "sha256:" + hashlib.sha256(content).hexdigest() == request.digest
        self.double.images[request.digest] = content

    async def make(self, request: a.MakeVolume) -> a.VolumeReport:
        assert len(self.opened(request.key, request.key.purpose)) == 64
        if request.base is not None and request.base in self.double.site.image_keys:
            assert request.base_key is not None
            base_key = self.opened(request.base_key, image_purpose(request.base))
            assert base_key == self.double.site.image_keys[request.base]
        report = a.VolumeReport(
            volume=request.volume, copy=request.copy, size_bytes=request.size_bytes, allocated_bytes=0
        )
        return self.double.copies.setdefault(request.copy, report)

    def opened(self, sealed: a.SealedKey, purpose: str) -> bytes:
        double = self.double
        return open_sealed(
            sealed, key=double.passport.keys.sealing, blanket=double.birth.blanket, purpose=purpose
        )

    def file(self, copy: str) -> Path:
        return self.double.site.folder / f"{copy}.file"

    async def back_up(self, request: a.BackUpVolume) -> a.BackupReport:
        return await self.double.backups.look(request.into, self._making(request))

    def _making(self, request: a.BackUpVolume) -> Making:
        double, volume, into = self.double, request.volume, request.into

        async def make(watch: Callable[[float], None]) -> a.MadeImage:
            watch(0.5)
            while double.site.hold_backups:  # noqa: ASYNC110 - what a test sets has no event
                await asyncio.sleep(0.02)
            assert self.opened(request.key, volume_purpose(volume, request.copy))
            key = self.opened(request.into_key, volume_purpose(volume, into))
            return self.made(replace(double.copies[request.copy], copy=into), key)

        return make

    def made(self, copy: a.VolumeReport, key: bytes) -> a.MadeImage:
        """The copy as an image, of whatever bytes."""
        file, double = self.file(copy.copy), self.double
        if not file.exists():
            file.write_bytes(secrets.token_bytes(300_000))
        double.copies.setdefault(copy.copy, copy)
        digest = "sha256:" + hashlib.sha256(file.read_bytes()).hexdigest()
        double.site.image_keys[digest] = key
        return a.MadeImage(
            digest=digest,
            size_bytes=file.stat().st_size,
            virtual_bytes=copy.size_bytes,
            signature=double.vouches(copy.volume, copy.copy, digest),
        )

    async def send(self, request: a.SendCopy) -> None:
        whole, cut = self.file(request.copy), self.file(f"{request.copy}-cut")
        cut.write_bytes(whole.read_bytes()[: request.offset + self.double.sends_at_most])
        await self.double.backups.send(request, cut)

    async def open(self, request: a.OpenVolume) -> None:
        if request.copy not in self.double.copies:
            raise NotFound(f"copy {request.copy} is not in this blanket")

    async def remove(self, request: a.VolumeRef) -> None:
        await self.double.backups.drop(request.copy)
        self.double.copies.pop(request.copy, None)
        for name in (request.copy, f"{request.copy}-cut"):
            self.file(name).unlink(missing_ok=True)

    async def resize(self, request: a.ResizeVolume) -> a.VolumeReport:
        return self._changed(request.volume, size_bytes=request.size_bytes)

    async def snapshot(self, request: a.SnapshotVolume) -> a.VolumeReport:
        before = self._found(request.volume).snapshots
        return self._changed(request.volume, snapshots=tuple(dict.fromkeys((*before, request.snapshot))))

    async def restore(self, request: a.RestoreVolume) -> a.VolumeReport:
        running = request.instance is not None and self.double.states.get(request.instance)
        assert running is not a.RunState.RUNNING, "under a process it would break"
        assert self.opened(request.key, volume_purpose(request.volume, request.copy))
        self.double.restored.append((request.volume, request.snapshot))
        if request.snapshot is None:
            assert request.base is not None
            return self._changed(request.volume, snapshots=())
        assert request.snapshot in self._found(request.volume).snapshots
        return self._found(request.volume)

    async def attach(self, request: a.AttachVolume) -> None:
        assert self._found(request.disk.volume)
        self.double.attached.setdefault(request.instance, set()).add(request.disk.volume)

    async def detach(self, request: a.AttachVolume) -> None:
        self.double.attached.get(request.instance, set()).discard(request.disk.volume)

    def _found(self, volume: str) -> a.VolumeReport:
        (found,) = [copy for copy in self.double.copies.values() if copy.volume == volume]
        return found

    def _changed(self, volume: str, **values: Any) -> a.VolumeReport:
        changed = replace(self._found(volume), **values)
        self.double.copies[changed.copy] = changed
        return changed

    async def list(self) -> list[a.VolumeReport]:
        return list(self.double.copies.values())


class Overlay(Part):
    async def apply(self, request: o.Mesh) -> o.MeshReport:
        if self.double.before_mesh is not None:
            await self.double.before_mesh()
        if self.double.mesh is None or request.generation >= self.double.mesh.generation:
            self.double.mesh = request
        return await self.report()

    async def locate(self, request: o.Location) -> None:
        self.double.located.append(request)

    async def prepare_key(self) -> o.MeshReport:
        if self.double.next_key is None:
            self.double.next_key = base64.b64encode(secrets.token_bytes(32)).decode()
            self.double.generation += 1
        return await self.report()

    async def switch_key(self) -> o.MeshReport:
        if self.double.next_key is not None:
            self.double.key, self.double.next_key = self.double.next_key, None
            self.double.generation += 1
        return await self.report()

    async def report(self) -> o.MeshReport:
        said = announce(
            identity=self.double.passport.keys.identity,
            certificate_pem=self.double.passport.certificate_pem,
            blanket=self.double.birth.blanket,
            key=self.double.key,
            next_key=self.double.next_key,
            generation=self.double.generation,
        )
        generation = self.double.mesh.generation if self.double.mesh else 0
        return o.MeshReport(
            generation=generation, key=self.double.key, next_key=self.double.next_key, announcement=said
        )


class Migration(Part):
    async def receive(self, request: a.ReceiveInstance) -> a.Landing:
        double = self.double
        double.site.transfers[request.operation] = double
        double.received.append(request.operation)
        double.transfers.add(request.operation)
        double.seed(request)
        if request.guard:
            await double.loop.take_over(request.guard)
        double.note_guard(request.spec.id, "plugged")
        double.states.setdefault(request.spec.id, a.RunState.INCOMING)
        return a.Landing(
            operation=request.operation, address="100.64.0.1", libvirt_port=1, memory_port=2, disk_port=3
        )

    async def send(self, request: a.SendInstance) -> a.SourceReport:
        double, target = self.double, self.double.site.transfers[request.operation]
        double.transfers.add(request.operation)
        if not double.site.hold_transfers and double.state(request.instance) is a.RunState.RUNNING:
            target.states[request.instance] = a.RunState.PAUSED
            double.states[request.instance] = a.RunState.DEFINED
            double.rights.pop(request.instance, None)
        return await self.source_status(
            a.OperationRef(operation=request.operation, instance=request.instance)
        )

    async def source_status(self, request: a.OperationRef) -> a.SourceReport:
        gone = self.double.state(request.instance) is not a.RunState.RUNNING
        if not gone:
            await asyncio.sleep(0.05)
        return a.SourceReport(
            source=Source.GONE if gone else Source.ALIVE,
            transfer_over=gone or not self.double.site.hold_transfers,
            progress=a.Progress(total_bytes=10, done_bytes=10, downtime_ms=12.0 if gone else None),
            guarded=bool(self.double.loop.holds(request.instance)),
        )

    async def target_status(self, request: a.OperationRef) -> a.TargetReport:
        state = self.double.state(request.instance)
        complete = state is a.RunState.PAUSED
        if state is a.RunState.ABSENT:
            return a.TargetReport(target=Target.LOST)
        if not complete:
            await asyncio.sleep(0.05)
        return a.TargetReport(target=Target.COMPLETE if complete else Target.INCOMING)

    async def cancel(self, request: a.OperationRef) -> a.SourceReport:
        gone = self.double.state(request.instance) is not a.RunState.RUNNING
        return a.SourceReport(
            source=Source.GONE if gone else Source.ALIVE, transfer_over=True, reason="cancelled"
        )

    async def retire(self, request: a.OperationRef) -> a.SourceReport:
        return await self.source_status(request)

    async def release(self, request: a.OperationRef) -> None:
        """Of a later operation's copy an earlier one has nothing to release, whenever it is tidied up."""
        if request.operation not in self.double.transfers:
            return
        self.double.transfers.discard(request.operation)
        if self.double.state(request.instance) is not a.RunState.RUNNING:
            self.double.loop.held.pop(request.instance, None)
        latest = self.double.received[-1:] == [request.operation]
        if latest and self.double.state(request.instance) is a.RunState.INCOMING:
            del self.double.states[request.instance]


class Bundles(Part):
    """ports.hypervisor.Bundles: what is mounted, and a restart of the agent."""

    now: str | None = None
    broken = False  # what is tried does not start
    stuck = False  # what is switched to is never there
    confirmed = 0

    def path(self, digest: str) -> Path:
        return self.double.site.folder / f"{self.double.birth.blanket}-{digest[7:20]}"

    async def running(self) -> str | None:
        return self.now

    async def try_out(self, digest: str) -> None:
        assert "sha256:" + hashlib.sha256(self.path(digest).read_bytes()).hexdigest() == digest
        if self.broken:
            raise Failed("python3: ModuleNotFoundError: No module named 'supercloud'")

    async def switch(self, digest: str) -> None:
        if not self.stuck:
            self.now = digest
            asyncio.get_running_loop().call_later(0.1, self.double.restart)

    async def confirm(self) -> None:
        self.confirmed += 1


class Streams(Part):
    async def open(self, request: a.OpenStream) -> None:
        """Every port of every instance is an echo."""
        await self.echo(request.stream)

    async def echo(self, stream: str) -> None:
        ready = asyncio.Event()
        if self.double.before_stream is not None:
            await self.double.before_stream(stream)

        async def echo() -> None:
            async with self.double.dialer.stream(stream) as wire:
                ready.set()
                with contextlib.suppress(Exception):
                    async for frame in wire:
                        await wire.send(frame)

        self.double.echoes = asyncio.create_task(echo())  # type: ignore[attr-defined]
        await ready.wait()


class Scans(Part):
    """They are asked for, and end when a test says so. `refuses`: with what the next one is."""

    def __init__(self, double: Double) -> None:
        super().__init__(double)
        self.asked: list[ScanMemory] = []
        self.refuses: Exception | None = None

    async def begin(self, request: ScanMemory) -> None:
        if self.refuses is not None:
            raise self.refuses
        self.asked.append(request)


class Loop(Part):
    """It is told, and keeps it. `there`: what was ordered and is in force; `effects`: how often something
    really changed by it; `refuses`: of a command or an address, with what."""

    def __init__(self, double: Double) -> None:
        super().__init__(double)
        self.there: dict[str, OrderDeed] = {}
        self.asked: Counter[str] = Counter()
        self.effects: Counter[str] = Counter()
        self.refuses: dict[str, Exception] = {}
        self.held: dict[str, tuple[Held, ...]] = {}  # by its own loop, about an instance

    def holds(self, instance: str) -> set[str]:
        """The reactions that are in force here about an instance."""
        own = {one.id for held in self.held.get(instance, ()) for one in held.reactions}
        return own | {name for name, one in self.there.items() if one.command.about.id == instance}

    async def guard(self, request: GuardRef) -> Guard:
        held = self.held.get(request.instance, ())
        return Guard(operation=request.operation, instance=request.instance, at=time.time(), held=held)

    async def take_over(self, request: Guard) -> None:
        known = {one.incident.id: one for one in (*self.held.get(request.instance, ()), *request.held)}
        self.held[request.instance] = tuple(known.values())
        for one in request.ordered:
            await self.order(one)

    said = LoopPolicy(policy='{"version": 1}')
    closed: tuple[CloseIncident, ...] = ()
    answered: tuple[AnswerReaction, ...] = ()

    async def apply(self, request: LoopPolicy) -> None:
        self.said = request

    async def policy(self) -> LoopPolicy:
        return self.said

    async def answer(self, request: AnswerReaction) -> None:
        self.answered = (*self.answered, request)

    async def close(self, request: CloseIncident) -> None:
        self.closed = (*self.closed, request)

    async def order(self, request: OrderDeed) -> None:
        name = request.command.id
        self.asked[name] += 1
        if name in self.refuses:
            raise self.refuses[name]
        if request.command.net in self.refuses:
            raise self.refuses[request.command.net or ""]
        if name not in self.there:
            self.effects[name] += 1
        self.there[name] = request

    async def ordered(self, request: OrderedRef) -> bool:
        return request.command in self.there

    async def recall(self, request: OrderedRef) -> None:
        self.there.pop(request.command, None)


class Tools(Part):
    """libvirt is an echo, too, and so is each socket that it hands over. `handed`: those asked for."""

    opened = 0

    def __init__(self, double: Double) -> None:
        super().__init__(double)
        self.connections: set[str | None] = set()
        self.handed: list[int] = []

    async def open(self) -> None:
        self.opened += 1

    async def connect(self, request: ConnectTools) -> None:
        assert self.opened, "libvirt knows root alone"
        self.connections.add(request.connection)
        await self.double.streams.echo(request.stream)

    async def open_handed(self, request: OpenHanded) -> None:
        if request.connection not in self.connections:
            raise NotFound("there is no such connection of tools")
        self.handed.append(request.number)
        await self.double.streams.echo(request.stream)

    async def list(self) -> list[ForeignVm]:
        return list(self.double.foreign.values())

    async def take(self, request: TakeDisk) -> a.BackupReport:
        return await self.double.backups.look(request.into, self._making(request))

    def _making(self, request: TakeDisk) -> Making:
        async def make(watch: Callable[[float], None]) -> a.MadeImage:
            watch(0.5)
            while self.double.site.hold_backups:  # noqa: ASYNC110 - what a test sets has no event
                await asyncio.sleep(0.02)
            vm, volumes = self.double.foreign[request.vm], self.double.volumes
            copy = a.VolumeReport(
                volume=request.volume, copy=request.into, size_bytes=vm.disk_bytes, allocated_bytes=0
            )
            return volumes.made(
                copy, volumes.opened(request.into_key, volume_purpose(request.volume, request.into))
            )

        return make

    async def forget(self, request: ForeignRef) -> None:
        vm = self.double.foreign.get(request.vm)
        if vm is not None and vm.state is a.RunState.RUNNING:
            raise Conflict(f"{vm.name} runs")
        self.double.foreign.pop(request.vm, None)
