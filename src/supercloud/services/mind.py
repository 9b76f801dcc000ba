"""A cloud's horizontal loop, as it is in the store, for the length of one transaction.

The engine is the one of every blanket (security.engine). All that it remembers are the cloud's own rows of
incidents, so that any controller goes on from there, and a transaction that is lost leaves nothing half done.
What it wants done becomes orders at blankets, in the same transaction (services.loop_orders).
"""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Iterable
from typing import Any

from sqlalchemy import or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from supercloud.model.errors import Refused
from supercloud.model.findings import Finding
from supercloud.model.incidents import Incident
from supercloud.model.names import Id
from supercloud.model.ocsf import one_line
from supercloud.model.reactions import ENDED, GOVERNED, IN_FORCE, Deed, Reaction, ReactionState
from supercloud.security.engine import Action, Doing, Engine
from supercloud.security.horizontal import OPEN, TAKES, ByWhatIsShared, targets
from supercloud.security.policy import NOTHING
from supercloud.services import loop_orders, policy_rows
from supercloud.services.loop_orders import Standing
from supercloud.services.store.security import IncidentRow, LoopOrderRow
from supercloud.wire.codec import from_json, to_json

_IDS = uuid.UUID("3f0f9b52-55a1-4e0e-8a2b-1d3c5e7f9a10")
_HOUR_S = 3600.0
_R = ReactionState
_NONE = Standing()


class Mind:
    """Made by `of`, under the lock of its cloud; `save` at the end."""

    def __init__(
        self, session: AsyncSession, cloud: Id, engine: Engine, rows: dict[Id, IncidentRow], now: float
    ) -> None:
        self._session = session
        self._cloud = cloud
        self._rows = rows  # by the engine's ids
        self._now = now
        self.engine = engine

    @classmethod
    async def of(cls, session: AsyncSession, cloud: Id, now: float) -> Mind:
        ordered = select(LoopOrderRow.incident).where(LoopOrderRow.cloud == cloud)
        found = await session.scalars(
            select(IncidentRow).where(
                IncidentRow.blanket == cloud,
                or_(
                    IncidentRow.closed_at.is_(None),
                    IncidentRow.closed_at > now - _HOUR_S,
                    IncidentRow.id.in_(ordered),
                ),
            )
        )
        rows = {row.own: row for row in found}
        incidents = [from_json(Incident, row.said["incident"]) for row in rows.values()]
        engine = Engine(
            await policy_rows.horizontal(session, cloud) or NOTHING,
            takes=TAKES,
            joining=ByWhatIsShared(),
            most=OPEN,
            incidents=[one for one in incidents if one.closed_at is None],
            reactions=[from_json(Reaction, one) for row in rows.values() for one in row.said["reactions"]],
        )
        return cls(session, cloud, engine, rows, now)

    # ------------------------------------------------------------ what happens

    async def take(self, finding: Finding) -> None:
        await self._carry(self.engine.take(finding, self._now)[1])

    async def tick(self) -> None:
        await self._carry(self.engine.tick(self._now))

    async def close(self, incident: Id, *, by: str, undo: bool) -> None:
        """Raises: NotFound."""
        await self._carry(self.engine.close(incident, by=by, undo=undo, now=self._now))

    async def answer(self, reaction: Id, *, yes: bool, by: str) -> None:
        """Raises: NotFound, Conflict."""
        await self._carry(self.engine.answer(reaction, yes=yes, by=by, now=self._now))

    async def settle(self) -> None:
        """What blankets did of what was ordered, as the engine is told of it."""
        await loop_orders.end(self._session, self._cloud, self._now)
        standing = await loop_orders.standing(self._session, self._cloud)
        for one in list(self.engine.book):
            if one.state in ENDED:
                continue
            at = standing.get(one.id, _NONE)
            if one.state is _R.INTENDED:
                await self._carry(self._intended(one, at))
            elif one.state is _R.UNDOING and not at.undoing:
                problem = at.problem if at.stuck else None
                await self._carry(self.engine.undid(one.id, self._now, problem))
        live = [one.id for one in self.engine.book if one.state not in ENDED]
        await loop_orders.forget(self._session, self._cloud, live)

    def _intended(self, one: Reaction, at: Standing) -> list[Action]:
        """Done, once it is somewhere and nobody who is there is still to be asked."""
        if at.there and at.waiting == at.waiting_away:
            return self.engine.did(one.id, self._now, None)
        if one.command.until is not None and self._now >= one.command.until:
            return self.engine.looked(one.id, self._now, there=False)
        if at.there or at.waiting:
            return []
        return self.engine.did(one.id, self._now, at.problem or "nobody is left who could do it")

    # ------------------------------------------------------------ what follows

    async def _carry(self, actions: Iterable[Action]) -> None:
        left = deque(actions)
        while left:
            action = left.popleft()
            match action.doing:
                case Doing.DO:
                    left += await self._order(action.reaction)
                case Doing.UNDO:
                    left += await self._take_back(action.reaction)
                case Doing.LOOK:
                    left += await self._look(action.reaction)

    async def _order(self, reaction: Reaction) -> list[Action]:
        try:
            await self._place(reaction, None)
        except Refused as error:
            return self.engine.did(reaction.id, self._now, error.message)
        return []

    async def _place(self, reaction: Reaction, blanket: Id | None) -> None:
        """At its blankets, or at one of them. Raises: Refused."""
        known = await loop_orders.known(self._session, self._cloud, reaction.command)
        found = [
            one for one in targets(reaction.command, known) if blanket is None or one.place.blanket == blanket
        ]
        await loop_orders.place(
            self._session,
            found,
            cloud=self._cloud,
            incident=_row_id(self._cloud, reaction.incident),
            reaction=reaction.id,
            now=self._now,
        )

    async def _take_back(self, reaction: Reaction) -> list[Action]:
        await loop_orders.take_back(
            self._session,
            (LoopOrderRow.cloud == self._cloud) & (LoopOrderRow.reaction == reaction.id),
            self._now,
        )
        at = await self._standing(reaction)
        return [] if at.undoing else self.engine.undid(reaction.id, self._now, None)

    async def _look(self, reaction: Reaction) -> list[Action]:
        await loop_orders.look(self._session, self._cloud, reaction.id, self._now)
        at = await self._standing(reaction)
        if at.looking:
            return []
        if at.looked:
            return self.engine.looked(reaction.id, self._now, there=not at.gone)
        late = reaction.done_at is None or self._now >= reaction.done_at + reaction.within_s
        return self.engine.looked(reaction.id, self._now, there=None) if late else []

    async def _standing(self, reaction: Reaction) -> Standing:
        found = await loop_orders.standing(self._session, self._cloud, reaction.id)
        return found.get(reaction.id, _NONE)

    async def joined(self, blanket: Id) -> None:
        """A blanket has come: what is denied everywhere is denied there, too."""
        for one in list(self.engine.book):
            if one.command.deed is Deed.DENY and one.state in IN_FORCE - {_R.UNDOING}:
                try:
                    await self._place(one, blanket)
                except Refused:
                    continue

    async def moved(self, instance: Id) -> None:
        """An instance has: what is in force about it is done where it is to be done now, and nowhere else.
        What had it moved stays about where it was."""
        for one in list(self.engine.book):
            if one.command.about.id != instance or one.state not in IN_FORCE - {_R.UNDOING}:
                continue
            if one.command.deed in GOVERNED:
                continue
            known = await loop_orders.known(self._session, self._cloud, one.command)
            try:
                found = targets(one.command, known)
            except Refused:
                continue  # whoever it is let by ends it
            await self._place(one, None)
            to = [target.place.blanket for target in found]
            await loop_orders.move(self._session, self._cloud, one.id, to, self._now)

    # ------------------------------------------------------------ kept

    async def save(self) -> None:
        changes = self.engine.changes()
        for incident in changes.incidents.values():
            row = self._rows.get(incident.id)
            if row is None:
                row = self._rows[incident.id] = _fresh(self._cloud, incident)
                self._session.add(row)
            row.state, row.severity = incident.state.value, incident.severity.rank
            row.title, row.version = one_line(incident.title)[:256], incident.version
            row.last_at, row.closed_at, row.received_at = incident.last_at, incident.closed_at, self._now
            row.said = {**row.said, "incident": to_json(Incident, incident)}
        fresh: dict[Id, dict[Id, Any]] = {}
        for one in changes.reactions.values():
            fresh.setdefault(one.incident, {})[one.id] = to_json(Reaction, one)
        for name, said in fresh.items():
            row = self._rows[name]
            kept = {one["command"]["id"]: one for one in row.said["reactions"]} | said
            row.said = {**row.said, "reactions": list(kept.values())}
        await self._session.flush()

    def next_due(self) -> float | None:
        return self.engine.next_due()


def _row_id(cloud: Id, own: Id) -> Id:
    return str(uuid.uuid5(_IDS, f"{cloud}/{own}"))


def _fresh(cloud: Id, incident: Incident) -> IncidentRow:
    return IncidentRow(
        id=_row_id(cloud, incident.id),
        own=incident.id,
        blanket=cloud,
        cloud=cloud,
        domain=cloud,
        opened_at=incident.opened_at,
        said={"reactions": []},
    )
