"""Privileged acts where a monitor below the platform enforces the user's consent: from asking to opening."""

from __future__ import annotations

import asyncio
import base64
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from api_rig import problem
from consent_rig import Consenting, EnforcingPlatform, partition
from provider_rig import estate
from pydantic import TypeAdapter
from sqlalchemy import update

from supercloud.client import Place
from supercloud.keystore.acts import opened
from supercloud.keystore.server import listening
from supercloud.model.acts import Operation
from supercloud.model.errors import Denied, Failed, Refused, Unavailable
from supercloud.model.ocsf import DetectionFinding
from supercloud.services.store.security import ActRow
from supercloud.services.store.tables import Cloud, Provider

pytestmark = pytest.mark.contract


@pytest.fixture
async def site(database_url: str, tmp_path: Path) -> AsyncIterator[Consenting]:
    async with estate(database_url, tmp_path, EnforcingPlatform) as made:
        yield Consenting(made)


async def test_a_consented_act_gives_pages_that_its_owner_alone_opens(site: Consenting) -> None:
    people = site.people
    act = await site.asked()
    where = f"/acts/{act['id']}"
    assert (act["enforced"], act["state"]) == (True, "asked")
    assert (await people.alice.get(where)).json()["enforced"] is True
    granted = await site.granted(act["id"])
    assert (granted["state"], granted["statement"]["epoch"]) == ("granted", 1)
    problem(await people.alice.get(f"{where}/export"), 404, "not-found")
    done = await site.perform(act["id"])
    assert (done.status_code, done.json()["state"]) == (200, "done")
    exports = [(await who.get(f"{where}/export")).json() for who in (people.alice, people.acme)]
    assert exports[0] == exports[1]
    name = partition(people.machines["c1"])
    clear = await opened(site.keys, exports[0])
    assert clear[:4096].rstrip(b".").decode() == f"page 3 of {name}, launch 1"
    assert clear[4096:].rstrip(b".").decode() == f"page 4 of {name}, launch 1"
    for page in exports[0]["pages"]:
        assert b"launch 1" not in base64.b64decode(page["sealed"])
    problem(await site.perform(act["id"]), 409, "conflict")
    assert len(site.platform.presented) == 1, "once"
    changed = {**exports[0], "pages": exports[0]["pages"][::-1]}
    with pytest.raises(Failed, match="out of order"):
        await opened(site.keys, changed)
    for who in (people.bob, people.rival):
        problem(await who.get(f"{where}/export"), 404, "not-found")
    assert (await people.alice.get("/findings")).json() == []


async def test_without_consent_the_monitor_refuses_and_its_user_is_told(site: Consenting) -> None:
    people = site.people
    act = await site.asked()
    for _ in range(2):
        said = problem(await site.perform(act["id"]), 409, "refused")
        assert "is no consent" in said
    assert await site.state(act["id"]) == "asked"
    (found,) = (await people.alice.get("/findings")).json()
    assert (found["layer"], found["source"], found["object"]) == ("L0", "monitor", people.machines["c1"])
    assert (found["severity"], found["domain"]) == ("high", "edge")
    assert found["evidence"][0]["refused"] == said
    event = (await people.alice.get(f"/findings/{found['id']}", params={"as": "ocsf"})).json()
    assert TypeAdapter(DetectionFinding).validate_python(event).machine == people.machines["c1"]
    assert (await people.acme.get("/findings")).json() == [], "what a provider delivered is not this"
    for who in (people.bob, people.carol):
        assert (await who.get("/findings")).json() == []


async def test_a_consent_to_something_else_is_not_taken(site: Consenting) -> None:
    act, other = await site.asked(), await site.asked("b1")
    for changed in (
        {"page": 4},
        {"pages": 3},
        {"purpose": "another"},
        {"requester": other["id"]},
    ):
        problem(
            await site.grant(act["id"], (await site.signed(act["id"], **changed)).consent),
            422,
            "invalid-input",
        )
    with pytest.raises(Denied, match="not launched with this cloud's consent key"):
        await site.signed(act["id"], cloud=site.people.clouds["b"])
    for changed, why in (
        ({"launch": 2}, "another launch"),
        ({"nonce": os.urandom(32).hex()}, "not signed by the key"),
        ({"partition": "m-other"}, "not signed by the key"),
        ({"expires_at": int(time.time()) - 1}, "over"),
    ):
        with pytest.raises((Denied, Failed, Exception), match=why):
            await site.signed(act["id"], **changed)
    good = base64.b64decode((await site.signed(act["id"])).consent)
    for at in (0, 24, 48, 247):
        altered = bytearray(good)
        altered[at] ^= 1
        answer = await site.grant(act["id"], base64.b64encode(altered).decode())
        problem(answer, 422, "invalid-input")
    problem(await site.people.alice.post(f"/acts/{act['id']}/grant", json={}), 422, "invalid-input")
    assert await site.state(act["id"]) == "asked"


async def test_what_the_monitor_refuses_ends_the_act_and_is_a_finding(site: Consenting) -> None:
    """A consent that was used, one whose challenge was replaced, and one that came too late."""
    first, again, replaced, late = [await site.asked() for _ in range(4)]
    used = (await site.signed(first["id"])).consent
    await site.grant(first["id"], used)
    assert (await site.perform(first["id"])).status_code == 200
    await site.grant(again["id"], used)
    for act, why in ((again, "or was used"), (replaced, "issued last"), (late, "time has passed")):
        if act is replaced:
            await site.granted(act["id"])
            await site.platform.challenge(site.people.machines["c1"], bytes(32))
        if act is late:
            await site.granted(act["id"])
            site.platform.monitor.skipped = 2 * 3600 * 10**9
        assert why in problem(await site.perform(act["id"]), 409, "refused")
        assert await site.state(act["id"]) == "failed"
        assert why in (await site.people.acme.get(f"/acts/{act['id']}")).json()["reason"]
        problem(await site.perform(act["id"]), 409, "conflict")
    found = (await site.people.alice.get("/findings")).json()
    assert {one["evidence"][0]["act"] for one in found} == {again["id"], replaced["id"], late["id"]}


async def test_one_consent_waits_for_a_machine_and_what_is_taken_back_is_void_below(site: Consenting) -> None:
    first, second, bobs = await site.asked(), await site.asked(), await site.asked("b1")
    signed = await site.signed(first["id"])
    assert (await site.grant(first["id"], signed.consent)).status_code == 200
    said = await site.people.alice.post(f"/acts/{second['id']}/challenge", json={"nonce": "0" * 64})
    assert first["id"] in problem(said, 409, "conflict")
    other = await site.people.bob.post(f"/acts/{bobs['id']}/challenge", json={"nonce": "0" * 64})
    assert other.status_code == 200
    refused = await site.people.alice.post(f"/acts/{first['id']}/refuse")
    assert refused.json()["state"] == "refused"
    problem(await site.perform(first["id"]), 409, "conflict")
    with pytest.raises(Refused, match="issued last"):
        await site.platform.export(
            site.people.machines["c1"],
            Operation.DUMP,
            page=3,
            pages=2,
            consent=base64.b64decode(signed.consent),
        )
    await site.granted(second["id"])
    assert (await site.perform(second["id"])).status_code == 200


async def test_what_breaks_while_it_is_done_uses_the_consent_up(site: Consenting) -> None:
    act = await site.asked()
    await site.granted(act["id"])
    site.platform.breaks = Unavailable("the channel is gone")
    problem(await site.perform(act["id"]), 503, "unavailable")
    assert await site.state(act["id"]) == "failed"
    assert (await site.people.alice.get(f"/acts/{act['id']}")).json()["reason"] == "the channel is gone"
    assert (await site.people.alice.get("/findings")).json() == [], "nobody was refused"
    problem(await site.people.alice.get(f"/acts/{act['id']}/export"), 404, "not-found")


async def test_it_is_done_once_though_it_is_asked_for_at_once(site: Consenting) -> None:
    act, other = await site.asked(), await site.asked()
    signed = (await site.signed(act["id"])).consent
    second = (await site.signed(act["id"])).consent
    assert (await site.grant(act["id"], second)).status_code == 200
    problem(await site.grant(act["id"], signed), 409, "conflict")
    assert (await site.grant(act["id"], second)).status_code == 200, "the same again is harmless"
    problem(await site.grant(other["id"], signed), 409, "conflict")
    site.platform.held = asyncio.Event()
    first = asyncio.create_task(site.perform(act["id"]))
    while not site.platform.presented:  # noqa: ASYNC110 - that it is presented has no event
        await asyncio.sleep(0.01)
    problem(await site.perform(act["id"]), 409, "conflict")
    problem(await site.people.acme.post(f"/acts/{act['id']}/withdraw"), 409, "conflict")
    site.platform.held.set()
    assert (await first).json()["state"] == "done"
    assert len(site.platform.presented) == 1


async def test_what_is_taken_back_while_it_is_done_gives_nothing(site: Consenting) -> None:
    act = await site.asked()
    await site.granted(act["id"])
    site.platform.held = asyncio.Event()
    first = asyncio.create_task(site.perform(act["id"]))
    while not site.platform.presented:  # noqa: ASYNC110 - that it is presented has no event
        await asyncio.sleep(0.01)
    assert (await site.people.alice.post(f"/acts/{act['id']}/refuse")).json()["state"] == "refused"
    site.platform.held.set()
    problem(await first, 409, "refused")
    problem(await site.people.acme.get(f"/acts/{act['id']}/export"), 404, "not-found")
    assert await site.state(act["id"]) == "refused"


async def test_it_is_done_in_its_time_alone(site: Consenting) -> None:
    now = int(time.time())
    later = await site.asked(not_before=now + 600)
    await site.granted(later["id"])
    problem(await site.perform(later["id"]), 409, "conflict")
    async with site.people.api.bench.parts.store.write() as session:
        past = time.time() - 5
        over = update(ActRow).where(ActRow.id == later["id"]).values(deadline=past, not_before=int(past) - 9)
        await session.execute(over)
    problem(await site.perform(later["id"]), 409, "conflict")
    assert site.platform.presented == []
    await site.people.api.bench.control._deadlines.do_due()
    assert await site.state(later["id"]) == "expired"


async def test_an_enforcing_platform_is_asked_for_pages(site: Consenting) -> None:
    now = int(time.time())
    asked = {
        "machine": site.people.machines["c1"],
        "purpose": "why not",
        "not_before": now,
        "expires_at": now + 60,
    }
    problem(await site.people.acme.post("/acts", json={**asked, "operation": "dump"}), 422, "invalid-input")
    answer = await site.people.acme.post("/acts", json={**asked, "operation": "read-disk"})
    assert answer.json()["enforced"] is False, "of disks it knows nothing"


async def test_each_machine_is_launched_with_its_clouds_key(site: Consenting) -> None:
    cloud = site.people.clouds["c"]
    key = await site.keys.consent_key(cloud=cloud)
    assert key == await site.people.api.bench.parts.keys.consent_key(cloud=cloud)
    assert key != await site.keys.consent_key(cloud=site.people.clouds["b"])
    for name in ("c1", "c2"):
        watched = site.platform.monitor.partitions[partition(site.people.machines[name])]
        assert watched.tenant.hex() == key.removeprefix("ed25519/"), "the same on whatever domain"


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_the_command_line(site: Consenting, tmp_path: Path) -> None:
    api = site.people.api
    operator = await api.bench.control.principal("operator")
    async with api.bench.parts.store.write() as session:  # what was Alice's and acme's is the operator's
        await session.execute(update(Cloud).where(Cloud.name == "c").values(owner=operator.id))
        await session.execute(update(Provider).values(owner=None))
    api.bench.parts.directory.changed()
    machine = site.people.machines["c1"]
    ask = (
        "domain",
        "ask",
        machine,
        "dump",
        "--page",
        "3",
        "--pages",
        "2",
        "--purpose",
        "a crash",
        "--until",
        "2h",
    )
    act = (await api.ok(*ask, "-o", "json")).json["id"]
    assert "a consent that the machine's monitor checks" in (await api.ok(*ask)).out
    assert "is no consent" in await api.wrong("domain", "perform", act, status=4)
    (tmp_path / "x").mkdir()
    async with listening(site.keys, Place(api.home).keystore_socket, controller_uid=os.getuid()):
        granted = (await api.ok("act", "grant", act, "-o", "json")).json
        assert (granted["state"], granted["vouched"], len(granted["machine_key"])) == ("granted", False, 64)
        said = (await api.ok("domain", "perform", act)).out
        assert "is done; its pages are sealed to the machine's user" in said
        sealed, clear = tmp_path / "x" / "sealed", tmp_path / "x" / "clear"
        assert "2 sealed pages" in (await api.ok("domain", "export", act, "--to", str(sealed))).out
        assert "2 pages of 4 KiB" in (await api.ok("act", "open", act, "--to", str(clear))).out
        assert clear.read_bytes().startswith(b"page 3 of") and b"launch" not in sealed.read_bytes()
        assert clear.stat().st_mode & 0o077 == 0
        assert "exists already" in await api.wrong("act", "open", act, "--to", str(clear), status=4)
        second = (await api.ok("act", "ls", "--state", "asked", "-o", "json")).json[0]["id"]
        tpm, booted = (f"sha256:{two * 32}" for two in ("ab", "cd"))
        await api.ok("tpm", "trust", tpm, "--booted", booted)
        assert (await api.ok("tpm", "ls", "-o", "json")).json == [{"tpm": tpm, "booted": booted}]
        refused = await api.wrong("act", "grant", second, "--attested", status=5)
        assert "no TPM that you trust vouches for the machine" in refused
        await api.ok("tpm", "forget", tpm)
        assert "no TPM" in await api.wrong("tpm", "forget", tpm, status=3)
        assert "is no digest" in await api.wrong("tpm", "trust", "x", "--booted", booted, status=2)
        said = (await api.ok("act", "grant", second)).out
        assert "is granted, once, for launch 1" in said and "unattested" in said
