"""The qemu driver's pure parts: command line, records, ports, room, and the choice of the accelerator."""

from __future__ import annotations

import itertools
import json
import os
import socket
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from supercloud.model.errors import Exhausted, Failed, InvalidInput
from supercloud.model.names import GIB, MIB, new_id
from supercloud.platforms import open_platform
from supercloud.platforms.host import require_room
from supercloud.platforms.qemu import accelerator, command, process, record
from supercloud.platforms.qemu.accelerator import Proof
from supercloud.platforms.qemu.addresses import PortRange
from supercloud.platforms.qemu.home import Home
from supercloud.platforms.qemu.record import Record
from supercloud.ports.platform import BlanketFiles, BlanketMachine

pytestmark = pytest.mark.unit

IMAGE = "sha256:" + "ab" * 32
SECRET = b"top-secret-join-token"


def files(folder: Path) -> BlanketFiles:
    return BlanketFiles(
        kernel=folder / "vmlinuz",
        initrd=folder / "initrd",
        root=folder / "root,with=comma.squashfs",
        bundle=folder / "bundle",
        cmdline="console=ttyS0 quiet",
    )


def spec(**changed: object) -> BlanketMachine:
    made = BlanketMachine(id=new_id(), name="north-1", image=IMAGE, vcpus=3, memory_mib=512, birth=SECRET)
    return replace(made, **changed)


def argv(folder: Path, **changed: object) -> list[str]:
    return command.machine(spec(**changed), files(folder), command.TCG, port=52007, qmp_fd=9)


def values(line: list[str], option: str) -> list[str]:
    return [value for name, value in itertools.pairwise(line) if name == option]


def test_an_emulated_machine_has_one_processor(tmp_path: Path) -> None:
    assert values(argv(tmp_path), "-smp") == ["1"]
    kvm = command.machine(spec(), files(tmp_path), command.KVM, port=52007, qmp_fd=9)
    assert values(kvm, "-smp") == ["3"]
    told = {name: Proof(accelerator=name, nesting=True, reason="why").told for name in ("tcg", "kvm")}
    assert told == {"tcg": "why; a blanket has at most 1 processor here", "kvm": "why"}


def test_no_secret_and_no_shell_in_the_command_line(tmp_path: Path) -> None:
    line = argv(tmp_path)
    assert not any(SECRET.decode() in word for word in line)
    assert values(line, "-fw_cfg") == ["name=opt/supercloud/birth,file=birth"]
    assert values(argv(tmp_path, birth=b""), "-fw_cfg") == []


def test_drives_are_in_the_order_that_the_blanket_expects_and_only_the_last_is_written(
    tmp_path: Path,
) -> None:
    drives = [json.loads(value) for value in values(argv(tmp_path), "-blockdev")]
    assert [drive["node-name"] for drive in drives] == ["root", "bundle", "data"]
    assert [drive.get("read-only", False) for drive in drives] == [True, True, False]
    assert drives[0]["file"]["filename"] == str(tmp_path / "root,with=comma.squashfs")
    assert drives[2]["file"]["filename"] == "data.qcow2"


def test_sockets_have_names_that_fit_however_deep_the_state_is(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    sockets = [value for value in values(argv(deep), "-chardev") if value.startswith("socket,")]
    assert len(sockets) == 2
    assert not any(str(deep) in value for value in sockets)


def test_command_line_confines_qemu_and_forwards_one_port_of_the_loopback(tmp_path: Path) -> None:
    line = argv(tmp_path)
    assert values(line, "-sandbox") == [command.SANDBOX]
    assert "spawn=deny" in command.SANDBOX
    assert values(line, "-netdev") == ["user,id=net,hostfwd=udp:127.0.0.1:52007-:51820"]
    around = command.machine(spec(), files(tmp_path), command.TCG, port=52007, inner=2, qmp_fd=9)
    ports = [(52007, 51820), (52008, 51821), (52009, 51822)]
    forwards = ",".join(f"hostfwd=udp:127.0.0.1:{host}-:{inside}" for host, inside in ports)
    assert values(around, "-netdev") == [f"user,id=net,{forwards}"], "for blankets inside it"
    assert values(line, "-smp") == ["1"]
    assert values(line, "-m") == ["512"]
    assert "-nodefaults" in line
    assert "-no-user-config" in line


def made_record(**changed: object) -> Record:
    made = Record(id=new_id(), name="n", image=IMAGE, vcpus=1, memory_mib=64, disk_bytes=1 << 20, port=52000)
    return replace(made, **changed)


def test_record_survives_a_round_trip_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    known = made_record(pid=4, started=True)
    record.write(tmp_path, known)
    assert record.read(tmp_path) == known
    assert [oct(path.stat().st_mode & 0o777) for path in tmp_path.iterdir()] == ["0o600"]


def test_no_record_and_a_damaged_one(tmp_path: Path) -> None:
    assert record.read(tmp_path / "absent") is None
    (tmp_path / "machine.json").write_text('{"id": "../..", "port": 99999}')
    with pytest.raises(Failed, match="damaged"):
        record.read(tmp_path)


def test_first_boot_data_is_no_part_of_a_machines_identity() -> None:
    wanted = spec()
    known = Record(
        id=wanted.id,
        name=wanted.name,
        image=wanted.image,
        vcpus=wanted.vcpus,
        memory_mib=wanted.memory_mib,
        disk_bytes=wanted.disk_bytes,
        port=52000,
    )
    assert known.same_as(replace(wanted, birth=b"other"))
    assert not known.same_as(replace(wanted, vcpus=wanted.vcpus + 1))
    assert not known.same_as(replace(wanted, image="sha256:" + "00" * 32))


def test_pid_of_another_process_is_not_ours(tmp_path: Path) -> None:
    known = made_record(pid=os.getpid(), started=True)
    assert Home(tmp_path).process(known) is None


async def test_a_process_is_who_runs_what_where_whatever_the_clock_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    pid = process.spawn(["sleep", "60"], directory=here, log=tmp_path / "log")
    booted = psutil.boot_time()
    monkeypatch.setattr("psutil._pslinux.boot_time", lambda: booted + 3600)
    found = process.Process.find(pid, "sleep", here)
    assert found is not None and process.search("sleep", here) == pid
    with found:
        assert process.Process.find(pid, "sleep", there) is None and process.search("sleep", there) is None
        assert process.Process.find(pid, "cat", here) is None and process.search("cat", here) is None
        found.kill()
        assert await found.wait(10)
    assert process.Process.find(pid, "sleep", here) is None and process.search("sleep", here) is None


def test_long_console_log_is_cut_and_its_end_kept(tmp_path: Path) -> None:
    home = Home(tmp_path)
    log = tmp_path / command.CONSOLE_LOG
    log.write_bytes(b"x" * (5 << 20) + b"last words")
    home.bound_log()
    assert log.stat().st_size == 0
    kept = (tmp_path / "console.log.1").read_bytes()
    assert len(kept) == 4 << 20
    assert kept.endswith(b"last words")


def _taken_port() -> socket.socket:
    taken = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    taken.bind(("127.0.0.1", 0))
    return taken


def test_ports_in_use_or_promised_are_passed_over() -> None:
    with _taken_port() as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Exhausted, match=str(port)):
            next(PortRange(first=port, last=port).candidates("m", set()))
    with pytest.raises(Exhausted):
        next(PortRange(first=port, last=port).candidates("m", {port}))


def test_ports_of_one_machine_lie_together_and_meet_no_others() -> None:
    ports = PortRange(first=53000, last=53011)
    taken: set[int] = set()
    for machine in ("a", "b"):
        first = next(ports.candidates(machine, taken, count=4))
        block = set(range(first, first + 4))
        assert block <= set(range(53000, 53012)) and block.isdisjoint(taken)
        taken |= block


def test_a_machine_starts_looking_at_the_same_port_each_time() -> None:
    ports = PortRange(first=53000, last=53999)
    assert next(ports.candidates("m", set())) == next(ports.candidates("m", set()))
    assert len({next(ports.candidates(new_id(), set())) for _ in range(20)}) > 10


class SmallHost:
    def free_memory_bytes(self) -> int:
        return 700 * MIB

    def free_disk_bytes(self, path: Path) -> int:
        return 300 * MIB


def test_what_does_not_fit_is_refused_with_numbers(tmp_path: Path) -> None:
    with pytest.raises(Exhausted, match="701 MiB wanted, 700 MiB available"):
        require_room(SmallHost(), memory_mib=701, disk_bytes=0, path=tmp_path)
    with pytest.raises(Exhausted, match=r"1024 MiB wanted in .*, 300 MiB free"):
        require_room(SmallHost(), memory_mib=64, disk_bytes=20 * GIB, path=tmp_path)
    require_room(SmallHost(), memory_mib=700, disk_bytes=300 * MIB, path=tmp_path)


class NoImages:
    def current(self) -> str:
        raise AssertionError

    def files(self, image: str) -> BlanketFiles:
        raise AssertionError


def test_factory_lists_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput) as unknown:
        open_platform("vmware", tmp_path, NoImages())
    assert unknown.value.hint == "kinds: microhypervisor, qemu, simulated"
    with pytest.raises(InvalidInput, match="colour") as option:
        open_platform("qemu", tmp_path, NoImages(), {"colour": "red"})
    assert "first_port" in (option.value.hint or "")
    with pytest.raises(InvalidInput, match="first_port"):
        open_platform("qemu", tmp_path, NoImages(), {"first_port": "80"})
    with pytest.raises(InvalidInput, match="last_port is below"):
        open_platform("qemu", tmp_path, NoImages(), {"first_port": "3000", "last_port": "2999"})
    assert open_platform("qemu", tmp_path, NoImages(), {"first_port": "53000", "last_port": "53009"})


async def test_kvm_is_not_believed_without_a_proof(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerator, "KVM_DEVICE", tmp_path / "absent")
    proof = await accelerator.prove("auto", files(tmp_path), tmp_path)
    assert (proof.accelerator, proof.nesting) == ("tcg", True)
    (tmp_path / "kvm").touch()
    monkeypatch.setattr(accelerator, "KVM_DEVICE", tmp_path / "kvm")
    assert (await accelerator.prove("auto", None, tmp_path)).accelerator == "tcg"
    with pytest.raises(InvalidInput, match="not proven"):
        await accelerator.prove("kvm", None, tmp_path)


async def test_proof_is_kept_until_what_it_depends_on_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = files(tmp_path)
    for path in (image.kernel, image.initrd, tmp_path / "kvm"):
        path.write_bytes(b"1")
    tried: list[str] = []

    async def try_kvm(_: BlanketFiles) -> Proof:
        tried.append("boot")
        return Proof(accelerator="kvm", nesting=False, reason=f"try {len(tried)}")

    monkeypatch.setattr(accelerator, "KVM_DEVICE", tmp_path / "kvm")
    monkeypatch.setattr(accelerator, "try_kvm", try_kvm)
    first = await accelerator.prove("auto", image, tmp_path / "cache")
    assert await accelerator.prove("kvm", image, tmp_path / "cache") == first
    assert len(tried) == 1
    image.kernel.write_bytes(b"2")
    assert (await accelerator.prove("auto", image, tmp_path / "cache")).reason == "try 2"
    (tmp_path / "cache" / "accelerator.json").write_text("nonsense")
    assert (await accelerator.prove("auto", image, tmp_path / "cache")).reason == "try 3"
