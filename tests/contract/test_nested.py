"""Blankets inside blankets, on both databases: where one may be, how deep it goes, and how it ends."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest
from blanket_double import Double
from control_rig import Bench
from sqlalchemy import select

from supercloud.model.errors import Conflict, Exhausted, InvalidInput, NotFound, OverQuota, Refused
from supercloud.model.levels import Level
from supercloud.model.nesting import Limit, Size, check_depth, check_room
from supercloud.model.placement import Confidentiality
from supercloud.model.quota import Quota
from supercloud.model.states import BlanketState, InstanceState, OperationState
from supercloud.ports.agent import RunState
from supercloud.ports.platform import Flavour
from supercloud.services.caller import Caller
from supercloud.services.requests import (
    AddBlanket,
    AddPrincipal,
    AddProvider,
    CreateCloud,
    CreateNetwork,
    RunInstance,
)
from supercloud.services.store.tables import Blanket, Provider
from supercloud.trust.keys import IdentityKey

pytestmark = pytest.mark.contract
GIB = 1 << 30


def nested(name: str, cloud: str, parent: str, *, memory_mib: int = 512, disk_gib: int = 4) -> AddBlanket:
    return AddBlanket(
        name=name, cloud=cloud, parent=parent, vcpus=1, memory_mib=memory_mib, disk_bytes=disk_gib * GIB
    )


async def add(bench: Bench, request: AddBlanket) -> Double:
    view = await bench.done(await bench.control.add_blanket(request))
    return bench.site.machines[view.object]


async def run(bench: Bench, name: str, cloud: str, on: str) -> str:
    request = RunInstance(name=name, cloud=cloud, image="debian", on=on, memory_mib=128)
    return (await bench.done(await bench.control.run_instance(request))).object


async def around(bench: Bench, *, memory_mib: int = 4096) -> Double:
    """Blanket `outer` of cloud `c`, and cloud `inner` within that, which has an image by its own right."""
    await bench.control.create_cloud(CreateCloud(name="inner", parent="c"))
    request = AddBlanket(name="outer", cloud="c", provider="p", memory_mib=memory_mib)
    return await add(bench, request)


async def test_a_nested_clouds_blanket_runs_in_its_parents(bench: Bench) -> None:
    outer = await around(bench)
    double = await add(bench, nested("n", "inner", "outer"))
    assert list(outer.machines.made) == [double.birth.blanket], "its machine is the parent's"
    view = await bench.control.blanket("n")
    assert (view.parent, view.depth, view.deeper, view.provider) == ("outer", 1, 2, "p")
    assert view.state is BlanketState.READY and view.connected
    instance = await run(bench, "deep", "inner", "n")
    assert bench.site.running(instance) == ["n"]
    assert double.birth.endpoint == outer.birth.endpoint, "it dials what its parent dials"
    (row,) = await bench.control.blankets(cloud="c")
    assert (row.name, row.parent, row.depth) == ("outer", None, 0)


async def test_as_deep_as_the_platform_says_and_no_deeper(bench: Bench) -> None:
    await bench.blanket("b0")
    for depth in range(1, 4):
        request = nested(
            f"b{depth}", "c", f"b{depth - 1}", memory_mib=1600 - 400 * depth, disk_gib=16 - 4 * depth
        )
        await add(bench, request)
        view = await bench.control.blanket(f"b{depth}")
        assert (view.parent, view.depth, view.deeper) == (f"b{depth - 1}", depth, 3 - depth)
    with pytest.raises(Refused, match="3 deep at most: so deep is it simulated"):
        await bench.control.add_blanket(nested("b4", "c", "b3", memory_mib=64, disk_gib=1))
    assert (await bench.control.provider("p")).nested_levels == 3
    instance = await run(bench, "deepest", "c", "b3")
    assert bench.site.running(instance) == ["b3"]


async def test_what_cannot_be_is_refused_with_the_reason(bench: Bench) -> None:
    control = bench.control
    outer = await around(bench)
    await control.create_cloud(CreateCloud(name="other"))
    with pytest.raises(InvalidInput, match="on a provider's platform or in another"):
        await control.add_blanket(AddBlanket(name="x", cloud="c"))
    with pytest.raises(InvalidInput, match="on a provider's platform or in another"):
        await control.add_blanket(AddBlanket(name="x", cloud="c", provider="p", parent="outer"))
    with pytest.raises(NotFound, match="no blanket nowhere"):
        await control.add_blanket(nested("x", "c", "nowhere"))
    with pytest.raises(Refused, match="of another cloud, which other is not within"):
        await control.add_blanket(nested("x", "other", "outer"))
    with pytest.raises(Refused, match="flavour tcg"):
        await control.add_blanket(replace(nested("x", "c", "outer"), flavour=Flavour.TCG))
    with pytest.raises(Exhausted, match="2 vCPUs, so that one in it cannot have 3"):
        await control.add_blanket(replace(nested("x", "c", "outer"), vcpus=3))
    with pytest.raises(Exhausted, match="of memory left"):
        await control.add_blanket(nested("x", "c", "outer", memory_mib=4000))
    with pytest.raises(Exhausted, match="19G of disk left"):
        await control.add_blanket(nested("x", "c", "outer", disk_gib=20))
    await control.drain_provider("p")
    with pytest.raises(Refused, match="is being drained"):
        await control.add_blanket(nested("x", "c", "outer"))
    await control.undrain_provider("p")
    outer.differs = {"nests": False, "nests_not": "its processor shows no SVM"}
    outer.restart()
    await bench.gone("outer")
    await bench.parts.agents.wait_for(outer.birth.blanket, 20)
    await bench.done(await control.start_blanket("outer"))
    with pytest.raises(Refused, match="its processor shows no SVM"):
        await control.add_blanket(nested("x", "c", "outer"))
    await bench.done(await control.stop_blanket("outer"))
    await bench.gone("outer")
    with pytest.raises(Conflict, match="not connected"):
        await control.add_blanket(nested("x", "c", "outer"))


async def test_blankets_inside_and_tools_exclude_each_other(bench: Bench) -> None:
    """A tool is as good as root in its blanket, and a machine of one inside has its disk there."""
    control = bench.control
    outer = await around(bench)
    await add(bench, nested("n", "inner", "outer"))
    with pytest.raises(Refused, match="blankets are inside blanket outer"):
        await control.let_tools_in("outer")
    assert not (await control.blanket("outer")).tools and not outer.tools.opened
    await control.let_tools_in("n")
    await bench.done(await control.remove_blanket("n"))
    await control.let_tools_in("outer")
    with pytest.raises(Refused, match="no blanket can be in outer: tools were let in to it"):
        await control.add_blanket(nested("m", "inner", "outer"))


async def test_of_tools_and_a_blanket_inside_whichever_comes_first_keeps_the_other_out(bench: Bench) -> None:
    control = bench.control
    await around(bench)
    asked = (control.add_blanket(nested("n", "inner", "outer")), control.let_tools_in("outer"))
    found = await asyncio.gather(*asked, return_exceptions=True)
    assert [isinstance(one, Refused) for one in found].count(True) == 1, found
    assert (await control.blanket("outer")).tools == (len(await control.blankets(cloud="inner")) == 0)


async def test_memory_is_given_once(bench: Bench) -> None:
    """To blankets and instances alike, whichever comes first."""
    await bench.control.create_network(CreateNetwork(name="n2", cloud="c", cidr="10.8.0.0/24"))
    await around(bench)
    await add(bench, nested("n", "inner", "outer", memory_mib=3000))
    request = RunInstance(name="big", cloud="c", image="debian", memory_mib=1200)
    with pytest.raises(Refused, match="outer"):
        await bench.control.run_instance(request)
    await bench.done(await bench.control.run_instance(replace(request, memory_mib=512)))
    with pytest.raises(Exhausted, match="left for one in it"):
        await bench.control.add_blanket(nested("m", "inner", "outer", memory_mib=512))


async def test_it_counts_in_its_clouds_quota(bench: Bench) -> None:
    control = bench.control
    await control.create_cloud(CreateCloud(name="inner", parent="c", quota=Quota(blankets=1)))
    await bench.blanket("outer")
    await add(bench, nested("n", "inner", "outer"))
    with pytest.raises(OverQuota, match="for blankets is 1: 1 used"):
        await control.add_blanket(nested("m", "inner", "outer"))
    used = (await control.cloud("inner")).used
    assert (used.blankets, used.domains) == (1, 1)


async def test_some_of_each_parent_are_reached_at_its_ports_and_others_dial_out(bench: Bench) -> None:
    """Two here."""
    await around(bench)
    for name in "wxyz":
        await add(bench, nested(name, "inner", "outer", disk_gib=2))
    async with bench.parts.store.read() as session:
        rows = {row.name: row for row in await session.scalars(select(Blanket))}
    ways = rows["outer"].inner_endpoints
    assert ways is not None and len(set(ways)) == 2 and rows["outer"].endpoint not in ways
    assert [rows[name].endpoint for name in "wxyz"] == [*ways, None, None]
    await run(bench, "i", "inner", "y")
    with pytest.raises(Refused, match="dial out only, so that neither reaches the other"):
        await bench.control.migrate_instance("i", to="z")
    await bench.done(await bench.control.migrate_instance("i", to="w"))
    await bench.done(await bench.control.migrate_instance("i", to="z"))
    await bench.blanket("plain", cloud="inner")
    await bench.done(await bench.control.migrate_instance("i", to="plain"))
    assert (await bench.control.instance("i")).blanket == "plain", "out of one that nothing is forwarded to"


async def test_instances_move_between_a_nested_blanket_and_an_ordinary_one(bench: Bench) -> None:
    await around(bench)
    await add(bench, nested("n", "inner", "outer"))
    await bench.blanket("plain", cloud="inner")
    instance = await run(bench, "i", "inner", "n")
    for target in ("plain", "n"):
        await bench.done(await bench.control.migrate_instance("i", to=target))
        assert bench.site.running(instance) == [target]


async def test_a_drain_moves_what_is_in_nested_blankets_too(bench: Bench) -> None:
    control = bench.control
    await control.add_provider(AddProvider(name="q", kind="simulated"))
    await around(bench)
    await add(bench, nested("n", "inner", "outer"))
    await bench.done(await control.add_blanket(AddBlanket(name="away", cloud="inner", provider="q")))
    instance = await run(bench, "i", "inner", "n")
    await bench.done(await control.drain_provider("p"))
    assert bench.site.running(instance) == ["away"]


async def test_a_parent_goes_once_nothing_is_inside(bench: Bench) -> None:
    control = bench.control
    await around(bench)
    await add(bench, nested("n", "inner", "outer"))
    await add(bench, nested("nn", "inner", "n", memory_mib=64, disk_gib=1))
    with pytest.raises(Conflict, match=r"2 blankets \(nn, n\) are inside blanket outer"):
        await control.remove_blanket("outer")
    with pytest.raises(Conflict, match="blanket nn is inside blanket n"):
        await control.remove_blanket("n")
    for name in ("nn", "n", "outer"):
        await bench.done(await control.remove_blanket(name))
    assert len(await control.blankets()) == 0 and not bench.site.machines


async def test_by_force_it_takes_all_along_though_they_cannot_be_reached(bench: Bench) -> None:
    control = bench.control
    outer = await around(bench)
    await add(bench, nested("n", "inner", "outer", memory_mib=1024))
    await add(bench, nested("nn", "inner", "n", memory_mib=64, disk_gib=1))
    await run(bench, "i", "inner", "n")
    await run(bench, "ii", "inner", "nn")
    await outer.end()
    await bench.gone("nn")
    await bench.done(await control.remove_blanket("outer", force=True))
    assert len(await control.blankets()) == 0
    for name in ("i", "ii"):
        view = await control.instance(name)
        assert view.state is InstanceState.FAILED and "was removed" in view.reason


async def test_a_stopped_parent_ends_what_is_inside_and_gives_its_rights_up(bench: Bench) -> None:
    control = bench.control
    await around(bench)
    await add(bench, nested("n", "inner", "outer"))
    instance = await run(bench, "i", "inner", "n")
    with pytest.raises(Conflict, match="blanket n is inside blanket outer, and still there"):
        await control.stop_blanket("outer")
    await bench.done(await control.stop_blanket("outer", force=True))
    await bench.gone("n")
    assert (await bench.parts.rights.standing(instance)).record.holder is None
    view = await control.instance("i")
    assert view.state is InstanceState.STOPPED
    failed = await bench.done(await control.start_blanket("n"), OperationState.FAILED)
    assert failed.error and "not connected" in failed.error["message"]
    await bench.done(await control.start_blanket("outer"))
    await bench.done(await control.start_blanket("n"))
    await bench.done(await control.start_instance("i"))
    assert bench.site.running(instance) == ["n"]


async def test_a_lost_parent_leaves_its_instances_to_their_rights(bench: Bench) -> None:
    """Nobody takes the silence of a parent for the end of what is inside it."""
    outer = await around(bench)
    double = await add(bench, nested("n", "inner", "outer"))
    instance = await run(bench, "i", "inner", "n")
    await outer.end()
    await bench.gone("n")
    standing = await bench.parts.rights.standing(instance)
    assert standing.record.holder == double.birth.blanket
    assert (await bench.control.blanket("n")).state is BlanketState.UNREACHABLE
    assert double.state(instance) is not RunState.RUNNING


async def test_it_is_procedural_whatever_its_parents_platform_enforces(bench: Bench) -> None:
    outer = await around(bench)
    async with bench.parts.store.write() as session:
        provider = await session.scalar(select(Provider).where(Provider.name == "p"))
        assert provider is not None
        provider.declaration = {**provider.declaration, "confidentiality": "enforced"}
    await add(bench, nested("n", "inner", "outer"))
    assert (await bench.control.blanket("outer")).confidentiality is Confidentiality.ENFORCED
    assert (await bench.control.blanket("n")).confidentiality is Confidentiality.PROCEDURAL
    del outer


async def test_who_stays_alone_shares_no_blanket_with_one(bench: Bench) -> None:
    control = bench.control
    async with bench.parts.store.write() as session:
        provider = await session.scalar(select(Provider).where(Provider.name == "p"))
        assert provider is not None
        provider.declaration = {**provider.declaration, "confidentiality": "enforced", "accelerator": "kvm"}
    await around(bench)
    await add(bench, nested("n", "inner", "outer"))
    alone = RunInstance(name="alone", cloud="c", image="debian", memory_mib=128, level=Level.ISOLATED)
    with pytest.raises(Refused, match="company in the blanket"):
        await control.run_instance(alone)
    await bench.done(await control.remove_blanket("n"))
    await bench.done(await control.run_instance(alone))
    with pytest.raises(Refused, match="alone, which is isolated, stays alone in blanket outer"):
        await control.add_blanket(nested("n", "inner", "outer"))


async def test_whose_it_is_does_not_see_what_is_around_it(bench: Bench) -> None:
    control = bench.control
    await around(bench)
    await add(bench, nested("n", "inner", "outer"))
    hers = await control.add_principal(AddPrincipal(name="her", key=IdentityKey.new().name))
    inner = (await control.cloud("inner")).id
    caller = Caller(principal=hers.id, clouds=(inner,), operator=False, undivided=True, revocation_ids=())
    seen = control.on_behalf_of(caller)
    (view,) = await seen.blankets()
    assert (view.name, view.parent, view.depth) == ("n", None, 1)
    with pytest.raises(NotFound):
        await seen.add_blanket(nested("m", "inner", "outer"))
    with pytest.raises(NotFound):
        await seen.blanket("outer")


async def test_its_parents_provider_does_not_learn_of_it(bench: Bench) -> None:
    outer = await around(bench)
    southbound = bench.control.southbound()
    before = await southbound.domain("p")
    double = await add(bench, nested("n", "inner", "outer"))
    await run(bench, "i", "inner", "n")
    after = await southbound.domain("p")
    assert after.rented == before.rented, "what is inside is not rented besides"
    (machine,) = await southbound.machines("p")
    assert machine.id == outer.birth.blanket and machine.in_use
    assert double.birth.blanket not in json.dumps([str(machine), str(await southbound.health("p"))])


def test_the_rules_say_what_is_left() -> None:
    limit = Limit(platform="p", levels=1, reason="measured so far")
    check_depth("a", 0, limit)
    with pytest.raises(
        Refused, match="in a, which is 1 deep itself: platform p has blankets 1 deep at most: meas"
    ):
        check_depth("a", 1, limit)
    with pytest.raises(Refused, match="has no blanket inside another: measured"):
        check_depth("a", 0, replace(limit, levels=0))
    has = Size(vcpus=2, memory_mib=2048, disk_bytes=10 << 30)
    check_room("a", has, [Size(memory_mib=1024)], Size(vcpus=2, memory_mib=640, disk_bytes=9 << 30))
    with pytest.raises(Exhausted, match="640M of memory left for one in it, 641M are asked"):
        check_room("a", has, [Size(memory_mib=1024)], Size(memory_mib=641))
