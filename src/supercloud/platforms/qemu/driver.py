"""The `qemu` platform: each machine a detached QEMU process with a directory of its own.

Nothing is kept in memory that is not on disk: another driver object, or the next control plane after a
`kill -9`, finds the machines by their directories and goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from supercloud.model.errors import Conflict, Failed, InvalidInput, NotFound, SupercloudError, Unavailable
from supercloud.model.names import Digest, Endpoint, Id, Name
from supercloud.model.placement import Confidentiality
from supercloud.platforms.host import Host, ThisHost, require_room
from supercloud.platforms.qemu import accelerator, command, power, process
from supercloud.platforms.qemu.accelerator import Choice, Proof
from supercloud.platforms.qemu.addresses import PortRange
from supercloud.platforms.qemu.console import follow, type_in
from supercloud.platforms.qemu.home import Home
from supercloud.platforms.qemu.monitor import Monitor, session
from supercloud.platforms.qemu.record import Record
from supercloud.platforms.values import checked_id, checked_label, checked_spec
from supercloud.platforms.whole import whole
from supercloud.ports.machines import INNER_PORTS
from supercloud.ports.platform import (
    Ability,
    BlanketFiles,
    BlanketImages,
    BlanketMachine,
    Declaration,
    Flavour,
    Machine,
    MachineState,
)

_START_S = 30.0  # until QEMU answers; a kernel and an initrd are read before that
_PORT_TAKEN = "Could not set up host forwarding rule"
#: What the system tests go through (docs/adr/0020-nested-blankets.md).
_NESTED_LEVELS = 1
_NESTED_REASON = "one level is what is tried on real machines"


@dataclass(frozen=True, slots=True, kw_only=True)
class QemuOptions:
    """What may be chosen for a domain of this kind."""

    accelerator: Choice = "auto"
    #: UDP ports of the host's loopback for blankets' WireGuard.
    first_port: Annotated[int, Field(ge=1024, le=65535)] = 52000
    last_port: Annotated[int, Field(ge=1024, le=65535)] = 52999
    #: How long a graceful stop waits before the power is cut.
    stop_timeout_s: Annotated[float, Field(gt=0, le=600)] = 60.0
    sandbox: bool = True


class QemuPlatform:
    """ports.platform.Platform with console, freeze, snapshot and link, over a directory of machines."""

    def __init__(
        self,
        state_dir: Path,
        images: BlanketImages,
        options: QemuOptions | None = None,
        *,
        cache_dir: Path | None = None,
        host: Host | None = None,
    ) -> None:
        self._options = options or QemuOptions()
        if self._options.last_port < self._options.first_port:
            raise InvalidInput("platform qemu: last_port is below first_port")
        self._machines = state_dir.resolve() / "machines"
        self._machines.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._images = images
        self._cache_dir = cache_dir or state_dir
        self._host = host or ThisHost()
        self._ports = PortRange(first=self._options.first_port, last=self._options.last_port)
        self._locks: dict[Id, asyncio.Lock] = {}
        self._proof: Proof | None = None
        self._proving = asyncio.Lock()

    # --- Platform -------------------------------------------------------------------------------------

    async def declare(self) -> Declaration:
        proof = await self._proven()
        flavours = {Flavour.KVM, Flavour.TCG} if proof.nesting else {Flavour.TCG}
        return Declaration(
            kind="qemu",
            accelerator=proof.accelerator,
            nesting=proof.nesting,
            flavours=frozenset(flavours),
            confidentiality=Confidentiality.PROCEDURAL,  # whoever runs QEMU reads its memory
            abilities=frozenset({Ability.CONSOLE, Ability.FREEZE, Ability.LINK, Ability.SNAPSHOT}),
            reason=proof.told,
            nested_levels=_NESTED_LEVELS if proof.nesting else 0,
            nested_reason=_NESTED_REASON if proof.nesting else proof.told,
        )

    async def create(self, machine: BlanketMachine) -> Machine:
        spec = checked_spec(machine)
        home = self._home(spec.id)
        async with self._lock(spec.id):
            known = home.record()
            if known is None:
                return await self._make(home, spec)
            if not known.same_as(spec):
                raise Conflict(
                    f"machine {spec.id} exists with another size or image", hint="destroy it first"
                )
            with self._running(home, known) as running:
                if running is None:
                    home.write_birth(spec.birth)
            return await self._ensure_running(home, known)

    async def inspect(self, machine: Id) -> Machine:
        home, known = self._found(machine)
        home.bound_log()
        return await self._report(home, known)

    async def list(self) -> list[Machine]:
        names = sorted(path.name for path in self._machines.iterdir() if path.is_dir())
        found = await asyncio.gather(*(self._listed(name) for name in names))
        return [machine for machine in found if machine is not None]

    async def start(self, machine: Id) -> Machine:
        async with self._lock(machine):
            home, known = self._found(machine)
            return await self._ensure_running(home, known)

    async def stop(self, machine: Id, *, force: bool = False) -> Machine:
        async with self._lock(machine):
            home, known = self._found(machine)
            with self._running(home, known) as running:
                if running is not None:
                    if not force:
                        await power.down(home, running, timeout_s=self._options.stop_timeout_s)
                    await power.off(home, running)
            known = await home.end(known)
            return _machine(known, MachineState.STOPPED)

    async def destroy(self, machine: Id) -> None:
        async with self._lock(machine):
            await whole(self._home(machine).erase())

    def blanket_endpoint(self, port: int) -> Endpoint:
        if not 1 <= port <= 65535:
            raise InvalidInput(f"{port} is not a port")
        return f"{command.GATEWAY}:{port}"

    # --- abilities ------------------------------------------------------------------------------------

    async def console(self, machine: Id) -> AsyncIterator[bytes]:
        home, pid = self._live(machine)
        return follow(home.path, pid)

    async def console_write(self, machine: Id, data: bytes) -> None:
        home, _ = self._live(machine)
        await type_in(home.path, data)

    async def freeze(self, machine: Id) -> None:
        await self._ask(machine, lambda monitor: monitor.execute("stop"))

    async def thaw(self, machine: Id) -> None:
        await self._ask(machine, lambda monitor: monitor.execute("cont"))

    async def link(self, machine: Id, *, up: bool) -> None:
        await self._ask(machine, lambda monitor: monitor.set_link(up=up))

    async def snapshot(self, machine: Id, label: Name) -> None:
        checked_label(label)

        async def keep(monitor: Monitor) -> None:
            if label not in await monitor.labels():
                await monitor.save(label)

        # Cancelled halfway, QEMU would go on by itself: so we stay until it is done.
        await whole(self._ask(machine, keep))

    async def rollback(self, machine: Id, label: Name) -> None:
        checked_label(label)

        async def back(monitor: Monitor) -> None:
            if label not in await monitor.labels():
                raise NotFound(f"machine {machine} has no snapshot {label}")
            frozen = await monitor.status() == "paused"
            await monitor.load(label)
            await monitor.execute("stop" if frozen else "cont")

        await whole(self._ask(machine, back))

    # --- inside ---------------------------------------------------------------------------------------

    async def _make(self, home: Home, spec: BlanketMachine) -> Machine:
        """A machine that is not there yet; none of it stays if this fails or is cancelled."""
        require_room(self._host, memory_mib=spec.memory_mib, disk_bytes=spec.disk_bytes, path=self._machines)
        await self._files(spec.image)
        try:
            home.prepare()
            home.write_birth(spec.birth)
            await home.make_disk(spec.disk_bytes)
            known = Record(
                id=spec.id,
                name=spec.name,
                image=spec.image,
                vcpus=spec.vcpus,
                memory_mib=spec.memory_mib,
                disk_bytes=spec.disk_bytes,
                port=self._pick_port(spec.id, INNER_PORTS),
                inner=INNER_PORTS,
            )
            home.write(known)
            return await self._boot(home, known)
        except BaseException:
            await whole(home.erase())
            raise

    async def _ensure_running(self, home: Home, known: Record) -> Machine:
        with self._running(home, known) as running:
            if running is not None:
                return await self._report(home, known)
        require_room(self._host, memory_mib=known.memory_mib, disk_bytes=0, path=self._machines)
        return await self._boot(home, known)

    async def _boot(self, home: Home, known: Record) -> Machine:
        """Start QEMU, on another port if somebody took ours meanwhile."""
        files = await self._files(known.image)
        proof = await self._proven()
        refused: set[int] = set()
        while True:
            if not {*refused, *self._taken(but=known.id)}.isdisjoint(known.ports):
                known = replace(known, port=self._pick_port(known.id, known.inner, refused))
            try:
                known = await self._boot_once(home, known, files, proof)
            except Failed as error:
                if _PORT_TAKEN not in error.message:
                    raise
                refused |= set(known.ports)
            else:
                return _machine(known, MachineState.RUNNING)

    async def _boot_once(self, home: Home, known: Record, files: BlanketFiles, proof: Proof) -> Record:
        known = replace(known, pid=None, started=True)
        home.write(known)  # before the process: if we die in between, the next of us looks for it
        try:
            home.console_ports()
            with home.listener(command.QMP_SOCKET) as listener:
                spec = _spec(known, home.birth())
                argv = command.machine(
                    spec,
                    files,
                    proof.how,
                    port=known.port,
                    inner=known.inner,
                    qmp_fd=listener,
                    sandbox=self._options.sandbox,
                )
                pid = process.spawn(
                    argv, directory=home.path, log=home.path / command.QEMU_LOG, pass_fds=[listener]
                )
            known = replace(known, pid=pid)
            home.write(known)
            async with session(home.path, timeout_s=_START_S) as monitor:
                await monitor.status()
        except BaseException as error:
            await whole(home.end(known))
            if isinstance(error, OSError | Unavailable):
                raise Failed(f"QEMU did not start: {home.last_words()}") from error
            raise
        return known

    async def _ask(self, machine: Id, what: Callable[[Monitor], Coroutine[Any, Any, object]]) -> None:
        async with self._lock(machine):
            home, _ = self._live(machine)
            async with session(home.path) as monitor:
                await what(monitor)

    async def _report(self, home: Home, known: Record) -> Machine:
        with self._running(home, known) as running:
            state, reason = await power.state_of(home, running)
        return _machine(known, state, reason)

    async def _listed(self, name: str) -> Machine | None:
        try:
            return await self.inspect(name)
        except (InvalidInput, NotFound):
            return None  # not a machine, or not one yet
        except SupercloudError as error:
            return Machine(
                id=name, state=MachineState.STOPPED, wireguard=None, memory_mib=0, reason=error.message
            )

    async def _proven(self) -> Proof:
        async with self._proving:
            if self._proof is None:
                self._proof = await accelerator.prove(
                    self._options.accelerator, await self._current_files(), self._cache_dir
                )
            return self._proof

    async def _current_files(self) -> BlanketFiles | None:
        if self._options.accelerator == "tcg":
            return None
        try:
            return await self._files(await asyncio.to_thread(self._images.current))
        except NotFound:
            return None

    async def _files(self, image: Digest) -> BlanketFiles:
        return await asyncio.to_thread(self._images.files, image)

    def _pick_port(self, machine: Id, inner: int, refused: Iterable[int] = ()) -> int:
        taken = self._taken(but=machine) | set(refused)
        return next(self._ports.candidates(machine, taken, count=1 + inner))

    def _taken(self, *, but: Id) -> set[int]:
        homes = (Home(path) for path in self._machines.iterdir() if path.name != but)
        return {port for home in homes if (known := _readable(home)) is not None for port in known.ports}

    def _home(self, machine: Id) -> Home:
        return Home(self._machines / checked_id(machine))

    def _found(self, machine: Id) -> tuple[Home, Record]:
        home = self._home(machine)
        known = home.record()
        if known is None:
            raise NotFound(f"there is no machine {machine}")
        return home, known

    @contextmanager
    def _running(self, home: Home, known: Record) -> Iterator[process.Process | None]:
        running = home.process(known)
        if running is None:
            yield None
        else:
            with running:
                yield running

    def _lock(self, machine: Id) -> asyncio.Lock:
        return self._locks.setdefault(checked_id(machine), asyncio.Lock())

    def _live(self, machine: Id) -> tuple[Home, int]:
        """A machine that runs, and its process."""
        home, known = self._found(machine)
        with self._running(home, known) as running:
            if running is None:
                raise Conflict(f"machine {machine} does not run")
            return home, running.pid


def _machine(known: Record, state: MachineState, reason: str = "") -> Machine:
    return Machine(
        id=known.id,
        state=state,
        wireguard=f"{command.GATEWAY}:{known.port}",
        memory_mib=known.memory_mib,
        reason=reason,
        inner=tuple(f"{command.GATEWAY}:{port}" for port in known.ports[1:]),
    )


def _spec(known: Record, birth: bytes) -> BlanketMachine:
    return BlanketMachine(
        id=known.id,
        name=known.name,
        image=known.image,
        vcpus=known.vcpus,
        memory_mib=known.memory_mib,
        disk_bytes=known.disk_bytes,
        birth=birth,
    )


def _readable(home: Home) -> Record | None:
    try:
        return home.record()
    except Failed:
        return None
