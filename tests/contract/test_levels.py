"""Security levels on both databases: where they let things be, and what has to move when they change."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from control_rig import Bench, World, furnish
from placing_rig import blanket, run

from supercloud.model.errors import Conflict, InvalidInput, Refused, SupercloudError
from supercloud.model.levels import RULES, Level, Thing
from supercloud.model.names import MIB
from supercloud.ports.agent import StopMode
from supercloud.services.level_views import LevelChange, SetLevel
from supercloud.services.preflight import check_migration
from supercloud.services.requests import (
    AddProvider,
    CreateNetwork,
    CreateVolume,
    MoveGroup,
)
from supercloud.services.store.tables import Blanket, Instance, Provider

pytestmark = pytest.mark.contract
HARDENED, ISOLATED = Level.HARDENED, Level.ISOLATED
NO_HARDWARE = "the platform's accelerator is simulated, not kvm"


@pytest.fixture
async def bench(world: World) -> AsyncIterator[Bench]:
    """Blanket n1 on p, an emulating platform; s1 and s2 on q, which has hardware for it."""
    async with world.up() as made:
        await furnish(made, world.keys)
        await made.control.add_provider(AddProvider(name="q", kind="simulated"))
        await declare(made, "q", accelerator="kvm")
        await asyncio.gather(*(blanket(made, name) for name in ("n1", "s1", "s2")))
        yield made


async def declare(bench: Bench, provider: str, **said: str) -> None:
    async with bench.parts.store.write() as session:
        row = await session.get_one(Provider, (await bench.control.provider(provider)).id)
        row.declaration = {**row.declaration, **said}


async def change(bench: Bench, thing: Thing, name: str, level: Level, *, lower: bool = False) -> LevelChange:
    return await bench.control.set_level(thing, name, SetLevel(level=level, lower=lower), cloud="c")


async def test_an_instance_comes_only_where_its_level_is_held(bench: Bench) -> None:
    control = bench.control
    assert await run(bench, "web", level=HARDENED) in {"s1", "s2"}
    assert (await control.instance("web")).level is HARDENED
    assert (await control.volume("web-root")).level is HARDENED, "as the volume that it boots from"
    with pytest.raises(Refused, match=f"may not be in blanket n1: instance db is hardened .*{NO_HARDWARE}"):
        await run(bench, "db", "n1", HARDENED)
    with pytest.raises(Refused, match="may not be in blanket n1") as caught:
        await control.migrate_instance("web", to="n1")
    assert caught.value.hint is not None and "supercloud level explain vm web" in caught.value.hint
    assert await run(bench, "any", "n1", Level.BASELINE) == "n1"
    await declare(bench, "q", accelerator="tcg")
    with pytest.raises(Refused, match=r"no blanket fits instance db: n1: .*simulated, not kvm; s1: .*tcg"):
        await run(bench, "db", level=HARDENED)
    await bench.done(await control.stop_instance("web", mode=StopMode.SHUTDOWN))
    with pytest.raises(Refused, match="may not be in blanket s"):
        await control.start_instance("web")
    assert {one.name for one in await control.instances()} == {"web", "any"}, "a refusal leaves nothing"


async def test_a_hold_is_refused_where_its_level_excludes_it(bench: Bench) -> None:
    with pytest.raises(InvalidInput, match="the mode of its run right is hold, not strict"):
        await run(bench, "web", level=HARDENED, hold=True)
    await run(bench, "web", level=Level.BASELINE, hold=True)
    with pytest.raises(InvalidInput, match="is hold, not strict"):
        await change(bench, Thing.INSTANCE, "web", HARDENED)
    assert (await bench.control.instance("web")).level is Level.BASELINE


async def test_the_preflight_of_a_migration_says_it_too(bench: Bench) -> None:
    """By the target's own report of this moment."""
    await run(bench, "web", "s1", HARDENED)
    async with bench.parts.store.read() as session:
        row = await session.get_one(Instance, (await bench.control.instance("web")).id)
        blankets = {name: await bench.control.blanket(name) for name in ("n1", "s2")}
        there = {name: await session.get_one(Blanket, one.id) for name, one in blankets.items()}
    with pytest.raises(Refused, match=f"may not be in blanket n1: .*{NO_HARDWARE}"):
        await check_migration(bench.parts, row, there["n1"])
    await check_migration(bench.parts, row, there["s2"])


async def test_networks_and_volumes_demand_of_where_their_instances_are(bench: Bench) -> None:
    control = bench.control
    await control.create_network(CreateNetwork(name="dmz", cloud="c", cidr="10.8.0.0/24", level=HARDENED))
    assert (await control.network("dmz")).level is HARDENED
    with pytest.raises(Refused, match="network dmz is hardened"):
        await run(bench, "web", "n1", networks=("dmz",))
    assert await run(bench, "web", networks=("dmz",)) != "n1"
    with pytest.raises(Refused, match="network dmz is hardened"):
        await control.migrate_instance("web", to="n1")
    with pytest.raises(Refused, match="volume data may not be in blanket n1"):
        await control.create_volume(
            CreateVolume(name="data", cloud="c", size_bytes=MIB, on="n1", level=HARDENED)
        )
    await control.create_volume(CreateVolume(name="data", cloud="c", size_bytes=MIB, level=HARDENED))
    await run(bench, "db", "n1")
    with pytest.raises(Refused, match="volume data may not be in blanket n1"):
        await control.attach_volume("data", instance="db")
    await bench.done(await control.migrate_instance("db", to="s1"))
    await bench.done(await control.attach_volume("data", instance="db"))
    with pytest.raises(Refused, match="volume data is hardened"):
        await control.migrate_instance("db", to="n1")
    await bench.done(await control.detach_volume("data"))
    await bench.done(await control.migrate_instance("db", to="n1"))


async def test_an_isolated_instance_is_alone_and_stays_so_though_all_ask_at_once(bench: Bench) -> None:
    await declare(bench, "q", confidentiality="enforced")
    asked = [run(bench, f"w{one}", level=ISOLATED) for one in range(4)]
    found = await asyncio.gather(*asked, return_exceptions=True)
    placed = [one for one in found if isinstance(one, str)]
    assert sorted(placed) == ["s1", "s2"], found
    assert all(isinstance(one, Refused) for one in found if not isinstance(one, str)), found
    with pytest.raises(Refused, match="which is isolated and stays alone in its blanket, is there"):
        await run(bench, "db", "s1")
    assert await run(bench, "db") == "n1"


async def test_a_raised_level_says_what_has_to_move_and_a_lower_one_has_to_be_said(bench: Bench) -> None:
    control = bench.control
    await run(bench, "web", "n1", networks=("lan",))
    await run(bench, "db", "s1", networks=("lan",))
    raised = await change(bench, Thing.INSTANCE, "web", HARDENED)
    assert (raised.was, raised.level) == (Level.OPEN, HARDENED)
    (one,) = raised.must_move
    assert (one.thing, one.name, one.blanket) == (Thing.INSTANCE, "web", "n1") and NO_HARDWARE in one.why
    assert (await control.instance("web")).blanket == "n1", "it stays where it is"
    await bench.done(await control.migrate_instance("web", to="s1"))
    assert not (await change(bench, Thing.INSTANCE, "web", HARDENED)).must_move
    with pytest.raises(Refused, match="is hardened, which is higher than open") as caught:
        await change(bench, Thing.INSTANCE, "web", Level.OPEN)
    assert caught.value.hint is not None and "--lower" in caught.value.hint
    assert (await control.instance("web")).level is HARDENED
    lowered = await change(bench, Thing.INSTANCE, "web", Level.BASELINE, lower=True)
    assert lowered.was is HARDENED and (await control.volume("web-root")).level is Level.BASELINE
    await bench.done(await control.migrate_instance("web", to="n1"))
    raised = await change(bench, Thing.NETWORK, "lan", HARDENED)
    assert [(one.name, one.blanket) for one in raised.must_move] == [("web", "n1")]
    await declare(bench, "q", confidentiality="enforced")
    both = await change(bench, Thing.INSTANCE, "db", ISOLATED)
    assert not both.must_move, "web is elsewhere"
    await change(bench, Thing.NETWORK, "lan", Level.OPEN, lower=True)


async def test_a_volume_has_its_own_level_unless_an_instance_boots_from_it(bench: Bench) -> None:
    control = bench.control
    await run(bench, "web", "n1")
    with pytest.raises(Conflict, match="boots from volume web-root") as caught:
        await change(bench, Thing.VOLUME, "web-root", HARDENED)
    assert caught.value.hint == "supercloud vm set-level web"
    await control.create_volume(CreateVolume(name="data", cloud="c", size_bytes=MIB))
    await bench.done(await control.attach_volume("data", instance="web"))
    (one,) = (await change(bench, Thing.VOLUME, "data", HARDENED)).must_move
    assert (one.thing, one.name) == (Thing.INSTANCE, "web") and "volume data is hardened" in one.why
    await bench.done(await control.detach_volume("data"))
    (one,) = (await change(bench, Thing.VOLUME, "data", ISOLATED)).must_move
    assert (one.thing, one.name, one.blanket) == (Thing.VOLUME, "data", "n1"), "where its data is"


async def test_a_group_moves_to_where_its_levels_are_held(bench: Bench) -> None:
    for name in ("w1", "w2"):
        await run(bench, name, "s1", HARDENED, group="g")
    view = await bench.done(await bench.control.move_group(MoveGroup(cloud="c", group="g")))
    assert view.result is not None and view.result["moved"] == 2
    assert {one.blanket for one in await bench.control.instances()} == {"s2"}


async def test_an_isolated_network_has_no_way_out_in_any_blanket(bench: Bench) -> None:
    """And an agent that does not know how to close one gets no instance of it."""
    control = bench.control
    await declare(bench, "q", confidentiality="enforced")
    await control.create_network(CreateNetwork(name="dmz", cloud="c", cidr="10.8.0.0/24", level=ISOLATED))

    def outward() -> set[tuple[str, bool]]:
        machines = bench.site.machines.values()
        return {(net.name, net.outward) for one in machines if one.mesh for net in one.mesh.networks}

    assert outward() == {("lan", True), ("dmz", False)}
    await run(bench, "web", networks=("dmz",))
    await change(bench, Thing.NETWORK, "lan", ISOLATED)
    assert outward() == {("lan", False), ("dmz", False)}
    await change(bench, Thing.NETWORK, "lan", Level.OPEN, lower=True)
    assert outward() == {("lan", True), ("dmz", False)}
    older = next(one for one in bench.site.machines.values() if one.name == "s2")
    older.closes_networks = False
    older.restart()
    async with asyncio.timeout(20):
        while (await explained(bench, Thing.NETWORK, "dmz"))["s2"]:  # noqa: ASYNC110 - a report has no event
            await asyncio.sleep(0.02)
    with pytest.raises(Refused, match="the blanket's filter of ways out is absent, not present"):
        await run(bench, "db", "s2", networks=("dmz",))


async def explained(bench: Bench, thing: Thing, name: str, level: Level | None = None) -> dict[str, bool]:
    view = await bench.control.explain_level(thing, name, level=level, cloud="c")
    return {one.blanket or f"[{one.provider}]": one.allowed for one in view.places}


async def test_explaining_shows_each_rule_in_each_place_and_what_is_not_given(bench: Bench) -> None:
    control = bench.control
    await declare(bench, "q", confidentiality="enforced")
    await control.add_provider(AddProvider(name="r", kind="simulated"))
    await declare(bench, "r", confidentiality="enforced")
    await blanket(bench, "n2", debug_shell=True)
    await run(bench, "web", "n1", networks=("lan",))
    view = await control.explain_level(Thing.INSTANCE, "web", level=ISOLATED)
    assert (view.now, view.level, view.left_out) == (Level.OPEN, ISOLATED, 0)
    assert [one.rule for one in view.rules if one.of == "instance web"] == [
        rule.name for rule in RULES if Thing.INSTANCE in rule.of
    ]
    assert {one.rule for one in view.rules if one.of == "network lan"} == {
        rule.name for rule in RULES if Thing.NETWORK in rule.of and rule.since is Level.OPEN
    }
    places = {one.blanket or f"[{one.provider}]": one for one in view.places}
    assert list(places) == ["n1", "n2", "s1", "s2", "[r]"], "where it is first, then what could be added"
    assert places["n1"].here and not places["s1"].here
    assert {name: one.allowed for name, one in places.items()} == {
        "n1": False, "n2": False, "s1": True, "s2": True, "[r]": False,
    }  # fmt: skip
    for one in places.values():
        assert [(each.rule, each.of) for each in one.rules] == [(each.rule, each.of) for each in view.rules]
        assert all((each.by is not None) == each.held == (not each.why) for each in one.rules)
    lacking = {name: {each.rule for each in one.rules if not each.held} for name, one in places.items()}
    assert lacking == {
        "n1": {"apart-on-platform", "closed-memory"},
        "n2": {"no-shell", "apart-on-platform", "closed-memory"},
        "s1": set(),
        "s2": set(),
        "[r]": {"apart-on-platform"},
    }
    held = {each.rule: each.by or "" for each in places["s1"].rules}
    assert "LUKS" in held["encrypted-disks"] and "WireGuard" in held["encrypted-traffic"]
    await run(bench, "db", "s1", ISOLATED)
    assert await explained(bench, Thing.INSTANCE, "web") == {
        "n1": True, "n2": True, "s1": False, "s2": True, "[r]": True,
    }  # fmt: skip
    assert (await explained(bench, Thing.VOLUME, "web-root", HARDENED))["n1"] is False


async def test_what_is_explained_is_what_is_refused(bench: Bench) -> None:
    """For every level and blanket: explaining and running agree."""
    await declare(bench, "q", confidentiality="enforced")
    await blanket(bench, "s3", debug_shell=True)
    await run(bench, "old", "s2", Level.BASELINE)
    number = 0
    for level in Level:
        await run(bench, "probe", "n1")
        said = await explained(bench, Thing.INSTANCE, "probe", level)
        await bench.done(await bench.control.remove_instance("probe", force=True))
        for name, allowed in said.items():
            number += 1
            try:
                await run(bench, f"w{number}", name, level)
            except SupercloudError as error:
                assert not allowed, (level, name, error.message)
            else:
                assert allowed, (level, name)
                await bench.done(await bench.control.remove_instance(f"w{number}", force=True))


async def test_a_cloud_is_asked_for_again_with_its_levels(bench: Bench) -> None:
    control = bench.control
    await run(bench, "web", level=HARDENED, networks=("lan",))
    await change(bench, Thing.NETWORK, "lan", HARDENED)
    await control.create_volume(CreateVolume(name="data", cloud="c", size_bytes=MIB, level=ISOLATED))
    wanted = await control.wanted_cloud("c")
    levels = [one.level for part in (wanted.networks, wanted.instances, wanted.volumes) for one in part]
    assert levels == [HARDENED, HARDENED, ISOLATED]
    assert replace(wanted.networks[0], level=None) == CreateNetwork(name="lan", cloud="c", cidr="10.9.0.0/24")
