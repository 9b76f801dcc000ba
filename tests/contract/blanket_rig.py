"""Blankets in memory for the agent's contract: the real agent and keeper over fake hypervisors.

The one control plane decides with the very functions of model.right, over a connection that can be cut.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

from supercloud.agent.agent import BlanketAgent, Drivers
from supercloud.agent.identity import Passport, Safe
from supercloud.agent.journal import Journal
from supercloud.agent.keeperlink import AgentRelay
from supercloud.agent.loop import LoopHands
from supercloud.keeper.journal import Journal as KeeperJournal
from supercloud.keeper.keeper import Hands, Keeper
from supercloud.keeper.link import KeeperPort
from supercloud.keeper.rights import Rights, Seen
from supercloud.keystore.store import OwnedKeyStore
from supercloud.model.errors import Conflict, NotFound, RightRefused, Unavailable
from supercloud.model.names import new_id
from supercloud.model.right import RightRecord, RightTerms, granted, issue, renew, surrender
from supercloud.ports.agent import Landing, Progress, RunState
from supercloud.ports.clock import Instant
from supercloud.ports.controller import (
    Acknowledged,
    Event,
    RenewalAnswer,
    RightsRenewed,
    Welcome,
)
from supercloud.ports.hypervisor import DomainEvent, Route, TransferStatus, Watch
from supercloud.ports.keystore import JoinRequest
from supercloud.ports.overlay import Location, Mesh, MeshReport
from supercloud.ports.platform import Flavour
from supercloud.trust.join import join_request
from supercloud.wire.memory import MemoryTransport
from supercloud.wire.proxies import RemoteAgent, controller_handlers
from supercloud.wire.rpc import Peer

TERMS = RightTerms()
CLOUD = new_id()
GONE = (RunState.ABSENT, RunState.DEFINED)


class LoopClock:
    """HolderClock on the loop's time, in which nothing stops this machine."""

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def instant(self) -> Instant:
        return Instant("boot", self.now())

    def rtc_s(self) -> float:
        return float(int(self.now()))


class FakeHypervisor:
    """Instances as a table of states. `landed` is where sent copies go: the target's hypervisor."""

    def __init__(self) -> None:
        self.states: dict[str, RunState] = {}
        self.transfers: dict[str, TransferStatus] = {}
        self.listeners: list[asyncio.Queue[DomainEvent]] = []
        self.read: list[tuple[str, str, str]] = []
        self.landed: FakeHypervisor | None = None
        self.sent: list[str] = []
        self.parked: set[str] = set()  # sent, and held by the keeper
        self.boots: list[str] = []
        self.seeds: dict[str, bytes | None] = {}
        self.ignores_shutdown = False

    def show(self, instance: str, state: RunState, detail: str = "", *, paused: bool = False) -> None:
        self.states[instance] = state
        for listener in self.listeners:
            listener.put_nowait(DomainEvent(instance=instance, state=state, detail=detail, paused=paused))

    async def flavour(self) -> Flavour:
        return Flavour.KVM

    async def start(self, spec: object, user_data: bytes | None, *, paused: bool = False) -> None:
        self.seeds[spec.id] = user_data
        if self.states.get(spec.id, RunState.ABSENT) in GONE:
            self.boots.append(spec.id)
            self.show(spec.id, RunState.PAUSED if paused else RunState.RUNNING, "booted")

    async def pause(self, instance: str) -> None:
        self.show(instance, RunState.PAUSED)

    async def resume(self, instance: str) -> None:
        if self.states.get(instance, RunState.ABSENT) in GONE:
            raise NotFound(f"instance {instance} is not here")
        self.show(instance, RunState.RUNNING, "resumed")

    async def shutdown(self, instance: str) -> None:
        if not self.ignores_shutdown:
            self.show(instance, RunState.ABSENT, "shutdown")

    async def reboot(self, instance: str) -> None:
        pass

    async def destroy(self, instance: str) -> None:
        if self.states.get(instance, RunState.ABSENT) is not RunState.ABSENT:
            self.show(instance, RunState.ABSENT, "destroyed")

    async def state(self, instance: str) -> RunState:
        return self.states.get(instance, RunState.ABSENT)

    async def list(self) -> dict[str, RunState]:
        return {i: state for i, state in self.states.items() if state is not RunState.ABSENT}

    async def events(self) -> AsyncIterator[DomainEvent]:
        queue: asyncio.Queue[DomainEvent] = asyncio.Queue()
        self.listeners.append(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self.listeners.remove(queue)

    async def send(self, instance: str, spec: object, route: Route) -> None:
        self.sent.append(instance)
        self.transfers[instance] = TransferStatus(over=False, progress=Progress(total_bytes=100))
        assert self.landed is not None
        self.landed.show(instance, RunState.INCOMING)

    def hand_over(self, instance: str) -> None:
        """Everything has been sent; libvirt's word with the target is still to come."""
        self.transfers[instance] = TransferStatus(over=False, sent=True)
        self.parked.add(instance)
        self.show(instance, RunState.PAUSED, "it has been sent")

    def arrive(self, instance: str) -> None:
        """What libvirt does by itself at the end: the target complete, the source's process gone."""
        assert self.landed is not None
        self.landed.show(instance, RunState.PAUSED, "migrated", paused=True)
        self.transfers[instance] = TransferStatus(
            over=True, progress=Progress(total_bytes=100, done_bytes=100)
        )
        self.show(instance, RunState.ABSENT, "migrated")

    async def receive(self, spec: object, user_data: bytes | None) -> None:
        self.seeds[spec.id] = user_data

    async def transfer(self, instance: str) -> TransferStatus:
        if instance not in self.transfers:
            raise NotFound("no transfer")
        return self.transfers[instance]

    async def cancel(self, instance: str) -> None:
        self.transfers[instance] = TransferStatus(over=True, failed="cancelled")
        assert self.landed is not None
        self.landed.show(instance, RunState.ABSENT, "failed")

    async def attach(self, instance: str, disk: object) -> None: ...
    async def detach(self, instance: str, disk: object) -> None: ...
    async def resize(self, instance: str, disk: object) -> None: ...
    async def back_up(self, instance: str, volume: str, into: Path, secret: str, watch: Watch) -> None:
        self.read.append((instance, volume, secret))

    async def console(self, instance: str) -> object:
        raise NotFound("no console")


class FakeOverlay:
    def __init__(self) -> None:
        self.mesh = Mesh(address="100.64.0.1", generation=0)
        self.ports: dict[str, list[str]] = {}
        self.expected: dict[str, list[str]] = {}
        self.before_port: Callable[[str], None] = lambda _: None
        self.grants: dict[tuple[str, int], float] = {}
        self.key = "A" * 43 + "="

    async def apply(self, mesh: Mesh) -> MeshReport:
        self.mesh = mesh
        return await self.report()

    async def locate(self, location: Location) -> None: ...

    def expect(self, instance: str, devices: Sequence[str]) -> None:
        self.expected[instance] = list(devices)

    async def plug(self, instance: str, device: str, network: str, mac: str, ip: str) -> None:
        self.before_port(instance)
        self.ports.setdefault(instance, []).append(device)

    async def unplug(self, instance: str) -> None:
        self.ports.pop(instance, None)

    async def permit(self, instance: str, seconds: float) -> None: ...

    async def grant_tcp(self, peer: str, ports: Sequence[int], seconds: float) -> None:
        for port in ports:
            self.grants[peer, port] = seconds

    async def prepare_key(self) -> MeshReport:
        return await self.report()

    async def switch_key(self) -> MeshReport:
        return await self.report()

    async def report(self) -> MeshReport:
        return MeshReport(generation=self.mesh.generation, key=self.key)


class FakeForwards:
    def __init__(self) -> None:
        self.open: dict[str, object] = {}

    async def land(self, operation: str, *, address: str, source: str, expires_s: float) -> Landing:
        self.open[operation] = source
        return Landing(operation=operation, address=address, libvirt_port=1, memory_port=2, disk_port=3)

    async def depart(self, operation: str, *, landing: Landing, expires_s: float) -> Route:
        self.open[operation] = landing
        return Route(libvirt=Path("/l"), address=landing.address, memory_port=2, disk_port=3)

    async def close(self, operation: str) -> None:
        self.open.pop(operation, None)


class FakeVolumes:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.keys: dict[tuple[str, str], tuple[bytes, bytes | None]] = {}
        self.flattening, self.flattened = asyncio.Event(), asyncio.Event()

    async def make(self, volume, copy, size_bytes, key, *, base, base_key):  # type: ignore[no-untyped-def]
        self.keys[volume, copy] = (key, base_key)
        from supercloud.ports.agent import VolumeReport

        return VolumeReport(volume=volume, copy=copy, size_bytes=size_bytes, allocated_bytes=0)

    async def open(self, volume, copy, key, *, base, base_key):  # type: ignore[no-untyped-def]
        self.keys[volume, copy] = (key, base_key)

    async def back_up(self, volume, copy, key, *, base, base_key, into, into_key, watch, reading):  # type: ignore[no-untyped-def]
        """Ends once `flattened` is set; what is written is the keys, for a test to find."""
        from supercloud.ports.agent import VolumeReport

        watch(0.25)
        self.flattening.set()
        await self.flattened.wait()
        if reading is not None:
            await reading(self.copy_path(volume, into), into, watch)
        self.copy_path(volume, into).write_bytes(key + (base_key or b"") + into_key)
        return VolumeReport(volume=volume, copy=into, size_bytes=1 << 20, allocated_bytes=0)

    async def remove(self, volume: str, copy: str) -> None:
        self.copy_path(volume, copy).unlink(missing_ok=True)

    def copy_path(self, volume: str, copy: str) -> Path:
        return self.folder / f"{volume}.{copy}"

    def image_path(self, digest: str) -> Path:
        return self.folder / digest.removeprefix("sha256:")


class FakeMonitors:
    """The keeper's eyes and hands on a FakeHypervisor."""

    def __init__(self, hypervisor: FakeHypervisor, changed: Callable[[], None]) -> None:
        self._hypervisor = hypervisor
        self._changed = changed

    def seen(self) -> dict[str, Seen]:
        shows = {RunState.RUNNING: Seen.RUNNING, RunState.PAUSED: Seen.PAUSED, RunState.INCOMING: Seen.IDLE}
        seen = {
            instance: shows[state] for instance, state in self._hypervisor.states.items() if state in shows
        }
        return seen | {one: Seen.SENT for one in self._hypervisor.parked if seen.get(one) is Seen.PAUSED}

    def monitor(self, instance: str) -> "FakeMonitor":
        return FakeMonitor(self._hypervisor, instance)

    async def look(self) -> None: ...

    async def run(self) -> None:
        async for _ in self._hypervisor.events():
            self._changed()


class FakeMonitor:
    def __init__(self, hypervisor: FakeHypervisor, instance: str) -> None:
        self._hypervisor, self._instance = hypervisor, instance

    async def pause(self) -> bool:
        await self._hypervisor.pause(self._instance)
        return False

    async def park(self) -> bool:
        return self._instance in self._hypervisor.parked

    @property
    def holds(self) -> bool:
        return self._instance in self._hypervisor.parked

    def hold(self) -> bool:
        return True

    async def resume(self) -> None:
        self._hypervisor.parked.discard(self._instance)
        await self._hypervisor.resume(self._instance)

    async def kill(self) -> None:
        await self._hypervisor.destroy(self._instance)


class ControlPlane:
    """ports.controller.Controller for every blanket, rights in a table, events by blanket and id."""

    def __init__(self) -> None:
        self.rights: dict[str, RightRecord] = {}
        self.contested: set[str] = set()  # a migration of these is open
        self.events: dict[str, dict[str, Event]] = {}
        self.deliveries = 0
        self.renewals = 0
        self.hellos: list[object] = []
        self.lose_answers = False
        self.agents: dict[str, RemoteAgent] = {}
        self._ends: dict[str, MemoryTransport] = {}
        self._tasks: set[asyncio.Task[str]] = set()
        self.connected: dict[str, asyncio.Event] = {}
        self.reachable = True

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    async def meet(self, blanket: str) -> MemoryTransport:
        if not self.reachable:
            raise Unavailable("cut")
        near, far = MemoryTransport.pair()
        peer = Peer(far, controller_handlers(Face(self, blanket)))
        self.agents[blanket], self._ends[blanket] = RemoteAgent(peer), far
        task = asyncio.create_task(peer.run())
        self._tasks.add(task)
        return near

    async def cut(self, blanket: str) -> None:
        self.connected[blanket] = asyncio.Event()
        await self._ends[blanket].close("cut")

    async def back(self, blanket: str) -> RemoteAgent:
        async with asyncio.timeout(20):
            await self.connected.setdefault(blanket, asyncio.Event()).wait()
        return self.agents[blanket]

    def issue(self, instance: str, to: str):  # type: ignore[no-untyped-def]
        record = self.rights.get(instance, RightRecord(instance=instance))
        self.rights[instance] = issue(record, to=to, now=self.now(), terms=TERMS, nonce=os.urandom(16).hex())
        return granted(self.rights[instance], TERMS)

    def commit(self, instance: str, to: str):  # type: ignore[no-untyped-def]
        """The source has ended: the epoch moves."""
        record = replace(self.rights[instance], holder=None, nonce=None)
        self.rights[instance] = record
        return self.issue(instance, to)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class Face:
    """The control plane as one blanket's connection sees it."""

    def __init__(self, plane: ControlPlane, blanket: str) -> None:
        self._plane, self._blanket = plane, blanket

    async def hello(self, request):  # type: ignore[no-untyped-def]
        self._plane.hellos.append(request)
        self._plane.connected.setdefault(self._blanket, asyncio.Event()).set()
        return Welcome(blanket=self._blanket, cloud=CLOUD)

    async def renew(self, request):  # type: ignore[no-untyped-def]
        self._plane.renewals += 1
        answers = []
        for asked in request.renewals:
            record = self._plane.rights.get(asked.instance, RightRecord(instance=asked.instance))
            try:
                fresh = renew(
                    record,
                    asked,
                    by=self._blanket,
                    now=self._plane.now(),
                    terms=TERMS,
                    nonce=os.urandom(16).hex(),
                )
            except RightRefused as error:
                answers.append(RenewalAnswer(instance=asked.instance, refused=error.code))
            else:
                self._plane.rights[asked.instance] = fresh
                right = replace(granted(fresh, TERMS), contested=asked.instance in self._plane.contested)
                answers.append(RenewalAnswer(instance=asked.instance, right=right))
        return RightsRenewed(answers=tuple(answers))

    async def surrender(self, request):  # type: ignore[no-untyped-def]
        record = self._plane.rights[request.instance]
        self._plane.rights[request.instance] = surrender(record, by=self._blanket, epoch=request.epoch)

    async def report(self, request):  # type: ignore[no-untyped-def]
        self._plane.deliveries += len(request.events)
        for event in request.events:
            self._plane.events.setdefault(self._blanket, {})[event.id] = event
        if self._plane.lose_answers:
            self._plane.lose_answers = False
            await self._plane.cut(self._blanket)
            await asyncio.Event().wait()
        return Acknowledged(seq=request.events[-1].seq)

    async def renew_certificate(self, request):  # type: ignore[no-untyped-def]
        raise Conflict("not now")


class Dialled:
    """A stream as the control plane hears it."""

    def __init__(self) -> None:
        self.said = b""
        self.ended = asyncio.Event()

    async def send(self, data: bytes) -> None:
        self.said += data


class Dialer:
    def __init__(self, plane: ControlPlane, blanket: str) -> None:
        self._plane, self._blanket = plane, blanket
        self.images: dict[str, bytes] = {}
        self.streams: dict[str, Dialled] = {}
        self.cut_after = 1 << 40

    async def channel(self) -> MemoryTransport:
        return await self._plane.meet(self._blanket)

    @asynccontextmanager
    async def image(self, digest: str, offset: int) -> AsyncIterator[AsyncIterator[bytes]]:
        yield self._frames(digest, offset)

    async def _frames(self, digest: str, offset: int) -> AsyncIterator[bytes]:
        data = self.images[digest][offset:]
        yield data[: self.cut_after]
        if len(data) > self.cut_after:
            raise Unavailable("cut")

    @asynccontextmanager
    async def stream(self, stream: str) -> AsyncIterator["Dialled"]:
        dialled = self.streams[stream] = Dialled()
        try:
            yield dialled
        finally:
            dialled.ended.set()


class Blanket:
    """One blanket, whose agent and keeper can be ended and begun again over what they wrote down."""

    def __init__(self, plane: ControlPlane, folder: Path, passport: Passport, blanket: str) -> None:
        self.id = blanket
        self.plane = plane
        self.folder = folder
        self.passport = passport
        self.hypervisor = FakeHypervisor()
        self.overlay = FakeOverlay()
        self.forwards = FakeForwards()
        self.volumes = FakeVolumes(folder)
        self.dialer = Dialer(plane, blanket)
        self.keeper: Keeper | None = None
        self.loop: LoopHands | None = None  # none: nothing is detected here

    @asynccontextmanager
    async def keeping(self) -> AsyncIterator[None]:
        async def permit(_: object) -> None: ...

        journal = KeeperJournal(self.folder / "keeper.sqlite")
        self.keeper = Keeper(
            clock=LoopClock(),
            journal=journal,
            hands=Hands(permit=permit, feed=lambda: None),
            rights=lambda at, restored: Rights(nonce=lambda: os.urandom(16).hex(), at=at, restored=restored),
            monitors=lambda changed: FakeMonitors(self.hypervisor, changed),  # type: ignore[arg-type,return-value]
        )
        task = asyncio.create_task(self.keeper.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            journal.close()

    @asynccontextmanager
    async def agent(self) -> AsyncIterator[RemoteAgent]:
        """The agent's life; ending it is a kill: nothing is told to anybody."""
        journal = Journal(self.folder / "agent.sqlite")
        serving: list[asyncio.Task[None]] = []
        keeper = self.keeper
        assert keeper is not None

        def link(relay: AgentRelay) -> KeeperPort:
            serving.append(asyncio.create_task(keeper.serve(relay)))
            return keeper

        async def models() -> tuple[str, ...]:
            return ("EPYC-v2",)

        agent = BlanketAgent(
            drivers=Drivers(
                hypervisor=self.hypervisor,
                volumes=self.volumes,  # type: ignore[arg-type]
                overlay=self.overlay,
                forwards=self.forwards,
                console_log=lambda instance: self.folder / instance,
                data=self.folder,
                cpu_models=models,
                loop=self.loop,
            ),
            journal=journal,
            passport=self.passport,
            clock=LoopClock(),
            dialer=self.dialer,  # type: ignore[arg-type]
            keeper=link,
        )
        self.plane.connected[self.id] = asyncio.Event()
        running = asyncio.create_task(agent.run())
        try:
            yield await self.plane.back(self.id)
        finally:
            for task in (running, *serving):
                task.cancel()
            await asyncio.gather(running, *serving, return_exceptions=True)
            with suppress(Exception):
                await self.plane.cut(self.id)
            journal.close()


async def blanket(plane: ControlPlane, store: OwnedKeyStore, folder: Path) -> Blanket:
    """A blanket that has joined."""
    folder.mkdir()
    identifier = new_id()
    token = await store.invite(cloud=CLOUD, blanket=identifier, lifetime_s=600)
    safe = Safe(folder / "identity")
    keys = safe.keys()
    request: JoinRequest = join_request(
        blanket=identifier, secret=token.secret, identity=keys.identity, sealing=keys.sealing
    )
    answer = await store.admit(request)
    safe.keep(answer)
    return Blanket(plane, folder, Passport(safe, keys, answer), identifier)
