"""Following libvirt's backup job to its end, also when it ends between two looks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from supercloud.blanket.libvirt import backups
from supercloud.blanket.libvirt.backups import LiveBackups, backup_xml
from supercloud.model.errors import Failed
from supercloud.model.names import new_id

pytestmark = [pytest.mark.unit, pytest.mark.timeout(30)]
_BACKUP = {"type": 3, "operation": 9, "disk_total": 10, "disk_processed": 5}


class Libvirt:
    """One domain with at most one job; also the connection, and who tells of ended jobs."""

    def __init__(self) -> None:
        self.job: dict[str, Any] = {}
        self.aborted = 0
        self.looked = asyncio.Event()
        self.hear: Callable[[str, dict[str, Any]], None] = lambda *_: None

    async def call(self, work: Callable[[Any], Any]) -> Any:
        await asyncio.sleep(0)
        return work(self)

    def tell(self, hear: Callable[[str, dict[str, Any]], None]) -> None:
        self.hear = hear

    def look(self, _found: object) -> dict[str, Any]:
        self.looked.set()
        return self.job

    def abortJob(self) -> None:  # noqa: N802 - libvirt's name
        self.aborted += 1
        self.job = {}
        asyncio.get_running_loop().call_soon(self.hear, "guest", {"operation": 9, "errmsg": "aborted"})


@pytest.fixture
def libvirt(monkeypatch: pytest.MonkeyPatch) -> Libvirt:
    made = Libvirt()
    constants = SimpleNamespace(VIR_DOMAIN_JOB_NONE=0, VIR_DOMAIN_JOB_OPERATION_BACKUP=9)
    monkeypatch.setattr(backups, "bindings", lambda: constants)
    monkeypatch.setattr(backups, "find", lambda handle, _: handle)
    monkeypatch.setattr(backups, "get", lambda handle, _: handle)
    monkeypatch.setattr(backups, "job", made.look)
    monkeypatch.setattr(backups, "_begin", lambda *_: made.job.update(_BACKUP))
    monkeypatch.setattr(backups, "_LOOK_S", 0.05)
    return made


def _backing_up(libvirt: Libvirt, heard: list[float]) -> asyncio.Task[None]:
    live = LiveBackups(libvirt, jobs=libvirt)  # type: ignore[arg-type] - what it uses of them
    return asyncio.create_task(live.back_up("guest", new_id(), Path("/into"), new_id(), heard.append))


async def _under_way(libvirt: Libvirt) -> None:
    await libvirt.looked.wait()
    while not libvirt.job:
        libvirt.looked.clear()
        await libvirt.looked.wait()


async def test_it_is_followed_to_the_end_that_libvirt_tells(libvirt: Libvirt) -> None:
    heard: list[float] = []
    task = _backing_up(libvirt, heard)
    await _under_way(libvirt)
    libvirt.job = {}
    libvirt.looked.clear()
    await libvirt.looked.wait()  # it was seen to be gone before that is told: no failure
    await asyncio.sleep(0.01)
    libvirt.hear("guest", {"operation": 9, "success": True})
    await task
    assert libvirt.aborted == 0 and set(heard) <= {0.5}


@pytest.mark.parametrize("told", [{"operation": 9, "errmsg": "no room"}, None])
async def test_one_that_fails_or_ends_unheard_says_so(libvirt: Libvirt, told: dict[str, Any] | None) -> None:
    task = _backing_up(libvirt, [])
    await _under_way(libvirt)
    libvirt.job = {}
    if told:
        libvirt.hear("guest", told)
    with pytest.raises(Failed, match="no room" if told else "unheard"):
        await task


async def test_given_up_nothing_is_written_any_more(libvirt: Libvirt) -> None:
    task = _backing_up(libvirt, [])
    await _under_way(libvirt)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert libvirt.aborted == 1


async def test_what_an_earlier_life_began_is_ended_first(libvirt: Libvirt) -> None:
    libvirt.job = dict(_BACKUP)
    task = _backing_up(libvirt, [])
    while libvirt.aborted == 0 or not libvirt.job:
        libvirt.looked.clear()
        await libvirt.looked.wait()
    libvirt.hear("guest", {"operation": 9, "success": True})
    await task
    assert libvirt.aborted == 1


def test_libvirt_is_told_of_one_disk_and_its_key() -> None:
    secret = new_id()
    text = backup_xml("vdb", Path("/var/lib/x.part"), secret)
    assert 'name="vdb" backup="yes"' in text and f'uuid="{secret}"' in text and "/var/lib/x.part" in text
