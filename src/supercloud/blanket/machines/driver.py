"""ports.hypervisor.Machines over libvirt: transient domains of names of their own, so that nothing starts by
itself, and nothing that concerns instances ever meets one.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from supercloud.blanket.libvirt.connection import Connection, Handle, bindings
from supercloud.blanket.libvirt.hypervisor import run_state
from supercloud.blanket.machines.domain import PREFIX, file_path, machine_domain, machine_of
from supercloud.blanket.machines.home import Home, Homes, Record
from supercloud.blanket.machines.network import MachineNetwork
from supercloud.blanket.places import Places
from supercloud.blanket.volumes import qemu_img
from supercloud.model.errors import Conflict, Failed, NotFound
from supercloud.model.names import Digest, Id
from supercloud.ports.agent import RunState
from supercloud.ports.machines import MachineImage, MachineReport, MakeMachine
from supercloud.ports.platform import MachineState

#: A blanket shuts down in order in seconds; under emulation inside emulation it takes many times that.
_SHUTDOWN_S: Final = 120.0
_NESTED = tuple(Path(f"/sys/module/{module}/parameters/nested") for module in ("kvm_amd", "kvm_intel"))
_STATES: Final = {
    RunState.RUNNING: MachineState.RUNNING,
    RunState.PAUSED: MachineState.FROZEN,
    RunState.INCOMING: MachineState.FROZEN,  # it has not begun to run yet
}


class LibvirtMachines:
    """`start` before use, `close` at the end: it leaves the machines running."""

    def __init__(
        self,
        connection: Connection,
        *,
        places: Places,
        network: MachineNetwork,
        kvm: Path = Path("/dev/kvm"),
        nested: tuple[Path, ...] = _NESTED,
    ) -> None:
        self._connection = connection
        self._places = places
        self._network = network
        self._kvm = kvm
        self._nested = nested
        self._homes = Homes(places.machines)
        self._locks: defaultdict[Id, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._slots = asyncio.Lock()
        self._ended: dict[Id, asyncio.Event] = {}
        connection.on_lifecycle(self._lifecycle)

    async def start_up(self) -> None:
        """Machines that a former agent left running go on; their network is made as it was."""
        self._homes.make()
        self._places.machine_files.mkdir(parents=True, exist_ok=True)
        self._places.machine_files.chmod(0o755)
        if any(True for _ in self._homes.records()):
            await self._connect_all()

    async def close(self) -> None:
        await self._network.close()

    # ------------------------------------------------------------ ports.hypervisor.Machines

    async def why_not(self) -> str:
        """Empty where blankets can be inside this one."""
        if not self._kvm.exists():
            return "it has no /dev/kvm to run one with"
        for path in self._nested:
            with contextlib.suppress(OSError):
                if path.read_text(encoding="ascii").strip() in {"1", "Y"}:
                    return ""
        return "its KVM does not let guests virtualize"

    def file(self, digest: Digest) -> Path:
        return file_path(self._places.machine_files, digest)

    async def create(self, wanted: MakeMachine) -> MachineReport:
        home = self._homes.home(wanted.machine)
        birth = base64.b64decode(wanted.birth)
        async with self._locks[wanted.machine]:
            record = home.record()
            if record is None:
                return await self._make(home, wanted, birth)
            if not record.same_as(wanted):
                raise Conflict(
                    f"machine {wanted.machine} exists with another size or image", hint="destroy it first"
                )
            if await self._state(wanted.machine) is MachineState.STOPPED:
                home.write_birth(birth)
            return await self._run(home, record)

    async def start(self, machine: Id) -> MachineReport:
        async with self._locks[machine]:
            home, record = self._found(machine)
            return await self._run(home, record)

    async def stop(self, machine: Id, *, force: bool) -> MachineReport:
        async with self._locks[machine]:
            _, record = self._found(machine)
            if not force:
                await self._power_down(machine)
            await self._power_off(machine)
            return await self._report(record)

    async def destroy(self, machine: Id) -> None:
        async with self._locks[machine]:
            await self._power_off(machine)
            home = self._homes.home(machine)
            await asyncio.to_thread(home.erase)
            self._places.console_log(machine).unlink(missing_ok=True)
            await self._connect_all()

    async def inspect(self, machine: Id) -> MachineReport:
        return await self._report(self._found(machine)[1])

    async def list(self) -> list[MachineReport]:
        return [await self._report(record) for record in self._homes.records()]

    # ------------------------------------------------------------ inside

    async def _make(self, home: Home, wanted: MakeMachine, birth: bytes) -> MachineReport:
        """A machine that is not there yet; none of it stays if this fails or is cancelled."""
        try:
            home.prepare()
            home.write_birth(birth)
            await qemu_img(
                *("create", "-q", "-f", "qcow2", "-o", "lazy_refcounts=on"),
                *(str(home.disk), str(wanted.disk_bytes)),
            )
            home.disk.chmod(0o600)
            async with self._slots:
                record = Record(wanted=_without_birth(wanted), slot=self._homes.free_slot())
                home.write(record)
            return await self._run(home, record)
        except BaseException:
            await asyncio.shield(self._unmake(home))
            raise

    async def _unmake(self, home: Home) -> None:
        with contextlib.suppress(Failed, NotFound):
            await self._power_off(home.machine)
        home.erase()
        with contextlib.suppress(Failed):
            await self._connect_all()

    async def _run(self, home: Home, record: Record) -> MachineReport:
        """Running already: fine."""
        machine = record.wanted.machine
        if await self._state(machine) is MachineState.STOPPED:
            await self._connect_all()
            way = await self._network.way(machine, record.slot)
            xml = machine_domain(
                record,
                home,
                self._files(record.wanted.image),
                way,
                log=self._places.console_log(machine),
            )

            def create(handle: Handle) -> None:
                libvirt = bindings()
                try:
                    handle.createXML(xml)
                except libvirt.libvirtError as error:
                    if error.get_error_code() != libvirt.VIR_ERR_DOM_EXIST:
                        raise

            await self._connection.call(create)
        return await self._report(record)

    def _files(self, image: MachineImage) -> dict[str, Path]:
        """
        Raises:
            NotFound: a part of it was never placed.
        """
        parts = {
            "kernel": image.kernel,
            "initrd": image.initrd,
            "root": image.root,
            "bundle": image.bundle,
        }
        paths = {name: self.file(part.digest) for name, part in parts.items()}
        if missing := [name for name, path in paths.items() if not path.exists()]:
            raise NotFound(f"the blanket image's {missing[0]} is not in this blanket")
        return paths

    async def _connect_all(self) -> None:
        async with self._slots:
            await self._network.open(
                [(record.wanted.machine, record.slot) for record in self._homes.records()]
            )

    async def _power_down(self, machine: Id) -> None:
        """As its power button; returns when it is off, or has had its time."""
        ended = self._ended[machine] = asyncio.Event()

        def press(handle: Handle) -> bool:
            found = _find(handle, machine)
            if found is None:
                return False
            found.shutdownFlags(bindings().VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN)
            return True

        try:
            if await self._connection.call(press):
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(ended.wait(), _SHUTDOWN_S)
        finally:
            self._ended.pop(machine, None)

    async def _power_off(self, machine: Id) -> None:
        """Returns when its process has ended."""

        def end(handle: Handle) -> None:
            found = _find(handle, machine)
            if found is None:
                return
            libvirt = bindings()
            try:
                found.destroy()
            except libvirt.libvirtError:
                if _find(handle, machine) is not None:
                    raise

        await self._connection.call(end)

    async def _state(self, machine: Id) -> MachineState:
        def look(handle: Handle) -> RunState:
            found = _find(handle, machine)
            return RunState.ABSENT if found is None else run_state(found)

        return _STATES.get(await self._connection.call(look), MachineState.STOPPED)

    async def _report(self, record: Record) -> MachineReport:
        return MachineReport(
            machine=record.wanted.machine,
            state=await self._state(record.wanted.machine),
            memory_mib=record.wanted.memory_mib,
            slot=record.slot,
        )

    def _found(self, machine: Id) -> tuple[Home, Record]:
        home = self._homes.home(machine)
        record = home.record()
        if record is None:
            raise NotFound(f"there is no machine {machine}")
        return home, record

    # ------------------------------------------------------------ libvirt's side

    def _lifecycle(self, name: str, event: int, _detail: int) -> None:
        machine = machine_of(name)
        if machine is not None and event == bindings().VIR_DOMAIN_EVENT_STOPPED:
            with contextlib.suppress(RuntimeError):  # the program is ending, nobody listens
                self._connection.loop.call_soon_threadsafe(self._note_end, machine)

    def _note_end(self, machine: Id) -> None:
        if (event := self._ended.get(machine)) is not None:
            event.set()


@contextlib.asynccontextmanager
async def opened(machines: LibvirtMachines) -> AsyncIterator[LibvirtMachines]:
    await machines.start_up()
    try:
        yield machines
    finally:
        await machines.close()


def _without_birth(wanted: MakeMachine) -> MakeMachine:
    return MakeMachine(
        machine=wanted.machine,
        image=wanted.image,
        vcpus=wanted.vcpus,
        memory_mib=wanted.memory_mib,
        disk_bytes=wanted.disk_bytes,
    )


def _find(handle: Handle, machine: Id) -> Handle | None:
    libvirt = bindings()
    try:
        return handle.lookupByName(PREFIX + machine)
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
            raise
        return None
