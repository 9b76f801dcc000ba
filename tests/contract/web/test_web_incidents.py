"""Incidents in the page: where they are, what is in them, and what is done about them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from incident_rig import incident_event
from provider_rig import Estate, estate
from web_rig import HOSTILE, event, links, signed_in, well_formed

from supercloud.model.findings import Layer
from supercloud.model.incidents import Entry, EntryKind, IncidentState
from supercloud.model.names import new_id
from supercloud.model.reactions import ReactionState
from supercloud.services import inbox

pytestmark = pytest.mark.contract


@pytest.fixture
async def people(database_url: str, tmp_path: Path) -> AsyncIterator[Estate]:
    async with estate(database_url, tmp_path) as made:
        yield made


async def tell(people: Estate, own: str, **more: Any) -> str:
    """As the loop of Alice's c1 does. The path of its page."""
    blanket, cloud = people.machines["c1"], people.clouds["c"]
    told = incident_event(own, cloud=cloud, blanket=blanket, **more)
    await inbox.take(people.api.bench.parts.store, blanket, cloud, [told], at=time.time())
    found = (await people.alice.get("/incidents")).json()
    return f"/web/incidents/{found[0]['id']}"


async def test_where_one_is_open_the_view_lights_up_until_it_is_closed(people: Estate) -> None:
    own = new_id()
    async with signed_in(people.api, people.signing["alice"]) as alice:
        assert "alarmed" not in (await alice.get("/web/")).text
        async with alice.http.stream("GET", "/web/events?kind=incident") as stream:
            lines = stream.aiter_lines()
            async with asyncio.timeout(20):
                assert await event(lines) == "ready"
                path = await tell(people, own, state=IncidentState.ESCALATED)
                assert await event(lines) == "change"
        page = await alice.get("/web/")
        assert page.text.count("alarmed") == 1 and "1 incident: escalated" in page.text
        assert path in links(page), "its blanket's tile leads there"
        assert "kind=incident" in page.text, "the view follows what becomes of it"
        await tell(people, own, version=2, state=IncidentState.CLOSED, closed_at=time.time())
        assert "alarmed" not in (await alice.get("/web/")).text
        assert path in links(await alice.get("/web/incidents")), "closed ones are listed"
    async with signed_in(people.api, people.signing["bob"]) as bob:
        assert "alarmed" not in (await bob.get("/web/")).text
        assert path not in links(await bob.get("/web/incidents"))
        assert (await bob.get(path)).status_code == 404
        for action in ("close", "allow", "refuse"):
            assert (await bob.post(f"{path}/{action}", {"answered": new_id()})).status_code == 404, action


async def test_its_page_has_the_timeline_the_decision_and_the_proof(people: Estate) -> None:
    at = time.time()
    says = {
        EntryKind.FINDING: f"high: {HOSTILE}",
        EntryKind.DECISION: "policy contain asks for contain:device",
        EntryKind.REACTION: "contain:device was done",
        EntryKind.PROOF: "its effect is there, and it was quiet",
    }
    timeline = tuple(Entry(at=at, kind=kind, says=text, layer=Layer.L2) for kind, text in says.items())
    path = await tell(people, new_id(), title=HOSTILE, timeline=timeline, left_out=7)
    async with signed_in(people.api, people.signing["alice"]) as alice:
        page = await alice.get(path)
        well_formed(page.text, path)
        assert page.status_code == 200 and "&lt;script&gt;" in page.text
        for kind, text in says.items():
            if kind is not EntryKind.FINDING:
                assert text in page.text, kind
        for said in (
            "port-scan",
            "contain:device",
            "nothing goes through the instance",
            "7 lines were not kept",
        ):
            assert said in page.text, said
        assert f"/web/blankets/{people.machines['c1']}" in links(page)
        assert f"{path}/close" in links(page) and f"{path}/allow" not in links(page), "nothing asks"


async def test_it_is_closed_from_its_page_and_its_blanket_is_told(people: Estate) -> None:
    own = new_id()
    path = await tell(people, own)
    double = people.api.bench.site.machines[people.machines["c1"]]
    async with signed_in(people.api, people.signing["alice"]) as alice:
        assert "undo what is in force" in (await alice.get(f"{path}/close")).text
        assert (await alice.post(f"{path}/close", {"undo": "yes"})).headers["location"] == path
        (asked,) = double.loop.closed
        assert (asked.incident, asked.undo) == (own, True) and asked.by.startswith("principal ")
        await tell(people, own, version=2, state=IncidentState.CLOSED, closed_at=time.time())
        assert f"{path}/close" not in links(await alice.get(path))
        await double.end()
        await people.api.bench.gone("c1")
        path = await tell(people, new_id())
        refused = await alice.post(f"{path}/close")
        assert refused.status_code == 503 and 'class="problem"' in refused.text, "nobody could undo anything"


async def test_what_asks_first_is_answered_from_its_page(people: Estate) -> None:
    path = await tell(people, new_id(), reaction=ReactionState.ASKED)
    (reaction,) = (await people.alice.get(path.removeprefix("/web"))).json()["reactions"]
    loop = people.api.bench.site.machines[people.machines["c1"]].loop
    async with signed_in(people.api, people.signing["alice"]) as alice:
        form = await alice.get(f"{path}/allow")
        assert f'value="{reaction["id"]}"' in form.text and "by policy contain" in form.text
        for action, yes in (("allow", True), ("refuse", False)):
            told = await alice.post(f"{path}/{action}", {"answered": reaction["id"]})
            assert told.headers["location"] == path
            assert (loop.answered[-1].reaction, loop.answered[-1].yes) == (reaction["id"], yes)
        assert (await alice.post(f"{path}/allow", {"answered": new_id()})).status_code == 404
        assert (await alice.post(f"{path}/allow", {"answered": "what"})).status_code == 422
        assert len(loop.answered) == 2
