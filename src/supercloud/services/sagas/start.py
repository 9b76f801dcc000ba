"""Starting and stopping an instance."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from supercloud.model.errors import Conflict, Refused, SupercloudError, Unavailable
from supercloud.model.names import Id
from supercloud.model.right import RunRight
from supercloud.model.states import InstanceState
from supercloud.ports.agent import RunState, StartInstance, StopInstance, StopMode
from supercloud.ports.durable import Saga
from supercloud.services.sagas import disks
from supercloud.services.sagas.userdata import user_data_key
from supercloud.services.sagas.world import InstanceFacts, World

_log = structlog.get_logger(__name__)
_RUNS = frozenset({InstanceState.RUNNING, InstanceState.PAUSED, InstanceState.MIGRATING})


async def start(saga: Saga, world: World, *, instance: Id, blanket: Id) -> None:
    """Make its volumes ready in `blanket`, issue its right to it, boot.

    Raises:
        Conflict: it runs, or its data is elsewhere.
        RightRefused: somebody may still hold its right.
    """
    await saga.step("check", lambda: _check(world, instance), type(None))
    try:
        await saga.progress("placing image and volumes", done=0.1)
        await saga.step("prepare", lambda: _prepare(world, instance, blanket), type(None))
        await saga.progress("booting", done=0.6)
        await saga.step("boot", lambda: _boot(saga, world, instance, blanket), type(None))
    except SupercloudError as error:
        why = error.message
        await saga.step("give up", lambda: _give_up(world, instance, blanket, why), type(None))
        raise


async def _check(world: World, instance: Id) -> None:
    facts = await world.instance(instance)
    if facts.state in _RUNS:
        raise Conflict(
            f"instance {facts.spec.name} is {facts.state} already",
            hint=f"supercloud vm show {facts.spec.name}",
        )


async def _prepare(world: World, instance: Id, blanket: Id) -> None:
    facts = await world.instance(instance)
    if facts.state is InstanceState.FENCED:
        await world.set_state(instance, InstanceState.STOPPED)
    await world.set_state(instance, InstanceState.PREPARING, blanket=blanket)
    await disks.ready(world, facts, blanket=blanket)


async def _boot(saga: Saga, world: World, instance: Id, blanket: Id) -> None:
    """One step, because a right that is issued must not wait to be used."""
    facts = await world.instance(instance)
    ready = await ready_to_boot(world, facts, blanket=blanket, operation=saga.operation)
    right = await world.rights.issue(instance, to=blanket, operation=saga.operation)
    if facts.state not in _RUNS:
        await world.set_state(instance, InstanceState.STARTING, blanket=blanket)
    await world.locate(instance)
    report = await world.agent(blanket).instances.start(ready(right))
    await world.set_state(instance, InstanceState.RUNNING, blanket=blanket)
    if report.state is RunState.PAUSED:  # by what is in force about it
        await world.set_state(instance, InstanceState.PAUSED)
    await ordered_there(world, instance)


async def ordered_there(world: World, instance: Id) -> None:
    """What it was started with by horizontal loops' orders is theirs to end. If that cannot be kept it
    ends in its time, and the instance runs all the same."""
    try:
        await world.guard_moved(instance)
    except SupercloudError as error:
        _log.warning("start.orders_not_moved", instance=instance, why=error.message)


async def ready_to_boot(
    world: World, facts: InstanceFacts, *, blanket: Id, operation: Id
) -> Callable[[RunRight], StartInstance]:
    """What it is to be booted with there, but for its right.

    Raises:
        Refused: something is in force about it, and an agent of before would not heed that.
    """
    agent = world.agent(blanket)
    guard = await world.kept_guard(facts.spec.id, operation=operation, target=blanket)
    if guard and not (await agent.report()).guards_starts:
        raise Refused(
            f"the blanket's agent cannot hold what is in force about instance {facts.spec.name} as it starts",
            hint="supercloud blanket upgrade, or supercloud incident close --undo",
        )
    key = await user_data_key(world, facts, blanket=blanket)
    return lambda right: StartInstance(
        spec=facts.spec,
        right=right,
        user_data=facts.user_data,
        user_data_key=key,
        guard=guard or None,
    )


async def _give_up(world: World, instance: Id, blanket: Id, why: str) -> None:
    """Whether it runs is looked up. Where the agent cannot say, the right runs out by itself."""
    standing = await world.rights.standing(instance)
    if standing.record.holder == blanket:
        try:
            await end(world, instance, StopMode.DESTROY, 0.0)
        except Unavailable as error:
            why = f"{why}; and whether it runs is unknown: {error.message}"
    elif standing.record.holder is not None:
        return  # another blanket's: not ours to touch
    await world.set_state(instance, InstanceState.FAILED, reason=why)


async def stop(saga: Saga, world: World, *, instance: Id, mode: StopMode, timeout_s: float = 60.0) -> None:
    """End it; then nobody holds its right.

    Raises:
        Unavailable: the blanket that runs it does not answer.
    """
    await saga.progress("stopping")
    await saga.step("stop", lambda: _stop(world, instance, mode, timeout_s), type(None))


async def _stop(world: World, instance: Id, mode: StopMode, timeout_s: float) -> None:
    facts = await world.instance(instance)
    standing = await world.rights.standing(instance)
    if standing.record.holder is not None:
        if facts.state in {InstanceState.RUNNING, InstanceState.PAUSED}:
            await world.set_state(instance, InstanceState.STOPPING)
        try:
            await end(world, instance, mode, timeout_s)
        except SupercloudError as error:
            state = InstanceState.FENCED if standing.free_in_s == 0 else InstanceState.RUNNING
            if facts.state in {InstanceState.RUNNING, InstanceState.PAUSED, InstanceState.STOPPING}:
                await world.set_state(instance, state, reason=f"it could not be stopped: {error.message}")
            raise
    if facts.state is not InstanceState.CREATED:
        await world.set_state(instance, InstanceState.STOPPED)


async def end(world: World, instance: Id, mode: StopMode, timeout_s: float) -> None:
    """An answer to `stop` proves that nothing runs, so the right is free at once."""
    record = (await world.rights.standing(instance)).record
    if record.holder is None:
        return
    await world.agent(record.holder).instances.stop(
        StopInstance(instance=instance, mode=mode, timeout_s=timeout_s)
    )
    await world.rights.surrender(instance, by=record.holder, epoch=record.epoch)
    await world.locate(instance)
