"""Trust of kind `connect` over the API, and what blankets are told for it, on both databases: a network is
reached from another cloud's only while that is let. That blankets keep to it, a kernel shows
(tests/system/overlay_connect.py), and tests/unit/test_overlay_abroad.py what they make of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from api_rig import problem
from blanket_double import Double
from sqlalchemy import update
from test_trust import People, people

from supercloud.blanket.overlay.plan import NOTHING, Plan, plan, told_mesh
from supercloud.model.errors import Failed
from supercloud.model.names import new_id
from supercloud.model.states import OperationState
from supercloud.ports.controller import Event, Events
from supercloud.ports.overlay import Abroad
from supercloud.services.mesh import wanted
from supercloud.services.store import time as store_time
from supercloud.services.store.tables import Cloud, Trust

__all__ = ["people"]
pytestmark = pytest.mark.contract
LAN, JOBS = "10.9.0.0/24", "10.8.0.0/24"


async def networked(people: People) -> dict[str, Any]:
    """Alice's `web` is on her `lan` in c1, Bob's `job` on his `jobs` in b1, which has `rest`, too: jobs."""
    await people.api.bench.run(on="c1")
    found = {}
    for name, cidr in (("jobs", JOBS), ("rest", "10.7.0.0/24")):
        answer = await people.bob.post("/networks", json={"name": name, "cloud": "b", "cidr": cidr})
        assert answer.status_code == 201, answer.text
        found[name] = answer.json()
    await people.share("b")
    body = {"name": "job", "cloud": "b", "image": "c/debian", "networks": ["jobs"]}
    await people.ended(await people.bob.post("/instances", json=body))
    jobs: dict[str, Any] = found["jobs"]
    return jobs


async def granted(
    people: People, jobs: dict[str, Any], by: httpx.AsyncClient | None = None, **more: Any
) -> dict[str, Any]:
    answer = await (by or people.alice).post("/trust", json=wish(people, jobs, **more))
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def wish(people: People, jobs: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Alice's lan may be reached from Bob's jobs."""
    asked = {"kind": "connect", "cloud": "c", "to": people.clouds["b"], "network": "lan"}
    return {**asked, "to_network": jobs["id"], **more}


def double(people: People, name: str) -> Double:
    return next(one for one in people.api.bench.site.machines.values() if one.name == name)


def planned(people: People, name: str) -> Plan:
    """What a blanket makes of what it was told last."""
    one = double(people, name)
    assert one.mesh is not None
    return plan(told_mesh(NOTHING, one.mesh), blanket=one.birth.blanket)


def told(people: People, name: str) -> Abroad:
    mesh = double(people, name).mesh
    return Abroad() if mesh is None else mesh.abroad


def reach(people: People, *blankets: str) -> list[set[tuple[str, str]]]:
    return [set(planned(people, one).filter.reach) for one in blankets or ("c1", "b1")]


def foreign(people: People, name: str) -> dict[str, set[str]]:
    """The blankets of other clouds that one hears, and from which addresses."""
    own = {peer.blanket for peer in told(people, name).peers}
    return {one.blanket: set(one.addresses) for one in planned(people, name).speakers if one.blanket in own}


async def until(what: Callable[[], bool | Awaitable[bool]]) -> None:
    """What others are told is not waited for."""
    async with asyncio.timeout(60):
        while True:
            found = what()
            if found if isinstance(found, bool) else await found:
                return
            await asyncio.sleep(0.02)


LET = [{(JOBS, LAN)}] * 2
NOTHING_LET: list[set[tuple[str, str]]] = [set(), set()]


async def test_a_network_is_reached_only_while_it_is_let(people: People) -> None:
    jobs = await networked(people)
    assert reach(people) == NOTHING_LET and told(people, "c1") == told(people, "b1") == Abroad()
    relation = await granted(people, jobs, lasts_s=3600)
    assert (relation["thing"], relation["network"]["cidr"]) == ("lan", LAN)
    assert relation["to_network"] == {"id": jobs["id"], "name": "jobs", "cidr": JOBS}
    assert (relation["state"], relation["closed"], relation["needs_approval"]) == ("active", None, False)
    assert reach(people) == LET, "jobs may begin with lan, and lan with nobody"
    ours, theirs = (double(people, name).birth.blanket for name in ("c1", "b1"))
    assert foreign(people, "c1") == {theirs: {"10.8.0.2/32"}}
    assert foreign(people, "b1") == {ours: {"10.9.0.2/32"}}
    assert {peer.cloud for peer in told(people, "b1").peers} == {people.clouds["c"]}
    assert all(3590 < one.left_s <= 3600 for one in told(people, "c1").passages)
    assert all("web" not in repr(one) for one in (told(people, "b1"), told(people, "b1").instances))

    ended = await people.revoke(relation)
    assert ended["state"] == "revoked"
    assert told(people, "c1") == told(people, "b1") == Abroad(), "told as the answer comes"
    again = await granted(people, jobs)
    await people.revoke(again, people.bob)
    assert reach(people) == NOTHING_LET, "whoever has an end of it may end it"


async def test_it_ends_by_itself_by_the_stores_clock(people: People) -> None:
    jobs = await networked(people)
    relation = await granted(people, jobs)
    async with people.api.bench.parts.store.write() as session:
        past = (await store_time.wall(session)) - 1
        await session.execute(update(Trust).values(expires_at=past))
    for cloud in ("c", "b"):
        await people.api.bench.parts.meshes.refresh(people.clouds[cloud])
    assert reach(people) == NOTHING_LET
    assert (await people.alice.get(f"/trust/{relation['id']}")).json()["state"] == "expired"
    assert (await people.alice.get("/networks/lan")).json()["links"] == []


async def test_only_blankets_with_such_instances_are_told_and_only_of_such(people: People) -> None:
    jobs = await networked(people)
    bench = people.api.bench
    await bench.blanket("b2", cloud="b")
    body = {"name": "idle", "cloud": "b", "image": "c/debian", "networks": ["rest"], "on": "b2"}
    await people.ended(await people.bob.post("/instances", json=body))
    await granted(people, jobs)
    assert told(people, "b2") == Abroad()
    assert {one.ip for one in told(people, "c1").instances} == {"10.8.0.2"}

    await people.ended(await people.bob.post("/instances/job/migrate", json={"to": "b2"}))
    there = double(people, "b2").birth.blanket
    await until(lambda: foreign(people, "c1") == {there: {"10.8.0.2/32"}})
    await until(lambda: reach(people, "b2", "b1") == [{(JOBS, LAN)}, set()])
    await people.ended(await people.bob.delete("/instances/job", params={"force": True}))
    await until(lambda: foreign(people, "c1") == {})


async def test_addresses_that_mean_two_things_are_refused_with_the_reason(people: People) -> None:
    jobs = await networked(people)
    alice, bob = people.alice, people.bob
    same = (await bob.post("/networks", json={"name": "same", "cloud": "b", "cidr": "10.9.0.0/16"})).json()
    for to_network in (same["id"], jobs["id"]):
        said = problem(await alice.post("/trust", json=wish(people, {"id": to_network})), 409, "conflict")
        assert "10.9.0.0/" in said and "overlaps" in said
    assert (await bob.delete("/networks/same")).status_code == 204
    relation = await granted(people, jobs)
    body = {"name": "late", "cloud": "b", "cidr": "10.9.0.128/25"}
    said = problem(await bob.post("/networks", json=body), 409, "conflict")
    assert LAN in said and relation["id"] in str((await bob.post("/networks", json=body)).json())
    body = {"name": "late", "cloud": "c", "cidr": "10.8.0.0/16"}
    assert JOBS in problem(await alice.post("/networks", json=body), 409, "conflict")

    third = {"name": "third", "cloud": "k", "cidr": "10.8.0.0/25"}
    third = (await people.carol.post("/networks", json=third)).json()
    asked = wish(people, third, to=people.clouds["k"])
    said = problem(await alice.post("/trust", json=asked), 409, "conflict")
    assert "connected with" in said, "it overlaps with what the cloud reaches, though not with its own"
    await people.revoke(relation)
    assert (await alice.post("/trust", json=asked)).status_code == 201


async def test_an_isolated_network_is_connected_with_none(people: People) -> None:
    jobs = await networked(people)
    shut = {"name": "shut", "cloud": "c", "cidr": "10.6.0.0/24", "level": "isolated"}
    assert (await people.alice.post("/networks", json=shut)).status_code == 201
    said = problem(await people.alice.post("/trust", json=wish(people, jobs, network="shut")), 409, "refused")
    assert "network shut is isolated" in said
    relation = await granted(people, jobs)
    for who, network, blanket in ((people.bob, "jobs", "b1"), (people.alice, "lan", "c1")):
        raised = await who.put(f"/networks/{network}/level", json={"level": "isolated"})
        assert raised.status_code == 200, raised.text
        assert reach(people, blanket) == [set()], "its own cloud's blankets are told at once"
        await until(lambda: reach(people) == NOTHING_LET)
        found = (await people.alice.get(f"/trust/{relation['id']}")).json()
        assert (found["state"], found["closed"]) == ("active", f"network {network} is isolated")
        again = problem(await people.alice.post("/trust", json=wish(people, jobs)), 409, "refused")
        assert f"network {network} is isolated" in again
        lowered = await who.put(f"/networks/{network}/level", json={"level": "open", "lower": True})
        assert lowered.status_code == 200, lowered.text
        await until(lambda: reach(people) == LET)


async def test_it_is_passed_on_and_ends_with_what_it_is_made_from(people: People) -> None:
    jobs = await networked(people)
    await people.share("b", delegable=True)
    await people.share("k", people.bob, cloud="b", image="c/debian")
    body = {"name": "far", "cloud": "k", "cidr": "10.5.0.0/24"}
    far = (await people.carol.post("/networks", json=body)).json()
    body = {"name": "far", "cloud": "k", "image": "b/debian", "networks": ["far"]}
    await people.ended(await people.carol.post("/instances", json=body))

    onward = {"cloud": "b", "to": people.clouds["k"], "network": "c/lan", "to_network": far["id"]}
    problem(await people.bob.post("/trust", json=wish(people, jobs, **onward)), 404, "not-found")
    await granted(people, jobs)
    said = problem(await people.bob.post("/trust", json=wish(people, jobs, **onward)), 409, "refused")
    assert "passed on" in said
    root = await granted(people, jobs, delegable=True, lasts_s=5000)
    child = await granted(people, jobs, people.bob, **onward)
    assert (child["parent"], child["depth"], child["expires_at"]) == (root["id"], 2, root["expires_at"])
    assert reach(people, "k1") == [{("10.5.0.0/24", LAN)}], "from there to where it began, not by way of b"
    assert reach(people, "c1") == [{("10.5.0.0/24", LAN), (JOBS, LAN)}]
    assert reach(people, "b1") == [{(JOBS, LAN)}]
    await people.revoke(root)
    assert reach(people, "k1", "c1", "b1") == [set(), {(JOBS, LAN)}, {(JOBS, LAN)}]
    assert (await people.carol.get(f"/trust/{child['id']}")).json()["state"] == "revoked"


async def test_who_may_not_connects_nothing(people: People) -> None:
    jobs = await networked(people)
    theirs = (
        await people.carol.post("/networks", json={"name": "n", "cloud": "k", "cidr": "10.4.0.0/24"})
    ).json()
    for who, change, status in (
        (people.bob, {}, 404),
        (people.bob, {"cloud": people.clouds["c"]}, 404),
        (people.bob, {"cloud": "b", "to": people.clouds["c"], "network": "lan"}, 404),
        (people.alice, {"network": "none"}, 404),
        (people.alice, {"network": "b/jobs"}, 404),
        (people.alice, {"network": jobs["id"]}, 404),
        (people.alice, {"to_network": "jobs"}, 404),
        (people.alice, {"to_network": theirs["id"]}, 404),
        (people.alice, {"to": "c", "to_network": "lan"}, 422),
        (people.alice, {"image": "debian"}, 422),
        (people.alice, {"network": None}, 422),
        (people.alice, {"to_network": None}, 422),
        (people.alice, {"kind": "share-image"}, 422),
    ):
        answer = await who.post("/trust", json=wish(people, jobs, **change))
        assert answer.status_code == status, (change, answer.text)
    assert reach(people) == NOTHING_LET
    relation = await granted(people, jobs)
    problem(await people.carol.post(f"/trust/{relation['id']}/revoke"), 404, "not-found")
    assert (await people.carol.get("/trust")).json() == []


async def test_it_goes_with_its_network(people: People) -> None:
    jobs = await networked(people)
    relation = await granted(people, jobs)
    problem(await people.bob.delete("/networks/jobs"), 409, "conflict")
    await people.ended(await people.bob.delete("/instances/job", params={"force": True}))
    assert (await people.bob.delete("/networks/jobs")).status_code == 204
    problem(await people.alice.get(f"/trust/{relation['id']}"), 404, "not-found")
    await until(lambda: told(people, "c1") == Abroad())


async def test_a_revocation_says_whom_it_could_not_tell(people: People) -> None:
    jobs = await networked(people)
    relation = await granted(people, jobs)
    ours = double(people, "c1")
    await ours.end()
    await people.api.bench.gone("c1")
    answer = await people.alice.post(f"/trust/{relation['id']}/revoke")
    assert "1 of the blankets" in problem(answer, 503, "outcome-unknown")
    assert reach(people, "b1") == [set()], "the other end is told all the same"
    ours.start()
    await until(lambda: told(people, "c1") == Abroad())
    assert (await people.revoke(relation))["state"] == "revoked"


async def test_what_is_revoked_while_it_is_told_is_cut(people: People) -> None:
    """A blanket that takes a relation late, or does so and cannot answer, is told of its end after that."""
    jobs = await networked(people)
    ours, coming, go_on = double(people, "c1"), asyncio.Event(), asyncio.Event()

    async def late() -> None:
        coming.set()
        await go_on.wait()

    ours.before_mesh = late
    granting = asyncio.create_task(granted(people, jobs))
    await coming.wait()
    (relation,) = (await people.bob.get("/trust", params={"kind": "connect"})).json()
    revoking = asyncio.create_task(people.revoke(relation, people.bob))
    await asyncio.wait([revoking], timeout=1)
    go_on.set()
    await asyncio.gather(granting, revoking)
    assert reach(people) == NOTHING_LET

    async def loses_its_answer() -> None:
        ours.before_mesh = None
        async with people.api.bench.parts.store.read() as session:
            ours.mesh = await wanted(session, ours.birth.blanket)
        raise Failed("no answer")

    ours.before_mesh = loses_its_answer
    relation = await granted(people, jobs)
    assert reach(people, "c1") == [{(JOBS, LAN)}]
    await people.revoke(relation)
    assert reach(people) == NOTHING_LET


async def refuses() -> None:
    raise Failed("not now")


async def test_new_keys_wait_for_the_blankets_of_connected_clouds(
    people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = await networked(people)
    await granted(people, jobs)
    await people.ended(await people.alice.post("/clouds/c/rotate-keys"))
    await until(lambda: [peer.keys for peer in told(people, "b1").peers] == [(double(people, "c1").key,)])
    monkeypatch.setattr("supercloud.services.sagas.rotate._PAUSE_S", 0.01)
    theirs, key = double(people, "b1"), double(people, "c1").key
    theirs.before_mesh = refuses
    view = await people.api.bench.control.rotate_keys("c")
    view = await people.api.bench.done(view, OperationState.FAILED)
    assert view.error is not None and theirs.birth.blanket in str(view.error)
    assert double(people, "c1").key == key, "nobody switched"
    theirs.before_mesh = None
    await people.ended(await people.alice.post("/clouds/c/rotate-keys"))
    assert double(people, "c1").key != key


async def test_a_renewed_certificate_reaches_the_other_cloud(people: People) -> None:
    """Its word for its keys is under it, and peers look at that when they are told."""
    jobs = await networked(people)
    await granted(people, jobs)
    theirs = double(people, "b1")
    theirs.generation += 1  # as a word under another certificate, it is another
    event = Event(id=new_id(), seq=1, kind="certificate.renewed", at=0.0, data={})
    await theirs.channel.report(Events(events=(event,)))

    def heard() -> bool:
        (peer,) = told(people, "c1").peers
        return peer.announcement is not None and peer.announcement.generation == theirs.generation

    await until(heard)


async def test_the_command_line(people: People) -> None:
    api = people.api
    jobs = await networked(people)
    operator = await api.bench.control.principal("operator")
    async with api.bench.parts.store.write() as session:  # what was Alice's becomes the operator's
        await session.execute(update(Cloud).where(Cloud.name == "c").values(owner=operator.id))
    api.bench.parts.directory.changed()
    grant = ("trust", "grant", "c", people.clouds["b"], "--kind", "connect")
    whole = (*grant, "--network", "lan", "--to-network", jobs["id"])
    assert "cloud c trusts cloud b: connect lan" in (await api.ok(*whole, "--until", "2h")).out
    (one,) = (await api.ok("trust", "ls", "--cloud", "c", "--kind", "connect", "-o", "json")).json
    assert "─ connect lan → b/jobs, until " in (await api.ok("trust", "graph")).out
    assert "connect lan from jobs" in (await api.ok("trust", "graph", "-o", "dot")).out
    shown = (await api.ok("network", "show", "lan", "--cloud", "c")).out
    assert f"reached from b/jobs ({JOBS}), until " in shown
    (link,) = (await api.ok("network", "show", "lan", "--cloud", "c", "-o", "json")).json["links"]
    assert (link["relation"], link["cloud"], link["inward"]) == (one["id"], "b", True)
    assert "no more: connect lan" in (await api.ok("trust", "revoke", one["id"])).out
    assert reach(people) == NOTHING_LET
    for wrong in (("--network", "lan"), ("--image", "debian"), ("--network", "lan", "--image", "debian")):
        assert "takes network and to-network" in await api.wrong(*grant, *wrong, status=2)
    assert "is not a network" in await api.wrong(*grant, "--network", "a/b/c", "--to-network", "x", status=2)
