"""The store's clock, and which incarnation of the store it belongs to.

SQLite lives on one machine, so it counts by that machine's CLOCK_BOOTTIME, which goes on during suspend and
never steps. Several controllers share PostgreSQL, so it counts by the server's clock: the server's host must
slew its clock and not step it by more than the margin (docs/adr/0005).
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Protocol

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from supercloud.ports.clock import StoreTime
from supercloud.services.store.engine import Store
from supercloud.services.store.tables import Meta

RESTORES = "restore_generation"


class Timekeeper(Protocol):
    async def read(self, session: AsyncSession) -> StoreTime:
        """Now, as of this call: not as of the transaction's start."""
        ...


async def restores(session: AsyncSession) -> int:
    """How often this state was restored from a backup."""
    row = await session.get(Meta, RESTORES)
    return int(row.value) if row else 0


class HostTime:
    """For SQLite: another boot of this machine is another incarnation."""

    def __init__(self) -> None:
        self._boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()

    async def read(self, session: AsyncSession) -> StoreTime:
        generation = await restores(session)
        return StoreTime(f"{self._boot}/{generation}", time.clock_gettime(time.CLOCK_BOOTTIME))


class ServerTime:
    """For PostgreSQL: a failover (timeline), another cluster or a restarted server is another incarnation."""

    _QUERY = text(
        "SELECT (SELECT system_identifier FROM pg_control_system())::text || '/' ||"
        " substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) || '/' ||"
        " extract(epoch FROM pg_postmaster_start_time())::text,"
        " extract(epoch FROM clock_timestamp())::float8"
    )

    async def read(self, session: AsyncSession) -> StoreTime:
        incarnation, now_s = (await session.execute(self._QUERY)).one()
        return StoreTime(f"{incarnation}/{await restores(session)}", now_s)


def timekeeper(store: Store) -> Timekeeper:
    return HostTime() if store.sqlite else ServerTime()
