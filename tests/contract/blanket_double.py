"""A platform whose machines run a real dialling agent over a hypervisor that is a dictionary.

Joining, TLS, the channel, streams and image transfer are the product's own code; only what would be libvirt,
LUKS and WireGuard is made up. All blankets of one `Site` can migrate to each other.
"""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from agent_double import (
    Bundles,
    Instances,
    Loop,
    Migration,
    Overlay,
    Part,
    Streams,
    Tools,
    Volumes,
)
from evidence_rig import kept_by

from supercloud import __version__
from supercloud.agent.backups import Backups
from supercloud.agent.birth import Birth
from supercloud.agent.channel import Channel
from supercloud.agent.dial import Dialer
from supercloud.agent.identity import Safe
from supercloud.agent.images import ImageFetcher
from supercloud.agent.main import identify
from supercloud.agent.upgrade import AgentUpgrade
from supercloud.model.errors import Conflict, NotFound
from supercloud.model.names import new_id
from supercloud.model.right import Renewal, RunRight
from supercloud.platforms.simulated import SimulatedHost, SimulatedOptions, SimulatedPlatform
from supercloud.ports import agent as a
from supercloud.ports import machines as m
from supercloud.ports import overlay as o
from supercloud.ports.controller import Hello, RenewRights, Surrender
from supercloud.ports.platform import BlanketMachine, Flavour, Machine, MachineState
from supercloud.ports.tools import ForeignVm
from supercloud.trust.sealing import user_data_purpose
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
    guards: dict[str, set[str]] = field(default_factory=dict)  # instance -> what has to be in force about it
    unguarded: list[str] = field(default_factory=list)  # moments at which it was not

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
        self.instances = Instances(self)
        self.volumes = Volumes(self)
        self.overlay = Overlay(self)
        self.migration = Migration(self)
        self.streams = Streams(self)
        self.tools = Tools(self)
        self.loop = Loop(self)
        self.bundles = Bundles(self)
        self.machines = Machines(self)
        self.states: dict[str, a.RunState] = {}
        self.specs: dict[str, a.InstanceSpec] = {}  # of what was started here
        self.rights: dict[str, RunRight] = {}
        self.mesh: o.Mesh | None = None
        self.located: list[o.Location] = []
        self.key = base64.b64encode(secrets.token_bytes(32)).decode()
        self.next_key: str | None = None
        self.generation = 1
        self.copies: dict[str, a.VolumeReport] = {}
        self.seeds: dict[str, bytes | None] = {}  # instance -> its user data in clear
        self.attached: dict[str, set[str]] = {}  # instance -> volumes plugged in while it ran
        self.images: dict[str, bytes] = {}
        self.foreign: dict[str, ForeignVm] = {}  # what tools made here
        self.sends_at_most = 1 << 40  # bytes of a copy, before the stream breaks
        self.incident = new_id()  # that evidence is of, as it names it
        self.restored: list[tuple[str, str | None]] = []  # volumes, and to which snapshot
        self.received: list[str] = []  # operations that landed a migration here
        self.transfers: set[str] = set()  # operations that a migration from or to here was not released of
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
        self.evidence = kept_by(
            self.passport, self.site.folder / f"{self.birth.blanket}.evidence", self.dialer, self.incident
        )
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

    def note_guard(self, instance: str, moment: str) -> None:
        """At this moment all that has to be is in force here."""
        if missing := self.site.guards.get(instance, set()) - self.loop.holds(instance):
            self.site.unguarded.append(f"{moment} in {self.birth.blanket} without {sorted(missing)}")

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
            takes_tools=True,
            nests=True,
        )
        return replace(usual, **self.differs)


class Machines(Part):
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
