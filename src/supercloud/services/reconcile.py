"""Bringing the store and what really runs together: at start, when an agent connects, and every while.

What agents report is compared with the store; nothing is assumed of blankets that are silent, except that a
right which ran out there has run out.
"""

from __future__ import annotations

import asyncio

import structlog
from sqlalchemy import and_, or_, select

from supercloud.model.errors import Conflict, NotFound, SupercloudError
from supercloud.model.names import Id
from supercloud.model.states import BlanketState, InstanceState
from supercloud.ports.agent import InstanceRef, InstanceReport, RunState, StopInstance, StopMode, VolumeRef
from supercloud.ports.rights import Verdict
from supercloud.services.parts import Parts
from supercloud.services.sagas.migrate import Trip, arrive_late
from supercloud.services.sagas.world import World
from supercloud.services.store.tables import Blanket, Instance, MigrationRow, Operation, Right, VolumeCopy
from supercloud.services.store.time import restores
from supercloud.services.tidy import has_arrived, release_ended

_log = structlog.get_logger(__name__)
_EVERY_S = 10.0
#: What an operation leaves behind if it ends by a bug.
_UNDER_WAY = (InstanceState.STARTING, InstanceState.MIGRATING, InstanceState.STOPPING)
_REASONS = {InstanceState.STOPPED: "it ended by itself"}
_SHOWN = {
    RunState.RUNNING: InstanceState.RUNNING,
    RunState.PAUSED: InstanceState.PAUSED,
    RunState.DEFINED: InstanceState.STOPPED,
    RunState.ABSENT: InstanceState.STOPPED,
}


class Reconciler:
    """Await `run()`; `blanket` is also called when one connects or reports events."""

    def __init__(self, parts: Parts, world: World) -> None:
        self._parts = parts
        self._world = world
        self._turns: dict[Id, asyncio.Lock] = {}

    async def run(self) -> None:
        while True:
            for work in (self._lost_blankets, self.expired, self._all):
                try:
                    await work()
                except SupercloudError as error:
                    _log.warning("reconcile.failed", work=work.__name__, why=error.message)
            await asyncio.sleep(_EVERY_S)

    async def _all(self) -> None:
        await asyncio.gather(*(self.blanket(one) for one in sorted(self._parts.agents.connected)))

    async def _lost_blankets(self) -> None:
        """On SQLite this controller is the only one, so what is not connected here is not connected."""
        if not self._parts.store.sqlite:
            return
        async with self._parts.store.write() as session:
            rows = await session.scalars(select(Blanket).where(Blanket.state == BlanketState.READY))
            for row in rows:
                if not self._parts.agents.is_connected(row.id):
                    row.state, row.reason = BlanketState.UNREACHABLE, "its agent is not connected"

    async def expired(self) -> None:
        """Whose right is over at a silent holder is fenced, and whose right was given up is stopped.

        Either runs nowhere any more.
        """
        shown = (InstanceState.RUNNING, InstanceState.PAUSED, *_UNDER_WAY)
        unheld = (*shown, InstanceState.FENCED, InstanceState.PREPARING)
        async with self._parts.store.read() as session:
            now = await self._parts.rights.now(session)
            rows = await session.execute(
                select(Instance.id, Right.holder)
                .join(Right, Right.instance == Instance.id)
                .where(
                    or_(
                        and_(Right.holder.is_(None), Instance.state.in_(unheld)),
                        and_(
                            Right.hold.is_(False),
                            Right.expires_at + Right.margin_s < now,
                            Instance.state.in_(shown),
                        ),
                    ),
                )
            )
            over = [(instance, holder) for instance, holder in rows]
        for instance, holder in over:
            if await self._busy(instance):
                continue
            if holder is None:
                await self._set(instance, InstanceState.STOPPED, "it ended, and its right was given up")
            else:
                await self._set(
                    instance, InstanceState.FENCED, "its right ran out at a blanket that is silent"
                )

    async def blanket(self, blanket: Id) -> None:
        """Compare one connected blanket's instances and volumes with the store."""
        async with self._turns.setdefault(blanket, asyncio.Lock()):
            try:
                await self._arrivals(blanket)
                reports = await self._parts.agents.agent(blanket).instances.list()
                expected = await self._expected(blanket)
                for report in reports:
                    if expected.get(report.instance) != _SHOWN.get(report.state, report.state):
                        await self._instance(blanket, report)
                await self._volumes(blanket)
                await release_ended(self._parts, self._world, blanket)
            except SupercloudError as error:
                _log.info("reconcile.blanket_failed", blanket=blanket, why=error.message)

    async def _arrivals(self, blanket: Id) -> None:
        """Migrations that were committed to this blanket, and given up because it did not answer."""
        given_up = (InstanceState.FENCED, InstanceState.FAILED, *_UNDER_WAY)
        async with self._parts.store.read() as session:
            found = await session.scalars(
                select(MigrationRow)
                .join(Right, Right.issued_for == MigrationRow.operation)
                .join(Instance, Instance.id == MigrationRow.instance)
                .where(
                    Right.instance == MigrationRow.instance,
                    Right.holder == blanket,
                    MigrationRow.target == blanket,
                    MigrationRow.verdict == Verdict.COMMITTED,
                    Instance.state.in_(given_up),
                )
            )
            rows = found.all()
        for row in rows:
            if not await self._busy(row.instance) and not await has_arrived(self._world, row):
                trip = Trip(operation=row.operation, instance=row.instance, source=row.source, target=blanket)
                await arrive_late(self._world, trip)

    async def _expected(self, blanket: Id) -> dict[Id, str]:
        """The states of the instances whose right is held there: most are as reported, and need no more."""
        async with self._parts.store.read() as session:
            rows = await session.execute(
                select(Instance.id, Instance.state)
                .join(Right, Right.instance == Instance.id)
                .where(Right.holder == blanket)
            )
            return dict(list(rows.all()))

    async def _instance(self, blanket: Id, report: InstanceReport) -> None:
        async with self._parts.store.read() as session:
            row = await session.get(Instance, report.instance)
        # Looked for after that: a state that belongs to an operation was left behind if none is open by now.
        if await self._busy(report.instance):
            return
        try:
            standing = await self._world.rights.standing(report.instance)
        except NotFound:
            await self._remove_orphan(blanket, report)
            return
        if standing.record.holder != blanket:
            await self._without_right(blanket, report)
            return
        shown = _SHOWN.get(report.state)
        if row is None or shown is None or row.state == shown:
            return
        await self._abort_migration(report.instance)
        if shown is InstanceState.STOPPED:  # it ended by itself: the agent's answer proves that nothing runs
            await self._parts.agents.agent(blanket).instances.stop(
                StopInstance(instance=report.instance, mode=StopMode.DESTROY, timeout_s=0)
            )
            await self._world.rights.surrender(report.instance, by=blanket, epoch=standing.record.epoch)
            if InstanceState(row.state) is InstanceState.FAILED:
                return  # and says why, which must not be forgotten
        await self._set(report.instance, shown, report.reason or _REASONS.get(shown, ""))

    async def _abort_migration(self, instance: Id) -> None:
        """One that nobody carries on and that is not decided: its source holds the right, and goes on."""
        async with self._parts.store.read() as session:
            operation = await session.scalar(
                select(MigrationRow.operation)
                .join(Operation, Operation.id == MigrationRow.operation)
                .where(
                    MigrationRow.instance == instance,
                    MigrationRow.verdict == Verdict.OPEN,
                    Operation.ended_at.is_not(None),
                )
            )
        if operation is not None:
            await self._world.rights.abort(operation)

    async def _without_right(self, blanket: Id, report: InstanceReport) -> None:
        """What runs without a right is ended; what an instance left where it was before is removed."""
        agent = self._parts.agents.agent(blanket)
        if report.state in {RunState.RUNNING, RunState.PAUSED}:
            _log.warning("reconcile.without_right", blanket=blanket, instance=report.instance)
            await agent.instances.stop(
                StopInstance(instance=report.instance, mode=StopMode.DESTROY, timeout_s=0)
            )
        async with self._parts.store.read() as session:
            row = await session.get(Instance, report.instance)
        if row is not None and row.blanket != blanket and report.state is not RunState.INCOMING:
            await agent.instances.remove(InstanceRef(instance=report.instance))

    async def _remove_orphan(self, blanket: Id, report: InstanceReport) -> None:
        """An instance that the store does not know (any more): a removal that did not reach the blanket."""
        agent = self._parts.agents.agent(blanket)
        _log.warning("reconcile.orphan", blanket=blanket, instance=report.instance)
        if await self._restored():
            return
        await agent.instances.stop(StopInstance(instance=report.instance, mode=StopMode.DESTROY, timeout_s=0))
        await agent.instances.remove(InstanceRef(instance=report.instance))

    async def _volumes(self, blanket: Id) -> None:
        """Copies that the store does not know are deleted, unless an operation may be making them."""
        agent = self._parts.agents.agent(blanket)
        found = await agent.volumes.list()
        async with self._parts.store.read() as session:
            known = set(await session.scalars(select(VolumeCopy.id).where(VolumeCopy.blanket == blanket)))
        restored = await self._restored()
        for copy in found:
            if copy.copy not in known:
                _log.warning("reconcile.orphan_copy", blanket=blanket, volume=copy.volume, copy=copy.copy)
                if restored:
                    continue
                await self._parts.keys.destroy_key(volume=copy.volume, copy=copy.copy)
                await agent.volumes.remove(VolumeRef(volume=copy.volume, copy=copy.copy))

    async def _restored(self) -> bool:
        """A restored store may not know what was made after its backup: then nothing unknown is deleted."""
        async with self._parts.store.read() as session:
            return await restores(session) > 0

    async def _busy(self, instance: Id) -> bool:
        """Whether an operation is on it, whose business its state is."""
        async with self._parts.store.read() as session:
            return (
                await session.scalar(
                    select(Operation.id).where(Operation.join_key == instance, Operation.ended_at.is_(None))
                )
                is not None
            )

    async def _set(self, instance: Id, state: InstanceState, reason: str) -> None:
        try:
            await self._world.set_state(instance, state, reason=reason)
        except (Conflict, NotFound) as error:
            _log.info("reconcile.not_set", instance=instance, state=state, why=error.message)
