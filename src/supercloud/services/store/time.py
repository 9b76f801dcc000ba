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
        """Now, as of this call: not as of the transaction's start. How often the state was restored is no
        part of this incarnation: `store.incarnation` adds it."""
        ...

    async def now_s(self, session: AsyncSession) -> float:
        """The same moment alone. Where the clock is this machine's own, no database is asked."""
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
        return StoreTime(self._boot, await self.now_s(session))

    async def now_s(self, session: AsyncSession) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)


class ServerTime:
    """For PostgreSQL: a failover (timeline), another cluster or a restarted server is another incarnation."""

    _QUERY = text(
        "SELECT (SELECT system_identifier FROM pg_control_system())::text || '/' ||"
        " substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) || '/' ||"
        " extract(epoch FROM pg_postmaster_start_time())::text,"
        " extract(epoch FROM clock_timestamp())::float8"
    )
    _NOW = text("SELECT extract(epoch FROM clock_timestamp())::float8")

    async def read(self, session: AsyncSession) -> StoreTime:
        incarnation, now_s = (await session.execute(self._QUERY)).one()
        return StoreTime(incarnation, now_s)

    async def now_s(self, session: AsyncSession) -> float:
        return float(await session.scalar(self._NOW) or 0.0)


async def wall(session: AsyncSession) -> float:
    """Seconds since the epoch by the store's clock, now: the same for every controller. It may be set, and is
    for what lasts days and outlives reboots, never for run rights."""
    if session.get_bind().dialect.name == "sqlite":
        return time.time()
    found = await session.scalar(text("SELECT extract(epoch FROM clock_timestamp())::float8"))
    return float(found)


def timekeeper(store: Store) -> Timekeeper:
    return HostTime() if store.sqlite else ServerTime()
