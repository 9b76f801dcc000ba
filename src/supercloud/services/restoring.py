"""To what volumes go back: what is asked before, by whoever has one restored."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from supercloud.model.errors import Conflict
from supercloud.model.names import Id, Name
from supercloud.services.store.tables import Volume

#: Of an instance, with the volume that it boots from.
RESTORE = "instance.restore"


def check_restore(row: Volume, snapshot: Name | None) -> None:
    """
    Raises:
        Conflict: it has nothing like that to go back to.
    """
    if snapshot is None:
        if row.image is None:
            raise Conflict(f"volume {row.name} begins with no image", hint="name a snapshot")
    elif snapshot not in row.snapshots:
        raise Conflict(
            f"volume {row.name} has no snapshot {snapshot}", hint=f"supercloud volume show {row.name}"
        )


async def root_of(session: AsyncSession, instance: Id) -> Volume:
    """The volume that it boots from. Raises: Conflict (it has none)."""
    found: Volume | None = await session.scalar(
        select(Volume).where(Volume.instance == instance, Volume.position == 0)
    )
    if found is None:
        raise Conflict("that instance boots from no volume")
    return found
