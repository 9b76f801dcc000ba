"""Bringing the tables up to date, with the migrations that ship in this package."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncEngine

from supercloud.model.errors import Conflict

#: Any number that nobody else uses: two controllers starting at once migrate one after the other.
_ADVISORY_LOCK = 0x5C_0001


async def upgrade(engine: AsyncEngine, to: str = "head") -> None:
    """Run what is missing up to the revision `to`, in one transaction.

    Raises:
        Conflict: the tables are newer than this program.
    """
    async with engine.execution_options(writes=True).begin() as connection:
        if engine.dialect.name == "postgresql":
            await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
        await connection.run_sync(_upgrade, to)


def _upgrade(connection: Connection, to: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
    config.attributes["connection"] = connection
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    current = MigrationContext.configure(connection).get_current_revision()
    if current is not None and current not in known:
        raise Conflict(
            f"the database is of a newer supercloud (its schema is {current})",
            hint="run that version, or restore a backup made by this one",
        )
    command.upgrade(config, to)
