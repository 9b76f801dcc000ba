"""A source that has sent everything, with the real agent and keeper: parked, retired, or going on."""

from __future__ import annotations

import asyncio

import pytest
from agent_rig import World, both, landed, spec, world

from supercloud.model.errors import Conflict
from supercloud.model.migration import Source, Target
from supercloud.ports.agent import InstanceRef, OperationRef, RunState, StartInstance
from supercloud.ports.hypervisor import TransferStatus
from supercloud.wire.proxies import RemoteAgent

__all__ = ["world"]  # a fixture

pytestmark = pytest.mark.contract


async def parked(world: World, north: RemoteAgent, ref: OperationRef) -> None:
    world.plane.contested.add(ref.instance)
    assert (await north.migration.source_status(ref)).source is Source.ALIVE
    waiting = asyncio.create_task(north.migration.source_status(ref))
    world.north.hypervisor.hand_over(ref.instance)
    report = await waiting
    assert report.source is Source.PARKED and not report.transfer_over


async def test_what_was_handed_over_is_parked_and_retired_once_libvirt_has_ended_it(world: World) -> None:
    guest = spec()
    async with both(world) as (north, south):
        ref = await landed(world, guest, north, south)
        await parked(world, north, ref)
        with_target = asyncio.create_task(south.migration.target_status(ref))
        world.south.hypervisor.show(guest.id, RunState.PAUSED, "migrated")
        assert (await with_target).target is Target.COMPLETE
        right = world.plane.commit(guest.id, world.south.id)
        await south.instances.resume(StartInstance(spec=guest, right=right, operation=ref.operation))
        retiring = asyncio.create_task(north.migration.retire(ref))
        await asyncio.sleep(0.1)
        assert not retiring.done(), "libvirt has not ended it yet"
        world.north.hypervisor.transfers[guest.id] = TransferStatus(over=True)
        world.north.hypervisor.show(guest.id, RunState.ABSENT, "migrated")
        assert (await retiring).source is Source.GONE
        assert world.south.hypervisor.states[guest.id] is RunState.RUNNING


async def test_one_that_libvirt_never_ends_is_ended(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supercloud.agent.migration._RETIRE_S", 0.3)
    guest = spec()
    async with both(world) as (north, south):
        ref = await landed(world, guest, north, south)
        await parked(world, north, ref)
        world.plane.commit(guest.id, world.south.id)
        world.north.hypervisor.transfers[guest.id] = TransferStatus(over=True, failed="no answer came")
        assert (await north.migration.retire(ref)).source is Source.GONE
        assert world.north.hypervisor.states[guest.id] is RunState.ABSENT


async def test_one_whose_migration_was_decided_for_its_blanket_goes_on(world: World) -> None:
    guest = spec()
    async with both(world) as (north, south):
        ref = await landed(world, guest, north, south)
        await parked(world, north, ref)
        world.north.hypervisor.transfers[guest.id] = TransferStatus(over=True, failed="no answer came")
        assert (await north.migration.source_status(ref)).source is Source.PARKED
        world.plane.contested.clear()
        async with asyncio.timeout(20):
            while world.north.hypervisor.states[guest.id] is not RunState.RUNNING:  # noqa: ASYNC110 - the fake's
                await asyncio.sleep(0.05)
        assert (await north.migration.source_status(ref)).source is Source.ALIVE


async def test_one_that_may_run_here_is_not_retired(world: World) -> None:
    guest = spec()
    async with both(world) as (north, south):
        ref = await landed(world, guest, north, south)
        with pytest.raises(Conflict, match="may run"):
            await north.migration.retire(ref)
        assert world.north.hypervisor.states[guest.id] is RunState.RUNNING


async def test_a_start_ends_what_an_older_epoch_left(world: World) -> None:
    """A machine stood still for longer than its right; its instance is started there anew."""
    guest = spec()
    async with both(world) as (north, _):
        await north.instances.start(
            StartInstance(spec=guest, right=world.plane.issue(guest.id, world.north.id))
        )
        world.north.hypervisor.show(guest.id, RunState.PAUSED, "paused by the keeper")
        right = world.plane.commit(guest.id, world.north.id)
        assert right.epoch == 2
        report = await north.instances.start(StartInstance(spec=guest, right=right))
        assert (report.state, report.epoch) == (RunState.RUNNING, 2)
        assert world.north.hypervisor.boots == [guest.id, guest.id]
        await north.instances.start(StartInstance(spec=guest, right=right))  # a repeat boots nothing more
        assert world.north.hypervisor.boots == [guest.id, guest.id]
        assert (await north.instances.inspect(InstanceRef(instance=guest.id))).epoch == 2
