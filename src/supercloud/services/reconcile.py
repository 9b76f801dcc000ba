"""Bringing the store and what really runs together: at start, when an agent connects, and every while.

What agents report is compared with the store; nothing is assumed of blankets that are silent, except that a
right which ran out there has run out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

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
from supercloud.services.tidy import drop_unclaimed, has_arrived, release_ended

_log = structlog.get_logger(__name__)
_EVERY_S = 10.0
#: Blankets that are compared together, and how long the next ones wait for them.
_AT_ONCE, _PATIENCE_S = 32, 1.0
#: What an operation leaves behind if it ends by a bug.
_UNDER_WAY = (InstanceState.STARTING, InstanceState.MIGRATING, InstanceState.STOPPING)
_REASONS = {InstanceState.STOPPED: "it ended by itself"}
_SHOWN = {
    RunState.RUNNING: InstanceState.RUNNING,
    RunState.PAUSED: InstanceState.PAUSED,
    RunState.DEFINED: InstanceState.STOPPED,
    RunState.ABSENT: InstanceState.STOPPED,
}


@dataclass(slots=True)
class _Known:
    """Of one blanket, in the store."""

    states: dict[Id, str]  # of the instances whose right is held there
    resting: set[Id]  # instances that are there, and whose right nobody holds
    copies: set[Id]  # of volumes
    migrating: bool  # a migration from there or to there is not tidied up yet

    def has(self, report: InstanceReport) -> bool:
        """Whether there is nothing to be done about what is reported."""
        if report.instance in self.resting:
            return report.state in {RunState.DEFINED, RunState.ABSENT}
        return self.states.get(report.instance) == _shown(report)


def _shown(report: InstanceReport) -> str:
    """The state in which the store has what is reported so."""
    return _SHOWN.get(report.state, report.state)


class Reconciler:
    """Await `run()`; `blanket` is also called when one connects or reports events."""

    def __init__(self, parts: Parts, world: World) -> None:
        self._parts = parts
        self._world = world
        self._turns: dict[Id, asyncio.Lock] = {}

    async def run(self) -> None:
        while True:
            for work in (self._lost_blankets, self.expired, self._parts.meshes.settle, self.blankets):
                try:
                    await work()
                except SupercloudError as error:
                    _log.warning("reconcile.failed", work=work.__name__, why=error.message)
            await asyncio.sleep(_EVERY_S)

    async def blankets(self) -> None:
        """Compare all that are connected: some after others, so that a thousand do not answer at once. Nobody
        waits for long for one that is slow."""
        connected = sorted(self._parts.agents.connected)
        every: list[asyncio.Task[None]] = []
        try:
            for first in range(0, len(connected), _AT_ONCE):
                some = connected[first : first + _AT_ONCE]
                known = await self._known(some)
                tasks = [asyncio.create_task(self._compare(one, known[one])) for one in some]
                every += tasks
                await asyncio.wait(tasks, timeout=_PATIENCE_S)
            await asyncio.gather(*every)
        finally:
            for task in every:
                task.cancel()

    async def _known(self, blankets: Sequence[Id]) -> dict[Id, _Known]:
        """What the store has of them, in four queries."""
        found = {one: _Known({}, set(), set(), migrating=False) for one in blankets}
        async with self._parts.store.read() as session:
            held = await session.execute(
                select(Right.holder, Instance.id, Instance.state)
                .join(Right, Right.instance == Instance.id)
                .where(Right.holder.in_(blankets))
            )
            for blanket, instance, state in held:
                found[blanket or ""].states[instance] = state
            resting = await session.execute(
                select(Instance.blanket, Instance.id)
                .join(Right, Right.instance == Instance.id)
                .where(Instance.blanket.in_(blankets), Right.holder.is_(None))
            )
            for blanket, instance in resting:
                found[blanket or ""].resting.add(instance)
            for blanket, copy in await session.execute(
                select(VolumeCopy.blanket, VolumeCopy.id).where(VolumeCopy.blanket.in_(blankets))
            ):
                found[blanket].copies.add(copy)
            sides = await session.execute(
                select(MigrationRow.source, MigrationRow.target).where(
                    or_(MigrationRow.source.in_(blankets), MigrationRow.target.in_(blankets))
                )
            )
            for one in {side for row in sides for side in row} & found.keys():
                found[one].migrating = True
        return found

    async def _compare(self, blanket: Id, known: _Known) -> None:
        """Nearly always a blanket is as the store has it; where it is not, it is looked at anew, and closely:
        what was read of it may be old by now."""
        agent = self._parts.agents.agent(blanket)
        try:
            same = not known.migrating and all(known.has(one) for one in await agent.instances.list())
            same = same and all(copy.copy in known.copies for copy in await agent.volumes.list())
        except SupercloudError as error:
            _log.info("reconcile.blanket_failed", blanket=blanket, why=error.message)
            return
        if not same:
            await self.blanket(blanket)

    async def _lost_blankets(self) -> None:
        """On SQLite this controller is the only one, so what is not connected here is not connected."""
        if not self._parts.store.sqlite:
            return
        async with self._parts.store.read() as session:
            ready = await session.scalars(select(Blanket.id).where(Blanket.state == BlanketState.READY))
            lost = [one for one in ready if not self._parts.agents.is_connected(one)]
        for one in lost:
            async with self._parts.store.write() as session:
                row = await session.get(Blanket, one)
                if row is None or row.state != BlanketState.READY or self._parts.agents.is_connected(one):
                    continue
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
                select(Instance.id, Instance.state, Right.holder)
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
            over = [(instance, InstanceState(state), holder) for instance, state, holder in rows]
        for instance, seen, holder in over:
            if await self._busy(instance):
                continue
            state, why = InstanceState.FENCED, "its right ran out at a blanket that is silent"
            if holder is None:
                state, why = InstanceState.STOPPED, "it ended, and its right was given up"
            await self._set(instance, state, why, seen=seen)

    async def blanket(self, blanket: Id) -> None:
        """Compare one connected blanket's instances and volumes with the store."""
        async with self._turns.setdefault(blanket, asyncio.Lock()):
            try:
                await self._arrivals(blanket)
                reports = await self._parts.agents.agent(blanket).instances.list()
                expected = await self._expected(blanket)
                for report in reports:
                    if expected.get(report.instance) != _shown(report):
                        await self._instance(blanket, report)
                await self._volumes(blanket)
                await release_ended(self._parts, self._world, blanket)
                await drop_unclaimed(self._parts, self._world, blanket)
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
        why = report.reason or _REASONS.get(shown, "")
        await self._set(report.instance, shown, why, seen=InstanceState(row.state))

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

    async def _set(self, instance: Id, state: InstanceState, reason: str, *, seen: InstanceState) -> None:
        """Unless it is not as it was seen any more: somebody knew better, e.g. who removed its blanket."""
        try:
            await self._world.set_state(instance, state, reason=reason, seen=seen)
        except (Conflict, NotFound) as error:
            _log.info("reconcile.not_set", instance=instance, state=state, why=error.message)
