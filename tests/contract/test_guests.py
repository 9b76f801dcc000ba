"""Trust of kinds `place` and `migrate-to` over the API, on both databases: a cloud has blankets of its own
inside another's only while that is let. That such a blanket's machine reaches nothing of what is around it, a
kernel shows (tests/system/test_overlay.py).
"""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from api_rig import problem
from blanket_double import Double
from control_rig import arrived
from sqlalchemy import select, update
from test_trust import People, people

from supercloud.model.errors import Refused
from supercloud.model.names import new_id
from supercloud.model.states import OperationState
from supercloud.services.store import time as store_time
from supercloud.services.store.tables import Right, Trust

__all__ = ["people"]
pytestmark = pytest.mark.contract
GIB = 1 << 30


def double(people: People, name: str) -> Double:
    return next(one for one in people.api.bench.site.machines.values() if one.name == name)


def at(people: People, name: str) -> str:
    return double(people, name).birth.blanket


async def lend(
    people: People, kind: str, to: str = "b", by: httpx.AsyncClient | None = None, **more: Any
) -> dict[str, Any]:
    """Alice lets Bob's cloud be in her c1."""
    body = {"kind": kind, "cloud": "c", "to": people.clouds[to], "blanket": "c1", **more}
    answer = await (by or people.alice).post("/trust", json=body)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def asked(people: People, name: str, parent: str = "c1", **more: Any) -> httpx.Response:
    """Bob wants one of his own in there, by the id that he was told."""
    small = {"vcpus": 1, "memory_mib": 400, "disk_bytes": 4 * GIB}
    body = {"name": name, "cloud": "b", "parent": at(people, parent), **small, **more}
    return await people.bob.post("/blankets", json=body)


async def guest(people: People, name: str = "g", **more: Any) -> str:
    await people.ended(await asked(people, name, **more))
    return at(people, name)


async def run(people: People, name: str, on: str) -> httpx.Response:
    body = {"name": name, "cloud": "b", "image": "c/debian", "on": on, "memory_mib": 128}
    return await people.bob.post("/instances", json=body)


async def move(people: People, name: str, to: str) -> httpx.Response:
    return await people.bob.post(f"/instances/{name}/migrate", json={"to": to})


async def test_a_cloud_is_inside_anothers_blanket_only_while_it_may_place_there(people: People) -> None:
    await people.share("b")
    problem(await asked(people, "g"), 404, "not-found")
    relation = await lend(people, "place")
    assert (relation["thing"], relation["blanket"], relation["guests"]) == ("c1", at(people, "c1"), [])
    it = await guest(people)
    await people.ended(await run(people, "web", "g"))
    assert (await people.alice.get(f"/trust/{relation['id']}")).json()["guests"] == [it]
    assert double(people, "c1").machines.made.keys() == {it}, "its machine is c1's"

    await people.revoke(relation, people.bob)
    for answer in (await run(people, "no", "g"), await asked(people, "h", "g")):
        assert "lets nothing be there any more" in problem(answer, 409, "refused")
    problem(await asked(people, "h"), 404, "not-found")
    assert (await people.bob.get("/instances/web")).json()["state"] == "running", "what runs, runs on"
    await people.ended(await people.bob.post("/instances/web/stop", json={"mode": "destroy"}))
    said = problem(await people.bob.post("/instances/web/start"), 409, "refused")
    assert "lets nothing be there" in said
    await people.ended(await people.bob.post("/blankets/g/stop", json={"force": True}))
    assert "lets nothing" in problem(await people.bob.post("/blankets/g/start"), 409, "refused")
    await lend(people, "place")
    await people.ended(await people.bob.post("/blankets/g/start"))
    await people.ended(await people.bob.post("/instances/web/start"))


async def test_instances_move_there_only_while_they_may_and_begin_none(people: People) -> None:
    await people.share("b")
    await people.ended(await run(people, "web", "b1"))
    relation = await lend(people, "migrate-to")
    await guest(people)
    said = problem(await run(people, "no", "g"), 409, "refused")
    assert "running instances move there, and nothing begin" in said
    await people.ended(await move(people, "web", "g"))
    await people.ended(await people.bob.post("/instances/web/stop", json={"mode": "destroy"}))
    await people.ended(await people.bob.post("/instances/web/start"))
    assert (await people.bob.get("/instances/web")).json()["blanket"] == "g", "it is there, and not new"

    await people.revoke(relation)
    await people.ended(await move(people, "web", "b1"))
    assert "lets nothing be there" in problem(await move(people, "web", "g"), 409, "refused")
    await lend(people, "place")
    await people.ended(await move(people, "web", "g"))
    await people.ended(await run(people, "new", "g"))


async def test_a_move_that_is_ordered_is_asked_again_when_its_data_come(people: People) -> None:
    """And once they come, it arrives: it is where it would be had it been quicker."""
    bench = people.api.bench
    await people.share("b")
    await people.ended(await run(people, "web", "b1"))
    relation = await lend(people, "migrate-to")
    it = await guest(people)
    volume = (await bench.control.instance("web")).volumes[0]
    found = await bench.control.volume(volume, cloud="b")
    bench.site.hold_transfers = True
    under_way = await move(people, "web", "g")
    async with asyncio.timeout(20):
        view = await bench.control.operation(under_way.json()["id"])
        while view.phase != "transfer":
            view = await bench.control.operation(view.id, wait_s=5)
    await people.revoke(relation)
    for ordered in (new_id(), new_id()):
        with pytest.raises(Refused, match="lets nothing be there any more"):
            await bench.control.world.reserve_copy(ordered, volume=found.id, blanket=it)
    arrived(double(people, "b1"), double(people, "g"), view.object)
    await people.ended(under_way)
    assert (await people.bob.get("/instances/web")).json()["blanket"] == "g"


async def test_it_is_in_the_mesh_of_its_own_cloud_and_its_keys_are_its_own_alone(people: People) -> None:
    await people.share("b")
    await lend(people, "place")
    it = await guest(people)
    await people.ended(await run(people, "web", "g"))
    for name, others in (("g", {at(people, "b1")}), ("b1", {it}), ("c1", set())):
        mesh = double(people, name).mesh
        told = set() if mesh is None else {one.blanket for one in mesh.peers}
        assert told - {at(people, name)} == others, name
        assert mesh is None or not mesh.abroad.peers
    async with people.api.bench.parts.store.read() as session:
        held = list(await session.scalars(select(Right).where(Right.holder == it)))
    assert len(held) == 1, "its right is held by the guest, not by what is around it"


async def test_neither_side_learns_more_of_the_other(people: People) -> None:
    await lend(people, "place")
    it = await guest(people)
    mine = (await people.alice.get("/blankets")).json()
    assert [one["name"] for one in mine] == ["c1"]
    problem(await people.alice.get(f"/blankets/{it}"), 404, "not-found")
    theirs = {one["name"]: one for one in (await people.bob.get("/blankets")).json()}
    assert theirs.keys() == {"b1", "g"}
    assert (theirs["g"]["parent"], theirs["g"]["depth"]) == (None, 1)
    assert theirs["g"]["confidentiality"] == "procedural", "who has what is around it reads it"
    problem(await people.bob.get(f"/blankets/{at(people, 'c1')}"), 404, "not-found")
    problem(
        await people.carol.post("/blankets", json={"name": "x", "cloud": "k", "parent": it}), 404, "not-found"
    )
    said = problem(await people.alice.post("/blankets/c1/stop", json={}), 409, "conflict")
    assert "1 blankets are inside" in said and "g" not in said.split()


async def test_no_tools_are_let_in_where_nothing_would_ask_for_them(people: People) -> None:
    await lend(people, "place")
    await guest(people)
    said = problem(await people.bob.post("/blankets/g/tools"), 409, "refused")
    assert "where no tools are let in" in said


async def test_who_lent_it_ends_what_stays(people: People) -> None:
    await people.share("b")
    relation = await lend(people, "place")
    it = await guest(people)
    await people.ended(await run(people, "web", "g"))
    away = f"/blankets/{it}"
    said = problem(await people.alice.delete(away, params={"force": True}), 409, "refused")
    assert "is trusted to have it there" in said
    await people.revoke(relation)
    problem(await people.carol.delete(away, params={"force": True}), 404, "not-found")
    said = problem(await people.alice.delete(away), 409, "conflict")
    assert "lost with it" in said and "web" not in said
    ended = await people.alice.delete(away, params={"force": True})
    assert ended.json()["object_name"] == it, "its name is its owner's"
    await people.ended(ended)
    followed = await people.alice.get(f"/operations/{ended.json()['id']}")
    assert followed.json()["state"] == "succeeded"
    problem(await people.bob.get("/blankets/g"), 404, "not-found")
    web = (await people.bob.get("/instances/web")).json()
    assert web["state"] == "failed" and "was removed" in web["reason"]
    assert not double(people, "c1").machines.made


async def test_it_ends_by_itself_by_the_stores_clock(people: People) -> None:
    relation = await lend(people, "place", lasts_s=3600)
    await guest(people)
    async with people.api.bench.parts.store.write() as session:
        past = (await store_time.wall(session)) - 1
        await session.execute(update(Trust).where(Trust.id == relation["id"]).values(expires_at=past))
    problem(await asked(people, "h"), 404, "not-found")


async def test_it_is_passed_on_and_ends_with_what_it_is_made_from(people: People) -> None:
    onward = {"kind": "place", "cloud": "b", "to": people.clouds["k"], "blanket": at(people, "c1")}
    problem(await people.bob.post("/trust", json=onward), 404, "not-found")
    root = await lend(people, "place", delegable=True)
    problem(await people.bob.post("/trust", json={**onward, "kind": "migrate-to"}), 404, "not-found")
    passed = await lend(people, "place", "k", people.bob, cloud="b", blanket=at(people, "c1"))
    assert (passed["parent"], passed["depth"]) == (root["id"], 2)
    body = {"name": "h", "cloud": "k", "parent": at(people, "c1"), "vcpus": 1, "memory_mib": 400}
    body["disk_bytes"] = 4 * GIB
    await people.ended(await people.carol.post("/blankets", json=body))
    await people.revoke(root)
    again = await people.carol.post("/blankets", json={**body, "name": "i"})
    problem(again, 404, "not-found")


async def test_what_is_granted_is_one_of_its_own_blankets_and_goes_with_it(people: People) -> None:
    whole = {"kind": "place", "cloud": "c", "to": people.clouds["b"], "blanket": "c1"}
    assert (await people.alice.post("/clouds", json={"name": "inner", "parent": "c"})).status_code == 201
    for who, change, status in (
        (people.bob, {}, 404),
        (people.alice, {"blanket": "b1"}, 404),
        (people.alice, {"blanket": at(people, "b1")}, 404),
        (people.alice, {"blanket": None}, 422),
        (people.alice, {"image": "debian"}, 422),
        (people.alice, {"to": "inner"}, 409),
        (people.alice, {"kind": "share-image", "image": "debian"}, 422),
    ):
        answer = await who.post("/trust", json={**whole, **change})
        assert answer.status_code == status, (change, answer.text)
    await lend(people, "place")
    await guest(people)
    gone = await people.alice.delete("/blankets/c1", params={"force": True})
    await people.ended(gone, OperationState.SUCCEEDED)
    assert (await people.alice.get("/trust")).json() == []
    problem(await people.bob.get("/blankets/g"), 404, "not-found")


async def test_one_that_is_revoked_as_it_is_used_lets_nothing_after_that(people: People) -> None:
    for number in range(3):
        relation = await lend(people, "place")
        answers = await asyncio.gather(
            asked(people, f"g{number}"), people.alice.post(f"/trust/{relation['id']}/revoke")
        )
        assert answers[0].status_code in {202, 404, 409} and answers[1].status_code == 200
        problem(await asked(people, "late"), 404, "not-found")
        if answers[0].status_code == 202:
            await people.ended(answers[0])
            assert "nothing" in problem(await people.bob.post(f"/blankets/g{number}/start"), 409, "refused")
            await people.ended(await people.bob.delete(f"/blankets/g{number}"))


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_by_the_command_line(people: People) -> None:
    """Bob's room is lent to the operator's cloud, and taken back."""
    api, bobs = people.api, people.bob
    lent = (await api.ok("cloud", "create", "o", "-o", "json")).json["id"]
    body = {"kind": "place", "cloud": "b", "to": lent, "blanket": "b1"}
    relation = (await bobs.post("/trust", json=body)).json()
    assert "place b1" in (await api.ok("trust", "ls")).out + (await api.ok("trust", "graph")).out
    small = ("--vcpus", "1", "--memory", "400M", "--disk", "4G")
    await api.ok("blanket", "add", "g", "--cloud", "o", "--in", at(people, "b1"), *small)
    shown = (await api.ok("trust", "show", relation["id"], "-o", "json")).json
    assert shown["guests"] == [at(people, "g")]
    await api.ok("trust", "revoke", relation["id"])
    refused = await api.wrong(
        "blanket", "add", "h", "--cloud", "o", "--in", at(people, "b1"), *small, status=3
    )
    assert "no blanket" in refused
    mine = ("trust", "grant", "o", people.clouds["b"], "--kind", "migrate-to")
    assert "cloud o trusts cloud b: migrate-to g" in (await api.ok(*mine, "--blanket", "g")).out
    assert "migrate-to takes blanket" in await api.wrong(*mine, "--image", "debian", status=2)
