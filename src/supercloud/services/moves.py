"""Moving many instances: a group of a cloud, or all that a provider has. Asking for it."""

from __future__ import annotations

import time

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from supercloud.model.errors import NotFound
from supercloud.model.names import Id
from supercloud.services.operations import Operations
from supercloud.services.parts import Parts
from supercloud.services.refs import find_blanket, find_cloud, find_provider
from supercloud.services.requests import MoveGroup, Ref
from supercloud.services.store.tables import LOCKED, Instance, Provider
from supercloud.services.views import OperationView

DRAIN = "provider.drain"


class Moves:
    """The part of Northbound about moves of several instances."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def move_group(self, request: MoveGroup) -> OperationView:
        """
        Raises:
            NotFound: no instance of the cloud is in the group.
        """
        operations = self._parts.operations
        async with self._parts.store.write() as session:
            cloud = await find_cloud(session, request.cloud)
            to = sorted({(await find_blanket(session, one, cloud.id)).id for one in request.to})
            members = select(Instance.id).where(Instance.cloud == cloud.id, Instance.group == request.group)
            if await session.scalar(members.limit(1)) is None:
                raise NotFound(
                    f"no instance of cloud {cloud.name} is in group {request.group}",
                    hint="supercloud vm place NAME --group GROUP puts one there",
                )
            operation = await operations.record(
                session,
                "group.move",
                object_id=cloud.id,
                name=request.group,
                cloud=cloud.id,
                intent={"cloud": cloud.id, "group": request.group, "to": to},
                join_key=f"group {cloud.id} {request.group}",
            )
        return await operations.started(operation, caller=self._parts.store.caller)

    async def drain_provider(self, ref: Ref) -> OperationView:
        """From now on nothing new comes there, whatever becomes of the operation."""
        operations = self._parts.operations
        async with self._parts.store.write() as session:
            row = await find_provider(session, ref)
            operation = await record_drain(session, operations, row)
        return await operations.started(operation, caller=self._parts.store.caller)


async def record_drain(session: AsyncSession, operations: Operations, row: Provider) -> Id:
    """Of a provider: closed from now on, and an operation that is to be started."""
    await session.refresh(row, with_for_update=LOCKED)
    row.draining_since = row.draining_since or time.time()
    return await operations.record(
        session, DRAIN, object_id=row.id, name=row.name, cloud=None, intent={"provider": row.id}
    )
