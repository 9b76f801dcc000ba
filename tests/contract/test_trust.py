"""Trust relations between the clouds of several people, over the API: each thing refused without, allowed
with, refused again after; on both databases.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from api_rig import Served, Signing, problem, served
from control_rig import DIGEST, World, furnish
from sqlalchemy import update
from test_authorization import _client

from supercloud.keystore.faces import ImageShare
from supercloud.model.errors import Denied, NotFound, Refused
from supercloud.model.names import MIB, new_id
from supercloud.model.states import OperationState
from supercloud.services.requests import AddPrincipal, CreateVolume, MintToken
from supercloud.services.store import time as store_time
from supercloud.services.store.changes import Change
from supercloud.services.store.tables import Cloud, Image, Trust
from supercloud.services.views import OperationView
from supercloud.trust.keys import IdentityKey

pytestmark = pytest.mark.contract


@dataclass
class People:
    """Alice has cloud `c` with an image, Bob cloud `b`, Carol cloud `k`; each has a blanket in it."""

    api: Served
    alice: httpx.AsyncClient
    bob: httpx.AsyncClient
    carol: httpx.AsyncClient
    clouds: dict[str, str]  # their ids

    async def share(self, to: str, by: httpx.AsyncClient | None = None, **more: Any) -> dict[str, Any]:
        body = {"kind": "share-image", "cloud": "c", "to": self.clouds[to], "image": "debian", **more}
        answer = await (by or self.alice).post("/trust", json=body)
        assert answer.status_code == 201, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def revoke(self, relation: dict[str, Any], by: httpx.AsyncClient | None = None) -> dict[str, Any]:
        answer = await (by or self.alice).post(f"/trust/{relation['id']}/revoke")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def ran(self, who: httpx.AsyncClient, name: str, image: str = "c/debian") -> None:
        cloud = "b" if who is self.bob else "k"
        answer = await who.post("/instances", json={"name": name, "cloud": cloud, "image": image})
        assert answer.status_code == 202, answer.text
        await self.ended(answer)

    async def ended(
        self, answer: httpx.Response, end: OperationState = OperationState.SUCCEEDED
    ) -> OperationView:
        assert answer.status_code == 202, answer.text
        view = await self.api.bench.control.operation(answer.json()["id"])
        return await self.api.bench.done(view, end)


@pytest.fixture
async def people(database_url: str, tmp_path: Path) -> AsyncIterator[People]:
    world = World(database_url, tmp_path)
    try:
        async with served(world, tmp_path / "h") as api:
            made = await _gathered(api, world)
            yield made
            for client in (made.alice, made.bob, made.carol):
                await client.aclose()
    finally:
        await world.close()


async def _gathered(api: Served, world: World) -> People:
    control = api.bench.control
    await furnish(api.bench, world.keys)
    clients = {}
    for name in ("alice", "bob", "carol"):
        key = IdentityKey.new()
        await control.add_principal(AddPrincipal(name=name, key=key.name))
        token = (await control.mint_token(MintToken(principal=name))).token
        clients[name] = _client(api, Signing(key, token, api.channel))
    alice = await control.principal("alice")
    async with api.bench.parts.store.write() as session:
        for table in (Cloud, Image):
            await session.execute(update(table).values(owner=alice.id))
    api.bench.parts.directory.changed()
    clouds = {"c": (await control.cloud("c")).id}
    for who, cloud in (("bob", "b"), ("carol", "k")):
        answer = await clients[who].post("/clouds", json={"name": cloud})
        clouds[cloud] = answer.json()["id"]
    for cloud in clouds:
        await api.bench.blanket(f"{cloud}1", cloud=cloud)
    return People(api, clients["alice"], clients["bob"], clients["carol"], clouds)


async def refused(who: httpx.AsyncClient, cloud: str, image: str, status: int = 404) -> str:
    body = {"name": "no", "cloud": cloud, "image": image, "size_bytes": 64 * MIB}
    said = ""
    for path in ("/instances", "/volumes"):
        asked = {key: value for key, value in body.items() if path == "/volumes" or key != "size_bytes"}
        answer = await who.post(path, json=asked)
        assert answer.status_code == status, answer.text
        said = str(answer.json()["detail"])
    return said


# ---------------------------------------------------------------- share-image


async def test_an_image_is_used_only_while_it_is_shared(people: People) -> None:
    bob = people.bob
    for image in ("debian", "c/debian", f"{people.clouds['c']}/debian", DIGEST):
        await refused(bob, "b", image)
    relation = await people.share("b")
    assert (relation["cloud"], relation["to"], relation["state"]) == ("c", "b", "active")
    assert (relation["thing"], relation["digest"], relation["depth"]) == ("debian", DIGEST, 1)
    await people.ran(bob, "web")
    await people.ran(bob, "by-digest", DIGEST)
    await people.ran(bob, "by-id", f"{people.clouds['c']}/debian")
    volume = {"name": "data", "cloud": "b", "size_bytes": 64 * MIB, "image": "c/debian"}
    assert (await bob.post("/volumes", json=volume)).status_code == 201
    await people.ended(await bob.post("/volumes/data/attach", json={"instance": "web"}))
    assert "no image debian" in await refused(bob, "b", "debian"), "nobody is given another's by its name"
    await refused(people.carol, "k", "c/debian")

    await people.revoke(relation)
    await refused(bob, "b", "c/debian")
    await refused(bob, "b", DIGEST)
    assert (await bob.get("/instances/web")).json()["state"] == "running", "what runs, runs on"


async def test_what_was_made_of_it_neither_starts_nor_moves_after_that(people: People) -> None:
    bob = people.bob
    await people.api.bench.blanket("b2", cloud="b")
    relation = await people.share("b")
    await people.ran(bob, "web")
    here = (await bob.get("/instances/web")).json()["blanket"]
    there = {"b1": "b2", "b2": "b1"}[here]
    await people.ended(await bob.post("/instances/web/migrate", json={"to": there}))
    await people.revoke(relation)
    said = problem(await bob.post("/instances/web/migrate", json={"to": here}), 409, "refused")
    assert "not shared" in said
    await people.ended(await bob.post("/instances/web/stop", json={"mode": "destroy"}))
    problem(await bob.post("/instances/web/start"), 409, "refused")
    await people.share("b")
    await people.ended(await bob.post("/instances/web/start"))


async def test_what_is_under_way_gets_no_key_once_it_is_revoked(people: People) -> None:
    world, blanket = people.api.bench.control.world, (await people.bob.get("/blankets/b1")).json()["id"]
    asked = {"cloud": people.clouds["b"], "digest": DIGEST, "blanket": blanket}
    with pytest.raises(Refused, match="not shared"):
        await world.image_key(**asked)
    relation = await people.share("b")
    assert (await world.image_key(**asked)).blanket == blanket
    await people.revoke(relation)
    with pytest.raises(Refused, match="not shared"):
        await world.image_key(**asked)


async def test_it_ends_by_itself_by_the_stores_clock(people: People, monkeypatch: pytest.MonkeyPatch) -> None:
    relation = await people.share("b", lasts_s=3600)
    assert abs(relation["expires_at"] - relation["created_at"] - 3600) < 1
    await people.ran(people.bob, "web")
    store = people.api.bench.parts.store
    if not store.sqlite:  # a controller whose clock is wrong ends nothing
        monkeypatch.setattr(store_time.time, "time", lambda: 0.0)
    async with store.write() as session:
        past = (await store_time.wall(session)) - 1
        await session.execute(update(Trust).values(expires_at=past))
    monkeypatch.undo()
    await refused(people.bob, "b", "c/debian")
    assert (await people.alice.get(f"/trust/{relation['id']}")).json()["state"] == "expired"
    for state, number in (("expired", 1), ("active", 0), ("revoked", 0)):
        assert len((await people.bob.get("/trust", params={"state": state})).json()) == number, state
    problem(await people.bob.get("/trust", params={"state": "asleep"}), 422, "invalid-input")


async def test_one_that_ended_long_ago_is_shown_no_more(people: People) -> None:
    old = await people.share("b")
    async with people.api.bench.parts.store.write() as session:
        await session.execute(update(Trust).values(expires_at=old["created_at"] - 31 * 86400))
    new = await people.share("b")
    assert [one["id"] for one in (await people.alice.get("/trust")).json()] == [new["id"]]


async def test_what_is_shared_goes_with_its_cloud_and_its_image(people: People) -> None:
    bob = people.bob
    await people.share("b", delegable=True)
    await people.share("k", bob, cloud="b", image="c/debian")
    await people.ran(people.carol, "web", "b/debian")
    said = problem(await people.alice.delete("/images/debian"), 409, "conflict")
    assert "an instance of another cloud" in said and "web" not in said
    await people.ended(await people.carol.delete("/instances/web", params={"force": True}))
    assert (await people.alice.delete("/images/debian")).status_code == 204
    assert [(await who.get("/trust")).json() for who in (people.alice, people.carol)] == [[], []]


async def test_a_cloud_that_goes_takes_what_it_passed_on_with_it(people: People) -> None:
    await people.share("b", delegable=True)
    await people.share("k", people.bob, cloud="b", image="c/debian")
    blanket = await people.bob.delete("/blankets/b1", params={"force": True})
    await people.ended(blanket)
    assert (await people.bob.delete("/clouds/b")).status_code == 204
    assert (await people.carol.get("/trust")).json() == []
    await refused(people.carol, "k", "b/debian")


async def test_who_has_a_cloud_uses_his_own_images_in_those_within_it(people: People) -> None:
    bob = await people.api.bench.control.principal("bob")
    nested = {"name": "n", "parent": "c", "owner": bob.key}
    assert (await people.alice.post("/clouds", json=nested)).status_code == 201
    volume = {"name": "x", "cloud": "n", "size_bytes": 64 * MIB, "image": "debian"}
    assert (await people.alice.post("/volumes", json=volume)).status_code == 201
    await refused(people.bob, "n", "debian")
    await refused(people.bob, "n", "c/debian")
    assert "its own" in problem(
        await people.alice.post(
            "/trust", json={"kind": "share-image", "cloud": "c", "to": "n", "image": "debian"}
        ),
        409,
        "refused",
    )


# ---------------------------------------------------------------- passed on


async def test_it_is_passed_on_never_wider_nor_longer_and_ends_together(people: People) -> None:
    alice, bob, carol = people.alice, people.bob, people.carol
    onward = {"kind": "share-image", "cloud": "b", "to": people.clouds["k"], "image": "c/debian"}
    problem(await bob.post("/trust", json=onward), 404, "not-found")
    fixed = await people.share("b")
    assert "passed on" in problem(await bob.post("/trust", json=onward), 409, "refused")
    root = await people.share("b", delegable=True, lasts_s=5000)
    said = problem(await bob.post("/trust", json={**onward, "lasts_s": 6000}), 409, "refused")
    assert "longer" in said
    child = await people.share("k", bob, cloud="b", image="c/debian")
    assert (child["parent"], child["depth"], child["expires_at"]) == (root["id"], 2, root["expires_at"])
    await people.ran(carol, "web", "b/debian")
    await refused(carol, "k", "c/debian")
    on = {**onward, "cloud": "k", "to": people.clouds["c"], "image": "b/debian"}
    problem(await carol.post("/trust", json=on), 409, "refused")

    assert {one["id"] for one in (await alice.get("/trust")).json()} == {fixed["id"], root["id"], child["id"]}
    assert [one["id"] for one in (await carol.get("/trust")).json()] == [child["id"]]
    problem(await carol.get(f"/trust/{root['id']}"), 404, "not-found")
    problem(await carol.post(f"/trust/{root['id']}/revoke"), 404, "not-found")
    await people.revoke(root)
    assert (await carol.get(f"/trust/{child['id']}")).json()["state"] == "revoked"
    await refused(carol, "k", "b/debian")
    assert (await bob.get(f"/trust/{fixed['id']}")).json()["state"] == "active"
    await people.ran(bob, "still")


async def test_it_is_passed_on_so_often_and_no_more(people: People) -> None:
    bob = people.bob
    for number in range(2, 6):
        made = (await bob.post("/clouds", json={"name": f"b{number}"})).json()
        people.clouds[f"b{number}"] = made["id"]
    await people.share("b", delegable=True)
    by = "c"
    for cloud, to in (("b", "b2"), ("b2", "b3"), ("b3", "b4")):
        await people.share(to, bob, cloud=cloud, image=f"{by}/debian", delegable=True)
        by = cloud
    body = {"kind": "share-image", "cloud": "b4", "to": people.clouds["b5"], "image": "b3/debian"}
    assert "3 times" in problem(await bob.post("/trust", json=body), 409, "refused")


async def test_either_end_and_where_it_began_let_it_end(people: People) -> None:
    for by in (people.alice, people.bob):
        relation = await people.share("b")
        assert (await people.revoke(relation, by))["state"] == "revoked"
        again = await people.revoke(relation, by)
        assert again["revoked_at"] == (await by.get(f"/trust/{relation['id']}")).json()["revoked_at"]
    await people.share("b", delegable=True)
    child = await people.share("k", people.bob, cloud="b", image="c/debian")
    await people.revoke(child, people.alice)
    await refused(people.carol, "k", "b/debian")


async def test_what_is_passed_on_as_it_is_revoked_is_revoked_too(people: People) -> None:
    onward = {"kind": "share-image", "cloud": "b", "to": people.clouds["k"], "image": "c/debian"}
    passed = 0
    for _ in range(5):
        root = await people.share("b", delegable=True)
        asked = [asyncio.ensure_future(people.bob.post("/trust", json=onward)) for _ in range(4)]
        await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        answers = await asyncio.gather(*asked, people.alice.post(f"/trust/{root['id']}/revoke"))
        passed += sum(answer.status_code == 201 for answer in answers)
        assert {answer.status_code for answer in answers} <= {200, 201, 404, 409}
        assert (await people.carol.get("/trust", params={"state": "active"})).json() == []
    assert passed >= 5, "one at least each time was quicker"


async def test_who_may_not_grants_nothing(people: People) -> None:
    whole = {"kind": "share-image", "cloud": "c", "to": people.clouds["b"], "image": "debian"}
    for who, change, status in (
        (people.bob, {}, 404),
        (people.bob, {"cloud": people.clouds["c"]}, 404),
        (people.alice, {"to": "b"}, 404),  # another's cloud has no name here
        (people.alice, {"to": new_id()}, 404),
        (people.alice, {"to": "c"}, 422),
        (people.alice, {"image": "none"}, 404),
        (people.alice, {"kind": "see-findings"}, 422),
        (people.alice, {"kind": "connect"}, 422),
        (people.alice, {"lasts_s": 401 * 86400}, 422),
        (people.alice, {"lasts_s": 0}, 422),
    ):
        answer = await who.post("/trust", json={**whole, **change})
        assert answer.status_code == status, (change, answer.text)
    assert (await people.alice.post("/clouds", json={"name": "d"})).status_code == 201
    said = problem(await people.alice.post("/trust", json={**whole, "to": "d"}), 409, "refused")
    assert "its own" in said
    assert (await people.alice.get("/trust")).json() == []


# ---------------------------------------------------------------- a backup, whose key is its cloud's alone


async def _saved(people: People) -> str:
    """An image of what is on a volume in `c`; its digest."""
    bench, alice = people.api.bench, people.alice
    await bench.run(on="c1")
    await bench.control.create_volume(CreateVolume(name="data", cloud="c", size_bytes=8 * MIB))
    await bench.done(await bench.control.attach_volume("data", instance="web"))
    await bench.done(await bench.control.detach_volume("data"))
    await people.ended(await alice.post("/volumes/data/backup", json={"image": "saved"}))
    image = (await alice.get("/images/saved")).json()
    assert image["key_of"] == people.clouds["c"]
    return str(image["digest"])


def _said_by(relation: dict[str, Any], **other: Any) -> ImageShare:
    """The owner's word for a relation."""
    said = {
        "id": relation["id"],
        "digest": relation["digest"],
        "of": relation["cloud_id"],
        "to": relation["to_id"],
        "until": relation["expires_at"],
        "delegable": relation["delegable"],
        "parent": relation["parent"],
    }
    return ImageShare(**{**said, **other})


async def test_the_key_store_lets_a_backups_key_out_at_its_owners_word_alone(people: People) -> None:
    digest, keys, bob = await _saved(people), people.api.bench.parts.keys, people.bob
    owner: Any = keys  # the double has both faces
    blanket = (await bob.get("/blankets/b1")).json()["id"]

    async def asked(cloud: str = "b", blanket: str = blanket) -> None:
        await keys.image_key(cloud=people.clouds[cloud], digest=digest, blanket=blanket)

    relation = await people.share("b", image="saved", delegable=True)
    assert relation["needs_approval"]
    answer = await bob.post("/instances", json={"name": "early", "cloud": "b", "image": "c/saved"})
    failed = await people.ended(answer, OperationState.FAILED)
    assert failed.error is not None and "trust approve" in (failed.error["hint"] or "")
    await owner.share_image_key(share=_said_by(relation))
    await people.ran(bob, "web", "c/saved")
    await asked()

    carols = (await people.carol.get("/blankets/k1")).json()["id"]
    child = await people.share("k", bob, cloud="b", image="c/saved")
    with pytest.raises(NotFound):
        await asked("k", carols)
    for wrong in ({"until": relation["expires_at"] + 1}, {"parent": None}, {"of": people.clouds["c"]}):
        with pytest.raises((Denied, NotFound)):
            await owner.share_image_key(share=_said_by(child, **wrong))
    await owner.share_image_key(share=_said_by(child))
    await asked("k", carols)
    await people.ran(people.carol, "web", "b/saved")

    await people.revoke(relation)
    for cloud, one in (("b", blanket), ("k", carols)):
        with pytest.raises(NotFound):  # whatever the control plane says from now on
            await asked(cloud, one)


async def test_a_backup_is_not_its_owners_other_clouds(people: People) -> None:
    await _saved(people)
    assert (await people.alice.post("/clouds", json={"name": "d"})).status_code == 201
    assert "another cloud's" in await refused(people.alice, "d", "saved", 409)
    granted = await people.alice.post(
        "/trust", json={"kind": "share-image", "cloud": "c", "to": "d", "image": "saved"}
    )
    assert granted.status_code == 201 and granted.json()["needs_approval"]
    volume = {"name": "x", "cloud": "d", "size_bytes": 8 * MIB, "image": "saved"}
    assert (await people.alice.post("/volumes", json=volume)).status_code == 201
    backup = {"kind": "share-image", "cloud": "d", "to": people.clouds["b"], "image": "saved"}
    assert "passed on" in problem(await people.alice.post("/trust", json=backup), 409, "refused")


async def test_a_revocation_holds_though_the_key_store_is_away(
    people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _saved(people)
    relation = await people.share("b", image="saved")
    keys: Any = people.api.bench.parts.keys
    await keys.share_image_key(share=_said_by(relation))
    withdraw = keys.withdraw_image_key

    async def away(**_: object) -> None:
        raise Denied("it is away")

    monkeypatch.setattr(keys, "withdraw_image_key", away)
    answer = await people.alice.post(f"/trust/{relation['id']}/revoke")
    assert "is revoked" in problem(answer, 503, "outcome-unknown")
    assert (await people.alice.get(f"/trust/{relation['id']}")).json()["state"] == "revoked"
    await refused(people.bob, "b", "c/saved")
    monkeypatch.setattr(keys, "withdraw_image_key", withdraw)
    await people.revoke(relation)
    blanket = (await people.bob.get("/blankets/b1")).json()["id"]
    with pytest.raises(NotFound):
        await keys.image_key(cloud=people.clouds["b"], digest=relation["digest"], blanket=blanket)


# ---------------------------------------------------------------- as every other thing of the API


async def test_who_has_an_end_of_it_is_told(people: People) -> None:
    feed = people.api.bench.parts.feed
    watch = feed.watch(None, feed.now)
    relation = await people.share("b")
    await people.revoke(relation)
    told = list[Change]()
    while len(told) < 4 and (change := (await watch.next(20)).change) is not None:
        told += [change] if change.kind == "trust" else []
    assert (await watch.next(0)).change is None
    watch.close()
    owners = {name: (await people.api.bench.control.principal(name)).id for name in ("alice", "bob")}
    seen = [(one.act, one.cloud_name, one.owner) for one in told]
    assert seen == [
        (act, cloud, owners[who])
        for act in ("added", "changed")
        for cloud, who in (("c", "alice"), ("b", "bob"))
    ]
    assert {one.id for one in told} == {relation["id"]}


async def test_asked_again_it_is_granted_once_and_as_it_was_seen(people: People) -> None:
    body = {"kind": "share-image", "cloud": "c", "to": people.clouds["b"], "image": "debian"}
    twice = [await people.alice.post("/trust", json=body, headers={"Idempotency-Key": "x"}) for _ in range(2)]
    assert twice[0].json() == twice[1].json() and twice[1].headers["Idempotency-Replayed"] == "true"
    path = f"/trust/{twice[0].json()['id']}"
    seen = (await people.alice.get(path)).headers["ETag"]
    await people.revoke(twice[0].json(), people.bob)
    late = await people.alice.post(f"{path}/revoke", headers={"If-Match": seen})
    problem(late, 412, "precondition-failed")


async def test_the_command_line(people: People, tmp_path: Path) -> None:
    api, control = people.api, people.api.bench.control
    await _saved(people)
    operator = await control.principal("operator")
    async with api.bench.parts.store.write() as session:  # what was Alice's becomes the operator's
        for table, names in ((Cloud, ("c",)), (Image, ("debian", "saved"))):
            await session.execute(update(table).where(table.name.in_(names)).values(owner=operator.id))
    api.bench.parts.directory.changed()
    bobs = people.clouds["b"]
    grant = ("trust", "grant", "c", bobs, "--kind", "share-image", "--image")
    first = (await api.ok(*grant, "debian", "--until", "2h", "--delegable", "-o", "json")).json
    assert 7100 < first["expires_at"] - first["created_at"] <= 7200 and first["delegable"]
    said = await api.ok(*grant, "saved")
    assert "cloud c trusts cloud b: share-image saved" in said.out and "approve" not in said.err
    await people.ran(people.bob, "web", "c/saved")  # the key store was told along with it
    await people.share("k", people.bob, cloud="b", image="c/debian")

    listed = (await api.ok("trust", "ls", "--cloud", "c", "-o", "json")).json
    assert [(one["cloud"], one["to"], one["thing"]) for one in listed] == [
        ("c", "b", "debian"),
        ("c", "b", "saved"),
        ("b", "k", "debian"),
    ]
    assert "share-image" in (await api.ok("trust", "ls")).out
    assert (await api.ok("trust", "show", first["id"], "-o", "json")).json == first
    drawn = (await api.ok("trust", "graph")).out.splitlines()
    assert drawn[0] == "c" and drawn[2].startswith("│  └─ share-image debian → k, until ")
    assert len((await api.ok("trust", "graph", "-o", "json")).json) == 3
    assert f'-> "{bobs}"' in (await api.ok("trust", "graph", "-o", "dot")).out

    second = listed[1]["id"]
    assert "may have the key" in (await api.ok("trust", "approve", second)).out, "again is harmless"
    assert "no more: share-image saved" in (await api.ok("trust", "revoke", second)).out
    assert "revoked" in await api.wrong("trust", "approve", second, status=4)
    await refused(people.bob, "b", "c/saved")
    assert len((await api.ok("trust", "ls", "--state", "revoked", "-o", "json")).json) == 1
    ended = (await api.ok("trust", "revoke", first["id"], "-o", "json")).json
    assert ended["state"] == "revoked"
    assert "(none)" in (await api.run("trust", "graph")).err
    assert (await api.ok("trust", "graph", "--all")).out.count("revoked") == 3
    assert "connect" in await api.wrong(
        "trust", "grant", "c", bobs, "--kind", "connect", "--image", "debian", status=2
    )
    assert "is not an image" in await api.wrong(*grant, "a/b/c", status=2)


async def test_a_clouds_file_names_what_another_shares(people: People, tmp_path: Path) -> None:
    api = people.api
    file = tmp_path / "o.yaml"
    file.write_text(
        "version: 1\ncloud: {name: o}\nproviders: {p: {kind: simulated}}\nblankets: {o1: {provider: p}}\n"
        "instances: {web: {image: c/debian, blanket: o1}}\n"
    )
    await api.ok("cloud", "create", "o")
    said = await api.run("apply", "-f", str(file))
    assert said.status == 4 and "there is no image c/debian" in said.err
    people.clouds["o"] = (await api.bench.control.cloud("o")).id
    relation = await people.share("o")
    await api.ok("apply", "-f", str(file))
    assert (await api.ok("diff", "-f", str(file))).status == 0
    exported = (await api.ok("export", "o")).out
    assert DIGEST in exported, "a name that is another's would say nothing elsewhere"
    await people.revoke(relation)
    await api.ok("diff", "-f", str(file))
    file.write_text(file.read_text().replace("blanket: o1}}", "blanket: o1}, db: {image: c/debian}}"))
    said = await api.run("diff", "-f", str(file))
    assert said.status == 8 and "instance db" in said.out and "there is no image c/debian" in said.out
