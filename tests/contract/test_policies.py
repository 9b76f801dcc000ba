"""Policies of clouds and of blankets: kept by version, and gone by in each blanket that is there or comes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from api_rig import problem
from blanket_double import Double
from provider_rig import Estate, estate
from stream_rig import watching

from supercloud.model.errors import InvalidInput, Unavailable
from supercloud.ports.loop import LoopPolicy
from supercloud.services import due, policies, spreading
from supercloud.services.agents import Agents
from supercloud.services.requests import AddBlanket
from supercloud.services.spreading import Spreading
from supercloud.services.store.engine import Store
from supercloud.services.store.rights import SqlRights

pytestmark = pytest.mark.contract


def policy(rule: str, **more: Any) -> dict[str, Any]:
    return {"version": 1, "policies": {"a": {"when": {"rule": rule}, **more}}}


def body(said: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"policy": json.dumps(said), **more}


CONTAIN = policy("x", do=[{"action": "contain", "target": "device"}])


@pytest.fixture
async def people(database_url: str, tmp_path: Path) -> AsyncIterator[Estate]:
    async with estate(database_url, tmp_path) as made:
        yield made


async def put(who: httpx.AsyncClient, path: str, said: dict[str, Any], **more: Any) -> Any:
    answer = await who.put(path, json=body(said, **more))
    assert answer.is_success, answer.text
    return answer.json()


def double(people: Estate, blanket: str) -> Double:
    return people.api.bench.site.machines[people.machines[blanket]]


def has(people: Estate, blanket: str) -> Any:
    """What the blanket goes by."""
    return json.loads(double(people, blanket).loop.said.policy)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110 - of what is looked at nobody tells
            await asyncio.sleep(0.02)


async def test_a_policy_is_set_and_shown_and_what_is_none_is_refused(people: Estate) -> None:
    said = policy("x", mode="dry-run")
    await put(people.alice, "/blankets/c1/policy", said)
    shown = (await people.alice.get("/blankets/c1/policy")).json()
    assert (shown["blanket"], shown["policy"], shown["rules"]) == ("c1", said, None)
    for path in ("/blankets/c1/policy", "/clouds/c/policy"):
        for bad in ("{", '{"version": 2}', '{"version": 1, "policies": {"a": {"mode": "perhaps"}}}'):
            problem(await people.alice.put(path, json={"policy": bad}), 422, "invalid-input")
        problem(await people.alice.put(path, json=body(said, rules="{")), 422, "invalid-input")
        problem(await people.bob.get(path), 404, "not-found")
        problem(await people.bob.put(path, json=body(said)), 404, "not-found")
    assert (await people.alice.get("/blankets/c1/policy")).json() == shown


async def test_a_clouds_policy_reaches_each_blanket_that_is_there_or_comes(people: Estate) -> None:
    view = await put(people.alice, "/clouds/c/policy", CONTAIN)
    assert (view["version"], view["policy"], view["dry_run"]) == (1, CONTAIN, False)
    assert view["by"].startswith("principal ")
    assert [(one["blanket"], one["version"], one["waits"]) for one in view["blankets"]] == [
        ("c1", 1, False),
        ("c2", 1, False),
    ]
    assert has(people, "c1") == has(people, "c2") == CONTAIN
    assert has(people, "b1")["version"] == 1 and "policies" not in has(people, "b1"), "another cloud's"
    control = people.api.bench.control
    asked = AddBlanket(name="c3", cloud=people.clouds["c"], provider="edge")
    machine = (await people.api.bench.done(await control.add_blanket(asked))).object
    people.machines["c3"] = machine
    await until(lambda: has(people, "c3") == CONTAIN)


async def test_a_blanket_that_is_away_gets_it_as_it_comes_back(people: Estate) -> None:
    control, bench = people.api.bench.control, people.api.bench
    await bench.done(await control.stop_blanket("c2"))
    view = await put(people.alice, "/clouds/c/policy", CONTAIN)
    assert {one["blanket"]: one["waits"] for one in view["blankets"]} == {"c1": False, "c2": True}
    own = await put(people.alice, "/blankets/c2/policy", policy("own"))
    assert own["waits"]
    await bench.done(await control.start_blanket("c2"))
    await until(lambda: has(people, "c2") == policy("own"))
    async with asyncio.timeout(30):
        while any(one["waits"] for one in view["blankets"]):
            view = (await people.alice.get("/clouds/c/policy")).json()


async def test_a_blankets_own_goes_before_its_clouds_until_it_is_taken_away(people: Estate) -> None:
    await put(people.alice, "/blankets/c1/policy", policy("own"))
    view = await put(people.alice, "/clouds/c/policy", policy("all"))
    assert has(people, "c1") == policy("own")
    assert has(people, "c2") == policy("all")
    assert {one["blanket"]: one["own"] for one in view["blankets"]} == {"c1": True, "c2": False}
    answer = await people.alice.delete("/blankets/c1/policy")
    assert answer.is_success and answer.json()["policy"] == policy("all"), answer.text
    assert has(people, "c1") == policy("all")
    assert (await people.alice.delete("/clouds/c/policy")).json()["policy"] is None
    assert has(people, "c1")["policies"] == has(people, "c2")["policies"] == {}


async def test_versions_are_kept_and_rolled_back_to(people: Estate, monkeypatch: pytest.MonkeyPatch) -> None:
    for rule in ("one", "two"):
        await put(people.alice, "/clouds/c/policy", policy(rule))
    back = await people.alice.post("/clouds/c/policy/rollback", json={"version": 1})
    assert (back.json()["version"], back.json()["policy"]) == (3, policy("one"))
    assert has(people, "c2") == policy("one")
    versions = (await people.alice.get("/clouds/c/policy/versions")).json()
    assert [(one["version"], one["policies"]) for one in versions] == [(3, 1), (2, 1), (1, 1)]
    missing = await people.alice.post("/clouds/c/policy/rollback", json={"version": 9})
    problem(missing, 409, "conflict")
    monkeypatch.setattr(policies, "KEPT", 2)
    await people.alice.delete("/clouds/c/policy")
    versions = (await people.alice.get("/clouds/c/policy/versions")).json()
    assert [(one["version"], one["policies"]) for one in versions] == [(4, None), (3, 1)]
    await put(people.alice, "/blankets/c1/policy", policy("own"))
    await people.alice.delete("/blankets/c1/policy")
    back = await people.alice.post("/blankets/c1/policy/rollback", json={"version": 1})
    assert back.json()["policy"] == policy("own"), back.text
    assert len((await people.alice.get("/blankets/c1/policy/versions")).json()) == 2


async def test_a_dry_run_does_nothing_anywhere(people: Estate) -> None:
    view = await put(people.alice, "/clouds/c/policy", CONTAIN, dry_run=True)
    assert view["dry_run"] and view["policy"] == CONTAIN, "it is shown as it was written"
    assert has(people, "c1")["policies"]["a"]["mode"] == "dry-run"
    back = await people.alice.post("/clouds/c/policy/rollback", json={"version": 1, "dry_run": False})
    assert not back.json()["dry_run"]
    assert has(people, "c1") == CONTAIN


async def test_what_a_blanket_does_not_take_is_said(people: Estate) -> None:
    async def refuse(_: LoopPolicy) -> None:
        raise InvalidInput("no such rule here")

    double(people, "c1").loop.apply = refuse  # type: ignore[method-assign]
    # Its handlers were bound as it connected: it dials anew.
    double(people, "c1").restart()
    await people.api.bench.parts.agents.wait_for(people.machines["c1"], 20)
    view = await put(people.alice, "/clouds/c/policy", CONTAIN)
    await until(lambda: True)
    async with asyncio.timeout(30):
        while not any(one["problem"] for one in view["blankets"]):
            view = (await people.alice.get("/clouds/c/policy")).json()
    assert {one["blanket"]: one["problem"] for one in view["blankets"]} == {
        "c1": "no such rule here",
        "c2": "",
    }


async def test_a_loop_that_is_begun_anew_gets_it_later(people: Estate) -> None:
    taken, whole = [False], double(people, "c1").loop

    async def once(request: LoopPolicy) -> None:
        if not taken[0]:
            taken[0] = True
            raise Unavailable("the loop is being begun anew")
        whole.said = request

    whole.apply = once  # type: ignore[method-assign]
    double(people, "c1").restart()
    await people.api.bench.parts.agents.wait_for(people.machines["c1"], 20)
    await put(people.alice, "/clouds/c/policy", CONTAIN)
    spreading = people.api.bench.parts.policies
    await spreading.spread(people.clouds["c"])  # as every while
    await until(lambda: taken[0] and has(people, "c1") == CONTAIN)


async def test_of_two_that_are_set_at_once_every_blanket_has_the_later(people: Estate) -> None:
    await asyncio.gather(
        *(put(people.alice, "/clouds/c/policy", policy(f"r{number}")) for number in range(6))
    )
    view = (await people.alice.get("/clouds/c/policy")).json()
    assert view["version"] == 6
    assert has(people, "c1") == has(people, "c2") == view["policy"]


@pytest.fixture
def nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every while, in case that nobody told."""
    monkeypatch.setattr(due, "LOOK_EVERY_S", 3600.0)
    monkeypatch.setattr(spreading, "LOOK_EVERY_S", 3600.0)


@pytest.mark.usefixtures("nobody_looks")  # before anything is up
async def test_what_another_controller_sets_reaches_blankets_at_once(
    people: Estate, database_url: str
) -> None:
    if database_url.startswith("sqlite"):
        pytest.skip("it has one controller")
    parts = people.api.bench.parts
    there = await Store.open(database_url)
    try:
        agents = Agents(there, SqlRights(there), parts.keys)  # none is connected to that one
        other = policies.Policies(
            replace(parts, store=there, agents=agents, policies=Spreading(there, agents))
        )
        said = json.dumps(policy("after"))
        view = await other.set_cloud_policy(people.clouds["c"], policies.SetPolicy(policy=said))
        assert all(one.waits for one in view.blankets) and len(view.blankets) == 2
        await until(lambda: has(people, "c1") == has(people, "c2") == policy("after"))
        assert "policies" not in has(people, "b1"), "another cloud's"
    finally:
        await there.close()


async def test_who_may_read_policies_is_told_of_each_version(people: Estate) -> None:
    async with watching(people.alice, kind="policy") as stream:
        begun = (await stream.next()).id
        await put(people.alice, "/clouds/c/policy", CONTAIN, dry_run=True)
        told = await stream.change(kind="policy")
        assert (told["act"], told["name"], told["cloud"]) == ("added", "version-1", people.clouds["c"])
        assert told["data"] == {"blanket": None, "horizontal": False, "number": 1, "dry_run": True}
        await put(people.alice, "/blankets/c1/policy", policy("own"))
        assert (await stream.change(kind="policy"))["data"]["blanket"] == people.machines["c1"]
    async with watching(people.bob, since=begun, lasts_s=0) as stream:
        assert not [one for one in await stream.rest() if one.data.get("kind") == "policy"]


async def test_a_horizontal_policy_is_the_clouds_and_no_blankets(people: Estate) -> None:
    before = has(people, "c1")
    answer = await people.alice.put("/clouds/c/policy", json=body(CONTAIN), params={"horizontal": True})
    view = answer.json()
    assert (view["horizontal"], view["version"], view["blankets"]) == (True, 1, [])
    assert has(people, "c1") == before
    assert (await people.alice.get("/clouds/c/policy")).json()["version"] == 0
    shown = (await people.alice.get("/clouds/c/policy", params={"horizontal": True})).json()
    assert shown["policy"] == CONTAIN
    refused = await people.alice.put(
        "/clouds/c/policy", json=body(CONTAIN, rules='{"rules": []}'), params={"horizontal": True}
    )
    problem(refused, 422, "invalid-input")


async def test_policies_go_with_what_they_are_of(people: Estate) -> None:
    await put(people.alice, "/blankets/c1/policy", policy("own"))
    await put(people.alice, "/clouds/c/policy", policy("all"))
    bench = people.api.bench
    for name in ("c1", "c2"):
        await bench.done(await bench.control.remove_blanket(name, cloud=people.clouds["c"], force=True))
    assert (await people.alice.delete("/clouds/c")).is_success
