"""Operations that ended long ago do not stay for ever, and what is still of use does."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest
from control_rig import World, furnish

from supercloud.model.errors import NotFound
from supercloud.model.names import Id, new_id
from supercloud.services.forgetting import forget_old
from supercloud.services.store.engine import Store
from supercloud.services.store.tables import MigrationRow, Operation

pytestmark = pytest.mark.contract


async def _row(store: Store, age_s: float, *, ended: bool = True, parent: Id | None = None) -> Id:
    at = time.time() - age_s
    made = Operation(
        id=new_id(),
        kind="volume.resize",
        object=new_id(),
        object_name="data",
        parent=parent,
        intent={},
        join_key=new_id(),
        state="succeeded" if ended else "running",
        created_at=at,
        ended_at=at if ended else None,
    )
    async with store.write() as session:
        session.add(made)
    return made.id


async def test_the_newest_are_kept_and_what_is_still_of_use(store: Store) -> None:
    forgotten: list[Id] = []

    async def forget(operations: Sequence[Id]) -> None:
        async with store.read() as session:
            for one in operations:
                assert await session.get(Operation, one) is not None, "the runtime forgets first"
        forgotten.extend(operations)

    old = [await _row(store, 10_000 + number) for number in range(5)]
    open_one = await _row(store, 20_000, ended=False)
    part = await _row(store, 20_001, parent=open_one)
    migrated = await _row(store, 20_002)
    async with store.write() as session:
        session.add(
            MigrationRow(
                operation=migrated,
                instance=new_id(),
                source=new_id(),
                target=new_id(),
                epoch=1,
                verdict="committed",
            )
        )
    newest = [await _row(store, number) for number in range(3)]
    assert await forget_old(store, forget, kept=4) == 4
    assert set(forgotten) == set(old[1:])
    assert await forget_old(store, forget, kept=4) == 0
    assert await forget_old(store, forget, kept=0, kept_s=60) == 1, "those of the last minute are kept"
    async with store.read() as session:
        for one in (open_one, part, migrated, *newest):
            assert await session.get(Operation, one) is not None
        assert await session.get(Operation, old[0]) is None


async def test_what_ran_is_forgotten_whole_and_everything_goes_on(world: World) -> None:
    async with world.up() as bench:
        await furnish(bench, world.keys)
        await bench.blanket("north")
        instance = await bench.run()
        ended = await bench.control.operations(kind="instance.run")
        assert len(ended) == 1
        forget = bench.parts.operations._forget
        assert forget is not None
        while await forget_old(bench.parts.store, forget, kept=0, kept_s=-60):
            pass
        with pytest.raises(NotFound):
            await bench.control.operation(ended[0].id)
        assert await bench.control.operations() == []
        await bench.done(await bench.control.stop_instance("web"))
        await bench.done(await bench.control.start_instance("web"))
    async with world.up() as bench:
        assert (await bench.control.instance("web")).id == instance
        assert {one.kind for one in await bench.control.operations()} == {"instance.stop", "instance.start"}
