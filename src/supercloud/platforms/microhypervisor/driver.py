"""The `microhypervisor` platform: one machine, whose partitions are blankets.

The machine is one emulated QEMU process. It is started with the first blanket, outlives the control plane,
and ends with the last one. Who has which partition is in its directory, and what runs is the
micro-hypervisor's to say: nothing is kept in memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from pydantic import Field

from supercloud.model.acts import Operation
from supercloud.model.errors import Conflict, Exhausted, Failed, InvalidInput, NotFound, Refused, Unavailable
from supercloud.model.names import GIB, MIB, Digest, Endpoint, Id
from supercloud.model.placement import Confidentiality
from supercloud.platforms.host import Host, ThisHost, require_room
from supercloud.platforms.microhypervisor import channel, command, requests, tpm
from supercloud.platforms.microhypervisor.command import Plan
from supercloud.platforms.microhypervisor.home import Home, Record, Taken
from supercloud.platforms.microhypervisor.requests import Partition, Request, State
from supercloud.platforms.qemu import accelerator, process
from supercloud.platforms.qemu.addresses import PortRange
from supercloud.platforms.qemu.command import BINARY, GATEWAY, QEMU_LOG, QMP_SOCKET
from supercloud.platforms.qemu.monitor import session as monitor_session
from supercloud.platforms.values import checked_id, checked_spec
from supercloud.platforms.whole import whole
from supercloud.ports.platform import (
    Ability,
    BlanketMachine,
    Challenge,
    Declaration,
    Flavour,
    Machine,
    MachineState,
    MicrohypervisorImages,
    SealedExport,
)

_BOOT_S = 180.0  # until the micro-hypervisor has proved its tables and answers, under emulation
_LOOK_EVERY_S = 0.5
_PORT_TAKEN = "Could not set up host forwarding rule"
_ACTIVE = frozenset({State.RUNNING, State.RESTARTING})


@dataclass(frozen=True, slots=True, kw_only=True)
class MicrohypervisorOptions:
    """What may be chosen for a domain of this kind. Its partitions are alike."""

    partitions: Annotated[int, Field(ge=1, le=command.MOST_PARTITIONS)] = 2
    memory_mib: Annotated[int, Field(ge=256, le=3072, multiple_of=2)] = 2048
    disk_gib: Annotated[int, Field(ge=1, le=4096)] = 20
    #: UDP ports of the host's loopback for blankets' WireGuard.
    first_port: Annotated[int, Field(ge=1024, le=65535)] = 52000
    last_port: Annotated[int, Field(ge=1024, le=65535)] = 52999
    #: Whether the machine has a TPM, where Debian's swtpm is there to stand for one.
    tpm: bool = True
    sandbox: bool = True

    @property
    def disk_bytes(self) -> int:
        return self.disk_gib * GIB


class MicrohypervisorPlatform:
    """ports.platform.Platform with console, link and consent, over the partitions of one machine."""

    def __init__(
        self,
        state_dir: Path,
        images: MicrohypervisorImages,
        options: MicrohypervisorOptions | None = None,
        *,
        host: Host | None = None,
        argv: Callable[[Plan], list[str]] = command.machine,
        binary: str = BINARY,
    ) -> None:
        """
        Args:
            argv: the machine's command line, and
            binary: the name of the program that it starts; QEMU's.
        """
        self._options = options or MicrohypervisorOptions()
        if self._options.last_port < self._options.first_port:
            raise InvalidInput("platform microhypervisor: last_port is below first_port")
        self._home = Home(state_dir.resolve() / "machine", binary)
        self._home.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._images = images
        self._host = host or ThisHost()
        self._argv = argv
        self._ports = PortRange(first=self._options.first_port, last=self._options.last_port)
        #: Whatever changes the machine, one after another; its channel has one user anyway.
        self._changing = asyncio.Lock()

    # --- Platform -------------------------------------------------------------------------------------

    async def declare(self) -> Declaration:
        if not self._is_up(self._home.record()):  # what runs needs no other
            await asyncio.to_thread(self._images.microhypervisor)
        version = await accelerator.qemu_version()
        sizes = self._options
        return Declaration(
            kind="microhypervisor",
            accelerator="tcg",
            nesting=True,
            flavours=frozenset({Flavour.KVM, Flavour.TCG}),
            confidentiality=Confidentiality.ENFORCED,
            abilities=frozenset({Ability.CONSOLE, Ability.LINK, Ability.CONSENT}),
            reason=f"{sizes.partitions} partitions, each of one processor, {sizes.memory_mib} MiB and "
            f"{sizes.disk_gib} GiB; QEMU {version} emulates SVM, and whoever runs it stands where hardware "
            f"would; launches are measured, and {_attested(self._has_tpm)}",
            nested_reason="nobody has tried it in a partition",
        )

    async def create(self, machine: BlanketMachine) -> Machine:
        spec = checked_spec(machine)
        if len(spec.birth) > command.BIRTH_BYTES:
            raise InvalidInput(f"first-boot data has {len(spec.birth)} bytes: {command.BIRTH_BYTES} at most")
        async with self._changing:
            known = self._home.record()
            taken = known.of(spec.id)
            if taken is None:
                return await self._take(known, spec)
            if not taken.same_as(spec):
                raise Conflict(
                    f"machine {spec.id} exists with another size or image", hint="destroy it first"
                )
            if not _runs(await self._partition(known, taken)):
                self._home.write_birth(taken.partition, spec.birth)
                taken = replace(taken, tenant=spec.tenant)
                known = self._home.write(known.having(taken))
            return await self._ensure_running(known, taken)

    async def inspect(self, machine: Id) -> Machine:
        known, taken = self._found(machine)
        self._home.bound_log()
        return (await self._reports(known, (taken,)))[0]

    async def list(self) -> list[Machine]:
        known = self._home.record()
        return [*await self._reports(known, known.taken)]

    async def start(self, machine: Id) -> Machine:
        async with self._changing:
            return await self._ensure_running(*self._found(machine))

    async def stop(self, machine: Id, *, force: bool = False) -> Machine:
        """Its power is cut with and without `force`: a partition has no button that anybody could press."""
        async with self._changing:
            known, taken = self._found(machine)
            if self._is_up(known):
                await self._halt(taken)
            return self._machine(known, taken, MachineState.STOPPED)

    async def destroy(self, machine: Id) -> None:
        async with self._changing:
            await whole(self._free(checked_id(machine)))

    def blanket_endpoint(self, port: int) -> Endpoint:
        if not 1 <= port <= 65535:
            raise InvalidInput(f"{port} is not a port")
        return f"{GATEWAY}:{port}"

    # --- abilities ------------------------------------------------------------------------------------

    async def console(self, machine: Id) -> AsyncIterator[bytes]:
        taken = await self._live(machine)
        return self._follow(taken)

    async def console_write(self, machine: Id, data: bytes) -> None:
        await self._live(machine)
        raise Refused("nobody types into a partition from outside", hint="its console can only be read")

    async def link(self, machine: Id, *, up: bool) -> None:
        async with self._changing:
            taken = await self._live(machine)
            await self._set_link(taken, up=up)

    async def challenge(self, machine: Id, nonce: bytes) -> Challenge:
        taken = await self._launched(machine)
        async with channel.session(self._home.path) as asked:
            return await asked.challenge(taken.at, nonce)

    async def export(
        self, machine: Id, operation: Operation, *, page: int, pages: int, consent: bytes
    ) -> SealedExport:
        """Others wait for the channel until all is there, which is why one act is about so few pages."""
        taken = await self._launched(machine)
        act = requests.act(operation, page, pages, consent)
        async with channel.session(self._home.path) as asked:
            return await asked.export(taken.at, act, range(page, page + pages))

    # --- inside: partitions ---------------------------------------------------------------------------

    async def _take(self, known: Record, spec: BlanketMachine) -> Machine:
        """A partition for a blanket that has none; it is free again if this fails or is cancelled."""
        taken = Taken(
            id=spec.id,
            name=spec.name,
            image=spec.image,
            vcpus=spec.vcpus,
            memory_mib=spec.memory_mib,
            disk_bytes=spec.disk_bytes,
            partition=self._free_partition(known, spec),
            tenant=spec.tenant,
        )
        await asyncio.to_thread(self._images.files, spec.image)
        self._require_room()
        try:
            known = self._home.write(known.having(taken))
            self._home.prepare_disks(taken.partition, self._options.disk_bytes)
            self._home.write_birth(taken.partition, spec.birth)
            return await self._ensure_running(known, taken)
        except BaseException:
            await whole(self._free(spec.id))
            raise

    def _free_partition(self, known: Record, spec: BlanketMachine) -> int:
        """Raises Exhausted: it wants more than a partition has, or all are taken."""
        sizes = self._options
        hint = "ask for a smaller blanket, or add a provider with larger partitions"
        if spec.memory_mib > sizes.memory_mib:
            have = f"{sizes.memory_mib} MiB available in a partition"
            raise Exhausted(f"not enough memory: {spec.memory_mib} MiB wanted, {have}", hint=hint)
        if spec.disk_bytes > sizes.disk_bytes:
            have = f"{sizes.disk_bytes // MIB} MiB available in a partition"
            raise Exhausted(f"not enough disk: {spec.disk_bytes // MIB} MiB wanted, {have}", hint=hint)
        others = {one.partition for one in known.taken}
        for number in range(sizes.partitions):
            if number not in others:
                return number
        raise Exhausted(
            f"all {sizes.partitions} partitions are taken",
            hint="remove a blanket there, or add a provider with more partitions",
        )

    async def _free(self, machine: Id) -> None:
        """End it, and leave nothing of it. With the last one the machine ends."""
        known = self._home.record()
        taken = known.of(machine)
        if taken is None:
            return
        if len(known.taken) == 1:
            known = await self._home.end(known)
        if self._is_up(known):
            await self._halt(taken)
            # QEMU does it, after whatever of the disk's own writes is still under way.
            async with monitor_session(self._home.path) as monitor:
                for size in (0, self._options.disk_bytes):
                    disk = {"node-name": command.node(taken.partition, "data"), "size": size}
                    await monitor.execute("block_resize", disk)
        else:
            self._home.blank(taken.partition)
        self._home.prepare_disks(taken.partition, self._options.disk_bytes)
        self._home.write_birth(taken.partition, b"")
        self._home.write(known.without(machine))

    async def _ensure_running(self, known: Record, taken: Taken) -> Machine:
        known = await self._up(known, taken.image)
        taken = known.of(taken.id) or taken
        async with channel.session(self._home.path) as asked:
            if (await asked.partitions())[taken.at].state not in _ACTIVE:
                self._require_room()
                if taken.console is None:
                    seen = await asked.console(taken.at, 0)
                    known = self._home.write(known.having(replace(taken, console=seen.until)))
                files = await asyncio.to_thread(self._images.files, taken.image)
                await asyncio.to_thread(self._home.write_bundle, taken.partition, files.bundle)
                await self._set_link(taken, up=True)
                await asked.ask(Request.TENANT, taken.at, rest=requests.tenant(taken.tenant))
                await asked.ask(Request.START, taken.at)
        return self._machine(known, taken, MachineState.RUNNING)

    async def _halt(self, taken: Taken) -> None:
        async with channel.session(self._home.path) as asked:
            await asked.ask(Request.STOP, taken.at)

    async def _set_link(self, taken: Taken, *, up: bool) -> None:
        async with monitor_session(self._home.path) as monitor:
            await monitor.set_link(up=up, nic=command.nic(taken.partition))

    async def _follow(self, taken: Taken) -> AsyncIterator[bytes]:
        """The channel never speaks unasked: so it is asked again and again."""
        at = taken.console or 0
        while True:
            try:
                async with channel.session(self._home.path) as asked:
                    # The state first: what is written before its end is read.
                    last = (await asked.partitions())[taken.at].state not in _ACTIVE
                    part = await asked.console(taken.at, at)
            except Unavailable:
                return  # the machine has ended
            at = part.until
            if part.text:
                yield part.text
            elif last:
                return
            else:
                await asyncio.sleep(_LOOK_EVERY_S)

    # --- inside: the machine --------------------------------------------------------------------------

    async def _up(self, known: Record, image: Digest) -> Record:
        """The machine runs, with this image.

        Raises:
            Conflict: it runs with another one, and so do blankets.
        """
        if self._is_up(known):
            if known.image == image:
                return known
            others = await self._states()
            if any(_runs(one) for one in others.values()):
                raise Conflict(
                    f"this machine was started with blanket image {str(known.image)[:19]} and boots no other",
                    hint="stop the blankets there first: it starts anew with the next one",
                )
            known = await self._home.end(known)
        files = await asyncio.to_thread(self._images.files, image)
        elf = await asyncio.to_thread(self._images.microhypervisor)
        sizes = self._options
        self._home.prepare(command.layout(sizes.partitions, sizes.memory_mib, files.cmdline), elf, files)
        for number in range(sizes.partitions):
            self._home.prepare_disks(number, sizes.disk_bytes)
        known = replace(known, image=image)
        # A port may be somebody else's by the time that QEMU wants it: then others are tried.
        for port in self._ports.candidates(str(self._home.path), (), count=sizes.partitions):
            try:
                return await self._launch(replace(known, port=port), files.root)
            except Failed as error:
                if _PORT_TAKEN not in error.message:
                    raise
        raise AssertionError("candidates end by raising Exhausted")

    async def _launch(self, known: Record, root: Path) -> Record:
        known = self._home.write(known.fresh())  # before the process: the next of us looks for it
        try:
            with (
                self._home.listener(QMP_SOCKET) as qmp,
                self._home.listener(command.CHANNEL_SOCKET) as listener,
                self._tpm() as tpm_fd,
            ):
                plan = Plan(
                    partitions=self._options.partitions,
                    memory_mib=self._options.memory_mib,
                    root=root,
                    ports=self._port_range(known),
                    qmp_fd=qmp,
                    channel_fd=listener,
                    tpm_fd=tpm_fd,
                    sandbox=self._options.sandbox,
                )
                pid = process.spawn(
                    self._argv(plan),
                    directory=self._home.path,
                    log=self._home.path / QEMU_LOG,
                    pass_fds=[one for one in (qmp, listener, tpm_fd) if one is not None],
                )
            known = self._home.write(replace(known, pid=pid))
            async with channel.session(self._home.path) as asked:
                await asked.partitions(timeout_s=_BOOT_S)
        except BaseException as error:
            await whole(self._home.end(known))
            if isinstance(error, OSError | Unavailable):
                raise Failed(f"the micro-hypervisor did not start: {self._home.last_words()}") from error
            raise
        return known

    @property
    def _has_tpm(self) -> bool:
        return self._options.tpm and tpm.is_installed()

    def _tpm(self) -> AbstractContextManager[int | None]:
        return tpm.started(self._home.path) if self._has_tpm else nullcontext()

    def _is_up(self, known: Record) -> bool:
        with self._running(known) as running:
            return running is not None

    @contextmanager
    def _running(self, known: Record) -> Iterator[process.Process | None]:
        running = self._home.running(known)
        if running is None:
            yield None
        else:
            with running:
                yield running

    def _require_room(self) -> None:
        """A partition's memory is all touched as it starts."""
        require_room(self._host, memory_mib=self._options.memory_mib, disk_bytes=0, path=self._home.path)

    # --- inside: looking ------------------------------------------------------------------------------

    def _found(self, machine: Id) -> tuple[Record, Taken]:
        known = self._home.record()
        taken = known.of(checked_id(machine))
        if taken is None:
            raise NotFound(f"there is no machine {machine}")
        return known, taken

    async def _live(self, machine: Id) -> Taken:
        """Of a machine that runs."""
        known, taken = self._found(machine)
        if not _runs(await self._partition(known, taken)):
            raise Conflict(f"machine {machine} does not run")
        return taken

    async def _launched(self, machine: Id) -> Taken:
        """Of which something is in memory: it may have ended since."""
        known, taken = self._found(machine)
        partition = await self._partition(known, taken)
        if partition is None or taken.console is None or not partition.launches:
            raise Conflict(f"machine {machine} was not launched since its platform started")
        return taken

    async def _states(self) -> Mapping[str, Partition]:
        async with channel.session(self._home.path) as asked:
            return await asked.partitions()

    async def _partition(self, known: Record, taken: Taken) -> Partition | None:
        return (await self._states())[taken.at] if self._is_up(known) else None

    async def _reports(self, known: Record, wanted: Sequence[Taken]) -> Sequence[Machine]:
        if not self._is_up(known):
            return [self._machine(known, taken, MachineState.STOPPED) for taken in wanted]
        try:
            states = await self._states()
        except (Failed, Unavailable) as error:
            state = MachineState.RUNNING if self._is_up(known) else MachineState.STOPPED
            return [self._machine(known, taken, state, error.message) for taken in wanted]
        return [self._seen(known, taken, states[taken.at]) for taken in wanted]

    def _seen(self, known: Record, taken: Taken, partition: Partition) -> Machine:
        if _runs(partition):
            return self._machine(known, taken, MachineState.RUNNING)
        reason = f"parked: {partition.reason}" if partition.state is State.PARKED else partition.reason
        return self._machine(known, taken, MachineState.STOPPED, reason)

    def _machine(self, known: Record, taken: Taken, state: MachineState, reason: str = "") -> Machine:
        port = self._port_range(known)[taken.partition]
        return Machine(
            id=taken.id,
            state=state,
            wireguard=f"{GATEWAY}:{port}",
            memory_mib=self._options.memory_mib,
            reason=reason,
        )

    def _port_range(self, known: Record) -> range:
        first = self._options.first_port if known.port is None else known.port
        return range(first, first + self._options.partitions)


def _attested(by_tpm: bool) -> str:
    return "a TPM beside it, emulated as well, attests that" if by_tpm else "nobody attests that"


def _runs(partition: Partition | None) -> bool:
    return partition is not None and partition.state in _ACTIVE
