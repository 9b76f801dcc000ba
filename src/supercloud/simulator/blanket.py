"""One blanket: its machine, the real keeper and agent in it, what survives it, and what can befall it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from supercloud.agent.agent import BlanketAgent, Drivers
from supercloud.agent.identity import Passport
from supercloud.agent.journal import Journal
from supercloud.agent.keeperlink import AgentRelay, KeeperLink
from supercloud.blanket.overlay.plan import Knowledge
from supercloud.keeper.journal import Journal as KeeperJournal
from supercloud.keeper.keeper import Hands, Keeper
from supercloud.keeper.link import KeeperPort, Relay
from supercloud.keeper.main import Door
from supercloud.keeper.rights import Snapshot
from supercloud.keeper.stops import TOLERANCE_S, Moment
from supercloud.keeper.watchdog import TIMEOUT_S
from supercloud.model.errors import NotFound, SupercloudError, Unavailable
from supercloud.model.names import Id, new_id
from supercloud.ports.clock import Instant
from supercloud.simulator.around import Around
from supercloud.simulator.bugs import Bugs
from supercloud.simulator.drivers import NoStreams, SimForwards, SimMonitors, SimOverlay, SimVolumes
from supercloud.simulator.guards import guarding
from supercloud.simulator.libvirt import SimHypervisor
from supercloud.simulator.loop import Machine, Process, SimLoop
from supercloud.simulator.network import Network
from supercloud.simulator.qemu import DiskFile, Processes, Qemu, Shows
from supercloud.simulator.trace import Trace
from supercloud.wire.codec import to_json
from supercloud.wire.proxies import handlers
from supercloud.wire.rpc import Peer, Transport

if TYPE_CHECKING:
    from supercloud.simulator.world import SimWorld

_BOOT_S = 20.0
_RESTART_S = 1.0  # what the supervisor waits before it starts a program again
_GUEST_S = 0.5  # how often a guest syncs a write
_TOLD_AGAIN_S = 0.5


@dataclass(frozen=True)
class Saved:
    """A snapshot by the L0: memory and disk."""

    at: float  # the machine's clock
    boot: str
    keeper: Snapshot
    agent_journal: bytes
    files: dict[Id, DiskFile]
    open: dict[Id, Id]
    permits: dict[Id, float]
    overlay: tuple[Knowledge, int, bool]
    nonces: dict[Id, str | None]  # of the rights held then
    qemus: list[Qemu]


class _Clock:
    """ports.clock.HolderClock. The RTC is the host's: it goes on while the machine stands still. Inside
    another blanket it is that one's clock."""

    def __init__(self, blanket: SimBlanket) -> None:
        self._blanket = blanket

    def now(self) -> float:
        return self._blanket.machine.now() - self._blanket.booted_at

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def instant(self) -> Instant:
        return Instant(self._blanket.boot, self.now())

    def rtc_s(self) -> float:
        around = self._blanket.around
        behind_s = 0.0 if around is None else around.behind_s
        return float(int(1_000_000 + self._blanket.loop.true_s - behind_s))


class _Link(KeeperLink):
    """The keeper's socket is a wire of the simulation; the rest is the agent's own."""

    def __init__(self, relay: Relay, blanket: SimBlanket) -> None:
        super().__init__(relay)
        self._blanket = blanket

    async def run(self) -> None:
        while True:
            try:
                transport = self._blanket.meet_keeper()
            except SupercloudError as error:
                self._blanket.say(f"no keeper: {error.message}")
            else:
                await self._use(Peer(transport, handlers(Relay, "relay", self._relay)))
            await asyncio.sleep(_TOLD_AGAIN_S)


class _Dialer(NoStreams):
    def __init__(self, blanket: SimBlanket) -> None:
        self._blanket = blanket

    async def channel(self) -> Transport:
        await self._blanket.trace.step("dial", "the control plane")
        return await self._blanket.world.controller.accept(self._blanket)


class SimBlanket:
    """`name` is its machine's too."""

    def __init__(self, world: SimWorld, name: str, passport: Passport, folder: Path, random: Random) -> None:
        self.world = world
        self.loop: SimLoop = world.loop
        self.network: Network = world.network
        self.trace: Trace = world.trace
        self.bugs: Bugs = world.bugs
        self.name = name
        self.passport = passport
        identity = passport.identity
        assert identity.blanket is not None and identity.cloud is not None  # noqa: S101 - it has joined
        self.id: Id = identity.blanket
        self.cloud: Id = identity.cloud
        self._folder = folder
        self._random = random
        self.machine = Machine(self.loop, name)
        self.around: Around | None = None  # the blanket that it is inside of
        self.processes = Processes(lambda: self.loop.true_s, self._changed)
        self.files: dict[Id, DiskFile] = {}
        self.open: dict[Id, Id] = {}
        self.permits: dict[Id, float] = {}  # until when, on the machine's clock
        self.guarded: dict[Id, set[Id]] = {}  # reactions that are in force about an instance, by its kernel
        self.up = False
        self.rolled_back = False
        self._boots = 0
        self._saved: Saved | None = None
        folder.mkdir(parents=True, exist_ok=True)

    # ------------------------------------------------------------ a boot, and its end

    def begin(self) -> None:
        """Boot: nothing of an earlier boot but the disk."""
        self._boots += 1
        self.boot = new_id()
        self.booted_at = self.machine.now()
        self.up = True
        self.open, self.permits, self.guarded = {}, {}, {}
        self._start_machine()

    def _start_machine(self) -> None:
        self.overlay = SimOverlay(self, self._boots)
        self.libvirtd = Process(self.loop, self.machine, f"{self.name}.libvirtd")
        self.guests = Process(self.loop, self.machine, f"{self.name}.guests")
        self.hypervisor = SimHypervisor(self, self._random)
        self.monitors: SimMonitors | None = None
        self.fed_at: float | None = None
        self.guests.spawn(self._guest_work())
        self.libvirtd.spawn(self._watchdog(self._boots))
        self.start_keeper()
        self.start_agent()

    def power_off(self, why: str) -> None:
        """As pulling its plug: every process ends, nothing is said."""
        self.machine.go_on()
        self.up = False
        for process in (self.agent_process, self.keeper_process, self.libvirtd, self.guests):
            process.kill()
        for qemu in list(self.processes.present.values()):
            self.processes.end(qemu, why)
        self.say(f"powers off: {why}")

    def reset(self, why: str) -> None:
        if self.up:
            self.power_off(why)
            self.network.later(_BOOT_S, self.begin)

    async def _watchdog(self, boot: int) -> None:
        """The L0's device: on the machine's clock, and its word is final."""
        while True:
            await asyncio.sleep(1)
            if self.bugs.watchdog_is_fed_anyway or self.fed_at is None or boot != self._boots:
                continue
            if self.machine.now() - self.fed_at > TIMEOUT_S:
                self.network.later(0, lambda: self.reset("watchdog"))
                return

    # ------------------------------------------------------------ keeper

    def start_keeper(self) -> None:
        process = self.keeper_process = Process(self.loop, self.machine, f"{self.name}.keeper")
        process.spawn(self._keep(process))

    async def _keep(self, process: Process) -> None:
        journal = KeeperJournal(self._folder / "keeper.sqlite")
        random = self._random

        def monitors(changed):  # type: ignore[no-untyped-def]
            self.monitors = SimMonitors(self, changed, random)
            return self.monitors

        def rights(at: Moment, restored: Snapshot | None):  # type: ignore[no-untyped-def]
            return self.bugs.rights(
                nonce=lambda: random.randbytes(16).hex(), at=at, restored=restored, renew_every_s=10.0
            )

        self.keeper = Keeper(
            clock=_Clock(self),
            journal=journal,
            hands=Hands(permit=self._permit, feed=self._feed),
            rights=rights,
            monitors=monitors,
        )
        self.door = Door(self.keeper)
        self._keeper_serves = process
        await self.keeper.run()

    def _feed(self) -> None:
        self.fed_at = self.machine.now()

    async def _permit(self, seconds: Mapping[Id, float]) -> None:
        await self.trace.step("kernel", "permit")
        for instance, left_s in seconds.items():
            self.permits[instance] = self.machine.now() + int(left_s)

    def meet_keeper(self) -> Transport:
        """Raises: Unavailable."""
        process = self.keeper_process
        if process.dead or getattr(self, "_keeper_serves", None) is not process:
            raise Unavailable("the keeper is not there")
        here, there = self.network.connect(self.agent_process, process, what="keeper socket")
        process.spawn(self.door.meet(there))
        return here

    # ------------------------------------------------------------ agent

    def start_agent(self) -> None:
        self.agent_process = Process(self.loop, self.machine, f"{self.name}.agent")
        self.forwards = SimForwards(self)
        self.agent_process.spawn(self._serve())

    async def _serve(self) -> None:
        journal = Journal(self._folder / "agent.sqlite")
        links: list[_Link] = []

        def keeper(relay: AgentRelay) -> KeeperPort:
            links.append(_Link(relay, self))
            return links[0]

        async def models() -> tuple[str, ...]:
            return ()

        self.agent = BlanketAgent(
            drivers=Drivers(
                hypervisor=self.hypervisor,
                volumes=SimVolumes(self),
                overlay=self.overlay,
                forwards=self.forwards,
                console_log=lambda instance: self._folder / instance,
                data=self._folder,
                cpu_models=models,
            ),
            journal=journal,
            passport=self.passport,
            clock=_Clock(self),
            dialer=_Dialer(self),  # type: ignore[arg-type]
            keeper=keeper,
        )
        if self.world.guarded:
            guarding(self.agent, self)
        self.agent.overlay._now = time.time  # its default was bound before this run's clock was
        async with asyncio.TaskGroup() as group:
            group.create_task(links[0].run())
            await links[0].connected()
            group.create_task(self.agent.run())

    # ------------------------------------------------------------ for the made-up drivers

    def say(self, text: str) -> None:
        self.trace.say(f"{self.name}: {text}")

    def opened(self, volume: Id) -> DiskFile:
        """Raises: NotFound."""
        if (copy := self.open.get(volume)) is None or copy not in self.files:
            raise NotFound(f"volume {volume} is not open in this blanket")
        return self.files[copy]

    def seeded(self, user_data: bytes | None) -> None:
        """A process is about to be made whose guest finds this in its seed."""
        if user_data != self.world.user_data:
            self.world.observer.violate(f"{self.name} seeds the guest with other user data than its owner's")

    def landing(self, operation: Id) -> SimBlanket | None:
        """Where a forward of this operation leads, if both its ends are open."""
        if operation not in self.forwards.open:
            return None
        for other in self.world.blankets.values():
            lands = other.up and other.forwards.open.get(operation) == "landing"
            if lands and other.overlay.granted(self.world.address(self), 1001):
                return other
        return None

    def libvirt_resumed(self, qemu: Qemu) -> None:
        """Excused while nobody else may run it: what is committed as parked cannot be resumed."""
        if self.world.controller.holder(qemu.instance) == self.id:
            self.world.observer.excuse(self.id, qemu.instance, "libvirt let it go on by itself")

    def _changed(self, qemu: Qemu, why: str) -> None:
        shows = qemu.shows if self.processes.alive(qemu) else "gone"
        self.trace.count(f"{self.name}.qemu: {shows} ({why})")
        self.world.observer.saw(self, qemu, self.processes.alive(qemu))
        if why == "booted":
            self.world.observer.booted(self, qemu)
        if self.up:
            self.hypervisor.changed(qemu, why)
            if self.monitors is not None:
                self.monitors.told()

    async def _guest_work(self) -> None:
        while True:
            await asyncio.sleep(_GUEST_S)
            for qemu in self.processes.present.values():
                if qemu.shows is Shows.RUNNING:
                    number = self.world.observer.wrote(self, qemu)
                    for disk in qemu.disks:
                        disk.synced.append(number)

    # ------------------------------------------------------------ faults

    def kill_agent(self) -> None:
        if not self.agent_process.dead:
            self.agent_process.kill()
            self._again(self.start_agent)

    def kill_keeper(self) -> None:
        if not self.keeper_process.dead:
            self.keeper_process.kill()
            for qemu in self.processes.present.values():
                qemu.held = False  # the kernel drops its locks
            self._again(self.start_keeper)

    def _again(self, start) -> None:  # type: ignore[no-untyped-def]
        boot = self._boots
        self.network.later(_RESTART_S, lambda: start() if self.up and self._boots == boot else None)

    def kill_qemus(self) -> None:
        for qemu in list(self.processes.present.values()):
            self.processes.end(qemu, "killed")

    def stop(self) -> None:
        """Its L0 stops it, or what is around it: everything in it stands still, and so does its clock."""
        if self.around is not None:
            self.around.stop()
        self.machine.stop()
        self.world.observer.stood_still(self)

    def go_on(self) -> None:
        if self.around is not None:
            self.around.go_on()
        if self.machine.stopped:
            self.machine.go_on()
            self.world.observer.went_on(self)

    # ------------------------------------------------------------ snapshots by the L0

    def save(self) -> None:
        files = {copy: replace(file, synced=list(file.synced)) for copy, file in self.files.items()}
        self._saved = Saved(
            at=self.machine.now(),
            boot=self.boot,
            keeper=self.keeper._rights.snapshot(),
            agent_journal=self.agent._journal._db.serialize(),
            files=files,
            open=dict(self.open),
            permits=dict(self.permits),
            overlay=(self.overlay._known, self.overlay._number, self.overlay._next),
            nonces={one: self.world.controller.nonce(one) for one in self.world.instances},
            qemus=[qemu.copy(files) for qemu in self.processes.present.values()],
        )

    def roll_back(self) -> None:
        """Memory and disk as they were: only the RTC, and everybody else, know better."""
        saved = self._saved
        if saved is None or not self.up:
            return
        self.power_off("rolled back")
        for rest in self._folder.glob("*.sqlite*"):
            rest.unlink()
        (self._folder / "agent.sqlite").write_bytes(saved.agent_journal)
        journal = KeeperJournal(self._folder / "keeper.sqlite")
        journal._write(json.dumps(to_json(Snapshot, saved.keeper)))
        self.files = {
            copy: replace(file, synced=list(file.synced), undone=True) for copy, file in saved.files.items()
        }
        self._boots += 1
        self.boot = saved.boot
        self.booted_at += self.machine.now() - saved.at  # its clock reads what it read then
        self.up = True
        self.open = dict(saved.open)
        gone_s = self.machine.now() - saved.at
        self.permits = {instance: until + gone_s for instance, until in saved.permits.items()}
        self._start_machine()
        self.overlay._known, self.overlay._number, self.overlay._next = saved.overlay
        self.rolled_back = True
        self.world.observer.went_on(self)
        for old in saved.qemus:
            qemu = self.processes.begin(old.instance, old.copy(self.files).disks, old.shows, "rolled back")
            qemu.undone = self._shows(saved, old.instance)
        self.world.observer.undid(self)
        self._saved = None

    def _shows(self, saved: Saved, instance: Id) -> bool:
        """Whether its keeper's clocks see it, and a nonce was consumed since: what a rollback shows by."""
        seen = self.machine.now() - saved.at > TOLERANCE_S + 1  # the RTC counts whole seconds
        return seen and self.world.controller.nonce(instance) != saved.nonces[instance]
