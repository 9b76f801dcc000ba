"""The control plane: the product's own services over a simulated disk; sagas that remember their steps."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, TypeVar, cast

from sqlalchemy.ext.asyncio import AsyncSession

from supercloud.keystore.store import OwnedKeyStore
from supercloud.model.errors import Failed, SupercloudError, Unavailable, error_from
from supercloud.model.names import Id, new_id
from supercloud.platforms.blanket import BlanketPlatform
from supercloud.ports.clock import StoreTime
from supercloud.ports.platform import Platform
from supercloud.services.agents import Agents
from supercloud.services.directory import Directory
from supercloud.services.facade import ControlPlane
from supercloud.services.feed import Feed
from supercloud.services.governing import Governing
from supercloud.services.horizontal import Horizontal
from supercloud.services.mesh import Meshes
from supercloud.services.operations import Operations
from supercloud.services.parts import Parts, Settings
from supercloud.services.publish import Publisher
from supercloud.services.spreading import Spreading
from supercloud.services.store.time import RESTORES
from supercloud.services.streams import Streams
from supercloud.simulator.database import Disk
from supercloud.simulator.ledger import WatchedRights
from supercloud.simulator.loop import Machine, Process
from supercloud.simulator.network import Wire
from supercloud.wire.codec import from_json, to_json

if TYPE_CHECKING:
    from supercloud.simulator.blanket import SimBlanket
    from supercloud.simulator.world import SimWorld

T = TypeVar("T")
_RESTART_S = 2.0
_DIAL_S = 5.0
_ENDS = ("succeeded", "failed", "cancelled")


class _Time:
    """The store's clock: its machine's, from each boot of it."""

    def __init__(self, controller: SimController) -> None:
        self._controller = controller

    async def read(self, session: AsyncSession) -> StoreTime:
        return StoreTime(str(self._controller.boot), await self.now_s(session))

    async def now_s(self, session: AsyncSession) -> float:
        return self._controller.clock()


class _Saga:
    """ports.durable.Saga as DBOS keeps it: a step's outcome is remembered once it is durable."""

    def __init__(self, controller: SimController, operations: Operations, operation: Id) -> None:
        self._controller = controller
        self._operations = operations
        self._operation = operation
        self._place = 0

    @property
    def operation(self) -> str:
        return self._operation

    async def step(self, name: str, work: Callable[[], Awaitable[T]], kind: type[T]) -> T:
        trace = self._controller.world.trace
        key, self._place = (self._operation, self._place), self._place + 1
        remembered = self._controller.remembered
        if key not in remembered:
            await trace.step("saga", f"{name} begins")
            try:
                outcome: dict[str, Any] = {"ok": to_json(kind, await work())}
            except SupercloudError as error:
                outcome = {"error": [error.code, error.message, error.hint]}
            await trace.step("saga", f"{name} ends")
            remembered[key] = outcome
            await trace.step("saga", f"{name} is remembered")
        found = remembered[key]
        if "error" in found:
            raise error_from(*found["error"])
        return from_json(kind, found["ok"])

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def cancelled(self) -> bool:
        return await self.step("cancelled?", lambda: self._operations.cancel_asked(self._operation), bool)

    async def progress(self, phase: str, *, done: float | None = None) -> None:
        await self._operations.progress(self._operation, phase, done)


class SimController:
    """Process and machine of the control plane; its disk; the key store, which is a process of its own."""

    def __init__(self, world: SimWorld, keys: OwnedKeyStore, random: Random) -> None:
        self.world = world
        self.machine = Machine(world.loop, "control")
        self.disk = Disk(world.loop, random, world.trace)
        self.remembered: dict[tuple[Id, int], dict[str, Any]] = {}
        self.keys = keys
        self.restored = False
        #: It came back as another incarnation: each holder's nonce is taken as it is, once.
        self.unsure = False
        self.control: ControlPlane | None = None
        self.parts: Parts
        self._backup: bytes | None = None
        self._process: Process | None = None
        self._operations: dict[Id, asyncio.Task[None]] = {}
        self._power_on()

    def _power_on(self) -> None:
        self.boot, self._booted_at = new_id(), self.machine.now()

    def clock(self) -> float:
        return self.machine.now() - self._booted_at

    # ------------------------------------------------------------ a life

    def start(self) -> None:
        self._process = Process(self.world.loop, self.machine, "controller")
        self._process.spawn(self._run())

    async def _run(self) -> None:
        store = self.disk.mount()
        rights = WatchedRights(store, _Time(self))
        rights.controller = self
        operations = Operations(store)
        agents = Agents(store, rights, self.keys)
        streams = Streams(agents)
        running: dict[Id, asyncio.Task[None]] = {}

        async def begin(operation: Id) -> None:
            if operation not in running:
                saga = _Saga(self, operations, operation)
                running[operation] = asyncio.create_task(operations.run(saga))

        operations.runs_on(begin)
        parts = self.parts = Parts(
            settings=_settings(),
            store=store,
            directory=Directory(store),
            feed=Feed(),
            rights=rights,
            keys=self.keys,
            operations=operations,
            agents=agents,
            streams=streams,
            meshes=Meshes(store, agents),
            policies=Spreading(store, agents),
            horizontal=Horizontal(store, agents, Governing(store, operations)),
            publisher=Publisher(store, streams),
            drivers=_no_platform,
            nested=BlanketPlatform,
        )
        control = ControlPlane(parts)
        if not self.disk.has_tables:
            await self.world.seed_rows(store, self.disk)
        await rights.quarantine_left_s()
        self.control = control
        await control.start()
        self.world.trace.say("controller: is up")

    @property
    def up(self) -> bool:
        return self._process is not None and not self._process.dead and self.control is not None

    async def accept(self, blanket: SimBlanket) -> Wire:
        """An agent dials.

        Raises:
            Unavailable.
        """
        await asyncio.sleep(self.world.network.latency_s())
        if not self.world.network.hears(blanket.machine.name, self.machine.name):
            await asyncio.sleep(_DIAL_S)
            raise Unavailable("the control plane does not answer")
        if not self.up or self._process is None:
            raise Unavailable("the control plane refuses connections")
        here, there = self.world.network.connect(blanket.agent_process, self._process, what="channel")
        self._process.spawn(self._serve(blanket, there))
        return here

    async def _serve(self, blanket: SimBlanket, wire: Wire) -> None:
        try:
            await self.parts.agents.serve(blanket.id, blanket.cloud, wire)
        except SupercloudError as error:
            await wire.close(error.message)

    # ------------------------------------------------------------ its user

    async def ask(self, what: Callable[[ControlPlane], Awaitable[T]]) -> T:
        """Ask until a control plane answers; asking again joins what was asked for.

        Raises: what it answers.
        """
        while True:
            if self.up and self._process is not None and self.control is not None:
                process, control = self._process, self.control
                answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
                process.spawn(_answer(what, control, answer))
                while not answer.done() and not process.dead:
                    await asyncio.wait([answer], timeout=1)
                if answer.done():
                    return answer.result()
            await asyncio.sleep(0.5)

    async def until_ended(self, operation: Id, *, timeout_s: float) -> tuple[str, str]:
        """How it ended, and what it said.

        Raises:
            Failed: it did not end.
        """
        deadline = self.world.loop.true_s + timeout_s
        while self.world.loop.true_s < deadline:
            row = self.row("SELECT state, error FROM operations WHERE id = ?", operation)
            if row is not None and row[0] in _ENDS:
                return row[0], row[1] or ""
            if row is None and self.restored:
                return "forgotten", "the store was restored to before it"
            await asyncio.sleep(0.5)
        raise Failed("the operation did not end")

    def row(self, query: str, *values: object) -> Any:
        return self.disk.connection.execute(query, values).fetchone()

    def holder(self, instance: Id) -> Id | None:
        row = self.row("SELECT holder FROM rights WHERE instance = ?", instance)
        return None if row is None else cast("Id | None", row[0])

    # ------------------------------------------------------------ its tables, for whoever checks

    def all_ready(self) -> bool:
        return self.up and self.row("SELECT count(*) FROM blankets WHERE state != 'ready'")[0] == 0

    def instance(self, instance: Id) -> tuple[str, str, Id | None, Id | None]:
        """State, reason, where, and who holds its right."""
        state, reason, blanket = self.row(
            "SELECT state, reason, blanket FROM instances WHERE id = ?", instance
        )
        return state, reason, blanket, self.holder(instance)

    def guard(self, instance: Id) -> set[Id]:
        """The reactions that it keeps as in force about an instance."""
        rows = self.disk.connection.execute("SELECT reaction FROM guards WHERE instance = ?", (instance,))
        return {row[0] for row in rows.fetchall()}

    def open_operations(self) -> int:
        return cast(int, self.row("SELECT count(*) FROM operations WHERE ended_at IS NULL")[0])

    def current_copies(self) -> set[Id]:
        return {
            row[0]
            for row in self.disk.connection.execute("SELECT id FROM volume_copies WHERE current").fetchall()
        }

    def revoked(self, blanket: Id) -> bool:
        return bool(self.row("SELECT revoked FROM blankets WHERE id = ?", blanket)[0])

    def nonce(self, instance: Id) -> str | None:
        return cast("str | None", self.row("SELECT nonce FROM rights WHERE instance = ?", instance)[0])

    # ------------------------------------------------------------ faults

    def kill(self, *, down_s: float = _RESTART_S) -> None:
        if self._process is not None and not self._process.dead:
            self._process.kill()
            self.control = None
            self.world.network.later(down_s, self.start)

    def hang(self, *, on: bool) -> None:
        if self._process is not None:
            self._process.hung = on

    def restart_store(self) -> None:
        """Its machine reboots, and with it the clock that rights are counted on."""
        self.kill(down_s=8.0)
        self._power_on()
        self.unsure = True

    def back_up(self) -> None:
        self._backup = self.disk.backup()

    def restore_store(self) -> None:
        """As `supercloud restore` does it: rows of some time ago, and no remembered steps."""
        if self._backup is None:
            return
        self.kill(down_s=5.0)
        if self.disk.connection.in_transaction:
            self.disk.connection.rollback()
        generation = self.row("SELECT value FROM meta WHERE key = ?", RESTORES)
        self.disk.restore(self._backup)
        later = int(generation[0]) + 1 if generation else 1
        self.disk.connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (RESTORES, str(later)))
        self.remembered.clear()
        self.restored = self.unsure = True
        self._backup = None


async def _answer(
    what: Callable[[ControlPlane], Awaitable[T]], control: ControlPlane, answer: asyncio.Future[T]
) -> None:
    try:
        result = await what(control)
    except SupercloudError as error:
        if not answer.done():
            answer.set_exception(error)
    else:
        if not answer.done():
            answer.set_result(result)


def _settings() -> Settings:
    return Settings(
        images=Path("images"),
        agents_port=1,
        blanket_image=lambda: "sha256:" + "0" * 64,
        database="sqlite",
    )


def _no_platform(provider: Id, kind: str, options: dict[str, str]) -> Platform:
    raise Failed("not simulated")
