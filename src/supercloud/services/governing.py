"""What of a horizontal loop's reactions no blanket can do: closing blankets, moving instances, changing keys.

Each is an operation that is recorded once for its order (`Operation.parent`), so that a controller that is
killed finds it and begins nothing twice. A blanket that is closed says by which reaction; no other opens it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from supercloud.model.errors import Conflict, NotFound
from supercloud.model.incidents import IncidentState
from supercloud.model.names import Id
from supercloud.model.reactions import Command, Deed, Reaction, ReactionState
from supercloud.model.states import AT_REST, OperationState
from supercloud.security.engine import Doing
from supercloud.services.operations import Intent, Operations
from supercloud.services.restoring import RESTORE, check_restore, root_of
from supercloud.services.store.engine import Store
from supercloud.services.store.security import IncidentRow, LoopOrderRow
from supercloud.services.store.tables import LOCKED, Blanket, Cloud, Instance, Operation
from supercloud.wire.codec import from_json

#: Of instances that are to leave blankets.
LEAVE, ROTATE = "blanket.leave", "cloud.rotate-keys"
_CLOSING = frozenset({Deed.QUARANTINE, Deed.EVACUATE})


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One row of a reaction (LoopOrderRow), at a blanket of the cloud's own."""

    id: Id
    cloud: Id
    reaction: Id
    blanket: Id
    command: Command


class Governing:
    def __init__(self, store: Store, operations: Operations) -> None:
        self._store = store
        self._operations = operations

    async def carry_out(self, order: Order, doing: Doing) -> bool | None:
        """Whether its effect is there then; None: that takes a while still, and is to be asked again.

        Raises:
            Conflict: another order closed the blanket, or another operation is under way there.
            NotFound, Unavailable.
        """
        match doing:
            case Doing.DO:
                return await self._do(order)
            case Doing.UNDO:
                await self._undo(order)
                return False
        return await self._look(order)

    # ------------------------------------------------------------ doing

    async def _do(self, order: Order) -> bool | None:
        """True once nothing more is tried; whether it came to what it should have is looked at."""
        async with self._store.write() as session:
            found = await _operation(session, order.id)
            if found is None and order.command.deed is Deed.RESTORE and await _evidence_first(session, order):
                return None
            if found is not None and found.state != OperationState.PENDING:
                return True if found.ended_at is not None else None
            operation = await self._begun(session, order) if found is None else found.id
        await self._operations.started(operation)
        return None

    async def _begun(self, session: AsyncSession, order: Order) -> Id:
        if order.command.deed in _CLOSING:
            await _close(session, order)
        if order.command.deed is Deed.ROTATE:
            return await self._recorded(session, order, ROTATE, {"cloud": order.cloud}, key=order.cloud)
        if order.command.deed is Deed.RESTORE:
            return await self._restoring(session, order)
        moving = order.command.deed is Deed.MOVE
        intent = {
            "blanket": order.blanket,
            "instances": [order.command.about.id] if moving else None,
            "away": await _siblings(session, order),
        }
        return await self._recorded(session, order, LEAVE, intent, key=f"order {order.id}")

    async def _restoring(self, session: AsyncSession, order: Order) -> Id:
        """Raises: NotFound, Conflict (there is nothing to go back to, or another operation is under way)."""
        instance = await session.get(Instance, order.command.about.id)
        if instance is None:
            raise NotFound("the instance was removed")
        root = await root_of(session, instance.id)
        check_restore(root, order.command.snapshot)
        return await self._operations.record(
            session,
            RESTORE,
            object_id=instance.id,
            name=instance.name,
            cloud=order.cloud,
            intent={
                "instance": instance.id,
                "blanket": order.blanket,
                "volume": root.id,
                "snapshot": order.command.snapshot,
            },
            parent=order.id,
        )

    async def _recorded(
        self, session: AsyncSession, order: Order, kind: str, intent: Intent, *, key: str
    ) -> Id:
        about = order.cloud if kind == ROTATE else order.blanket
        table = Cloud if kind == ROTATE else Blanket
        name = await session.scalar(select(table.name).where(table.id == about)) or ""
        return await self._operations.record(
            session,
            kind,
            object_id=about,
            name=name,
            cloud=order.cloud,
            intent=intent,
            join_key=key,
            parent=order.id,
        )

    async def _undo(self, order: Order) -> None:
        """Nobody is moved back: where they are they are as well off."""
        async with self._store.write() as session:
            await session.execute(
                update(Blanket)
                .where(Blanket.id == order.blanket, Blanket.quarantined_by == order.reaction)
                .values(quarantined_by=None)
            )
            found = await _operation(session, order.id)
        if found is not None and found.ended_at is None and found.kind == LEAVE:
            await self._operations.cancel(found.id)

    # ------------------------------------------------------------ looking

    async def _look(self, order: Order) -> bool:
        async with self._store.read() as session:
            match order.command.deed:
                case Deed.MOVE:
                    instance = await session.get(Instance, order.command.about.id)
                    return instance is not None and instance.blanket != order.blanket
                case Deed.ROTATE | Deed.RESTORE:
                    found = await _operation(session, order.id)
                    return found is not None and found.state == OperationState.SUCCEEDED
            blanket = await session.get(Blanket, order.blanket)
            closed = blanket is not None and blanket.quarantined_by == order.reaction
            return closed and await session.scalar(_alive(order.blanket)) is None


async def _operation(session: AsyncSession, order: Id) -> Operation | None:
    """The one that was begun for an order."""
    found: Operation | None = await session.scalar(select(Operation).where(Operation.parent == order))
    return found


async def _evidence_first(session: AsyncSession, order: Order) -> bool:
    """Whether its blanket is still at keeping evidence of the instance, which ends with its machine."""
    rows = await session.scalars(
        select(IncidentRow).where(
            IncidentRow.blanket == order.blanket, IncidentRow.state != IncidentState.CLOSED.value
        )
    )
    reactions = (from_json(Reaction, one) for row in rows for one in row.said.get("reactions") or ())
    return any(
        one.command.deed is Deed.KEEP
        and one.command.about.id == order.command.about.id
        and one.state is ReactionState.INTENDED
        for one in reactions
    )


async def _close(session: AsyncSession, order: Order) -> None:
    """Raises: NotFound, Conflict."""
    row = await session.get(Blanket, order.blanket, with_for_update=LOCKED, populate_existing=True)
    if row is None:
        raise NotFound("the blanket was removed")
    if row.quarantined_by not in {None, order.reaction}:
        raise Conflict(f"blanket {row.name} is in quarantine by another reaction")
    row.quarantined_by = order.reaction


async def _siblings(session: AsyncSession, order: Order) -> list[Id]:
    """The blankets that the reaction is about: what leaves one of them goes to none of the others."""
    of = (LoopOrderRow.cloud == order.cloud, LoopOrderRow.reaction == order.reaction)
    return sorted({order.blanket, *await session.scalars(select(LoopOrderRow.blanket).where(*of))})


def _alive(blanket: Id) -> Select[Any]:
    """One of its instances that has a process, or may have."""
    where = (Instance.blanket == blanket, Instance.state.not_in([one.value for one in AT_REST]))
    return select(Instance.id).where(*where).limit(1)
