"""The machine of a micro-hypervisor: what it is started with, and what its record says."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path

import pytest

from supercloud.agent.birth import read_birth
from supercloud.images import microhypervisor as image
from supercloud.model.errors import Exhausted, Failed, InvalidInput, NotFound
from supercloud.model.names import new_id
from supercloud.platforms import open_platform
from supercloud.platforms.microhypervisor import command
from supercloud.platforms.microhypervisor.command import MOST_PARTITIONS, Plan
from supercloud.platforms.microhypervisor.home import Home, Record, Taken
from supercloud.ports.platform import BlanketFiles

pytestmark = pytest.mark.unit


def plan(partitions: int) -> Plan:
    return Plan(
        partitions=partitions,
        memory_mib=1024,
        root=Path("/images/a, b/root"),
        ports=range(52000, 52000 + partitions),
        qmp_fd=7,
        channel_fd=8,
    )


def _devices(argv: list[str]) -> list[str]:
    return [value for name, value in pairwise(argv) if name == "-device"]


@pytest.mark.parametrize("partitions", [1, 2, MOST_PARTITIONS])
def test_each_partition_has_devices_of_its_own_and_all_are_behind_the_iommu(partitions: int) -> None:
    layout = command.layout(partitions, 1024, "console=ttyS0").split("partition ")[1:]
    given = [re.findall(r"device 00:(\w\w)\.0", text) for text in layout]
    every = [slot for slots in given for slot in slots]
    assert len(every) == len(set(every)) == 5 * partitions
    assert all(3 <= int(slot, 16) < 0x1F for slot in every)
    first, *devices = _devices(command.machine(plan(partitions)))
    assert first == "amd-iommu"
    assert re.findall(r"addr=(\w+)", " ".join(devices)) == every
    assert all("iommu_platform=on" in device and "disable-legacy=on" in device for device in devices)


def test_disks_are_in_the_order_that_the_blanket_expects_and_only_its_own_is_written() -> None:
    argv = command.machine(plan(2))
    drives = [json.loads(value) for name, value in pairwise(argv) if name == "-blockdev"]
    assert [(drive["node-name"], drive.get("read-only", False)) for drive in drives] == [
        (f"p{number}-{disk}", disk != "data")
        for number in range(2)
        for disk in ("root", "bundle", "data", "birth")
    ]
    assert len({drive["file"]["filename"] for drive in drives}) == 7  # the root alone is everybody's


def test_a_partition_has_one_processor_and_the_monitor_one_more() -> None:
    argv = command.machine(plan(3))
    assert argv[argv.index("-smp") + 1] == "4"
    assert command.layout(3, 1024, "x").count("cores 1\n") == 3


def test_nothing_is_reached_but_each_partitions_wireguard_on_the_loopback() -> None:
    networks = [value for value in command.machine(plan(2)) if "hostfwd" in value]
    assert networks == [f"user,id=p{n}-net,hostfwd=udp:127.0.0.1:{52000 + n}-:51820" for n in range(2)]
    assert "-sandbox" in command.machine(plan(2))


def test_boot_modules_have_names_that_their_list_can_hold() -> None:
    argv = command.machine(plan(2))
    assert argv[argv.index("-initrd") + 1] == "layout,kernel,initrd"
    assert "," not in argv[argv.index("-kernel") + 1]


@pytest.mark.parametrize(
    ("partitions", "memory_mib", "wanted"),
    [(1, 256, 512), (2, 1024, 2304), (2, 2048, 6144), (5, 3072, 17408)],
)
def test_partitions_fit_below_and_above_the_hole(partitions: int, memory_mib: int, wanted: int) -> None:
    """A q35 machine of 2,816 MiB or more has 2 GiB below it; a partition is in one part."""
    assert command.machine_memory_mib(partitions, memory_mib) == wanted


def taken(**changed: object) -> Taken:
    asked = {"id": new_id(), "name": "n", "image": "sha256:" + "5c" * 32, "vcpus": 1, "memory_mib": 64}
    return Taken(**{**asked, "disk_bytes": 1 << 20, "partition": 0, **changed})  # type: ignore[arg-type]


def test_a_record_survives_a_round_trip_and_a_damaged_one_is_no_record(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert home.record() == Record()
    one, other = taken(), taken(partition=1, console=7)
    known = home.write(Record(taken=(one,), port=52000, pid=1, started=True).having(other))
    assert home.record() == known
    assert home.record().of(other.id) == other
    assert home.record().without(other.id).of(other.id) is None
    assert [each.console for each in known.fresh().taken] == [0, 0]
    (tmp_path / "machine.json").write_text('{"taken": 3}')
    with pytest.raises(Failed, match="damaged"):
        home.record()


def test_what_is_written_anew_leaves_nothing_of_what_was_there(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.prepare_disks(1, 1 << 20)
    bundle = tmp_path / "bundle"
    bundle.write_bytes(b"code")
    home.write_birth(1, b"a long secret")
    home.write_birth(1, b"short")
    home.write_bundle(1, bundle)
    with home.disk(1, "data").open("r+b") as disk:
        disk.write(b"somebody's")
    home.blank(1)
    sizes = {"birth": command.BIRTH_BYTES, "bundle": command.BUNDLE_BYTES, "data": 1 << 20}
    contents = {"birth": b"short", "bundle": b"code", "data": b""}
    for disk, size in sizes.items():
        assert home.disk(1, disk).stat().st_size == size
        assert home.disk(1, disk).stat().st_mode & 0o777 == 0o600
        assert home.disk(1, disk).read_bytes()[:4096] == contents[disk].ljust(4096, b"\0")
    with bundle.open("wb") as large:
        large.truncate(command.BUNDLE_BYTES + 1)
    with pytest.raises(Exhausted, match="bundle"):
        home.write_bundle(1, bundle)


def test_an_agent_finds_its_birth_on_a_disk_where_there_is_no_firmware(tmp_path: Path) -> None:
    born = {
        "blanket": new_id(),
        "cloud": new_id(),
        "name": "b",
        "endpoint": "10.0.2.2:7443",
        "authority_pem": "pem",
        "secret": "s",
    }
    home = Home(tmp_path)
    home.prepare_disks(0, 1 << 20)
    home.write_birth(0, json.dumps(born).encode())
    assert read_birth(tmp_path / "absent", home.disk(0, "birth")).blanket == born["blanket"]
    home.write_birth(0, b"")
    with pytest.raises(Failed, match="no birth data"):
        read_birth(tmp_path / "absent", home.disk(0, "birth"))


class Images:
    def current(self) -> str:
        raise NotFound("none")

    def files(self, image: str) -> BlanketFiles:
        raise NotFound("none")


class WithMicrohypervisor(Images):
    def microhypervisor(self) -> Path:
        raise NotFound("no micro-hypervisor", hint="make images")


@pytest.mark.parametrize(
    "options",
    [
        {"partitions": "0"},
        {"partitions": str(MOST_PARTITIONS + 1)},
        {"memory_mib": "255"},
        {"memory_mib": "257"},
        {"memory_mib": "3074"},
        {"disk_gib": "0"},
        {"cores": "2"},
        {"first_port": "60000"},
    ],
)
def test_sizes_that_no_machine_has_are_refused(tmp_path: Path, options: dict[str, str]) -> None:
    with pytest.raises(InvalidInput):
        open_platform("microhypervisor", tmp_path, WithMicrohypervisor(), options)


async def test_without_a_micro_hypervisor_there_is_no_such_platform(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no micro-hypervisor"):
        open_platform("microhypervisor", tmp_path, Images())
    with pytest.raises(NotFound, match="no micro-hypervisor"):
        await open_platform("microhypervisor", tmp_path, WithMicrohypervisor()).declare()


def test_the_image_is_of_its_sources_and_of_nothing_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUPERCLOUD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(image, "SOURCES", tmp_path / "sources")
    with pytest.raises(NotFound, match="no sources"):
        image.sources_digest()
    for name in ("Makefile", "boot/main.c", "boot/start.S", "tests/host/main.c", "build/x.c", "README.md"):
        (tmp_path / "sources" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "sources" / name).write_text("one")
    with pytest.raises(NotFound, match="built"):
        image.built_microhypervisor()
    before = image.sources_digest()
    for name in ("tests/host/main.c", "build/x.c", "README.md"):
        (tmp_path / "sources" / name).write_text("two")
    assert image.sources_digest() == before
    (tmp_path / "sources/boot/start.S").write_text("two")
    assert image.sources_digest() != before
