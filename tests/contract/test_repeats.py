"""Requests that come again, and requests that are for a thing as it was seen."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from api_rig import Served, ended, problem
from control_rig import World, furnish
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select, update

from supercloud.api.conditions import tag
from supercloud.api.repeats import HEADER, REPLAYED
from supercloud.services import answers
from supercloud.services.answers import Answers, Claim, Kept, ThatIsUnderWay
from supercloud.services.facade import ControlPlane
from supercloud.services.store.engine import Store
from supercloud.services.store.tables import Answer
from supercloud.trust.keys import IdentityKey

pytestmark = pytest.mark.contract


def keyed(key: str) -> dict[str, str]:
    return {HEADER: f'"{key}"'}


async def test_the_same_request_again_is_answered_as_before(api: Served, http: httpx.AsyncClient) -> None:
    first = await http.post("/clouds", json={"name": "c"}, headers=keyed("k"))
    again = await http.post("/clouds", json={"name": "c"}, headers=keyed("k"))
    assert (again.status_code, again.json()) == (201, first.json()) and again.headers[REPLAYED] == "true"
    assert REPLAYED not in first.headers
    problem(await http.post("/clouds", json={"name": "c"}), 409, "conflict")
    problem(await http.post("/clouds", json={"name": "d"}, headers=keyed("k")), 422, "invalid-input")
    problem(await http.delete("/clouds/c", headers=keyed("k")), 422, "invalid-input")
    assert (await http.delete("/clouds/c", headers=keyed("l"))).status_code == 204
    assert (await http.delete("/clouds/c", headers=keyed("l"))).status_code == 204
    problem(await http.delete("/clouds/c", headers=keyed("m")), 404, "not-found")
    for bad in ("", '"', '"a" b', '"a b"', "x" * 129, '"' + "x" * 129 + '"'):
        problem(await http.post("/clouds", json={"name": "e"}, headers={HEADER: bad}), 422, "invalid-input")


async def test_a_failure_that_changed_nothing_is_not_kept(http: httpx.AsyncClient) -> None:
    network = {"name": "lan", "cloud": "c", "cidr": "10.9.0.0/24"}
    problem(await http.post("/networks", json=network, headers=keyed("k")), 404, "not-found")
    await http.post("/clouds", json={"name": "c"})
    assert (await http.post("/networks", json=network, headers=keyed("k"))).status_code == 201


async def test_while_it_is_carried_out_nobody_else_does(
    api: Served,
    http: httpx.AsyncClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun, go_on, real = asyncio.Event(), asyncio.Event(), ControlPlane.create_cloud

    async def slow(self: ControlPlane, request: Any) -> Any:
        begun.set()
        await go_on.wait()
        return await real(self, request)

    monkeypatch.setattr(ControlPlane, "create_cloud", slow)
    first = asyncio.create_task(http.post("/clouds", json={"name": "c"}, headers=keyed("k")))
    await begun.wait()
    early = await http.post("/clouds", json={"name": "c"}, headers=keyed("k"))
    problem(early, 409, "conflict")
    assert early.headers["retry-after"] == "1"
    go_on.set()
    answered = await first
    again = await http.post("/clouds", json={"name": "c"}, headers=keyed("k"))
    assert answered.status_code == again.status_code == 201 and again.json() == answered.json()


async def test_a_control_plane_that_was_killed_before_it_answered_still_knows(
    api: Served,
    world: World,
    http: httpx.AsyncClient,
) -> None:
    await furnish(api.bench, world.keys)
    cloud = await http.post("/clouds", json={"name": "d"}, headers=keyed("cloud"))
    blanket = {"name": "n1", "cloud": "c", "provider": "p"}
    began = await http.post("/blankets", json=blanket, headers=keyed("blanket"))
    await ended(http, began)
    token = await http.post("/tokens", json={}, headers=keyed("token"))
    await http.delete("/networks/lan", headers=keyed("gone"))
    assert token.status_code == 201
    await http.put("/clouds/d/policy", json={"policy": '{"version": 1}'})
    rollback, first = "/clouds/d/policy/rollback", {"version": 1}
    rolled = await http.post(rollback, json=first, headers=keyed("rollback"))
    assert rolled.json()["version"] == 2, rolled.text
    async with api.bench.parts.store.write() as session:  # as a kill leaves it
        lost = {
            "status": None,
            "body": None,
            "media_type": None,
            "run": "another",
            "begun_at": Answer.begun_at - 999,
        }
        await session.execute(update(Answer).values(lost))
    again = await http.post("/clouds", json={"name": "d"}, headers=keyed("cloud"))
    assert (again.status_code, again.json()) == (201, cloud.json())
    again = await http.post("/blankets", json=blanket, headers=keyed("blanket"))
    assert (again.status_code, again.json()["id"]) == (202, began.json()["id"])
    assert (await http.delete("/networks/lan", headers=keyed("gone"))).status_code == 204
    again = await http.post(rollback, json=first, headers=keyed("rollback"))
    assert (again.status_code, again.json()) == (200, rolled.json())
    assert "minted" in problem(await http.post("/tokens", json={}, headers=keyed("token")), 409, "conflict")
    async with api.bench.parts.store.read() as session:
        bodies = list(await session.scalars(select(Answer.body)))
    assert not any(token.json()["token"] in (body or "") for body in bodies)


async def test_they_are_kept_for_a_day_and_so_many_of_each(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "KEPT_OF_ONE", 5)
    monkeypatch.setattr(answers, "_TIDY_EVERY", 1)
    at = [1000.0]
    kept = Answers(store, now=lambda: at[0])

    async def asked(principal: str, key: str) -> Claim | Kept:
        at[0] += 1
        found = await kept.claim(principal, key, "same")
        if isinstance(found, Claim):
            await kept.keep(found, Kept(200, "application/json", "{}"))
        return found

    assert isinstance(await asked("alice", "k"), Claim)
    assert isinstance(await asked("bob", "k"), Claim), "a key is its principal's"
    assert await asked("alice", "k") == Kept(200, "application/json", "{}")
    for number in range(20):
        await asked("alice", str(number))
    async with store.read() as session:
        many = await session.scalar(select(func.count()).where(Answer.principal == "alice"))
    assert many == 5
    assert isinstance(await asked("bob", "k"), Kept), "who sends many pushes out his own only"
    at[0] += answers.KEPT_S
    assert isinstance(await asked("bob", "k"), Claim)
    async with store.read() as session:
        assert await session.scalar(select(func.count()).select_from(Answer)) == 1


async def test_two_controllers_do_not_carry_out_the_same_at_once(store: Store) -> None:
    here, there = Answers(store), Answers(store)
    claims = await asyncio.gather(
        here.claim("p", "k", "f"), there.claim("p", "k", "f"), return_exceptions=True
    )
    if store.sqlite:  # it has one controller: whoever else was at it, has died
        return
    assert sorted(type(one) for one in claims if not isinstance(one, Claim)) == [ThatIsUnderWay]


# ---------------------------------------------------------------- entity tags


async def test_who_has_it_already_is_told_so(api: Served, world: World, http: httpx.AsyncClient) -> None:
    await furnish(api.bench, world.keys)
    await api.bench.blanket("n1")
    await api.bench.run(on="n1")
    for path in ("/clouds/c", "/clouds", "/instances/web", "/instances", "/status", "/operations"):
        first = await http.get(path)
        mark = first.headers["etag"]
        assert mark.startswith('"') and first.headers["cache-control"] == "private, no-cache"
        for same in (mark, f"W/{mark}", f'"other", {mark}', "*"):
            answer = await http.get(path, headers={"If-None-Match": same})
            assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", mark), path
        assert (await http.get(path, headers={"If-None-Match": '"other"'})).json(), path
        problem(await http.get(path, headers={"If-Match": '"other"'}), 412, "precondition-failed")
        problem(await http.get(path, headers={"If-None-Match": "other"}), 422, "invalid-input")
    mark = (await http.get("/instances/web")).headers["etag"]
    await ended(http, await http.post("/instances/web/stop", json={}))
    assert (await http.get("/instances/web", headers={"If-None-Match": mark})).status_code == 200
    assert "etag" not in (await http.get("/instances/nothing")).headers


async def test_what_is_not_as_it_was_seen_is_not_changed(api: Served, http: httpx.AsyncClient) -> None:
    keys = [IdentityKey.new().name for _ in range(4)]
    await http.post("/principals", json={"name": "alice", "key": keys[0]})
    seen = (await http.get("/principals/alice")).headers["etag"]

    def rekey(key: str, **headers: str) -> Any:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return http.put("/principals/alice/key", json={"key": key}, headers=sent)

    problem(await rekey(keys[1], If_Match='"other"'), 412, "precondition-failed")
    problem(await rekey(keys[1], If_Match=f"W/{seen}"), 412, "precondition-failed")
    problem(await rekey(keys[1], If_None_Match="*"), 412, "precondition-failed")
    assert (await http.get("/principals/alice")).headers["etag"] == seen
    both = await asyncio.gather(rekey(keys[1], If_Match=seen), rekey(keys[2], If_Match=seen))
    assert sorted(one.status_code for one in both) == [200, 412], "exactly one was first"
    now = (await http.get("/principals/alice")).headers["etag"]
    assert now != seen
    assert (await rekey(keys[3], If_Match=f"{seen}, {now}")).status_code == 200
    problem(await http.delete("/principals/alice", headers={"If-Match": now}), 412, "precondition-failed")
    assert (await http.delete("/principals/alice", headers={"If-Match": "*"})).status_code == 204
    problem(await http.delete("/principals/alice", headers={"If-Match": "*"}), 412, "precondition-failed")
    problem(
        await http.post("/clouds", json={"name": "c"}, headers={"If-Match": "*"}), 412, "precondition-failed"
    )
    assert (await http.get("/clouds")).json() == []


@given(left=st.floats(0, 1e6), reason=st.text(max_size=30))
@settings(max_examples=100, deadline=None)
def test_a_tag_is_of_all_but_what_counts_down(left: float, reason: str) -> None:
    import json

    def shown(left: float | None, reason: str) -> bytes:
        return json.dumps({"right_left_s": left, "reason": reason}, separators=(",", ":")).encode()

    assert tag(shown(left, reason)) == tag(shown(None, reason)) != tag(shown(left, reason + "x"))
    trick = f'"right_left_s":{left},'
    assert tag(shown(1.0, trick)) != tag(shown(1.0, '"right_left_s":1.5,' + trick))
