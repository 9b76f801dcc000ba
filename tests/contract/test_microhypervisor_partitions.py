"""What only a machine of partitions can get wrong: who has which, what is left of whom, what it answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import microhypervisor_double as double
import pytest
from tiny_guest import IMAGE

from supercloud.model.errors import Conflict, Exhausted, Failed, NotFound
from supercloud.model.names import Digest, new_id
from supercloud.model.placement import Confidentiality
from supercloud.platforms.microhypervisor import channel
from supercloud.platforms.microhypervisor.command import Plan
from supercloud.platforms.microhypervisor.driver import MicrohypervisorOptions, MicrohypervisorPlatform
from supercloud.platforms.microhypervisor.home import Home
from supercloud.platforms.qemu import process
from supercloud.ports.platform import BlanketFiles, BlanketMachine, MachineState

pytestmark = pytest.mark.contract

OTHER: Digest = "sha256:" + "7a" * 32


class Images(double.DoubledImages):
    """Of two recipes."""

    def files(self, image: Digest) -> BlanketFiles:
        return super().files(IMAGE if image == OTHER else image)


def opened(folder: Path, argv: double.Argv = double.argv) -> MicrohypervisorPlatform:
    options = MicrohypervisorOptions(partitions=2, memory_mib=256, disk_gib=1, tpm=False)
    images = Images(folder / "images")
    return MicrohypervisorPlatform(folder / "state", images, options, argv=argv, binary=double.BINARY)


def blanket(**changed: object) -> BlanketMachine:
    spec = BlanketMachine(
        id=new_id(), name="n", image=IMAGE, vcpus=2, memory_mib=256, disk_bytes=1 << 30, birth=b"secret"
    )
    return replace(spec, **changed)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "state" / "machine", double.BINARY)


@pytest.fixture
async def platform(tmp_path: Path) -> AsyncIterator[MicrohypervisorPlatform]:
    made = opened(tmp_path)
    yield made
    (tmp_path / "state" / "machine" / "hang").unlink(missing_ok=True)
    for machine in await made.list():
        await made.destroy(machine.id)


async def console_of(platform: MicrohypervisorPlatform, machine: str) -> bytes:
    """All of a stopped machine's: of one that runs it would go on."""
    known, taken = platform._found(machine)
    assert known.started
    return b"".join([part async for part in platform._follow(taken)])


async def test_it_says_what_it_enforces_and_what_it_does_not(platform: MicrohypervisorPlatform) -> None:
    declared = await platform.declare()
    assert declared.confidentiality is Confidentiality.ENFORCED
    assert "2 partitions" in declared.reason
    assert "whoever runs it stands where hardware would" in declared.reason
    assert "nobody attests" in declared.reason
    assert declared.nested_levels == 0


async def test_one_that_runs_needs_no_image_of_todays_sources(
    platform: MicrohypervisorPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unbuilt(self: Images) -> Path:
        raise NotFound("not built", hint="make images")

    spec = blanket()
    await platform.create(spec)
    monkeypatch.setattr(Images, "microhypervisor", unbuilt)
    assert (await platform.declare()).kind == "microhypervisor"
    await platform.destroy(spec.id)
    with pytest.raises(NotFound):
        await platform.declare()


async def test_there_are_so_many_partitions_and_no_more(platform: MicrohypervisorPlatform) -> None:
    first, second = blanket(), blanket()
    await platform.create(first)
    await platform.create(second)
    with pytest.raises(Exhausted, match="all 2 partitions are taken"):
        await platform.create(blanket())
    await platform.destroy(first.id)
    await platform.create(blanket())


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"memory_mib": 257}, "257 MiB wanted, 256 MiB available in a partition"),
        ({"disk_bytes": (1 << 30) + 1}, "1024 MiB wanted, 1024 MiB available in a partition"),
    ],
)
async def test_more_than_a_partition_has_is_refused(
    platform: MicrohypervisorPlatform, home: Home, changed: dict[str, int], why: str
) -> None:
    with pytest.raises(Exhausted, match=why):
        await platform.create(blanket(**changed))
    assert process.search(double.BINARY, home.path) is None


async def test_the_machine_is_there_from_the_first_blanket_to_the_last(
    platform: MicrohypervisorPlatform, home: Home
) -> None:
    specs = [blanket(), blanket()]
    for spec in specs:
        assert (await platform.create(spec)).state is MachineState.RUNNING
    before = home.record().pid
    await platform.stop(specs[0].id)
    await platform.destroy(specs[0].id)
    assert (home.record().pid, process.search(double.BINARY, home.path)) == (before, before)
    await platform.destroy(specs[1].id)
    assert process.search(double.BINARY, home.path) is None
    assert not home.record().started


async def test_one_machine_stops_and_its_neighbour_runs_on(platform: MicrohypervisorPlatform) -> None:
    first, second = blanket(), blanket()
    await platform.create(first)
    await platform.create(second)
    await platform.stop(first.id)
    states = {machine.id: machine.state for machine in await platform.list()}
    assert states == {first.id: MachineState.STOPPED, second.id: MachineState.RUNNING}


@pytest.mark.parametrize("alone", [True, False], ids=["the last one", "beside another"])
async def test_the_next_who_has_a_partition_finds_nothing_of_who_had_it(
    platform: MicrohypervisorPlatform, home: Home, alone: bool
) -> None:
    if not alone:
        await platform.create(blanket())
    spec = blanket()
    await platform.create(spec)
    at = home.record().of(spec.id)
    assert at is not None
    with home.disk(at.partition, "data").open("r+b") as disk:
        disk.write(b"somebody's")
    await platform.destroy(spec.id)
    for disk in ("data", "birth"):
        assert home.disk(at.partition, disk).stat().st_blocks == 0
    assert home.disk(at.partition, "data").stat().st_size == 1 << 30
    after = blanket(birth=b"another")
    await platform.create(after)
    assert home.record().of(after.id).partition == at.partition  # type: ignore[union-attr]
    assert home.disk(at.partition, "birth").read_bytes().rstrip(b"\0") == b"another"
    await platform.stop(after.id)
    if alone:
        await platform.create(blanket())  # so that there is a machine to ask
    assert await console_of(platform, after.id) == b"B"


async def test_each_start_boots_todays_code(
    platform: MicrohypervisorPlatform, home: Home, tmp_path: Path
) -> None:
    spec = blanket()
    await platform.create(spec)
    await platform.stop(spec.id)
    (tmp_path / "images" / "bundle").write_bytes(b"of today")
    await platform.start(spec.id)
    assert home.disk(0, "bundle").read_bytes().rstrip(b"\0") == b"of today"


async def test_another_image_waits_until_nobody_runs_on_this_one(
    platform: MicrohypervisorPlatform, home: Home
) -> None:
    first, second = blanket(), blanket(image=OTHER)
    await platform.create(first)
    before = home.record().pid
    with pytest.raises(Conflict, match="boots no other"):
        await platform.create(second)
    with pytest.raises(NotFound):
        await platform.inspect(second.id)
    await platform.stop(first.id)
    await platform.create(second)
    assert home.record().pid != before
    with pytest.raises(Conflict, match="boots no other"):
        await platform.start(first.id)


async def test_a_parked_partition_is_stopped_with_its_reason(
    platform: MicrohypervisorPlatform, home: Home
) -> None:
    spec = blanket()
    await platform.create(spec)
    (home.path / "park-p0").touch()
    seen = await platform.inspect(spec.id)
    assert (seen.state, seen.reason) == (MachineState.STOPPED, "parked: no frame is left")


async def test_noise_on_the_channel_is_passed_over(platform: MicrohypervisorPlatform, home: Home) -> None:
    spec = blanket()
    created = await platform.create(spec)
    (home.path / "noise").touch()
    assert await platform.inspect(spec.id) == created


async def test_one_that_does_not_answer_is_said_to_run_and_ends_all_the_same(
    platform: MicrohypervisorPlatform, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = blanket()
    await platform.create(spec)
    monkeypatch.setattr(channel, "ANSWER_S", 0.2)
    (home.path / "hang").touch()
    seen = await platform.inspect(spec.id)
    assert seen.state is MachineState.RUNNING
    assert "did not answer" in seen.reason
    await platform.destroy(spec.id)  # the last one needs nobody's answer
    assert process.search(double.BINARY, home.path) is None


async def test_who_holds_the_channel_makes_others_wait_and_harms_nobody(
    platform: MicrohypervisorPlatform, home: Home
) -> None:
    spec = blanket()
    created = await platform.create(spec)
    async with channel.session(home.path):
        waiting = asyncio.create_task(platform.inspect(spec.id))
        done, _ = await asyncio.wait({waiting}, timeout=0.2)
        assert not done
    assert await waiting == created


async def test_a_machine_whose_pid_was_never_noted_is_found(
    platform: MicrohypervisorPlatform, home: Home, tmp_path: Path
) -> None:
    spec = blanket()
    created = await platform.create(spec)
    pid = home.record().pid
    home.write(replace(home.record(), pid=None))  # killed between start and note
    assert await opened(tmp_path).create(spec) == created
    assert home.record().pid == pid


async def test_a_machine_that_died_is_started_anew_with_who_is_asked_for(
    platform: MicrohypervisorPlatform, home: Home
) -> None:
    specs = [blanket(), blanket()]
    created = [await platform.create(spec) for spec in specs]
    running = home.running(home.record())
    assert running is not None
    with running:
        running.kill()
        assert await running.wait(10)
    assert {machine.state for machine in await platform.list()} == {MachineState.STOPPED}
    assert await platform.start(specs[1].id) == created[1]
    assert (await platform.inspect(specs[0].id)).state is MachineState.STOPPED


async def test_one_that_does_not_start_says_why_and_leaves_nothing(tmp_path: Path, home: Home) -> None:
    def argv(plan: Plan) -> list[str]:
        return ["sh", "-c", "echo there is no such machine >&2"]

    platform = opened(tmp_path, argv)
    with pytest.raises(Failed, match="there is no such machine"):
        await platform.create(blanket())
    assert await platform.list() == []
    assert home.record().taken == ()


async def test_a_cable_is_plugged_in_again_at_each_start(
    platform: MicrohypervisorPlatform, home: Home
) -> None:
    spec = blanket()
    await platform.create(spec)
    link = home.path / "link-p0-nic"
    await platform.link(spec.id, up=False)
    assert link.read_text() == "False"
    await platform.stop(spec.id)
    await platform.start(spec.id)
    assert link.read_text() == "True"
