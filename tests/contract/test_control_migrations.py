"""Live migration through the whole control plane: what a user is told, and what is left after each mishap."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from blanket_double import Double
from control_rig import (
    Bench,
    arrived,
    lost,
    transferring,
)

from supercloud.model.errors import (
    Conflict,
    DataLost,
    Refused,
    Unavailable,
)
from supercloud.model.names import MIB
from supercloud.model.states import InstanceState, OperationState
from supercloud.ports.agent import StopMode
from supercloud.ports.platform import Flavour
from supercloud.ports.rights import Decision
from supercloud.services import agents
from supercloud.services.requests import CreateCloud, CreateVolume, RunInstance
from supercloud.services.sagas import disks, migrate
from supercloud.services.sagas.world import CopyFacts, DiskFacts, World
from supercloud.services.views import InstanceView

pytestmark = pytest.mark.contract


async def test_migrations_that_cannot_be_are_refused_with_the_reason(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agents, "_BACK_S", 0.2)
    await bench.blanket("north")
    await bench.run()
    with pytest.raises(Refused, match="already"):
        await bench.control.migrate_instance("web", to="north")
    south = await bench.blanket("south")
    await south.end()
    await bench.gone("south")
    with pytest.raises(Refused, match="not connected"):
        await bench.control.migrate_instance("web", to="south")
    assert (await bench.control.instance("web")).state is InstanceState.RUNNING


@pytest.mark.parametrize(
    ("differs", "why"),
    [
        ({"flavour": Flavour.TCG}, "flavours differ: kvm here, tcg in south"),
        ({"cpu_models": ("Penryn",)}, "blanket south cannot give the cloud's CPU model Westmere"),
        ({"memory_free_mib": 256}, "blanket south has 256 MiB free, instance web needs 320"),
        ({"disk_free_bytes": 1 << 10}, "blanket south has no room for the base images of web"),
    ],
)
async def test_a_target_that_cannot_have_it_is_refused_before_anything_starts(
    bench: Bench, differs: dict[str, Any], why: str
) -> None:
    await bench.blanket("north")
    south = await bench.blanket("south")
    instance = await bench.run(memory_mib=256)
    south.differs = differs
    with pytest.raises(Refused, match=re.escape(why)):
        await bench.control.migrate_instance("web", to="south")
    shown = await bench.control.instance("web")
    assert (shown.state, shown.blanket, shown.epoch) == (InstanceState.RUNNING, "north", 1)
    assert not south.copies and not await bench.control.operations(kind="instance.migrate")
    south.differs = {}
    await bench.done(await bench.control.migrate_instance("web", to="south"))
    assert bench.site.running(instance) == ["south"]


async def test_the_cpu_of_an_instance_is_its_clouds(bench: Bench) -> None:
    """Wherever it is, and whatever the blankets there are on."""
    await bench.control.create_cloud(CreateCloud(name="other", cpu_model="Nehalem"))
    for name, cloud, model in (("n", "c", "Westmere"), ("m", "other", "Nehalem")):
        double = await bench.blanket(name, cloud)
        request = RunInstance(name=f"on-{name}", cloud=cloud, image="debian", on=name)
        instance = (await bench.done(await bench.control.run_instance(request))).object
        assert double.specs[instance].cpu_model == model


async def test_what_is_asked_of_a_blanket_that_was_here_a_moment_ago_waits_for_it(bench: Bench) -> None:
    await bench.blanket("north")
    await bench.run()
    south = await bench.blanket("south")
    await south.end()
    await bench.gone("south")
    asked = asyncio.create_task(bench.control.migrate_instance("web", to="south"))
    await asyncio.sleep(0)  # it is asked before the blanket is back
    south.start()
    await bench.done(await asked)
    assert (await bench.control.instance("web")).blanket == "south"
    await south.end()
    await bench.gone("south")
    booted = await bench.control.run_instance(RunInstance(name="db", cloud="c", image="debian", on="south"))
    south.start()
    await bench.done(booted)


async def test_a_cancelled_migration_goes_on_at_the_source(bench: Bench) -> None:
    await bench.blanket("north")
    south = await bench.blanket("south")
    instance = await bench.run()
    bench.site.hold_transfers = True
    view = await bench.control.migrate_instance("web", to="south")
    async with asyncio.timeout(20):
        while view.phase != "transfer":
            view = await bench.control.operation(view.id, wait_s=5)
    await bench.control.cancel(view.id)
    await bench.done(view, OperationState.CANCELLED)
    shown = await bench.control.instance("web")
    assert (shown.state, shown.blanket, shown.epoch) == (InstanceState.RUNNING, "north", 1)
    assert bench.site.running(instance) == ["north"]
    assert not south.copies and instance not in south.states, "nothing is left at the target"


async def test_a_lost_target_costs_the_memory_and_that_is_said(bench: Bench) -> None:
    north, south, instance, view = await transferring(bench)
    lost(north, south, instance)
    view = await bench.done(view)
    assert view.result is not None and view.result["memory_lost"]
    assert view.result["to"] == north.birth.blanket and bench.site.running(instance) == ["north"]
    shown = await bench.control.instance("web")
    assert (shown.state, shown.blanket, shown.epoch) == (InstanceState.RUNNING, "north", 2)
    assert "memory lost" in shown.reason and not south.copies


def strike_at_commit(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, strike: Callable[[], Awaitable[None]]
) -> None:
    """Right after the next commit, before anybody hears of it."""
    commit = bench.parts.rights.commit

    async def struck(operation: str, *, source_gone: bool) -> Decision:
        decision = await commit(operation, source_gone=source_gone)
        await strike()
        return decision

    monkeypatch.setattr(bench.parts.rights, "commit", struck)


async def loses(machine: Double, *, volumes: bool = False) -> None:
    """Its memory, and its volumes if its platform puts back a state of before them."""
    await machine.power_off()
    if volumes:
        machine.copies.clear()
    machine.start()


async def cut_off_after_commit(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> tuple[Double, Double, str]:
    """The target is away from the commit on, for longer than the operation insists."""
    monkeypatch.setattr(agents, "_BACK_S", 0.2)
    monkeypatch.setattr(migrate, "_INSIST_S", 0.5)
    north, south, instance, view = await transferring(bench)
    strike_at_commit(bench, monkeypatch, south.end)
    arrived(north, south, instance)
    view = await bench.done(view, OperationState.FAILED)
    assert view.error is not None and view.error["code"] == Unavailable.code
    shown = await bench.control.instance("web")
    assert (shown.state, shown.blanket, shown.epoch) == (InstanceState.FENCED, "south", 2)
    assert len(north.copies) == 1, "kept until the target runs"
    return north, south, instance


async def until(bench: Bench, state: InstanceState) -> InstanceView:
    async with asyncio.timeout(20):
        while (  # noqa: ASYNC110 - what users see has no event
            shown := await bench.control.instance("web")
        ).state is not state:
            await asyncio.sleep(0.05)
    return shown


async def test_a_target_that_was_away_after_the_commit_goes_on_when_it_is_back(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    north, south, instance = await cut_off_after_commit(bench, monkeypatch)
    await bench.control.reconciler.blanket(north.birth.blanket)
    assert len(north.copies) == 1 and bench.site.running(instance) == []
    south.start()
    shown = await until(bench, InstanceState.RUNNING)
    assert (shown.blanket, shown.epoch, shown.reason) == ("south", 2, "")
    assert bench.site.running(instance) == ["south"]
    async with asyncio.timeout(20):
        while north.copies:  # noqa: ASYNC110 - the source is cleaned up after that
            await asyncio.sleep(0.05)
    assert [copy.blanket for copy in await bench.control.volumes()] == ["south"]
    bench.site.hold_transfers = False
    monkeypatch.undo()
    await bench.done(await bench.control.migrate_instance("web", to="north"))
    assert bench.site.running(instance) == ["north"]


async def test_what_a_migration_left_that_never_began_is_removed_once_its_target_is_back(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agents, "_BACK_S", 0.2)
    await bench.blanket("north")
    south = await bench.blanket("south")
    instance = await bench.run()
    make = disks.ready_copy

    async def struck(world: World, cloud: str, disk: DiskFacts, copy: CopyFacts) -> None:
        await make(world, cloud, disk, copy)
        await south.end()
        await bench.gone("south")
        raise Unavailable("the agent of south is not connected")

    monkeypatch.setattr(disks, "ready_copy", struck)
    await bench.done(await bench.control.migrate_instance("web", to="south"), OperationState.FAILED)
    assert len(south.copies) == 1 and bench.site.running(instance) == ["north"]
    south.start()
    async with asyncio.timeout(20):
        while south.copies:  # noqa: ASYNC110 - it is tidied up when the blankets are compared
            await asyncio.sleep(0.05)
    assert [copy.blanket for copy in await bench.control.volumes()] == ["north"]


async def test_a_target_that_comes_back_without_its_memory_keeps_its_disk(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have run there, unheard: what it synced is in no other copy."""
    north, south, instance = await cut_off_after_commit(bench, monkeypatch)
    await loses(south)
    shown = await until(bench, InstanceState.STOPPED)
    assert shown.blanket == "south" and "memory lost" in shown.reason
    async with asyncio.timeout(20):
        while north.copies:  # noqa: ASYNC110 - the source is cleaned up after that
            await asyncio.sleep(0.05)
    await bench.done(await bench.control.start_instance("web"))
    assert bench.site.running(instance) == ["south"]


async def test_a_target_that_loses_its_memory_after_the_commit_boots_again_from_its_disk(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    north, south, instance, view = await transferring(bench)
    strike_at_commit(bench, monkeypatch, lambda: loses(south))
    arrived(north, south, instance)
    view = await bench.done(view)
    assert view.result is not None and view.result["memory_lost"]
    assert view.result["to"] == south.birth.blanket and bench.site.running(instance) == ["south"]
    shown = await bench.control.instance("web")
    assert (shown.state, shown.blanket, shown.epoch) == (InstanceState.RUNNING, "south", 3)
    assert "memory lost" in shown.reason and not north.copies


async def test_a_target_that_loses_its_volume_too_leaves_the_source_to_start_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its platform put back a state of before the migration. An empty one would pass for it."""
    north, south, instance, view = await transferring(bench)
    before = set(north.copies)
    strike_at_commit(bench, monkeypatch, lambda: loses(south, volumes=True))
    arrived(north, south, instance)
    view = await bench.done(view)
    assert view.result is not None and view.result["memory_lost"]
    assert view.result["to"] == north.birth.blanket and bench.site.running(instance) == ["north"]
    shown = await bench.control.instance("web")
    assert (shown.state, shown.blanket, shown.epoch) == (InstanceState.RUNNING, "north", 3)
    assert "lost its volume" in shown.reason
    assert (set(north.copies), set(south.copies)) == (before, set())


async def test_a_target_that_comes_back_without_its_volume_leaves_the_sources(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    north, south, instance = await cut_off_after_commit(bench, monkeypatch)
    before = set(north.copies)
    await loses(south, volumes=True)
    shown = await until(bench, InstanceState.STOPPED)
    assert shown.blanket == "north" and "lost its volume" in shown.reason
    await bench.done(await bench.control.start_instance("web"))
    assert bench.site.running(instance) == ["north"]
    assert (set(north.copies), set(south.copies)) == (before, set())


async def test_a_volume_that_is_gone_is_not_made_anew(bench: Bench) -> None:
    north = await bench.blanket("north")
    instance = await bench.run()
    await bench.done(await bench.control.stop_instance("web", mode=StopMode.DESTROY))
    gone = dict(north.copies)
    north.copies.clear()
    view = await bench.done(await bench.control.start_instance("web"), OperationState.FAILED)
    assert view.error is not None and view.error["code"] == DataLost.code
    shown = await bench.control.instance("web")
    assert shown.state is InstanceState.FAILED and "not where they were" in shown.reason
    assert not north.copies and not bench.site.running(instance)
    north.copies.update(gone)
    await bench.done(await bench.control.start_instance("web"))
    assert bench.site.running(instance) == ["north"]


async def test_a_lost_target_leaves_the_sources_volume(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, instance = await cut_off_after_commit(bench, monkeypatch)
    await bench.done(await bench.control.remove_blanket("south", force=True))
    shown = await bench.control.instance("web")
    assert (shown.state, shown.blanket) == (InstanceState.STOPPED, "north") and "memory" in shown.reason
    await bench.done(await bench.control.start_instance("web"))
    assert bench.site.running(instance) == ["north"]


async def test_a_volume_goes_where_its_instance_goes_and_its_blanket_is_not_removed_by_mistake(
    bench: Bench,
) -> None:
    control = bench.control
    await bench.blanket("north"), await bench.blanket("south")
    await bench.run(on="north")
    await control.create_volume(CreateVolume(name="data", cloud="c", size_bytes=8 * MIB, on="north"))
    await bench.done(await control.attach_volume("data", instance="web"))
    await bench.done(await control.migrate_instance("web", to="south"))
    await bench.done(await control.detach_volume("data"))
    await bench.done(await control.attach_volume("data", instance="web"))
    await bench.done(await control.detach_volume("data"))
    await bench.done(await control.migrate_instance("web", to="north"))
    with pytest.raises(Conflict, match="in another blanket"):
        await control.attach_volume("data", instance="web")
    with pytest.raises(Conflict, match="the data of volume data is in blanket south"):
        await control.remove_blanket("south")
    await bench.done(await control.remove_volume("data"))
    await bench.done(await control.remove_blanket("south"))


async def test_what_a_bug_in_an_operation_leaves_is_settled(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    north, _ = await bench.blanket("north"), await bench.blanket("south")
    instance = await bench.run()
    progress = bench.parts.operations.progress

    async def stumbles(operation: str, phase: str, done: float | None) -> None:
        if phase == "transfer":
            raise RuntimeError("a bug")
        await progress(operation, phase, done)

    bench.site.hold_transfers = True
    monkeypatch.setattr(bench.parts.operations, "progress", stumbles)
    view = await bench.done(await bench.control.migrate_instance("web", to="south"), OperationState.FAILED)
    assert view.error is not None and "RuntimeError" in view.error["message"]
    await bench.control.reconciler.blanket(north.birth.blanket)
    assert (await bench.control.instance("web")).state is InstanceState.RUNNING
    assert bench.site.running(instance) == ["north"]
    monkeypatch.undo()
    bench.site.hold_transfers = False
    await bench.done(await bench.control.migrate_instance("web", to="south"))
    assert bench.site.running(instance) == ["south"], "nothing bars the next one"

    async def bug(_: str) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(bench.control.world, "locate", bug)
    await bench.done(await bench.control.stop_instance("web"), OperationState.FAILED)
    await bench.control.reconciler.expired()
    assert (await bench.control.instance("web")).state is InstanceState.STOPPED
