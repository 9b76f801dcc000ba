"""When a source's process is over is known before libvirt says it: by the kernel's word, or QEMU's own."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from qemu.qmp import ConnectError, QMPClient

from supercloud.blanket.libvirt import ending
from supercloud.model.names import new_id

pytestmark = [pytest.mark.contract, pytest.mark.timeout(120)]


@contextmanager
def process(name: str) -> Iterator[subprocess.Popen[bytes]]:
    """One with this name in its command line, until it is told to end."""
    script = "echo; read line"
    running = subprocess.Popen(
        ["sh", "-c", script, "-name", name], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert running.stdout is not None
    running.stdout.readline()  # by now it is sh, and no copy of us
    try:
        yield running
    finally:
        running.kill()
        running.communicate()


@pytest.fixture
def pid_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(ending, "_PID_FILE", str(tmp_path / "sc-{}.pid"))
    return tmp_path


async def test_a_process_that_ends_is_told_of_at_once(pid_file: Path) -> None:
    instance, ended = new_id(), asyncio.Event()
    with process(f"guest=sc-{instance},debug-threads=on") as running:
        (pid_file / f"sc-{instance}.pid").write_text(f"{running.pid}\n")
        async with _ending(instance, pid_file / "no.sock", ended.set):
            await asyncio.sleep(0)
            assert not ended.is_set()
            running.kill()
            async with asyncio.timeout(20):
                await ended.wait()


async def test_one_that_goes_on_is_let_go_of(pid_file: Path) -> None:
    instance, ended = new_id(), asyncio.Event()
    with process(f"guest=sc-{instance},debug-threads=on") as running:
        (pid_file / f"sc-{instance}.pid").write_text(str(running.pid))
        async with _ending(instance, pid_file / "no.sock", ended.set):
            pass
        running.kill()
        running.wait()
        await asyncio.sleep(0)
        assert not ended.is_set()


@pytest.mark.parametrize("pid", ["", "not a pid", "4194305", None])
async def test_without_a_pid_libvirts_word_is_waited_for(pid_file: Path, pid: str | None) -> None:
    instance = new_id()
    if pid is not None:
        (pid_file / f"sc-{instance}.pid").write_text(pid)
    async with _ending(instance, pid_file / "no.sock", lambda: pytest.fail("nothing ended")):
        await asyncio.sleep(0)


async def test_another_process_that_has_its_pid_by_now_is_not_it(pid_file: Path) -> None:
    instance, ended = new_id(), asyncio.Event()
    with process(f"guest=sc-{new_id()},debug-threads=on") as running:
        (pid_file / f"sc-{instance}.pid").write_text(str(running.pid))
        async with _ending(instance, pid_file / "no.sock", ended.set):
            running.kill()
            running.wait()
            await asyncio.sleep(0)
            assert not ended.is_set()


@asynccontextmanager
async def machine() -> AsyncIterator[tuple[Path, QMPClient, asyncio.subprocess.Process]]:
    """A QEMU that runs its firmware, the socket that is for us, and a client of another of its monitors."""
    with TemporaryDirectory(prefix="sc-") as folder:
        ours, other = Path(folder, "ours"), Path(folder, "other")
        monitors = [f"unix:{path},server=on,wait=off" for path in (ours, other)]
        qemu = await asyncio.create_subprocess_exec(
            *("qemu-system-x86_64", "-nodefaults", "-display", "none", "-m", "16", "-accel", "tcg"),
            *("-qmp", monitors[0], "-qmp", monitors[1]),
        )
        client = QMPClient("test")
        try:
            await _met(client, other)
            yield ours, client, qemu
        finally:
            if qemu.returncode is None:
                qemu.kill()
            await qemu.wait()
            with suppress(EOFError):
                await client.disconnect()


@pytest.mark.parametrize("how", ["signal", "quit"])
async def test_a_qemu_that_has_sent_everything_and_is_told_to_go_says_so(pid_file: Path, how: str) -> None:
    over = asyncio.Event()
    async with machine() as (ours, client, qemu), _ending(new_id(), ours, over.set):
        await _send(client)
        if how == "signal":
            qemu.terminate()
        else:
            await client.execute("quit")
        async with asyncio.timeout(60):
            await over.wait()


@pytest.mark.parametrize("what", ["runs", "stands", "goes on after it was sent"])
async def test_any_other_is_waited_for_until_it_has_ended(pid_file: Path, what: str) -> None:
    over = asyncio.Event()
    async with machine() as (ours, client, qemu), _ending(new_id(), ours, over.set):
        match what:
            case "stands":
                await client.execute("stop")
            case "goes on after it was sent":
                await _send(client)
                await client.execute("cont")
        qemu.terminate()
        await qemu.wait()
        await asyncio.sleep(0)
        assert not over.is_set(), "it may have executed after it was told to go"


async def test_a_monitor_that_is_not_there_holds_nothing_up(pid_file: Path) -> None:
    async with asyncio.timeout(60), _ending(new_id(), pid_file / "no.sock", lambda: None):
        pass


async def test_that_it_has_sent_everything_is_told_and_that_it_goes_on_after_all(pid_file: Path) -> None:
    told: asyncio.Queue[bool] = asyncio.Queue()
    async with (
        machine() as (ours, client, _),
        ending.ending(new_id(), ours, sent=told.put_nowait, ended=lambda: None),
        asyncio.timeout(60),
    ):
        await _send(client)
        while not await told.get():
            pass
        await client.execute("cont")
        assert await told.get() is False


def _ending(instance: str, monitor: Path, ended: Callable[[], None]) -> AbstractAsyncContextManager[None]:
    return ending.ending(instance, monitor, sent=lambda _: None, ended=ended)


async def _finished(client: QMPClient) -> None:
    """A moment after its word that it has sent everything."""
    while (await client.execute("query-status"))["status"] != "postmigrate":  # type: ignore[index,call-overload]  # noqa: ASYNC110 - QEMU says nothing of that moment
        await asyncio.sleep(0.01)


async def _send(client: QMPClient) -> None:
    """Everything that it is, to nowhere, as libvirt has it done; until it may be told to go on."""
    wanted = {"capabilities": [{"capability": "events", "state": True}]}
    await client.execute("migrate-set-capabilities", wanted)
    with client.listener("MIGRATION") as events:
        await client.execute("migrate", {"uri": "exec:cat >/dev/null"})
        async with asyncio.timeout(60):
            async for event in events:
                if event["data"]["status"] == "completed":  # type: ignore[index]
                    await _finished(client)
                    return


async def _met(client: QMPClient, socket: Path) -> None:
    async with asyncio.timeout(60):
        while True:
            try:
                return await client.connect(str(socket))
            except ConnectError:
                await asyncio.sleep(0.02)  # another process's socket: no event tells of it
