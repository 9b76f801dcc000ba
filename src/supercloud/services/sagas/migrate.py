"""Live migration with one commit point (docs/adr/0008-migration.md). Read it from top to bottom.

Before the commit nothing is lost by stopping: the instance goes on at the source. After it there is only one
way, forward. In between stands one row, for which commit and abort compete; and what both sides really are
is looked up, never assumed: see `model.migration.settle`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog

from supercloud.model.errors import (
    Conflict,
    DataLost,
    Failed,
    NotFound,
    Refused,
    RightRefused,
    SupercloudError,
    Unavailable,
)
from supercloud.model.migration import Outcome
from supercloud.model.names import Id
from supercloud.model.right import RunRight
from supercloud.model.states import InstanceState
from supercloud.ports.agent import (
    InstanceRef,
    OperationRef,
    ReceiveInstance,
    SendInstance,
    StartInstance,
    StopInstance,
    StopMode,
)
from supercloud.ports.durable import Saga
from supercloud.ports.loop import Guard
from supercloud.ports.rights import Decision, Verdict
from supercloud.services.sagas import disks
from supercloud.services.sagas.sight import Sight, settled
from supercloud.services.sagas.start import ordered_there, ready_to_boot
from supercloud.services.sagas.userdata import user_data_key
from supercloud.services.sagas.world import InstanceFacts, World

T = TypeVar("T")
_log = structlog.get_logger(__name__)
#: How long both sides keep their forwards open for one operation.
_FORWARDS_S = 4 * 3600.0
#: How long a step after the commit asks a blanket that does not answer, before the instance counts as fenced.
_INSIST_S = 600.0
_AGAIN_S = 1.0
_MEMORY_LOST = "memory lost: its migration's target failed"
_VOLUME_LOST = "its migration's target failed and lost its volume: it goes on as it was before the migration"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trip:
    """One migration."""

    operation: Id
    instance: Id
    source: Id
    target: Id

    @property
    def ref(self) -> OperationRef:
        return OperationRef(operation=self.operation, instance=self.instance)


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """How the transfer ended. `switch_ms`: from both sides seen ready to the guest going on; of that,
    `commit_ms` is the store's. `round_trip_ms`: a small question to the target's agent, right after.
    """

    verdict: Verdict
    reason: str = ""
    resumed: bool = False
    switch_ms: float | None = None
    commit_ms: float | None = None
    round_trip_ms: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Retired:
    """`downtime_ms`: as the source's hypervisor says when its process has ended."""

    downtime_ms: float | None = None


async def migrate(saga: Saga, world: World, *, instance: Id, target: Id) -> dict[str, Any]:
    """Move a running instance to blanket `target`.

    Returns:
        {"from", "to", "total_s", "downtime_ms", "switch_ms", "commit_ms", "round_trip_ms", "memory_lost"};
        the times are None where a restarted controller cannot know them.

    Raises:
        Refused: it does not run, or is there already.
        Failed: it goes on at the source; the message says why.
        Unavailable: it was committed, but its blanket does not answer.
    """
    began = asyncio.get_running_loop().time()
    source = await saga.step("check", lambda: _check(world, instance, target), str)
    trip = Trip(operation=saga.operation, instance=instance, source=source, target=target)
    try:
        await saga.progress("preparing the target", done=0.0)
        await saga.step("prepare", lambda: _prepare(world, trip), type(None))
        await saga.step("open", lambda: _open(world, trip), type(None))
    except SupercloudError as error:
        why = error.message
        await saga.step("undo", lambda: _undo(world, trip, why), type(None))
        raise
    giving_up = await saga.step("begin", lambda: _begin(world, trip), str)
    await saga.progress("transfer", done=0.0)
    moved = await saga.step("move", lambda: _move(saga, world, trip, giving_up), Moved)
    if moved.verdict is Verdict.ABORTED:
        await saga.step("undo", lambda: _undo(world, trip, moved.reason), type(None))
        raise Failed(f"it goes on where it was: {moved.reason or 'cancelled'}")
    at, memory_lost = await _go_on(saga, world, trip, moved)
    await saga.progress("cleaning up", done=0.95)
    retired = Retired()
    if at == trip.target:
        retired = await saga.step("retire", lambda: _retire(world, trip), Retired)
    await saga.step("clean up", lambda: _release(world, trip), type(None))
    return {
        "from": source,
        "to": at,
        "total_s": asyncio.get_running_loop().time() - began if moved.switch_ms is not None else None,
        "downtime_ms": retired.downtime_ms,
        "switch_ms": moved.switch_ms,
        "commit_ms": moved.commit_ms,
        "round_trip_ms": moved.round_trip_ms,
        "memory_lost": memory_lost,
    }


# ---------------------------------------------------------------- before the commit


async def _check(world: World, instance: Id, target: Id) -> Id:
    facts = await world.instance(instance)
    if facts.blanket is None or facts.state is not InstanceState.RUNNING:
        raise Refused(f"instance {facts.spec.name} is {facts.state}: only a running one moves live")
    if facts.blanket == target:
        raise Refused(f"instance {facts.spec.name} is there already")
    return facts.blanket


async def _prepare(world: World, trip: Trip) -> None:
    await world.set_state(trip.instance, InstanceState.MIGRATING)
    facts = await world.instance(trip.instance)
    await disks.ready(world, facts, blanket=trip.target, operation=trip.operation)


async def _open(world: World, trip: Trip) -> None:
    await world.rights.open_migration(
        trip.operation, instance=trip.instance, source=trip.source, target=trip.target
    )


async def _begin(world: World, trip: Trip) -> str:
    """Connect both sides and start the transfer. Why it could not be, or nothing.

    A failure is no error here: whether the transfer began is looked up, like everything from now on.
    """
    facts = await world.instance(trip.instance)
    try:
        guard = await _guard(world, trip)
        landing = await world.agent(trip.target).migration.receive(
            ReceiveInstance(
                operation=trip.operation,
                spec=facts.spec,
                source_address=await world.mesh_address(trip.source),
                expires_s=_FORWARDS_S,
                user_data=facts.user_data,
                user_data_key=await user_data_key(world, facts, blanket=trip.target),
                guard=guard or None,
            )
        )
        if guard:  # an agent of before would not have looked at it
            await world.take_over(guard, target=trip.target)
        await world.agent(trip.source).migration.send(
            SendInstance(
                operation=trip.operation, instance=trip.instance, landing=landing, expires_s=_FORWARDS_S
            )
        )
    except SupercloudError as error:
        return error.message
    return ""


# ---------------------------------------------------------------- the commit point


async def _move(saga: Saga, world: World, trip: Trip, giving_up: str) -> Moved:
    """Wait until both sides add up to an outcome, decide, and on a commit go on at once.

    One step, because between the source's end and the target's first instruction every write is downtime.
    """
    loop = asyncio.get_running_loop()
    facts = await world.instance(trip.instance)
    while True:
        decision = await world.rights.decision(trip.operation)
        if decision.verdict is not Verdict.OPEN:
            return Moved(verdict=decision.verdict)  # decided before a crash: how long it took is not known
        sight = await settled(saga, world, trip.ref, source=trip.source, target=trip.target, reason=giving_up)
        began = loop.time()
        if sight.outcome is Outcome.COMMIT and sight.guarded and not await _guarded(world, trip):
            await asyncio.sleep(_AGAIN_S)  # it stands still meanwhile
            continue
        try:
            decision = await _decide(world, trip, sight)
        except RightRefused as error:
            _log.info("migration.waits_for_right", operation=trip.operation, why=error.message)
            await asyncio.sleep(_AGAIN_S)  # the right runs out by the store's clock, which tells nobody
            continue
        decided = loop.time()
        resumed = decision.verdict is Verdict.COMMITTED and await _resume_at_once(
            world, trip, facts, decision
        )
        over = loop.time()
        if decision.verdict is Verdict.COMMITTED:
            await _locate_at_once(world, trip)  # the guest first: both want the target's agent
        return Moved(
            verdict=decision.verdict,
            reason=sight.reason,
            resumed=resumed,
            switch_ms=(over - began) * 1000,
            commit_ms=(decided - began) * 1000,
            round_trip_ms=await _round_trip_ms(world, trip) if resumed else None,
        )


async def _guard(world: World, trip: Trip) -> Guard:
    return await world.guard(trip.instance, operation=trip.operation, source=trip.source, target=trip.target)


async def _guarded(world: World, trip: Trip) -> bool:
    """Whether all that was in force about it when it stopped is in force at the target, before it goes on."""
    try:
        if guard := await _guard(world, trip):
            await world.take_over(guard, target=trip.target)
    except SupercloudError as error:
        _log.warning("migration.not_guarded_yet", operation=trip.operation, why=error.message)
        return False
    return True


async def _decide(world: World, trip: Trip, sight: Sight) -> Decision:
    match sight.outcome:
        case Outcome.COMMIT:
            return await world.rights.commit(trip.operation, source_gone=sight.source_gone)
        case Outcome.COLD_START:
            return await world.rights.cold_start(trip.operation, source_gone=sight.source_gone)
        case _:
            return await world.rights.abort(trip.operation)


async def _resume_at_once(world: World, trip: Trip, facts: InstanceFacts, decision: Decision) -> bool:
    """Whether the target acknowledged running. If not, the next step insists."""
    if decision.right is None:
        return False
    try:
        await world.agent(trip.target).instances.resume(
            StartInstance(spec=facts.spec, right=decision.right, operation=trip.operation)
        )
    except SupercloudError as error:
        _log.info("migration.not_resumed_yet", operation=trip.operation, why=error.message)
        return False
    return True


async def _locate_at_once(world: World, trip: Trip) -> None:
    try:
        await world.locate(trip.instance)
    except SupercloudError as error:  # the whole mesh, which says it too, is sent until it arrives
        _log.info("migration.not_located_yet", operation=trip.operation, why=error.message)


async def _round_trip_ms(world: World, trip: Trip) -> float | None:
    """None if the agent cannot say; the guest runs by now, so this delays nobody."""
    began = asyncio.get_running_loop().time()
    try:
        await world.agent(trip.target).instances.inspect(InstanceRef(instance=trip.instance))
    except SupercloudError:
        return None
    return (asyncio.get_running_loop().time() - began) * 1000


# ---------------------------------------------------------------- after it


async def _go_on(saga: Saga, world: World, trip: Trip, moved: Moved) -> tuple[Id, bool]:
    """See that it runs. Where it does, and whether its memory was lost on the way."""
    if moved.verdict is Verdict.COLD_STARTED:
        await saga.progress("starting again at the source", done=0.9)
        await saga.step("cold start", lambda: _cold_start(world, trip), type(None))
        return trip.source, True
    if not moved.resumed:
        await saga.progress("going on at the target", done=0.9)
        lost = await saga.step(
            "resume", lambda: _insist(world, trip, lambda: _resume(world, trip), at=trip.target), bool
        )
        if lost:
            return await _start_again(saga, world, trip), True
    await saga.step("arrive", lambda: _arrive(world, trip), type(None))
    return trip.target, False


async def _start_again(saga: Saga, world: World, trip: Trip) -> Id:
    """From the target's volume, or, where the target lost that, too, from the source's, which was kept
    because nobody has acknowledged running. Where it runs."""
    await saga.progress("starting again at the target", done=0.9)
    await saga.step("end at target", lambda: _insist_there(world, trip, _end_at_target), type(None))
    if await saga.step("look at target", lambda: _insist_there(world, trip, _has_volumes), bool):
        await saga.step("boot at target", lambda: _insist_there(world, trip, _boot_at_target), type(None))
        return trip.target
    await saga.progress("starting again at the source", done=0.9)
    await saga.step(
        "end at source", lambda: _insist(world, trip, lambda: _retire_there(world, trip)), type(None)
    )
    await saga.step(
        "boot at source",
        lambda: _insist(world, trip, lambda: _boot(world, trip, None, at=trip.source, why=_VOLUME_LOST)),
        type(None),
    )
    return trip.source


async def _resume(world: World, trip: Trip) -> bool:
    """Whether the process that was committed to is gone."""
    facts = await world.instance(trip.instance)
    right = await _right(world, trip)
    try:
        await world.agent(trip.target).instances.resume(
            StartInstance(spec=facts.spec, right=right, operation=trip.operation)
        )
    except (NotFound, Conflict, Failed) as error:
        _log.warning("migration.target_lost", operation=trip.operation, why=error.message)
        return True
    await world.locate(trip.instance)
    return False


async def _right(world: World, trip: Trip) -> RunRight:
    decision = await world.rights.decision(trip.operation)
    if decision.right is None:
        raise RightRefused("the right that was committed has moved on")
    return decision.right


async def _arrive(world: World, trip: Trip) -> None:
    await world.promote_copies(trip.operation)
    await world.set_state(trip.instance, InstanceState.RUNNING, blanket=trip.target)
    await world.guard_moved(trip.instance)


async def _end_at_target(world: World, trip: Trip) -> None:
    """Prove that nothing runs there any more.

    It is the target's volume that is booted from then, while there is one: the target may have run before it
    ended, whether or not anybody heard of it.
    """
    await world.agent(trip.target).instances.stop(StopInstance(instance=trip.instance, mode=StopMode.DESTROY))
    record = (await world.rights.standing(trip.instance)).record
    if record.holder == trip.target:
        await world.rights.surrender(trip.instance, by=trip.target, epoch=record.epoch)


async def _has_volumes(world: World, trip: Trip) -> bool:
    """Whether what was migrated is at the target still; then it is open."""
    facts = await world.instance(trip.instance)
    try:
        await disks.ready(world, facts, blanket=trip.target, operation=trip.operation)
    except DataLost as error:
        _log.warning("migration.volume_lost", operation=trip.operation, why=error.message)
        return False
    return True


async def arrive_late(world: World, trip: Trip) -> None:
    """The rest of a migration that was committed and whose operation ended, now that the target answers.

    If its process is gone, the instance is stopped, where its volume is.

    Raises:
        Unavailable: the target does not answer any more.
        RightRefused: the right has moved on.
    """
    if await _resume(world, trip):
        await _end_at_target(world, trip)
        at, why = trip.source, _VOLUME_LOST
        if await _has_volumes(world, trip):
            await world.promote_copies(trip.operation)
            at, why = trip.target, _MEMORY_LOST
        await world.set_state(trip.instance, InstanceState.STOPPED, blanket=at, reason=why)
        await world.locate(trip.instance)
    else:
        await _arrive(world, trip)
    await _retire(world, trip)
    await _release(world, trip)


async def _cold_start(world: World, trip: Trip) -> None:
    """From the source's volume, which was kept until now."""

    async def boot() -> None:
        standing = await world.rights.standing(trip.instance)
        right = await _right(world, trip) if standing.record.holder == trip.source else None
        await _boot(world, trip, right, at=trip.source)

    await _insist(world, trip, boot)


async def _boot_at_target(world: World, trip: Trip) -> None:
    await world.promote_copies(trip.operation)
    await _boot(world, trip, None, at=trip.target)


async def _boot(world: World, trip: Trip, right: RunRight | None, *, at: Id, why: str = _MEMORY_LOST) -> None:
    """Under `right` or a new one. What is lost is said."""
    right = right or await world.rights.issue(trip.instance, to=at, operation=trip.operation)
    facts = await world.instance(trip.instance)
    await disks.ready(world, facts, blanket=at)
    ready = await ready_to_boot(world, facts, blanket=at, operation=trip.operation)
    await world.agent(at).instances.start(ready(right))
    await world.set_state(trip.instance, InstanceState.STARTING, reason=why)
    await world.set_state(trip.instance, InstanceState.RUNNING, blanket=at, reason=why)
    await world.locate(trip.instance)
    await ordered_there(world, trip.instance)


async def _insist(world: World, trip: Trip, act: Callable[[], Awaitable[T]], *, at: Id | None = None) -> T:
    """Again while a blanket does not answer; after `_INSIST_S` the instance is fenced, `at` where it is then.

    Raises:
        Unavailable: it did not answer in all that time.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _INSIST_S
    while True:
        try:
            return await act()
        except Unavailable as error:
            if loop.time() > deadline:
                await world.set_state(trip.instance, InstanceState.FENCED, blanket=at, reason=error.message)
                raise
            await asyncio.sleep(_AGAIN_S)


async def _insist_there(world: World, trip: Trip, act: Callable[[World, Trip], Awaitable[T]]) -> T:
    return await _insist(world, trip, lambda: act(world, trip), at=trip.target)


async def _undo(world: World, trip: Trip, why: str) -> None:
    """The instance goes on at the source; nothing of the attempt stays."""
    await _release(world, trip)
    await world.set_state(trip.instance, InstanceState.RUNNING, reason=f"not migrated: {why}" if why else "")


async def _retire(world: World, trip: Trip) -> Retired:
    """See that nothing is left of the source's process; one of a blanket that is away is ended later, having
    no right. What was decided there about it after it had stopped goes after it."""
    await _guarded(world, trip)
    try:
        report = await world.agent(trip.source).migration.retire(trip.ref)
    except SupercloudError as error:
        _log.info("migration.not_retired", operation=trip.operation, why=error.message)
        return Retired()
    return Retired(downtime_ms=report.progress.downtime_ms)


async def _retire_there(world: World, trip: Trip) -> None:
    """Raises: Unavailable."""
    await world.agent(trip.source).migration.retire(trip.ref)


async def _release(world: World, trip: Trip) -> None:
    """Close both sides and delete the copies that lost. A blanket that is away keeps rows in the store as
    leftovers, whose keys are destroyed already; they are removed when it is back."""
    await asyncio.gather(*(_release_at(world, trip, blanket) for blanket in (trip.source, trip.target)))
    try:
        await disks.drop_leftovers(world, trip.operation)
    except Unavailable as error:
        _log.info("migration.leftovers_stay", operation=trip.operation, why=error.message)


async def _release_at(world: World, trip: Trip, blanket: Id) -> None:
    try:
        await world.agent(blanket).migration.release(trip.ref)
    except Unavailable as error:
        _log.info("migration.not_released", blanket=blanket, why=error.message)
