"""Findings of providers: delivered once, attributed by us, read by whom they concern, whatever they hold."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from api_rig import Signing, problem
from provider_rig import EVENT, Estate, client, estate, event
from sqlalchemy import func, select, update
from stream_rig import arrived, watching

from supercloud.model.findings import (
    Finding,
    Layer,
    Object,
    ObjectKind,
    Severity,
    Source,
)
from supercloud.model.names import new_id
from supercloud.model.permissions import Permission
from supercloud.services import deliveries, findings
from supercloud.services.findings import Said, record
from supercloud.services.requests import CreateCloud
from supercloud.services.store.security import FindingCloud, FindingRow
from supercloud.services.store.tables import Cloud, Provider, Trust
from supercloud.services.store.time import wall
from supercloud.trust.tokens import Bounds, attenuate

pytestmark = pytest.mark.contract


@pytest.fixture
async def people(database_url: str, tmp_path: Path) -> AsyncIterator[Estate]:
    async with estate(database_url, tmp_path) as made:
        yield made


async def kept(people: Estate) -> int:
    async with people.api.bench.parts.store.read() as session:
        return await session.scalar(select(func.count()).select_from(FindingRow)) or 0


# ---------------------------------------------------------------- delivered, and read


async def test_a_finding_about_a_machine_concerns_its_cloud_alone(people: Estate) -> None:
    said = event(machine=people.machines["c1"])
    answer = await people.acme.post("/findings", json=said)
    assert answer.status_code == 201, answer.text
    (one,) = answer.json()
    assert (one["uid"], one["domain"], one["machine"]) == ("e-1", "edge", people.machines["c1"])
    assert (one["severity"], one["rule"]) == ("high", "R17 hidden process")

    (found,) = (await people.alice.get("/findings")).json()
    assert found["id"] == one["id"] and found["title"] == "hidden process on the host"
    assert (found["layer"], found["source"], found["domain"]) == ("L0", "provider", "edge")
    assert (found["object_kind"], found["object_name"]) == ("machine", "c1")
    assert (found["clouds"], found["cloud_ids"]) == (["c"], [people.clouds["c"]])
    assert found["evidence"] == EVENT["evidences"]
    assert abs(found["at"] - said["time"] / 1000) < 0.01 and found["received_at"] <= time.time() + 1
    path = f"/findings/{one['id']}"
    assert (await people.alice.get(path)).json() == found
    assert (await people.alice.get(path, params={"as": "ocsf"})).json() == said, "as it came"
    for who in (people.bob, people.carol):
        assert await people.seen(who) == []
        problem(await who.get(path), 404, "not-found")
        problem(await who.get(path, params={"as": "ocsf"}), 404, "not-found")
    assert [each["id"] for each in (await people.acme.get("/findings")).json()] == [one["id"]]
    assert (await people.acme.get(path)).json() == one
    assert (await people.rival.get("/findings")).json() == []
    problem(await people.rival.get(path), 404, "not-found")


async def test_a_finding_about_a_domain_concerns_every_cloud_with_a_blanket_there(people: Estate) -> None:
    (one,) = await people.deliver(event())
    assert one["machine"] is None
    for who, cloud in ((people.alice, "c"), (people.bob, "b")):
        (found,) = (await who.get("/findings")).json()
        assert (found["object_kind"], found["object_name"]) == ("domain", None)
        assert found["cloud_ids"] == [people.clouds[cloud]], "nobody learns of who else rents there"
    assert await people.seen(people.carol) == []
    by_name = event("e-2", machine="edge")
    (again,) = await people.deliver(by_name)
    assert again["machine"] is None and len(await people.seen(people.bob)) == 2

    blanket = await people.bob.delete("/blankets/b1", params={"force": True})
    await people.api.bench.done(await people.api.bench.control.operation(blanket.json()["id"]))
    (late,) = await people.deliver(event("e-3"))
    assert len(await people.seen(people.bob)) == 2, "what concerned it then does so on, and nothing new"
    assert late["id"] in await people.seen(people.alice)


async def test_what_is_delivered_again_is_there_once(people: Estate) -> None:
    said = event(machine=people.machines["c1"])
    batch = [event("e-2"), event("e-3", machine=people.machines["b1"])]
    (first,) = await people.deliver(said)
    second = await people.deliver(said, *batch, batch[0])
    assert second[0] == first and second[1] == second[3] and await kept(people) == 3
    changed = {**said, "severity_id": 1, "resources": [{"uid": people.machines["b1"]}]}
    assert await people.deliver(changed) == [first], "its uid says that it is the same"
    lost, more = {"Idempotency-Key": "x"}, [said, event("e-4")]
    for _ in range(2):
        answer = await people.acme.post("/findings", json=more, headers=lost)
        assert answer.status_code == 201 and len(answer.json()) == 2
    at_once = await asyncio.gather(*(people.deliver(event("e-5")) for _ in range(5)))
    assert len({one[0]["id"] for one in at_once}) == 1 and await kept(people) == 5
    other = await people.deliver(event("e-1"), by=people.rival)
    assert other[0]["id"] != first["id"], "ids are their domain's own"


async def test_whose_it_is_is_not_for_the_event_to_say(people: Estate) -> None:
    """Another domain's machine is no more there than one that never was."""
    unknown = new_id()
    answers = []
    for machine in (people.machines["c2"], unknown):
        answer = await people.acme.post("/findings", json=[event(), event("e-2", machine=machine)])
        answers.append(problem(answer, 404, "not-found").replace(machine, "?"))
    assert answers[0] == answers[1] == "event 1: there is no machine ? in domain edge"
    assert await kept(people) == 0, "all of a delivery or nothing"
    forged = event(cloud={"account": {"uid": people.clouds["k"]}}, domain="far", provider="far")
    await people.deliver(forged)
    (found,) = (await people.alice.get("/findings")).json()
    assert (found["domain"], found["layer"]) == ("edge", "L0")
    assert await people.seen(people.carol) == []
    problem(await people.acme.post("/findings", json=event(), params={"domain": "far"}), 404, "not-found")
    assert (await people.acme.post("/domains", json={"name": "e2", "kind": "simulated"})).status_code == 201
    said = problem(await people.acme.post("/findings", json=event("e-9")), 422, "invalid-input")
    assert "several domains" in said
    answer = await people.acme.post("/findings", json=event("e-9"), params={"domain": "e2"})
    assert answer.status_code == 201 and answer.json()[0]["domain"] == "e2"
    shown = (await people.acme.get("/findings", params={"domain": "e2"})).json()
    assert [one["uid"] for one in shown] == ["e-9"]


async def test_lists_are_filtered_and_come_in_parts(people: Estate) -> None:
    c1 = people.machines["c1"]
    ids = []
    for number, severity in enumerate((1, 3, 4, 5, 99)):
        (one,) = await people.deliver(event(f"s-{number}", machine=c1, severity_id=severity))
        ids.append(one["id"])
    (far,) = await people.deliver(event("x"), by=people.rival)
    assert await people.seen(people.alice) == [*ids, far["id"]]
    assert await people.seen(people.alice, severity="high") == [*ids[2:4], far["id"]]
    assert await people.seen(people.alice, domain="edge") == ids
    assert await people.seen(people.alice, layer="L1") == []
    (last,) = (await people.alice.get("/findings", params={"limit": 1})).json()
    assert await people.seen(people.alice, since=last["received_at"]) == [far["id"]]
    assert await people.seen(people.alice, cloud="c") == [*ids, far["id"]]
    problem(await people.alice.get("/findings", params={"cloud": people.clouds["b"]}), 404, "not-found")
    problem(await people.alice.get("/findings", params={"severity": "loud"}), 422, "invalid-input")
    part = await people.alice.get("/findings", params={"limit": 4})
    rest = await people.alice.get(part.links["next"]["url"].removeprefix("/v1"))
    assert [one["id"] for one in [*part.json(), *rest.json()]] == [far["id"], *reversed(ids)]


async def test_it_is_told_as_it_comes_and_to_whom_it_concerns(people: Estate) -> None:
    begun = str(people.api.bench.parts.feed.now)
    (wide,) = await people.deliver(event())
    (one,) = await people.deliver(event("e-2", machine=people.machines["b1"]))
    await arrived(people.bob, begun, id=one["id"])
    told = {}
    for name in ("alice", "bob", "carol", "acme", "rival"):
        async with watching(getattr(people, name), since=begun, lasts_s=0) as stream:
            told[name] = [said.data for said in (await stream.rest())[1:]]
    assert [each["id"] for each in told["alice"]] == [wide["id"]]
    assert [each["id"] for each in told["bob"]] == [wide["id"], one["id"]]
    assert told["bob"][0]["cloud"] == people.clouds["b"] and told["bob"][0]["kind"] == "finding"
    assert (
        told["bob"][1]["data"]["severity"] == "high"
        and told["bob"][1]["name"] == EVENT["finding_info"]["title"]
    )
    assert told["carol"] == told["rival"] == []
    of_acme = [(each["subject"], each["id"], each["act"]) for each in told["acme"]]
    assert of_acme == [("finding", wide["id"], "added"), ("finding", one["id"], "added")], "once each"
    assert people.clouds["c"] not in json.dumps(told["acme"])


async def test_what_an_agent_will_say_is_read_in_the_same_way_and_is_not_its_providers(
    people: Estate,
) -> None:
    """The way in for layers above the platform: a finding, and who says so."""
    store = people.api.bench.parts.store
    begun = str(people.api.bench.parts.feed.now)
    async with store.read() as session:
        domain = (
            await session.scalar(select(FindingRow.domain).limit(1))
            or (await people.acme.get("/domains/edge")).json()["id"]
        )
    finding = Finding(
        id=new_id(),
        layer=Layer.L1,
        domain=domain,
        cloud=people.clouds["c"],
        object=Object(kind=ObjectKind.MACHINE, id=people.machines["c1"]),
        severity=Severity.CRITICAL,
        title="a clone was seen",
        rule=None,
        at=time.time(),
        received_at=time.time(),
    )
    async with store.write() as session:
        await record(session, finding, Said(source=Source.AGENT, uid="a-1", event={}))
    (found,) = (await people.alice.get("/findings", params={"layer": "L1"})).json()
    assert (found["id"], found["source"], found["severity"]) == (finding.id, "agent", "critical")
    assert (await people.acme.get("/findings")).json() == []
    problem(await people.acme.get(f"/findings/{finding.id}"), 404, "not-found")
    await arrived(people.alice, begun, id=finding.id)
    async with watching(people.acme, since=begun, lasts_s=0) as stream:
        assert (await stream.rest())[1:] == []
    async with watching(people.alice, since=begun, lasts_s=0) as stream:
        assert [one.data["id"] for one in (await stream.rest())[1:]] == [finding.id]


# ---------------------------------------------------------------- hostile, and too much

_LONG = "x" * 300
_WRONG: dict[str, dict[str, Any]] = {
    "another class": {"class_uid": 2001},
    "another category": {"category_uid": 1},
    "a type that is not its class's": {"type_uid": 200499},
    "a severity that OCSF has not": {"severity_id": 7},
    "an activity that OCSF has not": {"activity_id": 4, "type_uid": 200404},
    "a time that is a text": {"time": "now"},
    "a time that is not whole": {"time": 1e12},
    "a time in seconds, so that it is old": {"time": 1_790_000_000},
    "a time to come": {"time": int((time.time() + 86400) * 1000)},
    "a time of another age": {"time": 0},
    "a time below zero": {"time": -1},
    "a time beyond all": {"time": 10**30},
    "no uid": {"metadata": {"version": "1.3.0", "product": {}}},
    "an empty uid": {"metadata": {"uid": "", "version": "1.3.0", "product": {}}},
    "a version of another age": {"metadata": {"uid": "x", "version": "2.0.0", "product": {}}},
    "no title": {"finding_info": {"uid": "x"}},
    "a title of nothing": {"finding_info": {"uid": "x", "title": " \x1b\n\t "}},
    "a title that is long": {"finding_info": {"uid": "x", "title": _LONG}},
    "a title that is a number": {"finding_info": {"uid": "x", "title": 7}},
    "two machines": {"resources": [{"uid": "a"}, {"uid": "b"}]},
    "evidence that is no list": {"evidences": {"a": 1}},
    "much evidence": {"evidences": [{}] * 33},
    "a NUL": {"unmapped": {"a": "b\x00c"}},
    "a NUL in a key": {"unmapped": {"a\x00": 1}},
    "a number that no program reads": {"unmapped": {"n": 1 << 64}},
    "many values": {"unmapped": {"l": [0] * 2001}},
    "many bytes": {"unmapped": {"t": "é" * 6000}},
}


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_what_is_no_event_is_refused_and_says_why(people: Estate) -> None:
    deep: Any = 1
    for _ in range(20):
        deep = [deep]
    every = {**_WRONG, "a deep value": {"unmapped": deep}}
    for what, change in every.items():
        said = problem(await people.acme.post("/findings", json=event(**change)), 422, "invalid-input")
        assert said, what
    raws = {
        "a very deep one": b'{"unmapped":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
        "NaN": json.dumps(event()).replace("2.5", "NaN").encode(),
        "infinity": json.dumps(event()).replace("2.5", "1e999").encode(),
        "half a surrogate pair": json.dumps(event()).replace("\\u00e9", "\\ud800").encode(),
        "half of one in a title": json.dumps(event()).replace("hidden process on", "\\udfff").encode(),
        "bytes that are no UTF-8": json.dumps(event()).replace("kworker", "k").encode() + b"\xff\xfe",
        "a number of a million digits": b'{"time":' + b"9" * 900_000 + b"}",
        "no JSON": b"hello",
        "nothing": b"[]",
        "a null": b"null",
        "more than there may be": json.dumps([event(f"{n}") for n in range(101)]).encode(),
    }
    for what, raw in raws.items():
        answer = await people.acme.post(
            "/findings", content=raw, headers={"Content-Type": "application/json"}
        )
        assert answer.status_code in {400, 413, 422}, (what, answer.text)
        assert answer.headers["content-type"] == "application/problem+json", what
    assert await kept(people) == 0
    assert (await people.acme.post("/findings", content=b"x" * (1 << 21))).status_code == 413
    await people.deliver(event())


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_words_of_a_detector_stay_words(people: Estate) -> None:
    title = "\x1b[2J\x1b]0;owned\x07<script>alert(1)</script>\r\nnext \u202egnp.exe\u2028 line"
    rule = "\x1b[31mred\x9b"
    info = {"uid": "x", "title": title, "analytic": {"name": rule}}
    odd = {"finding_info": info, "evidences": [{"\x1b[2Jkey": {"\x9b": "\x1b[H"}}]}
    await people.deliver(event(machine=people.machines["c1"], **odd))
    (found,) = (await people.alice.get("/findings")).json()
    for text in (found["title"], found["rule"]):
        assert not any(char in text for char in "\x1b\x07\x9b\r\n\u2028"), text
    assert "<script>" in found["title"], "text is text: who shows it in a page escapes it there"
    api, control = people.api, people.api.bench.control
    await control.create_cloud(CreateCloud(name="mine"))  # nobody's, so the operator's
    (wide,) = await people.deliver(event("w", machine=people.machines["c1"], **odd))
    async with api.bench.parts.store.write() as session:
        mine = (await control.cloud("mine")).id
        session.add(FindingCloud(cloud=mine, finding=wide["id"]))
        await session.execute(update(FindingRow).values(title=title, rule=rule))
    for command in (("finding", "ls"), ("finding", "show", wide["id"])):
        said = await api.ok(*command)
        assert "script" in said.out
        assert all(char.isprintable() or char == "\n" for char in said.out), command
    await api.ok("finding", "show", wide["id"], "--ocsf")


async def test_a_flood_is_bounded_and_pushes_out_its_own_only(
    people: Estate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliveries, "PER_MINUTE", 10)
    monkeypatch.setattr(deliveries, "WIDE_PER_HOUR", 3)
    monkeypatch.setattr(findings, "KEPT", 6)
    c1 = people.machines["c1"]
    await people.deliver(event("rival"), by=people.rival)
    await people.deliver(*(event(f"w-{n}") for n in range(3)))
    said = problem(await people.acme.post("/findings", json=event("w-3")), 429, "too-often")
    assert "within an hour" in said
    begun = str(people.api.bench.parts.feed.now)
    await people.deliver(*(event(f"m-{n}", machine=c1) for n in range(5)))
    shown = [one["uid"] for one in (await people.acme.get("/findings")).json()]
    assert len(shown) == 6 and {one for one in shown if one[0] == "m"} == {f"m-{n}" for n in range(5)}
    await arrived(people.alice, begun, act="removed")
    async with watching(people.alice, since=begun, lasts_s=0) as stream:
        told = [one.data["act"] for one in (await stream.rest())[1:]]
    assert told.count("removed") == 2 and told.count("added") == 5, "what is dropped is told"
    refused = await people.acme.post("/findings", json=[event(f"n-{n}", machine=c1) for n in range(5)])
    assert "within a minute" in problem(refused, 429, "too-often")
    await people.deliver(*(event(f"m-{n}", machine=c1) for n in range(5)))  # repeats are not counted
    await people.deliver(event("rival-2"), by=people.rival)
    async with people.api.bench.parts.store.write() as session:  # a minute later
        await session.execute(update(FindingRow).values(received_at=FindingRow.received_at - 61))
    await people.deliver(event("n-0", machine=c1))
    async with people.api.bench.parts.store.read() as session:
        links = await session.scalar(select(func.count()).select_from(FindingCloud))
        dangling = await session.scalar(
            select(func.count()).where(FindingCloud.finding.not_in(select(FindingRow.id)))
        )
    assert links and not dangling


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_sensors_token_delivers_and_does_nothing_else(people: Estate) -> None:
    own = people.signing["acme"]
    token = attenuate(own.token, Bounds(only=frozenset({Permission.DOMAIN_REPORT})))
    sensor = client(people.api, Signing(own.key, token, people.api.channel), "/southbound/v1")
    await people.deliver(event(), by=sensor)
    for path in ("/domains/edge/drain", "/domains/edge/undrain"):
        problem(await sensor.post(path), 403, "denied")
    problem(await sensor.put("/domains/edge/orders", json={"takes": []}), 403, "denied")
    token = attenuate(own.token, Bounds(only=frozenset({Permission.DOMAIN_WRITE})))
    driver = client(people.api, Signing(own.key, token, people.api.channel), "/southbound/v1")
    problem(await driver.post("/findings", json=event()), 403, "denied")
    for one in (sensor, driver):
        await one.aclose()


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_the_command_line(people: Estate, tmp_path: Path) -> None:
    api = people.api
    operator = await api.bench.control.principal("operator")
    async with api.bench.parts.store.write() as session:  # what was Alice's and acme's is the operator's
        await session.execute(update(Cloud).where(Cloud.name == "c").values(owner=operator.id))
        await session.execute(update(Provider).values(owner=None))
    api.bench.parts.directory.changed()
    c1 = people.machines["c1"]
    array, lines, one = (tmp_path / name for name in ("array.json", "lines.ndjson", "one.json"))
    array.write_text(json.dumps([event(f"a-{n}", machine=c1, severity_id=2) for n in range(45)]))
    lines.write_text("\n".join(json.dumps(event(f"l-{n}")) for n in range(2)) + "\n\n")
    one.write_text(json.dumps(event("o"), indent=2))
    report = ("domain", "report", "--domain", "edge")
    assert "several domains" in await api.wrong(*report[:2], str(one), status=2)
    for file, many in ((array, 45), (lines, 2), (one, 1), (one, 1)):
        assert f"{many} findings are there" in (await api.ok(*report, str(file))).out
    piped = await (await api.start(*report, "-", "-o", "json")).done(json.dumps(event("p")).encode())
    assert (piped.status, [each["uid"] for each in piped.json]) == (0, ["p"])
    listed = (await api.ok("domain", "findings", "edge", "-o", "json")).json
    assert len(listed) == 49 and listed[0]["uid"] == "p"
    (tmp_path / "bad").write_text('{"a": 1}\n{"a"')
    assert "line 2" in await api.wrong(*report, str(tmp_path / "bad"), status=2)
    (tmp_path / "bad").write_text("[1]")
    assert "event 0 is no JSON object" in await api.wrong(*report, str(tmp_path / "bad"), status=2)
    (tmp_path / "bad").write_text('{"a": 1}')
    assert "class_uid" in await api.wrong(*report, str(tmp_path / "bad"), status=2)

    high = (await api.ok("finding", "ls", "--severity", "high", "--since", "1h", "-o", "json")).json
    assert len(high) == 4 and {each["severity"] for each in high} == {"high"}
    assert len((await api.ok("finding", "ls", "--cloud", "c", "--layer", "L0", "-o", "json")).json) == 49
    table = (await api.ok("finding", "ls", "--provider", "edge")).out
    assert "hidden process on the host" in table and "c1" in table
    assert "R17 hidden process" in (await api.ok("finding", "show", high[0]["id"])).out
    came = (await api.ok("finding", "show", high[0]["id"], "--ocsf")).json
    assert came["unmapped"] == EVENT["unmapped"] and came["metadata"]["uid"] == "p"
    await api.wrong("finding", "show", new_id(), status=3)


# ---------------------------------------------------------------- see-findings


async def test_another_cloud_reads_them_only_while_it_is_trusted_with_them(people: Estate) -> None:
    bob, c = people.bob, people.clouds["c"]
    (one,) = await people.deliver(event(machine=people.machines["c1"]))
    (wide,) = await people.deliver(event("w"))
    assert await people.seen(bob) == [wide["id"]]
    problem(await bob.get("/findings", params={"cloud": c}), 404, "not-found")
    relation = await people.trust("see-findings", "b")
    assert (relation["thing"], relation["of_id"]) == ("c", c)
    assert (relation["digest"], relation["needs_approval"]) == (None, False)
    assert await people.seen(bob) == [one["id"], wide["id"]]
    assert await people.seen(bob, cloud=c) == [one["id"], wide["id"]]
    found = (await bob.get(f"/findings/{one['id']}")).json()
    assert found["object"] == people.machines["c1"] and found["object_name"] is None, "Alice's word for it"
    assert (await bob.get(f"/findings/{one['id']}", params={"as": "ocsf"})).status_code == 200
    shown = (await bob.get(f"/findings/{wide['id']}")).json()["cloud_ids"]
    assert sorted(shown) == sorted([people.clouds["b"], c])
    assert await people.seen(people.carol) == [], "it is Bob's cloud that is trusted"
    problem(await bob.get("/blankets/" + people.machines["c1"]), 404, "not-found")
    await people.revoke(relation)
    assert await people.seen(bob) == [wide["id"]]
    problem(await bob.get(f"/findings/{one['id']}"), 404, "not-found")

    ends = await people.trust("see-findings", "b", lasts_s=3600)
    assert await people.seen(bob) == [one["id"], wide["id"]]
    async with people.api.bench.parts.store.write() as session:
        past = (await wall(session)) - 1
        await session.execute(update(Trust).where(Trust.id == ends["id"]).values(expires_at=past))
    assert await people.seen(bob) == [wide["id"]], "it ends by itself, too"


async def test_a_stream_tells_them_only_while_it_is_trusted_with_them(people: Estate) -> None:
    """One that is open all the time: from the moment on that trust is granted, until the one that it ends."""
    c1 = people.machines["c1"]
    async with watching(people.bob, kind=["finding", "trust"]) as stream:
        assert (await stream.next()).name == "ready"
        await people.deliver(event("before", machine=c1))
        relation = await people.trust("see-findings", "b")
        (during,) = await people.deliver(event("during", machine=c1))
        await people.revoke(relation)
        await people.deliver(event("after", machine=c1))
        (last,) = await people.deliver(event("last", machine=people.machines["b1"]))
        told = [await stream.next() for _ in range(4)]
        acts = [(one.data["kind"], one.data["act"], one.data["id"]) for one in told]
    assert acts == [
        ("trust", "added", relation["id"]),
        ("finding", "added", during["id"]),
        ("trust", "changed", relation["id"]),
        ("finding", "added", last["id"]),
    ]


async def test_it_is_passed_on_and_ends_with_what_it_is_made_from(people: Estate) -> None:
    (one,) = await people.deliver(event(machine=people.machines["c1"]))
    onward = {"kind": "see-findings", "cloud": "b", "to": people.clouds["k"], "of": people.clouds["c"]}
    said = problem(await people.bob.post("/trust", json=onward), 409, "refused")
    assert "passed on" in said
    root = await people.trust("see-findings", "b", delegable=True)
    granted = await people.bob.post("/trust", json=onward)
    assert granted.status_code == 201, granted.text
    child = granted.json()
    assert (child["depth"], child["parent"], child["of_id"]) == (2, root["id"], people.clouds["c"])
    assert await people.seen(people.carol) == [one["id"]]
    own = await people.trust("see-findings", "k", by=people.bob, cloud="b")
    await people.revoke(root)
    assert await people.seen(people.carol) == []
    (wide,) = await people.deliver(event("w"))
    assert await people.seen(people.carol) == [wide["id"]], "of Bob's own"
    assert (await people.carol.get(f"/findings/{wide['id']}")).json()["cloud_ids"] == [people.clouds["b"]]
    for wrong in (
        {"image": "debian"},
        {"reactions": ["restart:device"]},
        {"to": people.clouds["b"], "of": None},
        {"kind": "order-reactions"},
        {"kind": "share-image"},
        {"kind": "share-image", "of": people.clouds["c"], "image": "x"},
    ):
        body = {key: value for key, value in {**onward, **wrong}.items() if value is not None}
        assert (await people.bob.post("/trust", json=body)).status_code == 422, wrong
    assert own["state"] == "active"
