"""A store over its life: made, opened again, upgraded, newer than us, opened twice."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, select, text

from supercloud.controlplane.compose import DATABASE
from supercloud.model.errors import Conflict, InvalidInput, Unavailable
from supercloud.services.store import engine, schema
from supercloud.services.store.engine import Store
from supercloud.services.store.tables import Base, Instance, Meta

pytestmark = pytest.mark.contract


def _differences(connection: Connection) -> list[object]:
    context = MigrationContext.configure(
        connection, opts={"compare_type": True, "compare_server_default": True}
    )
    return list(compare_metadata(context, Base.metadata))


async def test_the_migrations_make_exactly_the_tables(store: Store) -> None:
    async with store.engine.connect() as connection:
        assert await connection.run_sync(_differences) == []


async def test_each_revision_follows_one_other_and_is_reached_from_the_first(empty_database_url: str) -> None:
    folder = Path(schema.__file__).with_name("migrations")
    config = Config()
    config.set_main_option("script_location", str(folder))
    revisions = [one.revision for one in ScriptDirectory.from_config(config).walk_revisions()][::-1]
    assert len(revisions) == len(list((folder / "versions").glob("*.py")))
    assert schema.newest() == revisions[-1]
    for revision in revisions:
        store = await Store.open(empty_database_url, migrate=False)
        try:
            await schema.upgrade(store.engine, revision)
            async with store.read() as session:
                assert await session.scalar(text("SELECT version_num FROM alembic_version")) == revision
        finally:
            await store.close()


async def test_user_data_in_clear_is_not_kept(empty_database_url: str, tmp_path: Path) -> None:
    """A state of before it was a secret opens, and has it no more: not even in pages that are free."""
    store = await Store.open(empty_database_url, migrate=False)
    try:
        await schema.upgrade(store.engine, "0001")
        async with store.write() as session:
            for line in _BEFORE:
                await session.execute(text(line))
            await session.execute(text(_INSTANCE), {"secret": "swordfish " * 2000})
    finally:
        await store.close()
    store = await Store.open(empty_database_url)
    try:
        async with store.read() as session:
            (row,) = await session.scalars(select(Instance))
        assert (row.name, row.user_data, row.user_data_digest) == ("web", None, None)
    finally:
        await store.close()
    files = [path for path in tmp_path.rglob("*.db*") if path.is_file()]
    assert bool(files) == store.sqlite
    for path in files:
        assert b"swordfish" not in path.read_bytes()


_BEFORE = (
    "INSERT INTO clouds VALUES ('c', 'c', 'x', 60, 15, 300, 0, 0)",
    "INSERT INTO images (id, name, digest, size_bytes, virtual_bytes, complete, created_at)"
    " VALUES ('i', 'i', 'd', 1, 1, TRUE, 0)",
)
_INSTANCE = (
    "INSERT INTO instances"
    " (id, cloud, name, state, image, vcpus, memory_mib, user_data, ssh_keys, hold, reason, created_at)"
    " VALUES ('v', 'c', 'web', 'created', 'i', 1, 64, :secret, '[]', FALSE, '', 0)"
)


_OPEN = """
import asyncio, sys
from supercloud.services.store.engine import Store
async def main():
    await (await Store.open(sys.argv[1])).close()
asyncio.run(main())
print("alembic" in sys.modules)
"""


def test_only_migrating_loads_what_migrates(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'supercloud.db'}"
    said = [
        subprocess.run([sys.executable, "-c", _OPEN, url], check=True, capture_output=True, text=True).stdout
        for _ in range(2)
    ]
    assert said == ["True\n", "False\n"]


async def test_a_newer_store_is_left_alone(database_url: str) -> None:
    store = await Store.open(database_url)
    async with store.write() as session:
        await session.execute(text("UPDATE alembic_version SET version_num = 'later'"))
    await store.close()
    with pytest.raises(Conflict, match=r"newer supercloud.*later"):
        await Store.open(database_url)


async def test_the_program_refuses_a_newer_store_in_one_line(tmp_path: Path) -> None:
    store = await Store.open(f"sqlite:///{tmp_path / DATABASE}")
    async with store.write() as session:
        await session.execute(text("UPDATE alembic_version SET version_num = 'later'"))
    await store.close()
    argv = ["supercloud.controlplane", "--state", str(tmp_path), "--keystore", str(tmp_path / "none.sock")]
    ended = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-m", *argv], check=False, capture_output=True, text=True
    )
    assert (ended.returncode, ended.stdout) == (Conflict.exit_status, "")
    assert ended.stderr.startswith("error: the database is of a newer supercloud")
    assert ended.stderr.count("\n") == 1


async def test_one_sqlite_has_one_controller(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'supercloud.db'}"
    first = await Store.open(url)
    try:
        with pytest.raises(Conflict, match="another control plane uses") as refused:
            await Store.open(url)
        assert refused.value.hint is not None and "PostgreSQL" in refused.value.hint
    finally:
        await first.close()
    await (await Store.open(url)).close()


async def test_whoever_is_cancelled_leaves_no_transaction_behind(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At many moments: while it begins, while it asks, while it commits."""
    monkeypatch.setattr(engine, "_BUSY_MS", 300)
    store = await Store.open(database_url)

    async def write(value: str) -> None:
        async with store.write() as session:
            await session.merge(Meta(key="last", value=value))

    try:
        ended = []
        for number in range(120):
            writing = asyncio.create_task(write("cancelled"))
            for _ in range(number % 40):
                await asyncio.sleep(0)
            await asyncio.sleep(number % 2 * number / 10_000)
            writing.cancel()
            ended += await asyncio.gather(writing, return_exceptions=True)  # kept, with all they refer to
            await write(str(number))
            async with store.read() as session:
                assert (await session.get_one(Meta, "last")).value == str(number)
        assert any(isinstance(one, asyncio.CancelledError) for one in ended)
    finally:
        await store.close()


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("nonsense", InvalidInput),
        ("mysql://localhost/x", InvalidInput),
        ("sqlite://", InvalidInput),
        ("postgresql://nobody@/none?host=/nonexistent", Unavailable),
        ("postgresql://nobody@127.0.0.1:1/none", Unavailable),
    ],
)
async def test_a_bad_url_is_one_line(url: str, error: type[Exception]) -> None:
    with pytest.raises(error) as refused:
        await Store.open(url)
    assert "\n" not in str(refused.value)
