"""Findings, orders and privileged acts in the page: both sides of each."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from control_rig import DIGEST
from provider_rig import Estate, act_body, estate, event
from web_rig import HOSTILE, Browser, links, signed_in, well_formed

pytestmark = pytest.mark.contract


@pytest.fixture
async def people(database_url: str, tmp_path: Path) -> AsyncIterator[Estate]:
    async with estate(database_url, tmp_path) as made:
        yield made


async def _made(one: Browser, path: str, form: dict[str, Any]) -> str:
    """The page of what was made."""
    answer = await one.post(path, form)
    assert answer.status_code == 303, answer.text
    return str(answer.headers["location"])


async def test_what_was_found_is_read_by_whom_it_concerns(people: Estate) -> None:
    told = event(machine=people.machines["c1"], evidences=[{"process": {"name": HOSTILE}}])
    told["finding_info"]["title"] = HOSTILE
    (found,) = await people.deliver(told)
    path = f"/web/findings/{found['id']}"
    async with signed_in(people.api, people.signing["alice"]) as alice:
        listed = await alice.get("/web/findings")
        assert path in links(listed) and 'class="state bad"' in listed.text, "its severity"
        page = await alice.get(path)
        well_formed(page.text, path)
        assert "R17 hidden process" in page.text and "&lt;script&gt;" in page.text
        assert f"/web/blankets/{people.machines['c1']}" in links(page)
    async with signed_in(people.api, people.signing["bob"]) as bob:
        assert path not in links(await bob.get("/web/findings"))
        assert (await bob.get(path)).status_code == 404
    async with signed_in(people.api, people.signing["acme"]) as acme:
        assert f"/web/delivered/{found['id']}" in links(await acme.get("/web/delivered"))
        page = await acme.get(f"/web/delivered/{found['id']}")
        assert people.machines["c1"] in page.text and "e-1" in page.text
        well_formed(page.text, path)
    async with signed_in(people.api, people.signing["rival"]) as rival:
        assert (await rival.get(f"/web/delivered/{found['id']}")).status_code == 404


async def test_an_order_goes_from_a_users_page_to_its_providers_and_back(people: Estate) -> None:
    asked = {"cloud": "c", "blanket": people.machines["c1"], "reaction": "deny:ipv4_net"}
    async with (
        signed_in(people.api, people.signing["alice"]) as alice,
        signed_in(people.api, people.signing["acme"]) as acme,
    ):
        refused = await alice.post("/web/new/orders", {**asked, "net": "10.9.0.0/16"})
        assert refused.status_code == 409 and "does not take deny:ipv4_net" in refused.text
        domain = next(way for way in links(await acme.get("/web/domains")) if "/domains/" in way)
        form = await acme.get(f"{domain}/take")
        assert 'value="deny:ipv4_net"' in form.text
        taken = await acme.post(f"{domain}/take", {"takes": ["deny:ipv4_net", "restart:device"]})
        assert taken.status_code == 303 and "deny:ipv4_net" in (await acme.get(domain)).text
        for wrong, why in (
            ({}, "needs net"),
            ({"net": "16.0.0.0/4"}, "wider than /8"),
            ({"net": "x"}, "net"),
        ):
            answer = await alice.post("/web/new/orders", {**asked, **wrong})
            assert answer.status_code == 422 and why in answer.text, wrong
        path = await _made(alice, "/web/new/orders", {**asked, "net": "10.9.0.0/16", "lasts_min": "5"})
        page = await alice.get(path)
        assert "nothing goes between the machine and these addresses" in page.text and "300000" in page.text
        assert f"{path}/cancel" in page.text

        command = path.replace("orders", "commands")
        assert command in links(await acme.get("/web/commands"))
        assert "102" in (await acme.get(f"{command}/answer")).text
        assert (await acme.post(f"{command}/answer", {"status": "102"})).status_code == 303
        assert 'value="102"' not in (await acme.get(f"{command}/answer")).text, "it is at it"
        said = {"status": "500", "status_text": HOSTILE}
        assert (await acme.post(f"{command}/answer", said)).status_code == 303
        assert f"{command}/answer" not in links(await acme.get(command)), "it has ended"
        page = await alice.get(path)
        well_formed(page.text, path)
        assert ">failed<" in page.text and "&lt;script&gt;" in page.text
        assert f"{path}/cancel" not in page.text

        restart = {**asked, "reaction": "restart:device"}
        path = await _made(alice, "/web/new/orders", restart)
        assert (await alice.post(f"{path}/cancel")).status_code == 303
        assert ">cancelled<" in (await alice.get(path)).text
        late = await acme.post(f"{path.replace('orders', 'commands')}/answer", {"status": "200"})
        assert late.status_code == 409


async def test_an_act_is_asked_for_seen_and_refused(people: Estate) -> None:
    at = time.time()
    begins, ends = (
        datetime.fromtimestamp(at + ahead, UTC).strftime("%Y-%m-%dT%H:%M") for ahead in (60, 3600)
    )
    asked = {
        "machine": people.machines["c1"],
        "operation": "dump",
        "arguments": DIGEST,
        "purpose": HOSTILE,
        "not_before": begins,
        "expires_at": ends,
    }
    async with (
        signed_in(people.api, people.signing["alice"]) as alice,
        signed_in(people.api, people.signing["acme"]) as acme,
    ):
        wrong = await acme.post("/web/new/asked", {**asked, "arguments": "what I dump"})
        assert wrong.status_code == 422 and "arguments" in wrong.text
        path = await _made(acme, "/web/new/asked", asked)
        own = path.replace("asked", "acts")
        assert own in links(await alice.get("/web/acts"))
        page = await alice.get(own)
        well_formed(page.text, own)
        assert DIGEST in page.text and "&lt;script&gt;" in page.text and ">asked<" in page.text
        assert (await alice.post(f"{own}/refuse")).status_code == 303
        assert ">refused<" in (await acme.get(path)).text
        assert (await acme.post(f"{path}/withdraw")).status_code == 409
    answer = await people.acme.post("/acts", json=act_body(people.machines["c1"]))
    async with signed_in(people.api, people.signing["acme"]) as acme:
        path = f"/web/asked/{answer.json()['id']}"
        await acme.get(path)
        assert (await acme.post(f"{path}/withdraw")).status_code == 303
        assert ">withdrawn<" in (await acme.get(path)).text
