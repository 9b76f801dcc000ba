"""Bringing the tables up to date, with the migrations that ship in this package."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, inspect, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from supercloud.model.errors import Conflict

#: Any number that nobody else uses: two controllers starting at once migrate one after the other.
_ADVISORY_LOCK = 0x5C_0001
_MIGRATIONS = Path(__file__).with_name("migrations")


def newest() -> str:
    """The last revision that this program knows: migrations are numbered."""
    return max(path.name for path in _MIGRATIONS.glob("versions/[0-9]*.py")).partition("_")[0]


async def upgrade(engine: AsyncEngine, to: str = "head") -> None:
    """Run what is missing up to the revision `to`, in one transaction.

    Raises:
        Conflict: the tables are newer than this program.
    """
    async with engine.execution_options(writes=True).connect() as connection:
        if engine.dialect.name == "sqlite":
            await _foreign_keys(connection, on=False)
        try:
            async with connection.begin():
                if engine.dialect.name == "postgresql":
                    await connection.execute(
                        text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK}
                    )
                if to != "head" or await connection.run_sync(_revision) != newest():
                    await connection.run_sync(_upgrade, to)
        finally:
            if engine.dialect.name == "sqlite":
                await _foreign_keys(connection, on=True)


async def _foreign_keys(connection: AsyncConnection, *, on: bool) -> None:
    """SQLite changes a table by making another in its place, to which rows elsewhere go on referring. It has
    to be told before a transaction begins, which SQLAlchemy's own `execute` would do."""
    raw = (await connection.get_raw_connection()).driver_connection
    assert raw is not None  # noqa: S101 - it is open
    await raw.execute(f"PRAGMA foreign_keys={'ON' if on else 'OFF'}")


def _revision(connection: Connection) -> str | None:
    """What the tables are of now, without Alembic, which is ten megabytes that nothing else needs."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return found


def _upgrade(connection: Connection, to: str) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.attributes["connection"] = connection
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    current = MigrationContext.configure(connection).get_current_revision()
    if current is not None and current not in known:
        raise Conflict(
            f"the database is of a newer supercloud (its schema is {current})",
            hint="run that version, or restore a backup made by this one",
        )
    command.upgrade(config, to)
