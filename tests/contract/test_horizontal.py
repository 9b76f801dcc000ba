"""The horizontal loop: what one blanket finds is met at the others before it gets there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path

import pytest
from horizontal_rig import CONTAIN, DENY, Fleet, policy, set_horizontal, until
from provider_rig import Estate, estate
from sqlalchemy.ext.asyncio import AsyncSession

from supercloud.model.errors import Refused, Unavailable
from supercloud.model.incidents import IncidentState
from supercloud.model.names import new_id
from supercloud.ports.loop import OrderDeed
from supercloud.services import sightings
from supercloud.services.governing import Governing
from supercloud.services.horizontal import Horizontal
from supercloud.services.requests import AddBlanket
from supercloud.services.store.engine import Store

pytestmark = pytest.mark.contract
WORM = "10.20.0.5"


@pytest.fixture
async def people(database_url: str, tmp_path: Path) -> AsyncIterator[Estate]:
    async with estate(database_url, tmp_path) as made:
        yield made


@pytest.fixture
async def fleet(people: Estate) -> Fleet:
    return Fleet(people)


async def _worm(fleet: Fleet, at: str = "c1") -> str:
    lan = await fleet.network("c", "10.20.0.0/24")
    return await fleet.held("c", at, lan, WORM)


async def denied_at(fleet: Fleet, blanket: str, *nets: str) -> None:
    async def there() -> bool:
        return fleet.denied(blanket) == set(nets)

    await until(there, lambda: f"{blanket} denies {fleet.denied(blanket)}")


async def test_what_one_blanket_finds_is_denied_at_the_others(people: Estate, fleet: Fleet) -> None:
    worm = await _worm(fleet)
    await set_horizontal(people.alice, "c", policy(DENY))
    await fleet.tells("c1", worm, WORM)
    await denied_at(fleet, "c2", WORM)
    assert not fleet.denied("c1"), "where it is, its port is what there is to close"
    assert not fleet.denied("b1"), "another's cloud"
    found = await fleet.the_one(people.alice, "contained")
    assert (found["incident"]["blanket"], found["incident"]["horizontal"]) == (None, True)
    (reaction,) = found["reactions"]
    assert (reaction["state"], reaction["reaction"], reaction["about"]) == ("verified", "deny:ipv4_net", WORM)
    (order,) = found["orders"]
    assert (order["blanket"], order["there"], order["doing"], order["problem"]) == ("c2", True, None, "")
    kinds = [one["kind"] for one in found["timeline"]]
    assert kinds == ["finding", "decision", "reaction", "proof"]
    for who in (people.bob, people.carol):
        assert await fleet.incidents(who) == []
    path = f"/incidents/{found['incident']['id']}"
    assert (await people.alice.post(f"{path}/close", json={"undo": True})).is_success
    await denied_at(fleet, "c2")
    assert (await people.alice.get(path)).json()["incident"]["state"] == "closed"


async def test_without_a_horizontal_policy_there_is_no_such_loop(people: Estate, fleet: Fleet) -> None:
    worm = await _worm(fleet)
    await fleet.tells("c1", worm, WORM)
    await fleet.horizontal.do_due()
    assert await fleet.incidents(people.alice) == []
    await set_horizontal(people.alice, "c", policy(DENY), dry_run=True)
    await fleet.tells("c1", worm, WORM)
    found = await fleet.the_one(people.alice, "open")
    assert [one["state"] for one in found["reactions"]] == ["dry"]
    assert not fleet.double("c2").loop.asked


async def test_findings_of_several_domains_are_one_incident(people: Estate, fleet: Fleet) -> None:
    lan = await fleet.network("c", "10.20.0.0/24")
    one, two = await fleet.held("c", "c1", lan, WORM), await fleet.held("c", "c2", lan, "10.20.0.6")
    await set_horizontal(people.alice, "c", policy())
    await fleet.tells("c1", one, WORM)
    await fleet.tells("c2", two, "10.20.0.6")

    async def joined() -> bool:
        found = await fleet.incidents(people.alice)
        return len(found) == 1 and len(found[0]["seen"]) == 2

    await until(joined)


async def test_it_is_contained_where_it_runs_now(people: Estate, fleet: Fleet) -> None:
    worm = await _worm(fleet)
    await set_horizontal(people.alice, "c", policy(CONTAIN))
    await fleet.tells("c1", worm, WORM)
    await fleet.moves(worm, "c2")  # before anything is decided
    await fleet.the_one(people.alice, "contained")
    (order,) = fleet.double("c2").loop.there.values()
    assert (order.command.deed, order.command.about.id) == ("contain:device", worm)
    assert not fleet.double("c1").loop.there


async def test_a_lying_blanket_accuses_nobody_but_its_own(people: Estate, fleet: Fleet) -> None:
    lan = await fleet.network("c", "10.20.0.0/24")
    innocent = await fleet.held("c", "c2", lan, WORM)
    own = await fleet.held("c", "c1", lan, "10.20.0.7")
    await set_horizontal(people.alice, "c", policy(DENY, CONTAIN))
    await fleet.tells("c1", innocent, WORM)  # whose instance is another's
    await fleet.tells("c1", own, WORM)  # under another's address
    await fleet.tells("c1", new_id(), "198.51.100.9")  # what nobody knows
    found = await fleet.the_one(people.alice, "escalated")
    assert [one["object"] for one in found["seen"]] == [own]
    by_kind = {one["reaction"]: one for one in found["reactions"]}
    assert by_kind["deny:ipv4_net"]["state"] == "refused"
    assert "not proven" in by_kind["deny:ipv4_net"]["why"]
    assert not fleet.denied("c2")
    assert all(one.command.about.id == own for one in fleet.double("c1").loop.there.values())


async def test_an_address_that_two_instances_have_is_left_alone(people: Estate, fleet: Fleet) -> None:
    one, two = await fleet.network("c", "10.20.0.0/24"), await fleet.network("c", "10.20.0.0/24", "twin")
    worm = await fleet.held("c", "c1", one, WORM)
    await fleet.held("c", "c2", two, WORM)
    await set_horizontal(people.alice, "c", policy(DENY))
    await fleet.tells("c1", worm, WORM)
    found = await fleet.the_one(people.alice, "escalated")
    assert "another instance" in str(found["timeline"])
    assert not fleet.double("c2").loop.asked


async def test_one_blankets_word_uses_up_no_more_than_its_share(people: Estate, fleet: Fleet) -> None:
    lan = await fleet.network("c", "10.20.0.0/24")
    many = [await fleet.held("c", "c1", lan, f"10.20.0.{10 + number}") for number in range(6)]
    other = await fleet.held("c", "c2", lan, WORM)
    await set_horizontal(people.alice, "c", policy(DENY, bounds={"objects": 6, "share": 0.5}))
    for number, one in enumerate(many):
        await fleet.tells("c1", one, f"10.20.0.{10 + number}")
    await denied_at(fleet, "c2", "10.20.0.10", "10.20.0.11", "10.20.0.12")
    await fleet.tells("c2", other, WORM)
    await denied_at(fleet, "c1", WORM)
    (found,) = await fleet.incidents(people.alice)
    whys = [one["why"] for one in found["reactions"] if one["state"] == "refused"]
    assert len(whys) == 3 and all("its share" in why for why in whys)


async def test_a_flood_of_one_blanket_is_bounded(
    people: Estate, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sightings, "WAITING", 5)
    asleep(fleet, monkeypatch)
    worm = await _worm(fleet)
    other = await fleet.held("c", "c2", await fleet.network("c", "10.21.0.0/24", "more"), "10.21.0.5")
    await set_horizontal(people.alice, "c", policy())
    await fleet.tells("c2", other, None)
    own = new_id()
    for number in range(1, 20):
        await fleet.tells("c1", worm, WORM, own=own, version=number, many=number)
    awake = Horizontal(
        fleet.store, people.api.bench.parts.agents, Governing(fleet.store, people.api.bench.parts.operations)
    )
    await worked(awake)
    (found,) = await fleet.incidents(people.alice)
    assert found["incident"]["findings"] == 6, "five of who floods, and the other one's"


async def test_a_blanket_that_is_away_does_it_when_it_is_back(people: Estate, fleet: Fleet) -> None:
    worm = await _worm(fleet)
    bench, control = people.api.bench, people.api.bench.control
    await set_horizontal(people.alice, "c", policy(DENY))
    await bench.done(await control.stop_blanket("c2"))
    await fleet.tells("c1", worm, WORM)
    found = await fleet.the_one(people.alice, "reacting")
    (order,) = found["orders"]
    assert (order["doing"], order["there"]) == ("do", None)
    await bench.done(await control.start_blanket("c2"))
    await denied_at(fleet, "c2", WORM)
    await fleet.the_one(people.alice, "contained")


async def test_what_is_over_is_not_begun(people: Estate, fleet: Fleet) -> None:
    worm = await _worm(fleet)
    bench, control = people.api.bench, people.api.bench.control
    await set_horizontal(people.alice, "c", policy({**DENY, "for": "1s"}))
    await bench.done(await control.stop_blanket("c2"))
    await fleet.tells("c1", worm, WORM)

    async def lapsed() -> bool:
        await fleet.horizontal.do_due()
        (found,) = await fleet.incidents(people.alice) or [{"reactions": []}]
        return [one["state"] for one in found["reactions"]] == ["lapsed"]

    await until(lapsed)
    await bench.done(await control.start_blanket("c2"))
    await fleet.horizontal.do_due()
    assert not fleet.double("c2").loop.asked


async def test_a_blanket_that_comes_later_denies_it_too(people: Estate, fleet: Fleet) -> None:
    worm = await _worm(fleet)
    await set_horizontal(people.alice, "c", policy(DENY))
    await fleet.tells("c1", worm, WORM)
    await denied_at(fleet, "c2", WORM)
    asked = AddBlanket(name="c3", cloud=people.clouds["c"], provider="edge")
    bench = people.api.bench
    people.machines["c3"] = (await bench.done(await bench.control.add_blanket(asked))).object
    await denied_at(fleet, "c3", WORM)


async def test_after_a_reboot_it_is_done_again(people: Estate, fleet: Fleet) -> None:
    worm = await _worm(fleet)
    await set_horizontal(people.alice, "c", policy(DENY))
    await fleet.tells("c1", worm, WORM)
    await fleet.the_one(people.alice, "contained")
    fleet.double("c2").loop.there.clear()  # a packet filter forgets
    fleet.double("c2").restart()
    await denied_at(fleet, "c2", WORM)


async def test_what_a_blanket_refuses_is_said_and_the_others_do_it(people: Estate, fleet: Fleet) -> None:
    worm = await _worm(fleet)
    asked = AddBlanket(name="c3", cloud=people.clouds["c"], provider="edge")
    bench = people.api.bench
    people.machines["c3"] = (await bench.done(await bench.control.add_blanket(asked))).object
    fleet.double("c2").loop.refuses[WORM] = Refused("this blanket's policy protects 10.20.0.0/24")
    await set_horizontal(people.alice, "c", policy(DENY))
    await fleet.tells("c1", worm, WORM)
    await denied_at(fleet, "c3", WORM)
    found = await fleet.the_one(people.alice, "contained")
    problems = {one["blanket"]: one["problem"] for one in found["orders"]}
    assert problems == {"c2": "this blanket's policy protects 10.20.0.0/24", "c3": ""}


async def test_what_asks_waits_for_its_answer(people: Estate, fleet: Fleet) -> None:
    worm = await _worm(fleet)
    await set_horizontal(people.alice, "c", policy(DENY, mode="ask"))
    await fleet.tells("c1", worm, WORM)
    found = await fleet.the_one(people.alice, "open")
    (reaction,) = found["reactions"]
    assert reaction["state"] == "asked"
    path = f"/incidents/{found['incident']['id']}/reactions/{reaction['id']}/answer"
    assert (await people.alice.post(path, json={"yes": True})).is_success
    await denied_at(fleet, "c2", WORM)


async def test_what_a_blanket_cannot_settle_is_seen(people: Estate, fleet: Fleet) -> None:
    worm = await _worm(fleet)
    said = policy()
    said["policies"]["spread"]["when"]["rule"] = "escalated"
    await set_horizontal(people.alice, "c", said)
    await fleet.tells("c1", worm, WORM, state=IncidentState.ESCALATED)
    found = await fleet.the_one(people.alice, "escalated")
    assert {one["rule"] for one in found["seen"]} == {"port-scan", "escalated"}


# ---------------------------------------------------------------- between clouds


async def test_a_cloud_without_trust_neither_sees_nor_steers_another(people: Estate, fleet: Fleet) -> None:
    worm = await _worm(fleet)
    await set_horizontal(people.bob, "b", policy(DENY))
    await set_horizontal(people.alice, "c", policy(DENY))
    await fleet.tells("c1", worm, WORM)
    await denied_at(fleet, "c2", WORM)
    assert await fleet.incidents(people.bob) == []
    assert not fleet.double("b1").loop.asked


async def test_another_cloud_sees_what_is_found_while_it_is_trusted_with_it(
    people: Estate, fleet: Fleet
) -> None:
    worm = await _worm(fleet)
    await set_horizontal(people.bob, "b", policy(DENY))
    relation = await people.trust("see-findings", "b")
    own = new_id()
    await fleet.tells("c1", worm, WORM, own=own)
    await denied_at(fleet, "b1", WORM)  # at its own blanket
    assert not fleet.double("c2").loop.asked, "it steers nothing there"
    await fleet.the_one(people.bob, "contained")
    await people.revoke(relation)
    await fleet.tells("c1", worm, WORM, own=own, version=2, many=2)
    await fleet.horizontal.do_due()
    (found,) = await fleet.incidents(people.bob)
    assert found["incident"]["findings"] == 1


async def test_another_clouds_address_that_is_ones_own_too_is_left_alone(
    people: Estate, fleet: Fleet
) -> None:
    worm = await _worm(fleet)
    await fleet.network("b", "10.20.0.0/24")
    await set_horizontal(people.bob, "b", policy(DENY))
    await people.trust("see-findings", "b")
    await fleet.tells("c1", worm, WORM)
    found = await fleet.the_one(people.bob, "escalated")
    assert "in a network of this cloud's" in str(found["timeline"])
    assert not fleet.double("b1").loop.asked


async def test_another_cloud_steers_only_what_it_is_trusted_with(people: Estate, fleet: Fleet) -> None:
    worm = await _worm(fleet)
    await set_horizontal(people.bob, "b", policy(CONTAIN))
    await people.trust("see-findings", "b")
    await fleet.tells("c1", worm, WORM)
    found = await fleet.the_one(people.bob, "escalated")
    assert "does not let this one order" in str(found["timeline"])
    assert not fleet.double("c1").loop.asked


async def test_another_cloud_steers_while_it_is_trusted_and_no_longer(people: Estate, fleet: Fleet) -> None:
    worm = await _worm(fleet)
    await set_horizontal(people.bob, "b", policy(CONTAIN))
    await people.trust("see-findings", "b")
    relation = await people.trust("order-reactions", "b", reactions=["contain:device"])
    await fleet.tells("c1", worm, WORM)

    async def contained() -> bool:
        return [one.command.about.id for one in fleet.double("c1").loop.there.values()] == [worm]

    await until(contained)
    found = await fleet.the_one(people.bob, "contained")
    (order,) = found["orders"]
    assert (order["blanket"], order["cloud_id"]) == (None, people.clouds["c"]), "it knows no name of it"
    (ordered,) = fleet.double("c1").loop.there.values()
    assert ordered.by == people.clouds["b"]
    await people.revoke(relation)

    async def released() -> bool:
        return not fleet.double("c1").loop.there

    await until(released)


# ---------------------------------------------------------------- killed


class Killed(Exception):
    """As if the process had ended there: nothing after it happens."""


class Dying:
    """A store whose nth transaction is never begun. `begun`: how many were."""

    def __init__(self, store: Store, nth: int) -> None:
        self._store = store
        self._nth = nth
        self.begun = 0
        self.read = store.read

    def write(self) -> AbstractAsyncContextManager[AsyncSession]:
        self.begun += 1
        if self.begun == self._nth:
            raise Killed
        return self._store.write()


async def test_killed_at_every_step_nothing_is_lost_or_done_twice(
    people: Estate, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A controller that ends before its nth transaction, for each n, and one that comes after it."""
    asleep(fleet, monkeypatch)
    agents, loop = people.api.bench.parts.agents, fleet.double("c2").loop
    lan = await fleet.network("c", "10.20.0.0/24")
    bounds = {"objects": 100, "perHour": 1000, "share": 1}
    await set_horizontal(people.alice, "c", policy(DENY, bounds=bounds))
    nth, steps = 0, 1
    while nth <= steps:
        address = f"10.20.0.{100 + nth}"
        worm = await fleet.held("c", "c1", lan, address)
        await fleet.tells("c1", worm, address)
        store = Dying(fleet.store, nth)
        first = Horizontal(store, agents, Governing(fleet.store, people.api.bench.parts.operations))  # type: ignore[arg-type]
        with suppress(Killed):
            await worked(first)
        await first.end()
        steps = store.begun if nth == 0 else steps
        await worked(
            Horizontal(fleet.store, agents, Governing(fleet.store, people.api.bench.parts.operations))
        )
        there = [one for one in loop.there.values() if one.command.net == address]
        assert len(there) == 1, f"killed at step {nth}"
        nth += 1
    assert steps >= 6, "deciding, asking, noting; looking, noting, deciding"
    assert set(loop.effects.values()) == {1}, "nothing is done twice"
    found = await fleet.incidents(people.alice)
    assert {one["state"] for of in found for one in of["reactions"]} == {"verified"}


async def test_what_was_done_and_not_heard_of_is_not_done_again(people: Estate, fleet: Fleet) -> None:
    worm = await _worm(fleet)
    loop = fleet.double("c2").loop
    whole, lost = loop.order, [True]

    async def unheard(request: OrderDeed) -> None:
        await whole(request)
        if lost[0]:
            lost[0] = False
            raise Unavailable("the line broke")

    loop.order = unheard  # type: ignore[method-assign]
    fleet.double("c2").restart()
    await people.api.bench.parts.agents.wait_for(people.machines["c2"], 20)
    await set_horizontal(people.alice, "c", policy(DENY))
    await fleet.tells("c1", worm, WORM)
    await fleet.the_one(people.alice, "contained")
    assert set(loop.effects.values()) == {1}
    assert not lost[0]


def asleep(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that runs by itself does nothing."""

    async def nothing() -> set[str]:
        return set()

    for name in ("_to_decide", "_ask_those_here"):
        monkeypatch.setattr(fleet.horizontal, name, nothing)


async def worked(one: Horizontal) -> None:
    """All that it does by itself, until nothing is left to do now. Raises what a task of it met."""
    for _ in range(4):
        await one.do_due()
        for met in await asyncio.gather(*one._asking.values(), return_exceptions=True):
            if isinstance(met, BaseException):
                raise met
