"""Privileged acts where nothing enforces a consent: asked for by a provider, seen and answered by a user."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from api_rig import problem
from provider_rig import Estate, estate
from sqlalchemy import update
from stream_rig import arrived, watching

from supercloud.model.acts import NO_ARGUMENTS
from supercloud.model.names import new_id
from supercloud.services import acts
from supercloud.services.store.security import ActRow
from supercloud.services.store.tables import Cloud, Provider
from supercloud.services.store.time import wall
from supercloud.trust.keys import to_text

pytestmark = pytest.mark.contract
ARGUMENTS = "sha256:" + "a" * 64


@pytest.fixture
async def people(database_url: str, tmp_path: Path) -> AsyncIterator[Estate]:
    async with estate(database_url, tmp_path) as made:
        yield made


def body(people: Estate, machine: str = "c1", **more: Any) -> dict[str, Any]:
    now = int(time.time())
    return {
        "operation": "dump",
        "machine": people.machines[machine],
        "arguments": ARGUMENTS,
        "purpose": "it crashes at night",
        "not_before": now,
        "expires_at": now + 3600,
        **more,
    }


async def asked(people: Estate, machine: str = "c1", **more: Any) -> dict[str, Any]:
    answer = await people.acme.post("/acts", json=body(people, machine, **more))
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_an_act_is_one_exact_statement_that_its_user_sees_and_refuses(people: Estate) -> None:
    wanted = body(people)
    act = (await people.acme.post("/acts", json=wanted)).json()
    statement = act["statement"]
    assert statement == {
        "operation": "dump",
        "object": people.machines["c1"],
        "arguments": ARGUMENTS,
        "requester": (await people.acme.get("/domains/edge")).json()["id"],
        "purpose": "it crashes at night",
        "not_before": wanted["not_before"],
        "expires_at": wanted["expires_at"],
        "nonce": statement["nonce"],
        "epoch": None,
        "page": None,
        "pages": None,
    }
    other = await asked(people)
    assert len(statement["nonce"]) == 32 and other["statement"]["nonce"] != statement["nonce"]
    assert people.clouds["c"] not in json.dumps([act, other])

    shown = (await people.alice.get(f"/acts/{act['id']}")).json()
    assert (shown["statement"], shown["state"]) == (statement, "asked")
    assert (shown["domain"], shown["blanket"], shown["cloud"]) == ("edge", "c1", "c")
    for who in (people.bob, people.carol):
        assert (await who.get("/acts")).json() == []
        problem(await who.get(f"/acts/{act['id']}"), 404, "not-found")
        for verb, said in (("refuse", None), ("grant", {}), ("challenge", {"nonce": "0" * 64})):
            problem(await who.post(f"/acts/{act['id']}/{verb}", json=said), 404, "not-found")
        problem(await who.get(f"/acts/{act['id']}/export"), 404, "not-found")
    problem(await people.rival.get(f"/acts/{act['id']}"), 404, "not-found")
    for verb in ("withdraw", "perform"):
        problem(await people.rival.post(f"/acts/{act['id']}/{verb}"), 404, "not-found")
    problem(await people.rival.get(f"/acts/{act['id']}/export"), 404, "not-found")
    for _ in range(2):
        refused = await people.alice.post(f"/acts/{act['id']}/refuse")
        assert refused.status_code == 200 and refused.json()["state"] == "refused"
    assert (await people.acme.get(f"/acts/{act['id']}")).json()["state"] == "refused", "its provider sees it"
    said = problem(await people.acme.post(f"/acts/{act['id']}/withdraw"), 409, "conflict")
    assert said == "the act is refused"
    states = {"asked": other["id"], "refused": act["id"]}
    for state, identity in states.items():
        for who in (people.alice, people.acme):
            found = (await who.get("/acts", params={"state": state})).json()
            assert [one["id"] for one in found] == [identity]


async def test_a_grant_is_a_word_and_says_so(people: Estate) -> None:
    act = await asked(people)
    where = f"/acts/{act['id']}"
    assert act["enforced"] is False
    said = problem(await people.alice.post(f"{where}/challenge", json={"nonce": "0" * 64}), 409, "refused")
    assert said.startswith("this is procedural only: whoever administers that platform reads the machine")
    signed = {"consent": to_text(bytes(248))}
    problem(await people.alice.post(f"{where}/grant", json=signed), 422, "invalid-input")
    granted = await people.alice.post(f"{where}/grant", json={})
    assert (granted.status_code, granted.json()["state"]) == (200, "granted")
    again = await people.alice.post(f"{where}/grant", json={})
    assert again.json()["state"] == "granted", "the same again is harmless"
    assert (await people.acme.get(where)).json()["state"] == "granted", "its provider sees it"
    said = problem(await people.acme.post(f"{where}/perform"), 409, "refused")
    assert said.startswith("this is procedural only")
    for who in (people.alice, people.acme):
        problem(await who.get(f"{where}/export"), 404, "not-found")
        assert (await who.get(where)).json()["state"] == "granted"
    taken_back = await people.alice.post(f"{where}/refuse")
    assert taken_back.json()["state"] == "refused", "a word is taken back"
    assert (await people.alice.get("/findings")).json() == []


async def test_pages_are_a_first_one_and_how_many_of_an_act_on_memory(people: Estate) -> None:
    for wrong in (
        {"page": 1},
        {"pages": 1},
        {"page": 0, "pages": 65},
        {"page": -1, "pages": 1},
        {"page": (1 << 36) - 1, "pages": 2},
        {"page": 1, "pages": 1, "operation": "console"},
        {"page": 1, "pages": 1, "arguments": ARGUMENTS},
    ):
        of_nothing = {"arguments": NO_ARGUMENTS}
        problem(
            await people.acme.post("/acts", json=body(people, **of_nothing | wrong)), 422, "invalid-input"
        )
    act = await asked(people, page=16, pages=64, arguments=NO_ARGUMENTS)
    assert (act["statement"]["page"], act["statement"]["pages"], act["enforced"]) == (16, 64, False)


async def test_it_is_withdrawn_or_expires_and_goes_with_its_machine(people: Estate) -> None:
    first, second, third = [await asked(people) for _ in range(3)]
    for _ in range(2):
        ended = await people.acme.post(f"/acts/{first['id']}/withdraw")
        assert ended.status_code == 200 and ended.json()["state"] == "withdrawn"
    problem(await people.alice.post(f"/acts/{first['id']}/refuse"), 409, "conflict")
    async with watching(people.alice, kind="act") as stream:
        await stream.next()
        async with people.api.bench.parts.store.write() as session:
            past = (await wall(session)) - 1
            await session.execute(update(ActRow).where(ActRow.id == second["id"]).values(deadline=past))
        await stream.change(id=second["id"], state="expired")
    problem(await people.alice.post(f"/acts/{second['id']}/refuse"), 409, "conflict")
    view = await people.alice.delete("/blankets/c1", params={"force": True})
    await people.api.bench.done(await people.api.bench.control.operation(view.json()["id"]))
    found = (await people.alice.get(f"/acts/{third['id']}")).json()
    assert (found["state"], found["blanket"]) == ("expired", None)


async def test_a_provider_asks_of_its_own_machines_what_could_hold(people: Estate) -> None:
    now = int(time.time())
    unknown = new_id()
    said = []
    for machine in (people.machines["c2"], unknown):
        answer = await people.acme.post("/acts", json=body(people, machine="c1") | {"machine": machine})
        said.append(problem(answer, 404, "not-found").replace(machine, "?"))
    assert said[0] == said[1]
    for wrong in (
        {"operation": "look"},
        {"arguments": "sha256:1"},
        {"purpose": ""},
        {"purpose": " \n\x1b "},
        {"purpose": "x" * 501},
        {"purpose": "a\x00"},
        {"expires_at": now - 10},
        {"expires_at": now + 30 * 86400},
        {"not_before": now + 90 * 86400, "expires_at": now + 91 * 86400},
        {"not_before": now - 4000, "expires_at": now + 60},
        {"expires_at": 1.5},
    ):
        problem(await people.acme.post("/acts", json=body(people, **wrong)), 422, "invalid-input")
    raw = json.dumps(body(people, purpose="é")).replace("\\u00e9", "\\ud800").encode()
    answer = await people.acme.post("/acts", content=raw, headers={"Content-Type": "application/json"})
    problem(answer, 422, "invalid-input")
    assert (await people.acme.get("/acts")).json() == []
    act = await asked(people, purpose="a\x1b[2J\nb")
    assert act["statement"]["purpose"] == "a [2J b"


async def test_so_many_and_no_more_though_all_ask_at_once(
    people: Estate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acts, "OPEN_OF_MACHINE", 2)
    monkeypatch.setattr(acts, "OPEN_OF_DOMAIN", 3)
    monkeypatch.setattr(acts, "KEPT", 1)
    wanted = [body(people) for _ in range(5)]
    answers = await asyncio.gather(*(people.acme.post("/acts", json=one) for one in wanted))
    made = [one.json() for one in answers if one.status_code == 201]
    assert len(made) == 2 and all(one.status_code in {201, 507} for one in answers)
    await asked(people, "b1")
    problem(await people.acme.post("/acts", json=body(people, "b1")), 507, "exhausted")
    for one in made:
        await people.acme.post(f"/acts/{one['id']}/withdraw")
    await asked(people)
    found = (await people.acme.get("/acts")).json()
    assert [one["state"] for one in found].count("withdrawn") == 1, "of ended ones so many are kept"


async def test_asked_again_it_is_asked_once_and_each_is_told_what_is_its_own(people: Estate) -> None:
    begun = str(people.api.bench.parts.feed.now)
    wanted = body(people)
    twice = [await people.acme.post("/acts", json=wanted, headers={"Idempotency-Key": "x"}) for _ in range(2)]
    assert twice[0].json() == twice[1].json()
    act = twice[0].json()
    seen = (await people.alice.get(f"/acts/{act['id']}")).headers["ETag"]
    await people.acme.post(f"/acts/{act['id']}/withdraw")
    late = await people.alice.post(f"/acts/{act['id']}/refuse", headers={"If-Match": seen})
    problem(late, 412, "precondition-failed")
    await arrived(people.alice, begun, state="withdrawn")
    told = {}
    for name in ("alice", "bob", "acme", "rival"):
        async with watching(getattr(people, name), since=begun, lasts_s=0) as stream:
            told[name] = [one.data for one in (await stream.rest())[1:]]
    assert [(one["kind"], one["state"]) for one in told["alice"]] == [("act", "asked"), ("act", "withdrawn")]
    assert told["alice"][0]["name"] == "dump" and told["bob"] == told["rival"] == []
    assert [(one["subject"], one["state"]) for one in told["acme"]] == [
        ("act", "asked"),
        ("act", "withdrawn"),
    ]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_the_command_line(people: Estate, tmp_path: Path) -> None:
    api, control = people.api, people.api.bench.control
    operator = await control.principal("operator")
    async with api.bench.parts.store.write() as session:  # what was Alice's and acme's is the operator's
        await session.execute(update(Cloud).where(Cloud.name == "c").values(owner=operator.id))
        await session.execute(update(Provider).values(owner=None))
    api.bench.parts.directory.changed()
    ask = ("domain", "ask", people.machines["c1"], "read-disk", "--arguments", ARGUMENTS)
    act = (await api.ok(*ask, "--purpose", "a crash", "--until", "2h", "-o", "json")).json
    assert act["statement"]["operation"] == "read-disk"
    said = (await api.ok(*ask, "--purpose", "again", "--until", "2h")).out
    assert "grants it by a word: procedural only" in said
    listed = (await api.ok("act", "ls", "--state", "asked")).out
    assert "read-disk" in listed and "a crash" in listed and "c1" in listed
    assert act["statement"]["nonce"] in (await api.ok("act", "show", act["id"])).out
    said = (await api.ok("act", "grant", act["id"])).out
    assert "is granted: procedural only, since nothing below its provider enforces it" in said
    assert "procedural only" in await api.wrong("domain", "perform", act["id"], status=4)
    assert "is refused" in (await api.ok("act", "refuse", act["id"])).out
    assert "refused" in (await api.ok("domain", "acts", "edge")).out
    assert "is refused" in await api.wrong("domain", "withdraw", act["id"], status=4)
    assert len((await api.ok("act", "ls", "-o", "json")).json) == 2
