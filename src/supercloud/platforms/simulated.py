"""The `simulated` platform: the same contract in memory, for thousands of machines and for faults at will.

What a real platform keeps on disk is a `SimulatedHost` here; driver objects come and go on top of it, as the
control plane does. A `Disturb` decides before and after each effect whether to wait or to fail: failing after
an effect is an answer that was lost.
"""

from __future__ import annotations

import asyncio
import copy
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal, Protocol

from pydantic import Field

from supercloud.model.errors import Conflict, Exhausted, InvalidInput, NotFound
from supercloud.model.names import Endpoint, Id, MemoryMib, Name
from supercloud.model.placement import Confidentiality
from supercloud.platforms.values import checked_id, checked_label, checked_spec
from supercloud.ports.platform import (
    Ability,
    BlanketImages,
    BlanketMachine,
    Declaration,
    Flavour,
    Machine,
    MachineState,
)

Moment = Literal["before", "after"]  # the effect of a method


class Disturb(Protocol):
    """Called around every effect; may wait, and may raise what the method then raises."""

    async def __call__(self, method: str, machine: str, moment: Moment) -> None: ...


class Guest(Protocol):
    """What runs in a simulated machine. It is copied when a snapshot is taken."""

    def boot(self) -> bytes:
        """Start from scratch; what it writes to its console."""
        ...

    def receive(self, data: bytes) -> bytes:
        """Take console input; what it answers."""
        ...


class SilentGuest:
    """Writes and remembers nothing."""

    def boot(self) -> bytes:
        return b""

    def receive(self, data: bytes) -> bytes:
        return b""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedOptions:
    """What may be chosen for a domain of this kind."""

    memory_mib: MemoryMib = 1 << 20  # of the whole host
    first_port: Annotated[int, Field(ge=1, le=65535)] = 1
    last_port: Annotated[int, Field(ge=1, le=65535)] = 65535
    confidentiality: Confidentiality = Confidentiality.PROCEDURAL
    #: How deep blankets may be inside one another, and how many of those in each get a port of their own.
    nested_levels: Annotated[int, Field(ge=0)] = 3
    inner_ports: Annotated[int, Field(ge=0)] = 0
    #: A directory that is given each machine's birth data, for whoever plays the machines.
    births: Path | None = None


@dataclass(slots=True)
class SimulatedMachine:
    """One machine as the host has it. `data` is its disk: tests may write there."""

    spec: BlanketMachine
    port: int
    guest: Guest
    inner: tuple[int, ...] = ()
    state: MachineState = MachineState.STOPPED
    link_up: bool = True
    console: bytearray = field(default_factory=bytearray)
    data: dict[str, bytes] = field(default_factory=dict)
    snapshots: dict[str, tuple[Guest, dict[str, bytes]]] = field(default_factory=dict)
    readers: set[asyncio.Queue[bytes | None]] = field(default_factory=set)

    def write(self, output: bytes) -> None:
        """The guest's output goes to the log and to whoever reads."""
        self.console += output
        for reader in self.readers:
            reader.put_nowait(output)

    def end(self) -> None:
        self.state = MachineState.STOPPED
        for reader in self.readers:
            reader.put_nowait(None)


@dataclass(slots=True)
class SimulatedHost:
    """A domain's machines: what stays when a driver object goes."""

    machines: dict[str, SimulatedMachine] = field(default_factory=dict)


async def _undisturbed(method: str, machine: str, moment: Moment) -> None:
    """Nothing happens."""


class SimulatedPlatform:
    """ports.platform.Platform with all abilities but consent, over a SimulatedHost."""

    def __init__(
        self,
        host: SimulatedHost,
        options: SimulatedOptions | None = None,
        *,
        images: BlanketImages | None = None,
        guest: Callable[[], Guest] = SilentGuest,
        disturb: Disturb = _undisturbed,
    ) -> None:
        self._host = host
        self._options = options or SimulatedOptions()
        self._images = images
        self._guest = guest
        self._disturb = disturb

    async def declare(self) -> Declaration:
        await self._disturb("declare", "", "before")
        return Declaration(
            kind="simulated",
            accelerator="simulated",
            nesting=True,
            flavours=frozenset({Flavour.KVM, Flavour.TCG}),
            confidentiality=self._options.confidentiality,
            abilities=frozenset(Ability) - {Ability.CONSENT},
            reason="nothing runs",
            nested_levels=self._options.nested_levels,
            nested_reason="so deep is it simulated",
        )

    async def create(self, machine: BlanketMachine) -> Machine:
        spec = checked_spec(machine)
        await self._disturb("create", spec.id, "before")
        known = self._host.machines.get(spec.id)
        if known is None:
            return await self._make(spec)
        if replace(known.spec, birth=b"") != replace(spec, birth=b""):
            raise Conflict(f"machine {spec.id} exists with another size or image", hint="destroy it first")
        self._run(known)
        await self._disturb("create", spec.id, "after")
        return _report(known)

    async def inspect(self, machine: Id) -> Machine:
        await self._disturb("inspect", machine, "before")
        return _report(self._found(machine))

    async def list(self) -> list[Machine]:
        await self._disturb("list", "", "before")
        return [_report(self._host.machines[name]) for name in sorted(self._host.machines)]

    async def start(self, machine: Id) -> Machine:
        return await self._change("start", machine, self._run)

    async def stop(self, machine: Id, *, force: bool = False) -> Machine:
        return await self._change("stop", machine, SimulatedMachine.end)

    async def destroy(self, machine: Id) -> None:
        checked_id(machine)
        await self._disturb("destroy", machine, "before")
        known = self._host.machines.pop(machine, None)
        if known is not None:
            known.end()
        if self._options.births is not None:
            (self._options.births / machine).unlink(missing_ok=True)
        await self._disturb("destroy", machine, "after")

    def blanket_endpoint(self, port: int) -> Endpoint:
        if not 1 <= port <= 65535:
            raise InvalidInput(f"{port} is not a port")
        return f"10.0.2.2:{port}"

    async def console(self, machine: Id) -> AsyncIterator[bytes]:
        known = self._found(machine, running=True)
        queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        known.readers.add(queue)
        return _chunks(known, bytes(known.console), queue)

    async def console_write(self, machine: Id, data: bytes) -> None:
        await self._disturb("console_write", machine, "before")
        known = self._found(machine, running=True)
        if known.state is MachineState.RUNNING:
            known.write(known.guest.receive(data))

    async def freeze(self, machine: Id) -> None:
        def effect(known: SimulatedMachine) -> None:
            known.state = MachineState.FROZEN

        await self._change("freeze", machine, effect, running=True)

    async def thaw(self, machine: Id) -> None:
        def effect(known: SimulatedMachine) -> None:
            known.state = MachineState.RUNNING

        await self._change("thaw", machine, effect, running=True)

    async def link(self, machine: Id, *, up: bool) -> None:
        def effect(known: SimulatedMachine) -> None:
            known.link_up = up

        await self._change("link", machine, effect, running=True)

    async def snapshot(self, machine: Id, label: Name) -> None:
        checked_label(label)

        def effect(known: SimulatedMachine) -> None:
            known.snapshots.setdefault(label, (copy.deepcopy(known.guest), dict(known.data)))

        await self._change("snapshot", machine, effect, running=True)

    async def rollback(self, machine: Id, label: Name) -> None:
        checked_label(label)

        def effect(known: SimulatedMachine) -> None:
            if label not in known.snapshots:
                raise NotFound(f"machine {machine} has no snapshot {label}")
            guest, data = known.snapshots[label]
            known.guest, known.data = copy.deepcopy(guest), dict(data)

        await self._change("rollback", machine, effect, running=True)

    async def _make(self, spec: BlanketMachine) -> Machine:
        if self._images is not None:
            self._images.files(spec.image)
        port, *inner = self._free_ports(1 + self._options.inner_ports)
        known = SimulatedMachine(spec, port, self._guest(), tuple(inner))
        self._run(known)
        self._host.machines[spec.id] = known
        self._bear(spec)
        try:
            await self._disturb("create", spec.id, "after")
        except asyncio.CancelledError:
            self._host.machines.pop(spec.id, None)
            raise
        return _report(known)

    def _bear(self, spec: BlanketMachine) -> None:
        """Whole or not at all, and for its owner's eyes only: it holds the secret to join with."""
        if self._options.births is not None:
            scratch = self._options.births / f".{spec.id}"
            with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(spec.birth)
            scratch.rename(scratch.with_name(spec.id))

    async def _change(
        self, method: str, machine: Id, effect: Callable[[SimulatedMachine], None], *, running: bool = False
    ) -> Machine:
        await self._disturb(method, machine, "before")
        known = self._found(machine, running=running)
        effect(known)
        await self._disturb(method, machine, "after")
        return _report(known)

    def _run(self, known: SimulatedMachine) -> None:
        if known.state is not MachineState.STOPPED:
            return
        others = (one for one in self._host.machines.values() if one.state is not MachineState.STOPPED)
        free = self._options.memory_mib - sum(one.spec.memory_mib for one in others)
        if free < known.spec.memory_mib:
            raise Exhausted(f"not enough memory: {known.spec.memory_mib} MiB wanted, {free} MiB available")
        known.state, known.link_up = MachineState.RUNNING, True
        known.write(known.guest.boot())

    def _free_ports(self, count: int) -> tuple[int, ...]:
        taken = {port for one in self._host.machines.values() for port in (one.port, *one.inner)}
        first, last = self._options.first_port, self._options.last_port
        free = [port for port in range(first, last + 1) if port not in taken][:count]
        if len(free) < count:
            raise Exhausted(f"no UDP port is free from {first} to {last}")
        return tuple(free)

    def _found(self, machine: Id, *, running: bool = False) -> SimulatedMachine:
        known = self._host.machines.get(checked_id(machine))
        if known is None:
            raise NotFound(f"there is no machine {machine}")
        if running and known.state is MachineState.STOPPED:
            raise Conflict(f"machine {machine} does not run")
        return known


async def _chunks(
    known: SimulatedMachine, before: bytes, queue: asyncio.Queue[bytes | None]
) -> AsyncIterator[bytes]:
    try:
        if before:
            yield before
        while (chunk := await queue.get()) is not None:
            yield chunk
    finally:
        known.readers.discard(queue)


def _report(known: SimulatedMachine) -> Machine:
    return Machine(
        id=known.spec.id,
        state=known.state,
        wireguard=f"10.0.2.2:{known.port}",
        memory_mib=known.spec.memory_mib,
        inner=tuple(f"10.0.2.2:{port}" for port in known.inner),
    )
