"""That a source's process has ended is known from the kernel, before libvirt says so."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from supercloud.blanket.libvirt import migration
from supercloud.model.names import new_id

pytestmark = pytest.mark.unit


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
    monkeypatch.setattr(migration, "_PID_FILE", str(tmp_path / "sc-{}.pid"))
    return tmp_path


async def test_a_process_that_ends_is_told_of_at_once(pid_file: Path) -> None:
    instance, ended = new_id(), asyncio.Event()
    with process(f"guest=sc-{instance},debug-threads=on") as running:
        (pid_file / f"sc-{instance}.pid").write_text(f"{running.pid}\n")
        with migration._ending(instance, ended.set):
            await asyncio.sleep(0)
            assert not ended.is_set()
            running.kill()
            async with asyncio.timeout(20):
                await ended.wait()


async def test_one_that_goes_on_is_let_go_of(pid_file: Path) -> None:
    instance, ended = new_id(), asyncio.Event()
    with process(f"guest=sc-{instance},debug-threads=on") as running:
        (pid_file / f"sc-{instance}.pid").write_text(str(running.pid))
        with migration._ending(instance, ended.set):
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
    with migration._ending(instance, lambda: pytest.fail("nothing ended")):
        await asyncio.sleep(0)


async def test_another_process_that_has_its_pid_by_now_is_not_it(pid_file: Path) -> None:
    instance, ended = new_id(), asyncio.Event()
    with process(f"guest=sc-{new_id()},debug-threads=on") as running:
        (pid_file / f"sc-{instance}.pid").write_text(str(running.pid))
        with migration._ending(instance, ended.set):
            running.kill()
            running.wait()
            await asyncio.sleep(0)
            assert not ended.is_set()


def test_a_downtime_is_told_once_it_was_had() -> None:
    stats = {"data_total": 10, "data_processed": 5, "downtime": 150}
    expected, had = migration._progress(stats), migration._progress(stats, over=True)
    assert expected is not None and expected.downtime_ms is None
    assert had is not None and had.downtime_ms == 150
