"""The store and what really runs are brought together."""

from __future__ import annotations

from dataclasses import replace

import pytest
from control_rig import Bench
from sqlalchemy import select

from supercloud.model.names import new_id
from supercloud.model.states import InstanceState
from supercloud.ports.rights import Verdict
from supercloud.services import reconcile
from supercloud.services.store.tables import MigrationRow

pytestmark = pytest.mark.contract


async def test_what_the_store_does_not_know_is_removed(bench: Bench) -> None:
    north = await bench.blanket("north")
    instance = await bench.run()
    orphan = new_id()
    north.states[orphan] = north.state(instance)
    await bench.control.reconciler.blanket(north.birth.blanket)
    assert set(north.states) == {instance}


async def test_of_all_blankets_those_that_differ_are_looked_at_closely(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconcile, "_AT_ONCE", 1)
    north, south = await bench.blanket("north"), await bench.blanket("south")
    instance, ended = await bench.run(), await bench.run("other")
    reconciler = bench.control.reconciler
    looked, closely = [], reconciler.blanket

    async def blanket(one: str) -> None:
        looked.append(one)
        await closely(one)

    monkeypatch.setattr(reconciler, "blanket", blanket)
    await reconciler.blankets()
    assert looked == [], "they are as the store has them"
    orphan, copy = new_id(), new_id()
    south.states[orphan] = north.state(instance)
    await reconciler.blankets()
    assert looked == [south.birth.blanket] and not south.states
    await north.instances.stop(type("R", (), {"instance": ended})())  # type: ignore[arg-type]
    await reconciler.blankets()
    assert (await bench.control.instance("other")).state is InstanceState.STOPPED
    south.copies[copy] = replace(next(iter(north.copies.values())), copy=copy)
    await reconciler.blankets()
    assert not south.copies and len(north.copies) == 2
    async with bench.parts.store.write() as session:  # what a migration left, whose operation is gone
        sides = {"source": south.birth.blanket, "target": new_id()}
        session.add(
            MigrationRow(operation=new_id(), instance=instance, epoch=1, verdict=Verdict.OPEN, **sides)
        )
    await reconciler.blankets()
    async with bench.parts.store.read() as session:
        assert not (await session.scalars(select(MigrationRow))).all()
    assert [*map(looked.count, (north.birth.blanket, south.birth.blanket))] == [1, 3]


async def test_an_instance_that_ended_by_itself_is_seen(bench: Bench) -> None:
    north = await bench.blanket("north")
    instance = await bench.run()
    await north.instances.stop(type("R", (), {"instance": instance})())  # type: ignore[arg-type]
    await bench.control.reconciler.blanket(north.birth.blanket)
    assert (await bench.control.instance("web")).state is InstanceState.STOPPED
    assert (await bench.parts.rights.standing(instance)).record.holder is None


async def test_what_became_of_it_meanwhile_is_not_forgotten(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its blanket is removed while it is looked at: its volumes are lost, and that is why it is failed."""
    north = await bench.blanket("north")
    instance = await bench.run()
    await north.instances.stop(type("R", (), {"instance": instance})())  # type: ignore[arg-type]
    reconciler, world = bench.control.reconciler, bench.control.reconciler._world

    async def abort(one: str) -> None:
        await world.set_state(one, InstanceState.FAILED, reason="removed")

    monkeypatch.setattr(reconciler, "_abort_migration", abort)
    await reconciler.blanket(north.birth.blanket)
    found = await bench.control.instance("web")
    assert (found.state, found.reason) == (InstanceState.FAILED, "removed")
