"""Putting a backup's state in place: from whatever is left of the present one, and broken off anywhere."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from supercloud.model.errors import Exhausted, InvalidInput
from supercloud.services import backup
from supercloud.services.store.engine import Store
from supercloud.services.store.tables import Meta
from supercloud.services.store.time import RESTORES

pytestmark = pytest.mark.contract

#: After each of these a process may be gone.
_STEPS = {"os.rename", "os.link", "os.remove", "os.mkdir", "sqlite3.connect"}
_KILLED = 137


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A database that has gone on since it was backed up."""
    database = tmp_path / "state" / "supercloud.db"
    database.parent.mkdir()
    asyncio.run(_add(database, "first"))
    backup.back_up(database, database.parent / "images", tmp_path / "backup")
    asyncio.run(_add(database, "later"))
    return database


async def _add(database: Path, key: str) -> None:
    store = await Store.open(f"sqlite:///{database}")
    async with store.write() as session:
        session.add(Meta(key=key, value=key))
    await store.close()


def _restore(database: Path) -> None:
    asyncio.run(backup.restore(database, database.parent / "images", database.parent.parent / "backup"))


def _seen(database: Path) -> tuple[bool, int]:
    """Whether what came after the backup is there, and how often this state was restored."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        found = dict(connection.execute("SELECT key, value FROM meta"))
    assert "first" in found
    return "later" in found, int(found.get(RESTORES, 0))


def _killed_at(step: int, database: Path) -> bool:
    """In a child that is gone before this step; whether there was such a step."""
    child = os.fork()
    if child == 0:
        left = step

        def look(event: str, _arguments: Any) -> None:
            nonlocal left
            left -= event in _STEPS
            if left < 0:
                os._exit(_KILLED)

        sys.addaudithook(look)
        try:
            _restore(database)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == _KILLED


def test_broken_off_anywhere_there_is_the_old_state_or_one_that_says_it_was_restored(state: Path) -> None:
    step = 0
    while _killed_at(step, state):
        assert _seen(state) in {(True, 0), (False, 1)}, step
        if _seen(state) == (False, 1):  # from here on it is done: the rest tidies up
            asyncio.run(_add(state, "later"))
        step += 1
    assert step > 8
    assert not _seen(state)[0] and _seen(state)[1] >= 1
    _restore(state)
    assert not list(state.parent.glob(".restore-*/images")), "of the last one nothing is left"


@pytest.mark.parametrize("damage", ["header", "middle", "gone"])
def test_a_damaged_database_is_no_obstacle_and_is_kept(state: Path, damage: str) -> None:
    content = bytearray(state.read_bytes())
    if damage == "gone":
        state.unlink()
    else:
        content[slice(0, 64) if damage == "header" else slice(4096, None)] = b"\xff" * 64
        state.write_bytes(content)
    _restore(state)
    assert _seen(state) == (False, 1)
    kept = state.with_name("supercloud.db.before-restore")
    assert kept.exists() == (damage != "gone")
    assert damage == "gone" or kept.read_bytes() == content


def test_what_is_no_backup_leaves_everything_as_it_was(state: Path, tmp_path: Path) -> None:
    before = {path.name for path in state.parent.iterdir()}
    whole = (tmp_path / "backup").read_bytes()
    for content in (b"", b"no backup" * 1000, whole[: len(whole) // 2]):
        (tmp_path / "backup").write_bytes(content)
        with pytest.raises(InvalidInput, match="is not a backup"):
            _restore(state)
        assert _seen(state) == (True, 0)
    left = {path.name for path in state.parent.iterdir()} - before
    assert left <= {"supercloud.db-wal", "supercloud.db-shm"}, "of our own look"


def test_a_full_disk_is_said(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tarfile.TarFile.extractall", full)
    with pytest.raises(Exhausted, match="No space left"):
        _restore(state)
    assert _seen(state) == (True, 0)
