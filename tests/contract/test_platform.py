"""One suite for every platform driver: the simulated one, real QEMU processes with a tiny guest, and a
micro-hypervisor, both real and a double of it.

A driver is asked for the abilities that it has: `needs` keeps a test to those."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, TypeVar

import microhypervisor_double as double
import pytest
from tiny_guest import IMAGE, TinyGuest, TinyImages, linux_kernel

from supercloud.images.microhypervisor import IMAGE as MICROHYPERVISOR
from supercloud.images.microhypervisor import build_microhypervisor
from supercloud.model.errors import Conflict, Exhausted, InvalidInput, NotFound, Refused
from supercloud.model.names import new_id
from supercloud.platforms.microhypervisor.driver import MicrohypervisorOptions, MicrohypervisorPlatform
from supercloud.platforms.microhypervisor.home import Home
from supercloud.platforms.qemu import process
from supercloud.platforms.qemu.command import BINARY, DATA_DISK
from supercloud.platforms.qemu.driver import QemuOptions, QemuPlatform
from supercloud.platforms.simulated import Moment, SimulatedHost, SimulatedPlatform
from supercloud.ports.platform import (
    Ability,
    BlanketMachine,
    ConsentPlatform,
    ConsolePlatform,
    FreezePlatform,
    LinkPlatform,
    MachineState,
    Platform,
    SnapshotPlatform,
)

pytestmark = pytest.mark.contract

SECRET = b"join-secret-5b1e"
#: Beside the abilities: whether bytes can be sent to a console.
TYPING = "typing"
EVERYTHING = frozenset({*Ability, TYPING}) - {Ability.CONSENT}
PARTITIONS = frozenset({Ability.CONSOLE, Ability.LINK, Ability.CONSENT})
T = TypeVar("T", bound=Callable[..., object])


class Full(
    Platform, ConsolePlatform, FreezePlatform, SnapshotPlatform, LinkPlatform, ConsentPlatform, Protocol
):
    """A platform with every ability; a test asks for those that it needs."""


@dataclass
class Site:
    """A domain under test: `open` gives a driver as a new control plane would have it."""

    can: frozenset[str]
    open: Callable[[], Full]
    write_disk: Callable[[str, bytes], None]
    read_disk: Callable[[str], bytes]
    traces: Callable[[str], list[str]]  # what is left of a machine: files, processes


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True, capture_output=True)


def _simulated_site(folder: Path) -> Site:
    host = SimulatedHost()

    async def give_way(method: str, machine: str, moment: Moment) -> None:
        await asyncio.sleep(0)

    return Site(
        can=EVERYTHING,
        open=lambda: SimulatedPlatform(host, images=TinyImages(folder), guest=TinyGuest, disturb=give_way),
        write_disk=lambda machine, data: host.machines[machine].data.update(mark=data),
        read_disk=lambda machine: host.machines[machine].data.get("mark", b""),
        traces=lambda machine: [name for name in host.machines if name == machine],
    )


def _qemu_site(folder: Path) -> Site:
    machines = folder / "state" / "machines"

    def traces(machine: str) -> list[str]:
        home = machines / machine
        running = process.search(BINARY, home)
        return [str(path) for path in home.rglob("*")] + ([f"pid {running[0]}"] if running else [])

    def disk(machine: str) -> Path:
        return machines / machine / DATA_DISK

    def write_disk(machine: str, data: bytes) -> None:
        """Of a stopped machine, through QEMU's own tool."""
        pattern = folder / "pattern"
        pattern.write_bytes(data.ljust(512, b"\0"))
        _run("qemu-img", "convert", "-n", "-f", "raw", "-O", "qcow2", str(pattern), str(disk(machine)))

    def read_disk(machine: str) -> bytes:
        out = folder / "out"
        _run(
            "qemu-img",
            "dd",
            "-f",
            "qcow2",
            "-O",
            "raw",
            "bs=512",
            "count=1",
            f"if={disk(machine)}",
            f"of={out}",
        )
        return out.read_bytes().rstrip(b"\0")

    return Site(
        can=EVERYTHING,
        open=lambda: QemuPlatform(
            folder / "state",
            TinyImages(folder / "images"),
            QemuOptions(accelerator="tcg", stop_timeout_s=20),
        ),
        write_disk=write_disk,
        read_disk=read_disk,
        traces=traces,
    )


def _microhypervisor_site(folder: Path, open_: Callable[[MicrohypervisorOptions], Full]) -> Site:
    """Partitions for four; `open_` takes the options that are the same for the double and the real one."""
    home = Home(folder / "state" / "machine", double.BINARY)

    def disk(machine: str) -> Path:
        taken = home.record().of(machine)
        assert taken is not None
        return home.disk(taken.partition, "data")

    def write_disk(machine: str, data: bytes) -> None:
        with disk(machine).open("r+b") as file:
            file.write(data)

    def read_disk(machine: str) -> bytes:
        with disk(machine).open("rb") as file:
            return file.read(512).rstrip(b"\0")

    def traces(machine: str) -> list[str]:
        """Its name, what runs without anybody, and whatever is on disks of partitions that nobody has."""
        known = home.record()
        found = [machine] if known.of(machine) else []
        if not known.taken:
            found += [
                f"pid {process.search(name, home.path)}"
                for name in (BINARY, double.BINARY)
                if process.search(name, home.path)
            ]
            found += [
                path.name
                for kind in ("data", "birth")
                for path in home.path.glob(f"p?-{kind}")
                if path.stat().st_blocks
            ]
        return found

    options = MicrohypervisorOptions(partitions=4, memory_mib=256, disk_gib=1)
    return Site(
        can=PARTITIONS,
        open=lambda: open_(options),
        write_disk=write_disk,
        read_disk=read_disk,
        traces=traces,
    )


def _doubled_site(folder: Path) -> Site:
    images = double.DoubledImages(folder / "images")
    return _microhypervisor_site(
        folder,
        lambda options: MicrohypervisorPlatform(
            folder / "state", images, options, argv=double.argv, binary=double.BINARY
        ),
    )


class _WithMicrohypervisor(TinyImages):
    def microhypervisor(self) -> Path:
        return build_microhypervisor() / MICROHYPERVISOR


def _booted_site(folder: Path) -> Site:
    images = _WithMicrohypervisor(folder / "images", linux_kernel())
    return _microhypervisor_site(
        folder, lambda options: MicrohypervisorPlatform(folder / "state", images, options)
    )


SITES = {
    "simulated": _simulated_site,
    "qemu": _qemu_site,
    "microhypervisor": _doubled_site,
    "microhypervisor in QEMU": _booted_site,
}
CAN = {kind: PARTITIONS if "micro" in kind else EVERYTHING for kind in SITES}


def needs(*what: str) -> Callable[[T], T]:
    """A test of what not every driver can do."""

    def noted(test: T) -> T:
        test.needs = frozenset(what)
        return test

    return noted


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "site" in metafunc.fixturenames:
        wanted = getattr(metafunc.function, "needs", frozenset())
        kinds = [
            pytest.param(kind, marks=[pytest.mark.system] if kind.endswith("QEMU") else [])
            for kind in SITES
            if wanted <= CAN[kind]
        ]
        metafunc.parametrize("site", kinds, indirect=True)


@pytest.fixture
async def site(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Site]:
    """Machines that a failed test left are destroyed."""
    if request.param.lower().endswith("qemu") and shutil.which(BINARY) is None:
        pytest.skip(f"{BINARY} is not installed")
    made = SITES[request.param](tmp_path)
    yield made
    platform = made.open()
    for machine in await platform.list():
        await platform.destroy(machine.id)


@pytest.fixture
def platform(site: Site) -> Full:
    return site.open()


def blanket(**changed: object) -> BlanketMachine:
    spec = BlanketMachine(
        id=new_id(), name="north-1", image=IMAGE, vcpus=1, memory_mib=64, disk_bytes=64 << 20, birth=SECRET
    )
    return replace(spec, **changed)


class Reader:
    """Reads a console up to what a test waits for."""

    def __init__(self, chunks: AsyncGenerator[bytes, None]) -> None:
        self._chunks = chunks
        self._rest = b""

    async def until(self, wanted: bytes) -> bytes:
        async with asyncio.timeout(20):
            while wanted not in self._rest:
                self._rest += await anext(self._chunks)
        seen, _, self._rest = self._rest.partition(wanted)
        return seen + wanted

    async def close(self) -> None:
        await self._chunks.aclose()


async def booted(platform: Full, machine: str) -> Reader:
    reader = Reader(await platform.console(machine))
    await reader.until(b"B")
    return reader


async def state(platform: Full, machine: str) -> MachineState:
    return (await platform.inspect(machine)).state


async def test_declares_every_ability_that_it_has(platform: Full) -> None:
    declared = await platform.declare()
    ports = {
        Ability.CONSOLE: ConsolePlatform,
        Ability.FREEZE: FreezePlatform,
        Ability.SNAPSHOT: SnapshotPlatform,
        Ability.LINK: LinkPlatform,
        Ability.CONSENT: ConsentPlatform,
    }
    assert {ability for ability, port in ports.items() if isinstance(platform, port)} == declared.abilities
    assert declared.reason


async def test_every_method_may_be_repeated(platform: Full) -> None:
    spec = blanket()
    first = await platform.create(spec)
    assert first.state is MachineState.RUNNING
    assert await platform.create(spec) == first == await platform.start(spec.id)
    for _ in range(2):
        assert (await platform.stop(spec.id, force=True)).state is MachineState.STOPPED
    for _ in range(2):
        assert await platform.start(spec.id) == first
    for _ in range(2):
        await platform.destroy(spec.id)
    assert await platform.list() == []


@needs(Ability.FREEZE)
async def test_freezing_may_be_repeated(platform: Full) -> None:
    spec = blanket()
    await platform.create(spec)
    for _ in range(2):
        await platform.freeze(spec.id)
        assert await state(platform, spec.id) is MachineState.FROZEN
    for _ in range(2):
        await platform.thaw(spec.id)
        assert await state(platform, spec.id) is MachineState.RUNNING


@needs(Ability.LINK)
async def test_a_cable_is_pulled_and_plugged_in_again(platform: Full) -> None:
    spec = blanket()
    await platform.create(spec)
    for up in (False, False, True, True):
        await platform.link(spec.id, up=up)


async def test_a_machine_is_adopted_after_its_driver_is_gone(site: Site) -> None:
    spec = blanket()
    before = site.open()
    created = await before.create(spec)
    reader = await booted(before, spec.id)
    await reader.close()
    del before
    after = site.open()
    assert await after.list() == [created]
    assert await after.create(spec) == created
    if TYPING not in site.can:
        with pytest.raises(Refused):
            await after.console_write(spec.id, b"x")
        return
    await after.console_write(spec.id, b"x")  # it is the same guest: it counts from where it was
    reader = Reader(await after.console(spec.id))
    await after.console_write(spec.id, b"x")
    await reader.until(b"2")


async def test_another_request_under_the_same_id_is_a_conflict(platform: Full) -> None:
    spec = blanket()
    await platform.create(spec)
    with pytest.raises(Conflict):
        await platform.create(replace(spec, memory_mib=128))
    await platform.create(replace(spec, birth=b"another secret"))  # counts on the first boot only


async def test_cancelled_creation_leaves_nothing(site: Site) -> None:
    platform = site.open()
    outcomes = set()
    for delay_s in (0, 0.001, 0.004, 0.01, 0.02, 0.03, 0.05, 0.08, 0.12):
        spec = blanket()
        task = asyncio.create_task(platform.create(spec))
        await asyncio.sleep(delay_s)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            outcomes.add("cancelled")
            assert site.traces(spec.id) == [], f"cancelled after {delay_s} s"
            with pytest.raises(NotFound):
                await platform.inspect(spec.id)
        else:
            outcomes.add("created")
            await platform.destroy(spec.id)
    assert "cancelled" in outcomes


async def test_failed_creation_leaves_nothing(site: Site) -> None:
    platform = site.open()
    spec = blanket(memory_mib=1 << 20, vcpus=64)  # a TiB
    if isinstance(platform, SimulatedPlatform):
        await platform.create(replace(blanket(), memory_mib=1024))
    with pytest.raises(Exhausted, match=r"1048576 MiB wanted, [0-9]+ MiB available"):
        await platform.create(spec)
    assert site.traces(spec.id) == []


async def test_unknown_image_is_not_found(site: Site) -> None:
    platform = site.open()
    spec = blanket(image="sha256:" + "00" * 32)
    with pytest.raises(NotFound):
        await platform.create(spec)
    assert site.traces(spec.id) == []


@pytest.mark.parametrize("force", [False, True])
async def test_stop_and_start_keep_the_disk(site: Site, force: bool) -> None:
    platform, spec = site.open(), blanket()
    created = await platform.create(spec)
    await booted(platform, spec.id)
    stopped = await platform.stop(spec.id, force=force)
    assert stopped.state is MachineState.STOPPED
    site.write_disk(spec.id, b"kept")
    started = await site.open().start(spec.id)
    assert started == created  # the same port as well
    await booted(platform, spec.id)
    await platform.stop(spec.id, force=force)
    assert site.read_disk(spec.id) == b"kept"


@needs(Ability.FREEZE)
async def test_stopping_a_frozen_machine_ends_it(platform: Full) -> None:
    spec = blanket()
    await platform.create(spec)
    await booted(platform, spec.id)
    await platform.freeze(spec.id)
    assert (await platform.stop(spec.id)).state is MachineState.STOPPED


@needs(Ability.FREEZE, TYPING)
async def test_frozen_machine_does_nothing_until_thawed(platform: Full) -> None:
    spec = blanket()
    await platform.create(spec)
    reader = await booted(platform, spec.id)
    await platform.freeze(spec.id)
    assert await state(platform, spec.id) is MachineState.FROZEN
    await platform.thaw(spec.id)
    await platform.console_write(spec.id, b"x")
    await reader.until(b"1")


@needs(Ability.SNAPSHOT, Ability.FREEZE, TYPING)
async def test_rollback_takes_memory_back(platform: Full) -> None:
    spec = blanket()
    await platform.create(spec)
    reader = await booted(platform, spec.id)
    await platform.console_write(spec.id, b"x")
    await reader.until(b"1")
    await platform.snapshot(spec.id, "one")
    await platform.console_write(spec.id, b"xx")
    await reader.until(b"3")
    await platform.snapshot(spec.id, "one")  # exists: kept as it is
    await platform.rollback(spec.id, "one")
    assert await state(platform, spec.id) is MachineState.RUNNING
    await platform.console_write(spec.id, b"x")
    assert await reader.until(b"2") == b"2"
    await platform.freeze(spec.id)
    await platform.rollback(spec.id, "one")
    assert await state(platform, spec.id) is MachineState.FROZEN
    with pytest.raises(NotFound):
        await platform.rollback(spec.id, "never-taken")
    assert await state(platform, spec.id) is MachineState.FROZEN


async def test_console_serves_several_readers_and_ends_with_the_machine(site: Site) -> None:
    platform, spec = site.open(), blanket()
    await platform.create(spec)
    readers = [await booted(platform, spec.id) for _ in range(3)]
    typed = TYPING in site.can
    if typed:
        await platform.console_write(spec.id, b"x")
        for reader in readers:
            await reader.until(b"1")
    console = await platform.console(spec.id)
    await platform.stop(spec.id, force=True)
    async with asyncio.timeout(10):
        assert b"".join([chunk async for chunk in console]) == (b"B1" if typed else b"B")


async def test_what_only_a_running_machine_can_do_is_refused_otherwise(site: Site) -> None:
    platform, spec = site.open(), blanket()
    await platform.create(spec)
    await platform.stop(spec.id, force=True)
    attempts = [
        (Ability.FREEZE, lambda: platform.freeze(spec.id)),
        (Ability.FREEZE, lambda: platform.thaw(spec.id)),
        (Ability.LINK, lambda: platform.link(spec.id, up=False)),
        (Ability.SNAPSHOT, lambda: platform.snapshot(spec.id, "one")),
        (Ability.SNAPSHOT, lambda: platform.rollback(spec.id, "one")),
        (Ability.CONSOLE, lambda: platform.console(spec.id)),
        (Ability.CONSOLE, lambda: platform.console_write(spec.id, b"x")),
    ]
    for ability, attempt in attempts:
        if ability in site.can:
            with pytest.raises(Conflict):
                await attempt()


async def test_absent_machines(site: Site) -> None:
    platform, absent = site.open(), new_id()
    await platform.destroy(absent)
    attempts = [
        lambda: platform.inspect(absent),
        lambda: platform.start(absent),
        lambda: platform.stop(absent),
        lambda: platform.console(absent),
        lambda: platform.link(absent, up=True),
    ]
    if Ability.FREEZE in site.can:
        attempts += [lambda: platform.freeze(absent), lambda: platform.rollback(absent, "one")]
    for attempt in attempts:
        with pytest.raises(NotFound):
            await attempt()


HOSTILE = ["", "..", "../../etc", "a/b", "x,y", "-device", "x" * 64, "a\n", "\0", "Ünicode", "$(id)"]


@pytest.mark.parametrize("text", HOSTILE)
async def test_hostile_names_are_refused(site: Site, text: str) -> None:
    platform = site.open()
    attempts = [
        lambda: platform.create(blanket(id=text)),
        lambda: platform.create(blanket(name=text)),
        lambda: platform.create(blanket(image=text)),
        lambda: platform.inspect(text),
        lambda: platform.start(text),
        lambda: platform.stop(text, force=True),
        lambda: platform.destroy(text),
    ]
    if Ability.SNAPSHOT in site.can:
        attempts += [
            lambda: platform.snapshot(new_id(), text),
            lambda: platform.rollback(new_id(), text),
        ]
    for attempt in attempts:
        with pytest.raises(InvalidInput):
            await attempt()
    assert await platform.list() == []


@pytest.mark.parametrize(
    "changed", [{"vcpus": 0}, {"vcpus": 65}, {"memory_mib": 1}, {"disk_bytes": -1}, {"disk_bytes": 1 << 60}]
)
async def test_sizes_out_of_range_are_refused(platform: Full, changed: dict[str, int]) -> None:
    with pytest.raises(InvalidInput):
        await platform.create(blanket(**changed))


async def test_list_has_every_machine_once_and_ports_differ(site: Site) -> None:
    platform = site.open()
    specs = [blanket() for _ in range(4)]
    made = await asyncio.gather(*(platform.create(spec) for spec in specs))
    await platform.stop(specs[0].id, force=True)
    freezes = Ability.FREEZE in site.can
    if freezes:
        await platform.freeze(specs[1].id)
    listed = {machine.id: machine.state for machine in await site.open().list()}
    assert listed == {
        specs[0].id: MachineState.STOPPED,
        specs[1].id: MachineState.FROZEN if freezes else MachineState.RUNNING,
        specs[2].id: MachineState.RUNNING,
        specs[3].id: MachineState.RUNNING,
    }
    assert len({machine.wireguard for machine in made}) == 4


async def test_concurrent_requests_for_one_machine_make_one(site: Site) -> None:
    platform, spec = site.open(), blanket()
    made = await asyncio.gather(*(platform.create(spec) for _ in range(5)))
    assert len(set(made)) == 1
    await asyncio.gather(platform.destroy(spec.id), platform.destroy(spec.id))
    assert site.traces(spec.id) == []


async def test_endpoint_of_the_control_plane(platform: Full) -> None:
    assert platform.blanket_endpoint(8443).endswith(":8443")
    with pytest.raises(InvalidInput):
        platform.blanket_endpoint(0)
