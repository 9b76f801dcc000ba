"""Orders to providers: what a domain takes, who may order it, what becomes of it, and when no more."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from api_rig import Done, Signing, problem
from provider_rig import Estate, client, estate
from sqlalchemy import update
from stream_rig import arrived, watching

from supercloud.model.names import new_id
from supercloud.model.permissions import Permission
from supercloud.services import deadlines, orders
from supercloud.services.store.security import OrderRow
from supercloud.services.store.tables import Cloud, Provider
from supercloud.services.store.time import wall
from supercloud.trust.tokens import Bounds, attenuate

pytestmark = pytest.mark.contract
TAKES = ("deny:ipv4_net", "allow:ipv4_net", "contain:device", "restart:device")
RESTART = {"action": "restart", "target": {"device": {}}}
DENY = {
    "action": "deny",
    "target": {"ipv4_net": "198.51.100.0/24"},
    "args": {"duration": 7_200_000, "response_requested": "ack"},
}


@pytest.fixture
async def people(database_url: str, tmp_path: Path) -> AsyncIterator[Estate]:
    async with estate(database_url, tmp_path) as made:
        taken = await made.acme.put("/domains/edge/orders", json={"takes": TAKES})
        assert taken.status_code == 200, taken.text
        yield made


async def placed(
    who: httpx.AsyncClient, blanket: str, command: dict[str, Any] = RESTART, **more: Any
) -> dict[str, Any]:
    answer = await who.post("/orders", json={"blanket": blanket, "command": command, **more})
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def refused(who: httpx.AsyncClient, status: int, code: str, **body: Any) -> str:
    answer = await who.post("/orders", json={"blanket": "c1", "command": RESTART, **body})
    return problem(answer, status, code)


async def respond(who: httpx.AsyncClient, order: Any, status: int, **more: Any) -> httpx.Response:
    return await who.post(f"/commands/{order['id']}/response", json={"status": status, **more})


async def state(who: httpx.AsyncClient, order: Any) -> str:
    answer = await who.get(f"/orders/{order['id']}")
    assert answer.status_code == 200, answer.text
    return str(answer.json()["state"])


# ---------------------------------------------------------------- asked for, taken, done


async def test_an_order_from_its_user_to_its_provider_and_back(people: Estate) -> None:
    c1 = people.machines["c1"]
    order = await placed(people.alice, "c1", DENY)
    assert (order["state"], order["reaction"], order["domain"]) == ("asked", "deny:ipv4_net", "edge")
    assert (order["blanket"], order["blanket_id"], order["relation"]) == ("c1", c1, None)
    assert order["cloud_id"] == order["asked_by"] == people.clouds["c"]
    assert abs(order["deadline"] - order["created_at"] - 3600) < 1
    (command,) = (await people.acme.get("/commands")).json()
    assert command["command"] == order["command"]
    assert command["command"] == {
        "action": "deny",
        "target": {"ipv4_net": "198.51.100.0/24"},
        "args": {"duration": 7_200_000, "response_requested": "ack"},
        "actuator": {"x-supercloud": {"domain": order["domain_id"], "machine": c1}},
        "command_id": order["id"],
    }
    for other in (people.clouds["c"], people.clouds["b"]):
        assert other not in json.dumps(command), "whose machine it is is not the provider's to know"
    assert (await people.rival.get("/commands")).json() == []
    problem(await people.rival.get(f"/commands/{order['id']}"), 404, "not-found")
    problem(await respond(people.rival, order, 200), 404, "not-found")

    taken = await respond(people.acme, order, 102, status_text="at it\x1b[2J")
    assert taken.status_code == 200 and taken.json()["state"] == "taken"
    problem(await people.alice.post(f"/orders/{order['id']}/cancel"), 409, "refused")
    ended = {"status_text": "rule 7", "results": {"x-acme": {"rule": 7}}}
    for _ in range(2):
        done = await respond(people.acme, order, 200, **ended)
        assert done.status_code == 200 and done.json()["state"] == "done"
    assert (await people.acme.get("/commands")).json() == []
    assert len((await people.acme.get("/commands", params={"every": True})).json()) == 1
    found = (await people.alice.get(f"/orders/{order['id']}")).json()
    assert found["response"] == {"status": 200, **ended}
    assert found["created_at"] <= found["taken_at"] <= found["ended_at"]
    for status in (102, 500, 403):
        assert "the order is done" in problem(await respond(people.acme, order, status), 409, "conflict")
    again = problem(await people.alice.post(f"/orders/{order['id']}/cancel"), 409, "conflict")
    assert "done" in again


@pytest.mark.parametrize(
    ("status", "end"), [(200, "done"), (403, "refused"), (501, "refused"), (503, "failed")]
)
async def test_each_end_and_nothing_after_it(people: Estate, status: int, end: str) -> None:
    order = await placed(people.alice, "c1")
    assert (await respond(people.acme, order, status)).json()["state"] == end
    assert await state(people.alice, order) == end
    other = 200 if status != 200 else 500
    problem(await respond(people.acme, order, other), 409, "conflict")


async def test_what_a_domain_does_not_take_is_refused_before_it_is_asked(people: Estate) -> None:
    said = await refused(people.alice, 409, "refused", command={"action": "stop", "target": {"device": {}}})
    assert said == (
        "domain edge does not take stop:device: it takes"
        " allow:ipv4_net, contain:device, deny:ipv4_net, restart:device"
    )
    assert "no orders at all" in await refused(people.alice, 409, "refused", blanket="c2")
    for wrong in (
        {"action": "scan", "target": {"device": {}}},
        {"action": "deny", "target": {}},
        {"action": "deny", "target": {"ipv4_net": "0.0.0.0/0"}},
        {"action": "restart", "target": {"device": {"device_id": people.machines["c2"]}}},
        {"action": "restart", "target": {"device": {}}, "args": {"duration": 5}},
    ):
        await refused(people.alice, 422, "invalid-input", command=wrong)
    assert (await people.acme.get("/commands", params={"every": True})).json() == []
    assert (await people.alice.get("/orders")).json() == []
    shown = (await people.acme.get("/domains/edge")).json()
    users = (await people.alice.get("/providers/edge")).json()
    assert shown["takes"] == users["takes"] == sorted(TAKES)
    await people.acme.put("/domains/edge/orders", json={"takes": []})
    assert "no orders at all" in await refused(people.alice, 409, "refused")
    problem(await people.acme.put("/domains/edge/orders", json={"takes": ["a:b"]}), 422, "invalid-input")
    problem(await people.acme.put("/domains/far/orders", json={"takes": []}), 404, "not-found")


async def test_nobody_orders_anything_for_anothers_machine(people: Estate) -> None:
    for who in (people.bob, people.carol):
        for blanket in ("c1", people.machines["c1"]):
            said = await refused(who, 404, "not-found", blanket=blanket)
            assert "edge" not in said
        with_cloud = {"blanket": people.machines["c1"], "cloud": people.clouds["c"]}
        await refused(who, 404, "not-found", **with_cloud)
    order = await placed(people.alice, "c1")
    for who in (people.bob, people.carol):
        problem(await who.get(f"/orders/{order['id']}"), 404, "not-found")
        problem(await who.post(f"/orders/{order['id']}/cancel"), 404, "not-found")
        assert (await who.get("/orders")).json() == []


async def test_one_that_nobody_took_is_cancelled_and_one_that_nobody_ended_expires(people: Estate) -> None:
    store = people.api.bench.parts.store
    first, second, third = [await placed(people.alice, "c1", lasts_s=60) for _ in range(3)]
    for _ in range(2):
        ended = await people.alice.post(f"/orders/{first['id']}/cancel")
        assert ended.status_code == 200 and ended.json()["state"] == "cancelled"
    problem(await respond(people.acme, first, 102), 409, "conflict")
    assert (await respond(people.acme, second, 102)).status_code == 200
    async with watching(people.alice, kind="order") as stream:
        await stream.next()
        async with store.write() as session:
            past = (await wall(session)) - 1
            await session.execute(update(OrderRow).where(OrderRow.id != first["id"]).values(deadline=past))
        for one in (second, third):
            await stream.change(id=one["id"], state="expired")
    for one, word in ((second, "nobody said"), (third, "did not take it")):
        found = (await people.alice.get(f"/orders/{one['id']}")).json()
        assert (found["state"], word in found["reason"]) == ("expired", True)
        problem(await respond(people.acme, one, 200), 409, "conflict")
    assert (await people.acme.get("/commands")).json() == []


async def test_no_answer_counts_after_the_deadline_though_nobody_looked_yet(
    people: Estate, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def long_ago(_: object) -> float:
        return 0.0

    monkeypatch.setattr(deadlines, "wall", long_ago)
    order = await placed(people.alice, "c1", lasts_s=60)
    async with people.api.bench.parts.store.write() as session:
        await session.execute(update(OrderRow).values(deadline=(await wall(session)) - 1))
    assert (await people.acme.get("/commands")).json() == []
    assert "deadline" in problem(await respond(people.acme, order, 102), 409, "conflict")


async def test_what_was_asked_of_a_machine_goes_with_it(people: Estate) -> None:
    asked, taken = await placed(people.alice, "c1"), await placed(people.alice, "c1")
    await respond(people.acme, taken, 102)
    view = await people.alice.delete("/blankets/c1", params={"force": True})
    await people.api.bench.done(await people.api.bench.control.operation(view.json()["id"]))
    found = (await people.alice.get(f"/orders/{asked['id']}")).json()
    assert (found["state"], found["reason"]) == ("cancelled", "its blanket was removed")
    assert found["blanket"] is None
    assert await state(people.alice, taken) == "taken"
    assert (await respond(people.acme, taken, 200)).json()["state"] == "done"


async def test_so_many_and_no_more(people: Estate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orders, "OPEN_OF_CLOUD", 3)
    monkeypatch.setattr(orders, "OPEN_OF_DOMAIN", 4)
    monkeypatch.setattr(orders, "KEPT", 2)
    body = {"blanket": "c1", "command": RESTART}
    answers = await asyncio.gather(*(people.alice.post("/orders", json=body) for _ in range(6)))
    made = [one.json() for one in answers if one.status_code == 201]
    assert len(made) == 3 and all(one.status_code in {201, 507} for one in answers)
    await placed(people.bob, "b1")
    said = await refused(people.bob, 507, "exhausted", blanket="b1")
    assert "as many orders before it" in said
    for one in made:
        await people.alice.post(f"/orders/{one['id']}/cancel")
    await placed(people.alice, "c1")
    left = (await people.alice.get("/orders")).json()
    assert len(left) == 3, "two that ended, and the new one"
    assert len((await people.alice.get("/orders", params={"open_only": True})).json()) == 1
    assert len((await people.alice.get("/orders", params={"state": "cancelled"})).json()) == 2


async def test_asked_again_it_is_asked_once_and_each_is_told_what_is_its_own(people: Estate) -> None:
    begun = str(people.api.bench.parts.feed.now)
    body = {"blanket": "c1", "command": RESTART}
    twice = [
        await people.alice.post("/orders", json=body, headers={"Idempotency-Key": "x"}) for _ in range(2)
    ]
    assert twice[0].json() == twice[1].json()
    order = twice[0].json()
    await respond(people.acme, order, 200)
    await arrived(people.alice, begun, state="done")
    told = {}
    for name in ("alice", "bob", "acme", "rival"):
        async with watching(getattr(people, name), since=begun, lasts_s=0) as stream:
            told[name] = [one.data for one in (await stream.rest())[1:]]
    assert [(one["act"], one["state"]) for one in told["alice"]] == [("added", "asked"), ("changed", "done")]
    assert told["alice"][0]["name"] == "restart:device" and told["bob"] == told["rival"] == []
    of_acme = [(one["subject"], one["id"], one["state"]) for one in told["acme"]]
    assert of_acme == [("command", order["id"], "asked"), ("command", order["id"], "done")]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_response_is_bounded_and_what_it_says_stays_words(people: Estate) -> None:
    order = await placed(people.alice, "c1")
    deep: Any = 1
    for _ in range(20):
        deep = [deep]
    for wrong in (
        {"status": 42},
        {"status": 299},
        {"status": 200, "status_text": "x" * 501},
        {"status": 200, "status_text": "a\x00"},
        {"status": 200, "results": {"deep": deep}},
        {"status": 200, "results": {"long": "x" * 9000}},
        {"status": 200, "results": {"big": 1 << 70}},
    ):
        answer = await people.acme.post(f"/commands/{order['id']}/response", json=wrong)
        problem(answer, 422, "invalid-input")
    raw = b'{"status":200,"results":{"a":"\\ud800"}}'
    kind = {"Content-Type": "application/json"}
    path = f"/commands/{order['id']}/response"
    problem(await people.acme.post(path, content=raw, headers=kind), 422, "invalid-input")
    raw = b'{"status":200,"results":{"a":NaN}}'
    problem(await people.acme.post(path, content=raw, headers=kind), 422, "invalid-input")
    assert await state(people.alice, order) == "asked"
    await respond(people.acme, order, 200, status_text="done\x1b]0;x\x07\nnow")
    found = (await people.alice.get(f"/orders/{order['id']}")).json()
    assert found["response"]["status_text"] == "done ]0;x now"


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_token_that_answers_does_nothing_else(people: Estate) -> None:
    order = await placed(people.alice, "c1")
    own = people.signing["acme"]
    token = attenuate(own.token, Bounds(only=frozenset({Permission.DOMAIN_ANSWER})))
    robot = client(people.api, Signing(own.key, token, people.api.channel), "/southbound/v1")
    assert len((await robot.get("/commands")).json()) == 1
    assert (await respond(robot, order, 200)).status_code == 200
    problem(await robot.put("/domains/edge/orders", json={"takes": []}), 403, "denied")
    problem(await robot.post("/findings", json=[]), 403, "denied")
    await robot.aclose()


# ---------------------------------------------------------------- order-reactions


async def test_another_cloud_orders_only_what_it_is_trusted_with(people: Estate) -> None:
    bob, c1 = people.bob, people.machines["c1"]
    relation = await people.trust("order-reactions", "b", reactions=["restart:device", "contain:device"])
    assert (relation["thing"], relation["reactions"]) == ("c", ["contain:device", "restart:device"])
    order = await placed(bob, c1)
    assert (order["relation"], order["asked_by"], order["blanket"]) == (
        relation["id"],
        people.clouds["b"],
        None,
    )
    await refused(bob, 404, "not-found", blanket="c1")
    said = await refused(bob, 409, "refused", blanket=c1, command=DENY)
    assert said == "that cloud does not let this one order deny:ipv4_net"
    assert "no orders at all" in await refused(bob, 409, "refused", blanket=people.machines["c2"])
    await refused(people.carol, 404, "not-found", blanket=c1)
    for who in (people.alice, bob):
        assert [one["id"] for one in (await who.get("/orders")).json()] == [order["id"]]
    problem(await bob.get(f"/blankets/{c1}"), 404, "not-found")
    (command,) = (await people.acme.get("/commands")).json()
    assert people.clouds["b"] not in json.dumps(command), "its provider learns nothing of trust"
    taken = await placed(bob, c1)
    await respond(people.acme, taken, 102)
    await people.revoke(relation)
    found = (await bob.get(f"/orders/{order['id']}")).json()
    assert found["state"] == "cancelled" and "trust" in found["reason"]
    problem(await respond(people.acme, order, 102), 409, "conflict")
    assert await state(bob, taken) == "taken", "which cannot be taken back"
    assert (await respond(people.acme, taken, 200)).json()["state"] == "done"
    await refused(bob, 404, "not-found", blanket=c1)


async def test_the_owner_cancels_what_another_ordered_for_its_machine(people: Estate) -> None:
    await people.trust("order-reactions", "b", reactions=["restart:device"])
    order = await placed(people.bob, people.machines["c1"])
    assert (await people.alice.post(f"/orders/{order['id']}/cancel")).json()["state"] == "cancelled"
    assert await state(people.bob, order) == "cancelled"


async def test_an_order_by_trust_lasts_no_longer_than_the_trust(people: Estate) -> None:
    relation = await people.trust("order-reactions", "b", reactions=["restart:device"], lasts_s=100)
    order = await placed(people.bob, people.machines["c1"])
    assert order["deadline"] == relation["expires_at"]


async def test_it_is_passed_on_never_wider_and_ends_with_what_it_is_made_from(people: Estate) -> None:
    root = await people.trust(
        "order-reactions", "b", reactions=["restart:device", "contain:device"], delegable=True
    )
    onward = {
        "kind": "order-reactions",
        "cloud": "b",
        "to": people.clouds["k"],
        "of": people.clouds["c"],
        "reactions": ["restart:device", "deny:ipv4_net"],
    }
    said = problem(await people.bob.post("/trust", json=onward), 409, "refused")
    assert said == "what it would be made from does not let deny:ipv4_net"
    granted = await people.bob.post("/trust", json={**onward, "reactions": ["restart:device"]})
    assert granted.status_code == 201, granted.text
    order = await placed(people.carol, people.machines["c1"])
    contain = {"action": "contain", "target": {"device": {}}}
    await refused(people.carol, 409, "refused", blanket=people.machines["c1"], command=contain)
    await people.revoke(root)
    assert await state(people.carol, order) == "cancelled"
    await refused(people.carol, 404, "not-found", blanket=people.machines["c1"])


async def test_what_is_ordered_as_the_trust_ends_is_refused_or_cancelled(people: Estate) -> None:
    body = {"blanket": people.machines["c1"], "command": RESTART}
    passed = 0
    for _ in range(5):
        relation = await people.trust("order-reactions", "b", reactions=["restart:device"])
        asked = [asyncio.ensure_future(people.bob.post("/orders", json=body)) for _ in range(4)]
        await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        answers = await asyncio.gather(*asked, people.alice.post(f"/trust/{relation['id']}/revoke"))
        passed += sum(one.status_code == 201 for one in answers)
        assert {one.status_code for one in answers} <= {200, 201, 404, 409}
        assert (await people.bob.get("/orders", params={"open_only": True})).json() == []
    assert passed >= 5, "one at least each time was quicker"


async def test_a_cloud_that_goes_takes_what_it_ordered_by_trust_with_it(people: Estate) -> None:
    await people.trust("order-reactions", "k", reactions=["restart:device"])
    order = await placed(people.carol, people.machines["c1"])
    assert (await people.carol.delete("/clouds/k")).status_code == 204
    found = (await people.alice.get(f"/orders/{order['id']}")).json()
    assert (found["state"], found["asked_by"]) == ("cancelled", people.clouds["k"]), (
        "who had ordered it stays"
    )


# ---------------------------------------------------------------- the command line


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_the_command_line(people: Estate, tmp_path: Path) -> None:
    api, control = people.api, people.api.bench.control
    operator = await control.principal("operator")
    async with api.bench.parts.store.write() as session:  # what was Alice's and acme's is the operator's
        await session.execute(update(Cloud).where(Cloud.name == "c").values(owner=operator.id))
        await session.execute(update(Provider).values(owner=None))
    api.bench.parts.directory.changed()

    async def made(*words: str) -> Any:
        return (await api.ok(*words, "-o", "json")).json

    assert (
        "takes restart:device, stop:device"
        in (await api.ok("domain", "take", "edge", "stop:device", "restart:device")).out
    )
    assert "nothing goes between" in (await api.ok("order", "kinds")).out
    order = await made("order", "place", "c1", "restart:device", "--within", "10m")
    assert order["state"] == "asked" and order["reaction"] == "restart:device"
    assert "does not take deny:ipv4_net" in await api.wrong(
        "order", "place", "c1", "deny:ipv4_net", "--net", "10.9.0.0/16", status=4
    )
    assert "needs net" in await api.wrong("order", "place", "c1", "deny:ipv4_net", status=2)
    assert "takes no net" in await api.wrong("order", "place", "c1", "stop:device", "--net", "x", status=2)
    assert "is no order" in await api.wrong("order", "place", "c1", "eat:device", status=2)
    listed = await made("domain", "orders", "edge")
    assert [one["command"]["command_id"] for one in listed] == [order["id"]]
    assert "is taken" in (await api.ok("domain", "answer", order["id"], "--status", "102")).out
    assert "no status" in await api.wrong("domain", "answer", order["id"], "--status", "7", status=2)
    said = await api.ok("domain", "answer", order["id"], "--status", "500", "--text", "it hangs")
    assert "is failed" in said.out
    shown = await api.ok("order", "show", order["id"])
    assert "it hangs" in shown.out and "failed" in (await api.ok("order", "ls")).out
    assert "(none)" in (await api.run("order", "ls", "--open")).err
    await api.ok("domain", "take", "edge", "deny:ipv4_connection")
    connection = await made(
        *("order", "place", "c1", "deny:ipv4_connection", "--protocol", "tcp"),
        *("--source", "198.51.100.7", "--to", "10.1.2.3:443", "--lasts", "2h"),
    )
    assert connection["command"]["target"] == {
        "ipv4_connection": {
            "protocol": "tcp",
            "src_addr": "198.51.100.7",
            "dst_addr": "10.1.2.3",
            "dst_port": 443,
        }
    }
    assert "is cancelled" in (await api.ok("order", "cancel", connection["id"])).out
    granted = await made(
        *("trust", "grant", "c", people.clouds["b"], "--kind", "order-reactions"),
        *("--reaction", "restart:device", "--reaction", "stop:device"),
    )
    assert granted["reactions"] == ["restart:device", "stop:device"]
    sees = await made("trust", "grant", "c", people.clouds["b"], "--kind", "see-findings")
    drawn = (await api.ok("trust", "graph")).out
    assert "order-reactions c (restart:device stop:device) → b" in drawn
    assert f"{sees['id']} " in (await api.ok("trust", "ls", "--kind", "see-findings")).out
    assert "takes reactions" in await api.wrong(
        "trust", "grant", "c", people.clouds["b"], "--kind", "order-reactions", status=2
    )
    done: Done = await api.run("order", "cancel", new_id())
    assert done.status == 3
