"""Placement, groups and drains on both databases, with machines that really dial in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import placing_rig
import pytest
from control_rig import Bench, World, furnish
from placing_rig import blanket

from supercloud.model.errors import Conflict, InvalidInput, NotFound, Refused
from supercloud.model.names import new_id
from supercloud.model.placement import Apart, Confidentiality, Cost, Placement, Price
from supercloud.model.states import InstanceState, OperationState
from supercloud.ports.agent import StopMode
from supercloud.services.caller import Caller
from supercloud.services.requests import (
    AddBlanket,
    AddProvider,
    CreateCloud,
    MoveGroup,
    PlaceInstance,
    ProviderTerms,
)
from supercloud.services.store.tables import Provider
from supercloud.services.views import OperationView

pytestmark = pytest.mark.contract
GERMAN = ProviderTerms(location="de-by", price=Price(currency="EUR", vcpu_hour="0.02"))


@pytest.fixture
async def bench(world: World) -> AsyncIterator[Bench]:
    """Blankets n1 and n2 on p, s1 on q."""
    async with world.up() as made:
        await furnish(made, world.keys)
        await made.control.add_provider(AddProvider(name="q", kind="simulated", location="fr"))
        await asyncio.gather(*(blanket(made, name) for name in ("n1", "n2", "s1")))
        yield made


async def run(
    bench: Bench, name: str, on: str | None = None, group: str | None = None, **asked: object
) -> str:
    """Where it came."""
    return await placing_rig.run(bench, name, on, group=group, placement=Placement(**asked))  # type: ignore[arg-type]


async def where(bench: Bench) -> dict[str, str | None]:
    return {one.name: one.blanket for one in await bench.control.instances()}


async def test_an_instance_comes_where_its_placement_allows_and_it_is_said_why(bench: Bench) -> None:
    control = bench.control
    await control.set_provider("p", GERMAN)
    assert (await control.provider("p")).location == "de-by"
    assert await run(bench, "web", locations=("fr",)) == "s1"
    shown = await control.instance("web")
    assert shown.placed == "the only blanket that fits, 2 do not"
    assert shown.placement == Placement(locations=("fr",))
    assert await run(bench, "db", max_cost=Cost(amount="0.02", currency="EUR")) in {"n1", "n2"}
    assert "of 2 blankets that fit, 1 does not" in (await control.instance("db")).placed
    assert await run(bench, "any", not_domains=("q",)) != (await control.instance("db")).blanket, "emptier"
    assert (await control.wanted_cloud("c")).instances[-1].placement == Placement(locations=("fr",))

    async def refused(why: str, on: str | None = None, **asked: object) -> None:
        with pytest.raises(Refused, match=why):
            await run(bench, "no", on, **asked)

    await refused("n1: domain p is in de-by, not in us; n2: .*; s1: domain q is in fr", locations=("us",))
    await refused("s1: domain q does not say what it costs", max_cost=Cost(amount="0.01", currency="EUR"))
    await refused("does not enforce confidentiality", confidentiality=Confidentiality.ENFORCED)
    await refused("may not be in blanket n1: domain p is denied", on="n1", not_domains=("p",))
    with pytest.raises(NotFound, match="no provider r"):
        await run(bench, "no", not_domains=("r",))
    with pytest.raises(InvalidInput, match="apart from itself"):
        await run(bench, "no", apart_from=("no",))
    assert set(await where(bench)) == {"web", "db", "any"}, "a refusal leaves nothing"


async def test_what_is_kept_apart_is_so_though_all_ask_at_once(bench: Bench) -> None:
    """Each names the group that it is in, and there are as many blankets as two of them find."""
    asked = [run(bench, f"w{one}", group="w", apart_from=("w",)) for one in range(5)]
    found = await asyncio.gather(*asked, return_exceptions=True)
    placed = [one for one in found if isinstance(one, str)]
    assert sorted(placed) == ["n1", "n2", "s1"]
    assert all(isinstance(one, Refused) for one in found if not isinstance(one, str)), found
    first = next(name for name, at in (await where(bench)).items() if at == "n1")
    with pytest.raises(Refused, match="which it is kept apart from, is there"):
        await bench.control.migrate_instance(first, to="s1")
    with pytest.raises(Refused, match=f"{first}, which it is kept apart from, is in domain p"):
        await run(bench, "far", on="n2", apart_from=(first,), apart_by=Apart.DOMAIN)


async def test_a_migration_keeps_to_the_placement_until_it_is_changed(bench: Bench) -> None:
    control = bench.control
    await run(bench, "web", "n1", domains=("p",))
    with pytest.raises(Refused, match="may not be in blanket s1: domain q is not among p") as caught:
        await control.migrate_instance("web", to="s1")
    assert caught.value.hint is not None and "vm place web" in caught.value.hint
    await bench.done(await control.migrate_instance("web", to="n2"))
    placed = await control.place_instance("web", PlaceInstance(placement=Placement(domains=("q",))))
    assert placed.blanket == "n2", "it stays where it is"
    with pytest.raises(Refused, match="domain p is not among q"):
        await control.migrate_instance("web", to="n1")
    await bench.done(await control.migrate_instance("web", to="s1"))
    assert (await control.instance("web")).placed == "asked for"
    await bench.done(await control.stop_instance("web", mode=StopMode.SHUTDOWN))
    await control.place_instance("web", PlaceInstance(placement=Placement(domains=("p",))))
    with pytest.raises(Refused, match="may not be in blanket s1"):
        await control.start_instance("web")
    with pytest.raises(NotFound, match="no provider r"):
        await control.place_instance("web", PlaceInstance(placement=Placement(domains=("r",))))
    await control.place_instance("web", PlaceInstance())
    await bench.done(await control.start_instance("web"))


# ---------------------------------------------------------------- groups


async def test_a_group_moves_together(bench: Bench) -> None:
    control = bench.control
    for number in range(5):
        await run(bench, f"w{number}", "n1", group="shop")
    await run(bench, "other", "n1")
    view = await bench.done(await control.move_group(MoveGroup(cloud="c", group="shop", to=("n2", "s1"))))
    assert view.result is not None and (view.result["moved"], view.result["stayed"]) == (5, 0)
    assert [one["name"] for one in view.result["instances"]] == [f"w{number}" for number in range(5)]
    at = await where(bench)
    assert at.pop("other") == "n1" and sorted(map(str, at.values())) in (
        ["n2", "n2", "n2", "s1", "s1"],
        ["n2", "n2", "s1", "s1", "s1"],
    )
    parts = [one for one in await control.operations(kind="instance.migrate") if one.parent == view.id]
    assert len(parts) == 5 and {one["operation"] for one in view.result["instances"]} == {
        one.id for one in parts
    }
    again = await bench.done(await control.move_group(MoveGroup(cloud="c", group="shop", to=("n2", "s1"))))
    assert again.result is not None and again.result["there"] == 5
    away = await bench.done(await control.move_group(MoveGroup(cloud="c", group="shop")))
    assert away.result is not None and away.result["moved"] == 5
    assert set((await where(bench)).values()) == {"n1"}, "away from all that it was in"
    with pytest.raises(NotFound, match="no instance of cloud c is in group none"):
        await control.move_group(MoveGroup(cloud="c", group="none"))


async def test_of_a_group_that_moves_in_part_it_is_said_which_stayed_where_and_why(bench: Bench) -> None:
    control = bench.control
    await run(bench, "free", "n1", group="g")
    await run(bench, "bound", "n1", group="g", domains=("p",))
    await run(bench, "still", "n1", group="g")
    await bench.done(await control.stop_instance("still", mode=StopMode.SHUTDOWN))
    view = await control.move_group(MoveGroup(cloud="c", group="g", to=("s1",)))
    view = await bench.done(view, OperationState.FAILED)
    assert view.error is not None and view.result is not None
    message = view.error["message"]
    assert message.startswith("2 of 3 instances did not move")
    assert "bound in n1 (no blanket fits instance bound: s1: domain q is not among p)" in message
    assert "still in n1 (it is stopped, and only a running one moves live)" in message
    ends = {one["name"]: (one["end"], one["is_in"]) for one in view.result["instances"]}
    assert ends == {"free": ("moved", "s1"), "bound": ("stayed", "n1"), "still": ("stayed", "n1")}


async def until(bench: Bench, view: OperationView, transfers: int) -> None:
    """So many of its parts are in their transfer."""
    async with asyncio.timeout(30):
        while True:
            parts = [one for one in await bench.control.operations(open_only=True) if one.parent == view.id]
            if sum(one.phase == "transfer" for one in parts) == transfers:
                return
            await asyncio.sleep(0.05)  # what users see has no event


async def test_a_cancelled_move_of_a_group_leaves_the_rest_where_it_is(bench: Bench) -> None:
    control = bench.control
    for number in range(6):
        await run(bench, f"w{number}", "n1", group="g")
    bench.site.hold_transfers = True
    view = await control.move_group(MoveGroup(cloud="c", group="g", to=("s1",)))
    joined = await control.move_group(MoveGroup(cloud="c", group="g", to=("s1",)))
    assert joined.id == view.id
    with pytest.raises(Conflict, match=r"group\.move of g is under way"):
        await control.move_group(MoveGroup(cloud="c", group="g"))
    await until(bench, view, 4)
    await control.cancel(view.id)
    view = await bench.done(view, OperationState.CANCELLED)
    assert view.result is not None and view.result["stayed"] == 6
    assert len([one for one in await control.operations() if one.parent == view.id]) == 4, "no more began"
    assert set((await where(bench)).values()) == {"n1"}
    assert {one.state for one in await control.instances()} == {InstanceState.RUNNING}


# ---------------------------------------------------------------- drains


async def test_a_provider_is_drained_of_all_clouds_and_takes_nothing_new(bench: Bench) -> None:
    control = bench.control
    await run(bench, "web", "n1")
    await run(bench, "bound", "n2", domains=("p",))
    await run(bench, "apart", "s1")
    view = await bench.done(await control.drain_provider("p"), OperationState.FAILED)
    assert view.error is not None and view.error["message"] == "1 of 2 instances stay there"
    assert view.result is not None and (view.result["moved"], view.result["stayed"]) == (1, 1)
    (stayed,) = (one for one in view.result["instances"] if one["end"] == "stayed")
    assert stayed["name"] == "bound" and "s1: domain q is not among p" in stayed["why"]
    assert await where(bench) == {"web": "s1", "bound": "n2", "apart": "s1"}
    assert (await control.provider("p")).draining

    assert await run(bench, "new") == "s1"
    for asked in (run(bench, "no", "n1"), run(bench, "no", domains=("p",))):
        with pytest.raises(Refused, match="domain p is being drained"):
            await asked
    with pytest.raises(Refused, match="is being drained"):
        await control.migrate_instance("web", to="n1")
    with pytest.raises(Refused, match="provider p is being drained"):
        await control.add_blanket(AddBlanket(name="n3", cloud="c", provider="p"))
    await bench.done(await control.stop_instance("bound", mode=StopMode.SHUTDOWN))
    await bench.done(await control.start_instance("bound"))
    await control.place_instance("bound", PlaceInstance())
    await bench.done(await control.drain_provider("p"))
    assert set((await where(bench)).values()) == {"s1"}
    assert not (await control.undrain_provider("p")).draining
    await bench.done(await control.migrate_instance("web", to="n1"))


async def test_what_is_on_its_way_there_is_waited_for_and_moved(bench: Bench) -> None:
    """It was asked for before the drain, and arrives after it has begun."""
    control = bench.control
    await run(bench, "web", "s1")
    bench.site.hold_transfers = True
    moving = await control.migrate_instance("web", to="n1")
    async with asyncio.timeout(20):
        while moving.phase != "transfer":
            moving = await control.operation(moving.id, wait_s=5)
    draining = await control.drain_provider("p")
    bench.site.hold_transfers = False
    await control.cancel(moving.id)
    draining = await bench.done(draining)
    assert draining.result is not None and draining.result["there"] == 1
    assert await where(bench) == {"web": "s1"}


async def test_undraining_gives_the_drain_up(bench: Bench) -> None:
    control = bench.control
    await run(bench, "web", "n1")
    bench.site.hold_transfers = True
    view = await control.drain_provider("p")
    assert (await control.drain_provider("p")).id == view.id
    await until(bench, view, 1)
    assert not (await control.undrain_provider("p")).draining
    await bench.done(view, OperationState.CANCELLED)
    assert await where(bench) == {"web": "n1"}


async def test_an_operator_is_told_the_numbers_of_others_instances(bench: Bench) -> None:
    control = bench.control
    await run(bench, "web", "n1")
    await control.create_cloud(CreateCloud(name="d"))
    operator = Caller(
        principal=new_id(),
        operator=True,
        undivided=True,
        revocation_ids=(),
        clouds=((await control.cloud("d")).id,),
    )
    view = await bench.done(await control.on_behalf_of(operator).drain_provider("p"))
    seen = await control.on_behalf_of(operator).operation(view.id)
    assert seen.result is not None and seen.result["moved"] == 1 and seen.result["instances"] == []
    listed = await control.on_behalf_of(operator).operations()
    assert [one.kind for one in listed] == ["provider.drain"]
    assert (await control.operation(view.id)).result == view.result
    owner = Caller(
        principal=new_id(),
        operator=False,
        undivided=True,
        revocation_ids=(),
        clouds=((await control.cloud("c")).id,),
    )
    with pytest.raises(NotFound):
        await control.on_behalf_of(owner).operation(view.id)
    assert view.id in {one.parent for one in await control.on_behalf_of(owner).operations()}


async def test_what_moves_from_an_enforced_platform_stays_on_enforced_ones(bench: Bench) -> None:
    async with bench.parts.store.write() as session:
        provider = await session.get_one(Provider, (await bench.control.provider("q")).id)
        provider.declaration = {**provider.declaration, "confidentiality": "enforced"}
    assert await run(bench, "web", confidentiality=Confidentiality.ENFORCED) == "s1"
    with pytest.raises(Refused, match="does not enforce confidentiality"):
        await bench.control.migrate_instance("web", to="n1")


# ---------------------------------------------------------------- a kill in the middle


async def test_a_restarted_controller_carries_a_move_on(world: World) -> None:
    async with world.up() as bench:
        await furnish(bench, world.keys)
        await bench.control.add_provider(AddProvider(name="q", kind="simulated"))
        await asyncio.gather(blanket(bench, "n1"), blanket(bench, "s1"))
        for number in range(5):
            await run(bench, f"w{number}", "n1", group="g")
        bench.site.hold_transfers = True
        view = await bench.control.move_group(MoveGroup(cloud="c", group="g"))
        await until(bench, view, 4)
        begun = {one.id for one in await bench.control.operations() if one.parent == view.id}
    async with world.up() as bench:
        async with asyncio.timeout(20):
            while not all(one.connected for one in await bench.control.blankets()):  # noqa: ASYNC110 - no event
                await asyncio.sleep(0.02)
        await bench.control.cancel(view.id)
        bench.site.hold_transfers = False
        await bench.done(await bench.control.operation(view.id), OperationState.CANCELLED)
        parts = {one.id for one in await bench.control.operations() if one.parent == view.id}
        assert parts == begun, "none is begun twice, nor after it was given up"
