"""What only real QEMU processes can get wrong: signals, ports, paths, and a control plane that is killed."""

from __future__ import annotations

import asyncio
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from tiny_guest import IMAGE, TinyImages

from supercloud.model.errors import Exhausted, Failed
from supercloud.model.names import Digest, new_id
from supercloud.platforms.qemu import record
from supercloud.platforms.qemu.command import BINARY
from supercloud.platforms.qemu.driver import QemuOptions, QemuPlatform
from supercloud.platforms.qemu.monitor import reachable
from supercloud.ports.platform import BlanketFiles, BlanketMachine, MachineState

pytestmark = [
    pytest.mark.contract,
    pytest.mark.skipif(shutil.which(BINARY) is None, reason=f"{BINARY} is not installed"),
]

SECRET = b"join-secret-5b1e"
OPTIONS = QemuOptions(accelerator="tcg", stop_timeout_s=20)


def opened(folder: Path, options: QemuOptions = OPTIONS) -> QemuPlatform:
    return QemuPlatform(folder / "state", TinyImages(folder / "images"), options)


def blanket() -> BlanketMachine:
    return BlanketMachine(
        id=new_id(), name="north-1", image=IMAGE, vcpus=1, memory_mib=64, disk_bytes=64 << 20, birth=SECRET
    )


def home_of(folder: Path, machine: str) -> Path:
    return folder / "state" / "machines" / machine


def process_of(folder: Path, machine: str) -> psutil.Process:
    known = record.read(home_of(folder, machine))
    assert known is not None
    return psutil.Process(known.pid)


@pytest.fixture
async def folder(tmp_path: Path) -> AsyncIterator[Path]:
    yield tmp_path
    platform = opened(tmp_path)
    for machine in await platform.list():
        await platform.destroy(machine.id)


async def test_secrets_are_in_no_argument_and_no_environment(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUPERCLOUD_SOMETHING", "secret-of-the-control-plane")
    spec = blanket()
    await opened(folder).create(spec)
    process = process_of(folder, spec.id)
    everything = " ".join([*process.cmdline(), *process.environ(), *process.environ().values()])
    assert SECRET.decode() not in everything
    assert "secret-of-the-control-plane" not in everything
    home = home_of(folder, spec.id)
    assert home.stat().st_mode & 0o777 == 0o700
    assert (home / "birth").stat().st_mode & 0o777 == 0o600


async def test_machine_outlives_a_killed_control_plane_and_is_adopted(folder: Path) -> None:
    spec = blanket()
    child = f"""
import asyncio, os, signal, sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
import test_qemu_machines as here
from dataclasses import replace
async def main():
    await here.opened(Path({str(folder)!r})).create(replace(here.blanket(), id={spec.id!r}))
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""
    ended = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", child], check=False)
    assert ended.returncode == -signal.SIGKILL
    platform = opened(folder)
    assert [machine.state for machine in await platform.list()] == [MachineState.RUNNING]
    before = process_of(folder, spec.id)
    await platform.create(spec)
    assert process_of(folder, spec.id) == before
    await platform.destroy(spec.id)
    assert not before.is_running() or before.status() == psutil.STATUS_ZOMBIE


async def test_process_is_found_though_its_pid_was_never_noted(folder: Path) -> None:
    spec = blanket()
    await opened(folder).create(spec)
    home = home_of(folder, spec.id)
    pid = process_of(folder, spec.id).pid
    known = record.read(home)
    assert known is not None
    record.write(home, replace(known, pid=None))  # killed between spawn and note
    after = opened(folder)
    assert (await after.create(spec)).state is MachineState.RUNNING
    assert process_of(folder, spec.id).pid == pid


async def test_leftover_of_an_interrupted_creation_is_no_machine_and_no_obstacle(folder: Path) -> None:
    spec = blanket()
    home = home_of(folder, spec.id)
    home.mkdir(parents=True)
    (home / "data.qcow2").write_bytes(b"half a disk")
    platform = opened(folder)
    assert await platform.list() == []
    assert (await platform.create(spec)).state is MachineState.RUNNING


async def test_machine_whose_process_died_is_stopped_and_starts_again(folder: Path) -> None:
    platform, spec = opened(folder), blanket()
    await platform.create(spec)
    victim = process_of(folder, spec.id)
    victim.kill()
    await asyncio.to_thread(psutil.wait_procs, [victim], 10)
    assert (await platform.inspect(spec.id)).state is MachineState.STOPPED
    assert (await platform.start(spec.id)).state is MachineState.RUNNING


async def test_process_stopped_by_a_signal_is_frozen_and_can_be_ended(folder: Path) -> None:
    platform, spec = opened(folder), blanket()
    await platform.create(spec)
    process = process_of(folder, spec.id)
    process.suspend()
    assert (await platform.inspect(spec.id)).state is MachineState.FROZEN
    process.resume()
    assert (await platform.inspect(spec.id)).state is MachineState.RUNNING
    process.suspend()
    assert (await platform.stop(spec.id)).state is MachineState.STOPPED


async def test_taken_port_is_passed_over_and_the_new_one_kept(folder: Path) -> None:
    platform, spec = opened(folder), blanket()
    created = await platform.create(spec)
    await platform.stop(spec.id, force=True)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as thief:
        assert created.wireguard is not None
        thief.bind(("127.0.0.1", int(created.wireguard.rpartition(":")[2])))
        started = await platform.start(spec.id)
        assert started.wireguard != created.wireguard
    await platform.stop(spec.id, force=True)
    assert await opened(folder).start(spec.id) == started


async def test_no_port_left(folder: Path) -> None:
    with ExitStack() as stack:
        thief = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        thief.bind(("127.0.0.1", 0))
        port = thief.getsockname()[1]
        platform, spec = opened(folder, replace(OPTIONS, first_port=port, last_port=port)), blanket()
        with pytest.raises(Exhausted, match=str(port)):
            await platform.create(spec)
        assert not home_of(folder, spec.id).exists()


async def test_state_directory_deeper_than_a_socket_name_may_be(folder: Path) -> None:
    deep = folder / ("d" * 120) / ("e" * 120)
    platform, spec = opened(deep), blanket()
    await platform.create(spec)
    try:
        console = await platform.console(spec.id)
        async with asyncio.timeout(20):
            assert b"B" in await anext(console)
            await platform.console_write(spec.id, b"x")
            assert b"1" in await anext(console)
    finally:
        await platform.destroy(spec.id)


class BrokenImages(TinyImages):
    def files(self, image: Digest) -> BlanketFiles:
        return replace(super().files(image), kernel=self.directory / "absent")


async def test_qemu_that_does_not_start_says_why_and_leaves_nothing(folder: Path) -> None:
    spec = blanket()
    platform = QemuPlatform(folder / "state", BrokenImages(folder / "images"), OPTIONS)
    with pytest.raises(Failed, match="absent"):
        await platform.create(spec)
    assert not home_of(folder, spec.id).exists()


async def test_start_that_fails_keeps_the_disk(folder: Path) -> None:
    platform, spec = opened(folder), blanket()
    await platform.create(spec)
    await platform.stop(spec.id, force=True)
    broken = QemuPlatform(folder / "state", BrokenImages(folder / "images"), OPTIONS)
    with pytest.raises(Failed):
        await broken.start(spec.id)
    assert (await platform.inspect(spec.id)).state is MachineState.STOPPED
    assert (await platform.start(spec.id)).state is MachineState.RUNNING


async def test_a_damaged_record_hides_no_other_machine(folder: Path) -> None:
    platform, spec, damaged = opened(folder), blanket(), blanket()
    await platform.create(spec)
    home = home_of(folder, damaged.id)
    home.mkdir()
    (home / "machine.json").write_text("{")
    found = {machine.id: machine for machine in await platform.list()}
    assert found[spec.id].state is MachineState.RUNNING
    assert "damaged" in found[damaged.id].reason
    shutil.rmtree(home)


async def test_observer_port_is_there(folder: Path) -> None:
    platform, spec = opened(folder), blanket()
    await platform.create(spec)
    with reachable(home_of(folder, spec.id)) as short:
        _, writer = await asyncio.open_unix_connection(short / "observer.sock")
    writer.close()
    await writer.wait_closed()


async def test_a_machine_is_logged_byte_for_byte_whoever_types_and_does_not_listen(folder: Path) -> None:
    platform, spec, count = opened(folder), blanket(), 5000
    await platform.create(spec)
    log = home_of(folder, spec.id) / "console.log"
    console = await platform.console(spec.id)
    async with asyncio.timeout(20):
        assert b"B" in await anext(console)
    await platform.console_write(spec.id, b"x" * count)
    deadline = time.monotonic() + 60
    while log.stat().st_size <= count:  # nothing of ours runs meanwhile, on purpose
        assert time.monotonic() < deadline
    answers = bytes((ord("0") + number) % 256 for number in range(1, count + 1))
    assert log.read_bytes() == b"B" + answers
