"""What a migration left at a blanket that was away when it ended: forwards, incoming copies, volumes' copies.

A migration's row in the store stays until both its blankets have released it, so that it is known here.
"""

from __future__ import annotations

from collections.abc import Sequence

import structlog
from sqlalchemy import delete, or_, select

from supercloud.model.errors import SupercloudError
from supercloud.model.names import Id
from supercloud.ports.agent import OperationRef
from supercloud.ports.rights import Verdict
from supercloud.services.parts import Parts
from supercloud.services.sagas import disks
from supercloud.services.sagas.world import World
from supercloud.services.store.tables import Blanket, MigrationRow, Operation, VolumeCopy

_log = structlog.get_logger(__name__)


async def release_ended(parts: Parts, world: World, blanket: Id) -> None:
    """Of the migrations that `blanket` took part in: whose operation has ended, and both sides are there.

    A blanket that is revoked has nothing to release any more.
    """
    for migration in await _ended(parts, blanket):
        operation = migration.operation
        try:
            await world.rights.abort(operation)  # unless it was decided: nobody is left to
            if not await _is_carried_out(world, migration):
                continue
            for side in sorted(await _accepted(parts, {migration.source, migration.target})):
                ref = OperationRef(operation=operation, instance=migration.instance)
                await world.agent(side).migration.release(ref)
            await disks.drop_leftovers(world, operation)
        except SupercloudError as error:
            _log.info("tidy.later", operation=operation, why=error.message)
            continue
        async with parts.store.write() as session:
            await session.execute(delete(MigrationRow).where(MigrationRow.operation == operation))


async def drop_unclaimed(parts: Parts, world: World, blanket: Id) -> None:
    """Copies in `blanket` of operations that ended before there was a migration to speak of."""
    async with parts.store.read() as session:
        operations = set(
            await session.scalars(
                select(Operation.id)
                .join(VolumeCopy, VolumeCopy.operation == Operation.id)
                .outerjoin(MigrationRow, MigrationRow.operation == VolumeCopy.operation)
                .where(
                    VolumeCopy.blanket == blanket,
                    VolumeCopy.current.is_(False),
                    Operation.ended_at.is_not(None),
                    MigrationRow.operation.is_(None),
                )
            )
        )
    for operation in operations:
        try:
            await disks.drop_leftovers(world, operation)
        except SupercloudError as error:
            _log.info("tidy.later", operation=operation, why=error.message)


async def _is_carried_out(world: World, migration: MigrationRow) -> bool:
    """Whether the volumes are where the verdict put them, so that what is left over is really that."""
    verdict = (await world.rights.decision(migration.operation)).verdict
    if verdict is Verdict.COMMITTED:
        return await has_arrived(world, migration)
    return all(copy.blanket != migration.source for copy in await world.leftovers(migration.operation))


async def has_arrived(world: World, migration: MigrationRow) -> bool:
    """Whether the target's copies are the volumes, of a migration that was committed: what comes to the
    instance afterwards is not the migration's any more."""
    return all(copy.blanket != migration.target for copy in await world.leftovers(migration.operation))


async def _ended(parts: Parts, blanket: Id) -> Sequence[MigrationRow]:
    async with parts.store.read() as session:
        found = await session.scalars(
            select(MigrationRow)
            .outerjoin(Operation, Operation.id == MigrationRow.operation)
            .where(
                or_(MigrationRow.source == blanket, MigrationRow.target == blanket),
                or_(Operation.id.is_(None), Operation.ended_at.is_not(None)),
            )
        )
        rows = found.all()
    connected = parts.agents.is_connected
    accepted = await _accepted(parts, {side for row in rows for side in (row.source, row.target)})
    return [row for row in rows if all(connected(one) for one in {row.source, row.target} & accepted)]


async def _accepted(parts: Parts, blankets: set[Id]) -> set[Id]:
    """Those that still exist and were not revoked."""
    async with parts.store.read() as session:
        return set(
            await session.scalars(
                select(Blanket.id).where(Blanket.id.in_(blankets), Blanket.revoked.is_(False))
            )
        )
