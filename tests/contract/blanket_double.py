"""A platform whose machines run a real dialling agent over a hypervisor that is a dictionary.

Joining, TLS, the channel, streams and image transfer are the product's own code; only what would be libvirt,
LUKS and WireGuard is made up. All blankets of one `Site` can migrate to each other.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from supercloud import __version__
from supercloud.agent.backups import Backups, Making
from supercloud.agent.birth import Birth
from supercloud.agent.channel import Channel
from supercloud.agent.dial import Dialer
from supercloud.agent.identity import Safe
from supercloud.agent.images import ImageFetcher
from supercloud.agent.main import identify
from supercloud.agent.upgrade import AgentUpgrade
from supercloud.model.errors import Conflict, Failed, NotFound
from supercloud.model.migration import Source, Target
from supercloud.model.right import Renewal, RunRight
from supercloud.platforms.simulated import SimulatedHost, SimulatedOptions, SimulatedPlatform
from supercloud.ports import agent as a
from supercloud.ports import machines as m
from supercloud.ports.controller import Hello, RenewRights, Surrender
from supercloud.ports.platform import BlanketMachine, Flavour, Machine, MachineState
from supercloud.trust.announce import announce
from supercloud.trust.sealing import image_purpose, open_sealed, user_data_purpose, volume_purpose
from supercloud.trust.userdata import decrypt
from supercloud.trust.vouch import vouch
from supercloud.wire.codec import from_json
from supercloud.wire.proxies import agent_handlers


@dataclass
class Site:
    """Everything that exists in all the machines, for tests to look at."""

    folder: Path
    machines: dict[str, Double] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)  # what their owners call them, which no machine knows
    transfers: dict[str, Double] = field(default_factory=dict)  # operation -> the target
    hold_transfers: bool = False  # transfers stay under way until they are cancelled
    hold_backups: bool = False  # as long as it says so
    image_keys: dict[str, bytes] = field(default_factory=dict)  # of backups, by digest

    def running(self, instance: str) -> list[str]:
        return [one.name for one in self.machines.values() if one.state(instance) is a.RunState.RUNNING]


class LivePlatform(SimulatedPlatform):
    """A simulated platform whose machines come alive."""

    def __init__(self, site: Site) -> None:
        super().__init__(SimulatedHost(), SimulatedOptions(inner_ports=2))
        self._site = site

    async def create(self, machine: BlanketMachine) -> Machine:
        made = await super().create(machine)
        if machine.id not in self._site.machines:
            double = Double(self._site, from_json(Birth, json.loads(machine.birth)))
            self._site.machines[machine.id] = double
            double.start()
        return made

    async def start(self, machine: str) -> Machine:
        started = await super().start(machine)
        if not self._site.machines[machine].up:
            self._site.machines[machine].start()
        return started

    async def stop(self, machine: str, *, force: bool = False) -> Machine:
        stopped = await super().stop(machine, force=force)
        await self._site.machines[machine].power_off()
        return stopped

    async def destroy(self, machine: str) -> None:
        double = self._site.machines.pop(machine, None)
        if double is not None:
            await double.end()
        await super().destroy(machine)

    def blanket_endpoint(self, port: int) -> str:
        return f"127.0.0.1:{port}"


class Double:
    """One machine: ports.agent.Agent with all its groups in one object."""

    def __init__(self, site: Site, birth: Birth) -> None:
        self.site = site
        self.birth = birth
        self.instances = _Instances(self)
        self.volumes = _Volumes(self)
        self.overlay = _Overlay(self)
        self.migration = _Migration(self)
        self.streams = _Streams(self)
        self.bundles = _Bundles(self)
        self.machines = _Machines(self)
        self.states: dict[str, a.RunState] = {}
        self.specs: dict[str, a.InstanceSpec] = {}  # of what was started here
        self.rights: dict[str, RunRight] = {}
        self.mesh: a.Mesh | None = None
        self.located: list[a.Location] = []
        self.key = base64.b64encode(secrets.token_bytes(32)).decode()
        self.next_key: str | None = None
        self.generation = 1
        self.copies: dict[str, a.VolumeReport] = {}
        self.seeds: dict[str, bytes | None] = {}  # instance -> its user data in clear
        self.attached: dict[str, set[str]] = {}  # instance -> volumes plugged in while it ran
        self.images: dict[str, bytes] = {}
        self.sends_at_most = 1 << 40  # bytes of a copy, before the stream breaks
        self.received: list[str] = []  # operations that landed a migration here
        self.version = __version__
        self.closes_networks = True  # an agent of before does not
        self.differs: dict[str, Any] = {}  # in its report, from other blankets
        self.before_mesh: Callable[[], Awaitable[None]] | None = None  # before it takes one
        self.before_stream: Callable[[str], Awaitable[None]] | None = None  # told of a stream it has to dial
        self.boot_id = secrets.token_hex(16)
        self._task: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        return self.site.names[self.birth.blanket]

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    def restart(self) -> None:
        """The agent's process ends and starts again; instances run on."""
        assert self._task is not None
        self._task.cancel()
        self.start()

    async def end(self) -> None:
        """As a machine's end: nothing is said to anybody. What runs inside it ends with it."""
        await self.machines.power_off()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    @property
    def up(self) -> bool:
        return self._task is not None and not self._task.done()

    async def power_off(self) -> None:
        """What was in its memory is gone; its disk is kept."""
        await self.end()
        self.states = dict.fromkeys(self.states, a.RunState.DEFINED)
        self.rights.clear()
        self.boot_id = secrets.token_hex(16)

    async def _run(self) -> None:
        self.passport = await identify(self.birth, Safe(self.site.folder / self.birth.blanket))
        self.dialer = Dialer(self.birth.endpoint, self.passport)
        self.backups = Backups(self.dialer)
        self.upgrade = AgentUpgrade(bundles=self.bundles, images=ImageFetcher(self.dialer))
        self.channel = Channel(
            dial=self.dialer.channel, handlers=lambda: agent_handlers(self), greet=self._greet
        )
        confirming = asyncio.create_task(self._confirm())
        try:
            await self.channel.run()
        finally:
            confirming.cancel()

    async def _confirm(self) -> None:
        await self.channel.connected()
        await self.upgrade.welcomed()

    async def _greet(self) -> Hello:
        return Hello(
            agent_version=self.version,
            boot_id=self.boot_id,
            connection=secrets.token_hex(16),
            epochs={instance: right.epoch for instance, right in self.rights.items()},
            sealing_key=self.passport.keys.sealing.public,
        )

    def state(self, instance: str) -> a.RunState:
        return self.states.get(instance, a.RunState.ABSENT)

    def said(self, instance: str) -> a.InstanceReport:
        right = self.rights.get(instance)
        return a.InstanceReport(
            instance=instance, state=self.state(instance), epoch=right.epoch if right else None
        )

    def vouches(self, volume: str, copy: str, digest: str) -> str:
        identity = self.passport.keys.identity
        return vouch(identity=identity, blanket=self.birth.blanket, volume=volume, copy=copy, digest=digest)

    def seed(self, request: a.StartInstance | a.ReceiveInstance) -> None:
        spec, data, key = request.spec, request.user_data, request.user_data_key
        self.seeds[spec.id] = None
        if data is not None:
            assert key is not None
            opened = self.volumes.opened(key, user_data_purpose(spec.id, data.digest))
            self.seeds[spec.id] = decrypt(data, opened, instance=spec.name)

    async def renewed(self, right: RunRight) -> None:
        """A pushed right is worth nothing until it was renewed, while the caller still waits."""
        asked = Renewal(
            instance=right.instance, epoch=right.epoch, nonce=right.nonce, request=secrets.token_hex(16)
        )
        await self.channel.connected()  # a call may come before the answer to our hello
        (answer,) = (await self.channel.renew(RenewRights(renewals=(asked,)))).answers
        assert answer.right is not None, answer.refused
        self.rights[right.instance] = answer.right

    async def renew(self, instance: str) -> None:
        await self.renewed(self.rights[instance])

    async def surrender(self, instance: str) -> None:
        right = self.rights.pop(instance)
        await self.channel.surrender(Surrender(instance=instance, epoch=right.epoch))

    async def report(self) -> a.BlanketReport:
        usual = a.BlanketReport(
            blanket=self.birth.blanket,
            flavour=Flavour.KVM,
            agent_version=self.version,
            boot_id=self.boot_id,
            cpu_models=(),
            memory_mib=4096,
            memory_free_mib=4096,
            disk_free_bytes=1 << 40,
            bundle=await self.upgrade.running(),
            closes_networks=self.closes_networks,
            nests=True,
        )
        return replace(usual, **self.differs)


class _Part:
    def __init__(self, double: Double) -> None:
        self.double = double


class _Instances(_Part):
    async def start(self, request: a.StartInstance) -> a.InstanceReport:
        for disk in request.spec.disks:
            assert any(copy.volume == disk.volume for copy in self.double.copies.values())
        self.double.seed(request)
        await self.double.renewed(request.right)
        self.double.specs[request.spec.id] = request.spec
        self.double.states[request.spec.id] = a.RunState.RUNNING
        return self.double.said(request.spec.id)

    async def resume(self, request: a.StartInstance) -> a.InstanceReport:
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


class _Volumes(_Part):
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
            if not self.file(into).exists():
                self.file(into).write_bytes(secrets.token_bytes(300_000))
            copy = replace(double.copies[request.copy], copy=into)
            double.copies.setdefault(into, copy)
            digest = "sha256:" + hashlib.sha256(self.file(into).read_bytes()).hexdigest()
            double.site.image_keys[digest] = key
            return a.MadeImage(
                digest=digest,
                size_bytes=self.file(into).stat().st_size,
                virtual_bytes=copy.size_bytes,
                signature=double.vouches(volume, into, digest),
            )

        return make

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


class _Overlay(_Part):
    async def apply(self, request: a.Mesh) -> a.MeshReport:
        if self.double.before_mesh is not None:
            await self.double.before_mesh()
        self.double.mesh = request
        return await self.report()

    async def locate(self, request: a.Location) -> None:
        self.double.located.append(request)

    async def prepare_key(self) -> a.MeshReport:
        if self.double.next_key is None:
            self.double.next_key = base64.b64encode(secrets.token_bytes(32)).decode()
            self.double.generation += 1
        return await self.report()

    async def switch_key(self) -> a.MeshReport:
        if self.double.next_key is not None:
            self.double.key, self.double.next_key = self.double.next_key, None
            self.double.generation += 1
        return await self.report()

    async def report(self) -> a.MeshReport:
        said = announce(
            identity=self.double.passport.keys.identity,
            certificate_pem=self.double.passport.certificate_pem,
            blanket=self.double.birth.blanket,
            key=self.double.key,
            next_key=self.double.next_key,
            generation=self.double.generation,
        )
        generation = self.double.mesh.generation if self.double.mesh else 0
        return a.MeshReport(
            generation=generation, key=self.double.key, next_key=self.double.next_key, announcement=said
        )


class _Migration(_Part):
    async def receive(self, request: a.ReceiveInstance) -> a.Landing:
        double = self.double
        double.site.transfers[request.operation] = double
        double.received.append(request.operation)
        double.seed(request)
        double.states.setdefault(request.spec.id, a.RunState.INCOMING)
        return a.Landing(
            operation=request.operation, address="100.64.0.1", libvirt_port=1, memory_port=2, disk_port=3
        )

    async def send(self, request: a.SendInstance) -> a.SourceReport:
        double, target = self.double, self.double.site.transfers[request.operation]
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

    async def release(self, request: a.OperationRef) -> None:
        if self.double.state(request.instance) is a.RunState.INCOMING:
            del self.double.states[request.instance]


class _Bundles(_Part):
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


class _Machines(_Part):
    """ports.machines.MachinesAgent: blankets inside this one, which are as alive as it is."""

    def __init__(self, double: Double) -> None:
        super().__init__(double)
        self.made: dict[str, m.MakeMachine] = {}
        self.slots: dict[str, int] = {}

    async def place(self, request: m.MachineImage) -> None:
        for file in (request.kernel, request.initrd, request.root, request.bundle):
            await self.double.volumes.place_image(
                a.PlaceImage(digest=file.digest, size_bytes=file.size_bytes)
            )

    async def create(self, request: m.MakeMachine) -> m.MachineReport:
        known, site = self.made.get(request.machine), self.double.site
        if known is None:
            assert request.image.root.digest in self.double.images, "it was placed"
            birth = from_json(Birth, json.loads(base64.b64decode(request.birth)))
            self.slots[request.machine] = min(set(range(99)) - set(self.slots.values()))
            self.made[request.machine] = request
            site.machines[request.machine] = Double(site, birth)
        elif replace(known, birth="") != replace(request, birth=""):
            raise Conflict("it exists with another size or image")
        return await self.start(m.MachineRef(machine=request.machine))

    async def start(self, request: m.MachineRef) -> m.MachineReport:
        if not self._one(request.machine).up:
            self._one(request.machine).start()
        return self._report(request.machine)

    async def stop(self, request: m.StopMachine) -> m.MachineReport:
        await self._one(request.machine).power_off()
        return self._report(request.machine)

    async def destroy(self, request: m.MachineRef) -> None:
        if self.made.pop(request.machine, None) is not None:
            del self.slots[request.machine]
            await self.double.site.machines.pop(request.machine).end()

    async def inspect(self, request: m.MachineRef) -> m.MachineReport:
        return self._report(request.machine)

    async def list(self) -> list[m.MachineReport]:
        return [self._report(one) for one in self.made]

    async def power_off(self) -> None:
        for machine in self.made:
            await self._one(machine).power_off()

    def _one(self, machine: str) -> Double:
        if machine not in self.made:
            raise NotFound(f"there is no machine {machine}")
        return self.double.site.machines[machine]

    def _report(self, machine: str) -> m.MachineReport:
        up = self._one(machine).up
        return m.MachineReport(
            machine=machine,
            state=MachineState.RUNNING if up else MachineState.STOPPED,
            memory_mib=self.made[machine].memory_mib,
            slot=self.slots[machine],
        )


class _Streams(_Part):
    async def open(self, request: a.OpenStream) -> None:
        """Every port of every instance is an echo."""
        ready = asyncio.Event()
        if self.double.before_stream is not None:
            await self.double.before_stream(request.stream)

        async def echo() -> None:
            async with self.double.dialer.stream(request.stream) as wire:
                ready.set()
                with contextlib.suppress(Exception):
                    async for frame in wire:
                        await wire.send(frame)

        self.double.echoes = asyncio.create_task(echo())  # type: ignore[attr-defined]
        await ready.wait()
