"""What the store learns from a blanket's agent: that it is there, what it is, what happened in it."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import delete, func, select

from supercloud.model.errors import Denied, InvalidInput
from supercloud.model.names import Id, new_id
from supercloud.model.states import BLANKET_TRANSITIONS, BlanketState, move
from supercloud.ports.agent import BlanketReport
from supercloud.ports.controller import Event
from supercloud.services import incidents
from supercloud.services.store.engine import Store
from supercloud.services.store.tables import LOCKED, Blanket, EventRow
from supercloud.wire.codec import to_json

#: A blanket's last events are kept; a flood from one pushes out its own only.
KEPT = 5000
_EVENT_BYTES = 16 << 10
#: Events of the control plane's own making; agents count from 1.
_OWN_SEQ = 0


async def admit(store: Store, blanket: Id, cloud: Id) -> None:
    """
    Raises:
        Denied: not a blanket of this cloud, or not accepted any more.
    """
    async with store.read() as session:
        row = await session.get(Blanket, blanket)
    if row is None or row.cloud != cloud:
        raise Denied(f"there is no blanket {blanket} in cloud {cloud}")
    if row.revoked:
        raise Denied(f"blanket {row.name} is revoked: {row.reason}")


async def ready(store: Store, blanket: Id, report: BlanketReport) -> None:
    async with store.write() as session:
        row = await session.get(Blanket, blanket, with_for_update=LOCKED)
        if row is None or row.revoked:
            return
        state = BlanketState(row.state)
        if state is BlanketState.CREATED:  # it was faster than the operation that made it
            state = move(BLANKET_TRANSITIONS, state, BlanketState.BOOTING)
        row.state = move(BLANKET_TRANSITIONS, state, BlanketState.READY)
        row.report, row.boot_id, row.reason = to_json(BlanketReport, report), report.boot_id, ""


async def unreachable(store: Store, blanket: Id) -> None:
    async with store.write() as session:
        row = await session.get(Blanket, blanket, with_for_update=LOCKED)
        if row is not None and row.state == BlanketState.READY:
            row.state, row.reason = BlanketState.UNREACHABLE, "its agent disconnected"


async def revoke(store: Store, blanket: Id, reason: str) -> None:
    async with store.write() as session:
        row = await session.get(Blanket, blanket, with_for_update=LOCKED)
        if row is not None:
            row.revoked, row.reason = True, reason
            if BlanketState.REVOKED in BLANKET_TRANSITIONS[BlanketState(row.state)]:
                row.state = BlanketState.REVOKED


async def take(store: Store, blanket: Id, cloud: Id, events: Sequence[Event], *, at: float) -> int:
    """Keep what is new; the highest sequence number of the batch, which is durable on return."""
    for one in events:
        if len(json.dumps(one.data)) > _EVENT_BYTES:
            raise InvalidInput(f"event {one.id} is larger than {_EVENT_BYTES} bytes")
    async with store.write() as session:
        known = set(
            await session.scalars(
                select(EventRow.id).where(
                    EventRow.blanket == blanket, EventRow.id.in_([one.id for one in events])
                )
            )
        )
        fresh = {one.id: one for one in events if one.id not in known and one.kind != incidents.KIND}
        for one in events:
            if one.kind == incidents.KIND:
                await incidents.keep(session, blanket, cloud, one.data, at=at, told_at=one.at)
        for one in fresh.values():
            session.add(
                EventRow(
                    blanket=blanket,
                    cloud=cloud,
                    id=one.id,
                    seq=one.seq,
                    kind=one.kind[:100],
                    at=one.at,
                    data=one.data,
                    received_at=at,
                )
            )
        await session.flush()
        newest = await session.scalar(select(func.max(EventRow.seq)).where(EventRow.blanket == blanket))
        await session.execute(
            delete(EventRow).where(EventRow.blanket == blanket, EventRow.seq <= (newest or 0) - KEPT)
        )
    return max((one.seq for one in events), default=0)


async def finding(store: Store, blanket: Id, cloud: Id, kind: str, data: dict[str, Any]) -> None:
    """Something that the control plane itself saw of a blanket."""
    now = time.time()
    async with store.write() as session:
        session.add(
            EventRow(
                blanket=blanket,
                cloud=cloud,
                id=new_id(),
                seq=_OWN_SEQ,
                kind=kind,
                at=now,
                data=data,
                received_at=now,
            )
        )
