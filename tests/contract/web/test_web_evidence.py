"""Evidence in the page: a list, a page of each piece, its incident's; how it is opened, and its end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import actuator_checks as checks
import pytest
from api_rig import Signing
from incident_rig import incident_event
from provider_rig import Estate, estate
from test_evidence import kept_at
from web_rig import HOSTILE, event, links, signed_in, well_formed

from supercloud.model.names import new_id
from supercloud.model.permissions import Permission
from supercloud.model.reactions import Deed
from supercloud.ports.evidence import REMOVED
from supercloud.services import inbox
from supercloud.trust.tokens import Bounds, attenuate
from supercloud.web import views

pytestmark = pytest.mark.contract


@pytest.fixture
async def people(database_url: str, tmp_path: Path) -> AsyncIterator[Estate]:
    async with estate(database_url, tmp_path) as made:
        yield made


async def test_it_is_listed_shown_and_how_it_is_opened_is_said(people: Estate) -> None:
    incident, double, evidence = await kept_at(people)
    (there,) = await double.evidence.list()
    path = f"/web/evidence/{evidence}"
    async with signed_in(people.api, people.signing["alice"]) as alice:
        for where in ("/web/evidence", f"/web/evidence?cloud={people.clouds['c']}"):
            page = await alice.get(where)
            assert page.status_code == 200 and path in links(page), where
            assert f"/web/incidents/{incident}" in links(page) and "whole" in page.text
        assert path not in links(await alice.get(f"/web/incidents/{new_id()}"))
        assert path in links(await alice.get(f"/web/incidents/{incident}")), "on its incident's page"
        page = await alice.get(path)
        well_formed(page.text, path)
        assert there.digest is not None
        for said in (
            there.digest,
            f"evidence fetch {incident} {evidence} --to",
            "evidence open",
            "evidence scan",
            "A browser has no key",
            "by its blanket; your key store checks that",
        ):
            assert said in page.text, said
        assert f"/web/blankets/{people.machines['c1']}" in links(page)


async def test_it_is_removed_once_it_is_named_and_by_whose_it_is_alone(people: Estate) -> None:
    incident, double, evidence = await kept_at(people)
    path = f"/web/evidence/{evidence}"
    async with signed_in(people.api, people.signing["bob"]) as bob:
        assert path not in links(await bob.get("/web/evidence"))
        assert (await bob.get(path)).status_code == 404
        assert (await bob.get(f"{path}/remove")).status_code == 404
        asked = {"incident": incident, "sure": "memory"}
        assert (await bob.post(f"{path}/remove", asked)).status_code == 404
    alices = people.signing["alice"]
    reads = frozenset({Permission.INCIDENT_READ, Permission.WEB_SIGN_IN})
    reader = Signing(alices.key, attenuate(alices.token, Bounds(only=reads)), people.api.channel)
    async with signed_in(people.api, reader) as one:
        page = await one.get(path)
        assert page.status_code == 200 and f"{path}/remove" not in links(page)
        assert (await one.get(f"{path}/remove")).status_code == 403
        assert (await one.post(f"{path}/remove", {"incident": incident})).status_code == 403
    assert len(await double.evidence.list()) == 1
    async with signed_in(people.api, alices) as alice:
        (page,) = [await alice.get(path)]
        name = page.text.partition("<h1>")[2].partition("</h1>")[0]
        sheet = (await alice.get(f"{path}/remove")).text
        assert f'name="incident" value="{incident}"' in sheet and "no other copy" in sheet
        refusals = {
            422: [{"incident": incident}, {"incident": "what", "sure": name}, {"sure": name}],
            404: [{"incident": new_id(), "sure": name}],
        }
        for status, forms in refusals.items():
            for form in forms:
                refused = await alice.post(f"{path}/remove", form)
                assert refused.status_code == status and 'class="problem"' in refused.text, form
        elsewhere = {"Origin": "https://evil.example"}
        asked = {"incident": incident, "sure": name}
        assert (await alice.post(f"{path}/remove", asked, elsewhere)).status_code == 403
        assert (await alice.post(f"{path}/remove", {**asked, "csrf": "0" * 64})).status_code == 403
        assert len(await double.evidence.list()) == 1, "nothing of this did anything"
        assert (await alice.post(f"{path}/remove", asked)).headers["location"] == "/web/evidence"
        assert not await double.evidence.list()
        assert path not in links(await alice.get("/web/evidence"))
        assert (await alice.get(path)).status_code == 404
    (noted,) = (await people.alice.get("/reports", params={"kind": REMOVED})).json()
    assert noted["data"]["evidence"] == evidence and noted["data"]["by"].startswith("principal ")


async def test_of_a_blanket_that_is_away_it_is_said_that_nothing_is_known(people: Estate) -> None:
    incident, double, evidence = await kept_at(people)
    await double.end()
    await people.api.bench.gone("c1")
    async with signed_in(people.api, people.signing["alice"]) as alice:
        page = await alice.get("/web/evidence")
        assert page.status_code == 200 and "what c1 keeps is not known: it is not connected" in page.text
        refused = await alice.get(f"/web/evidence/{evidence}")
        assert refused.status_code == 503 and "c1 does not" in refused.text and 'role="alert"' in refused.text
        page = await alice.get(f"/web/incidents/{incident}")
        assert page.status_code == 200 and "Not known: " in page.text, "all else is there"
        assert "Timeline" in page.text
    async with signed_in(people.api, people.signing["bob"]) as bob:
        assert "is not known" not in (await bob.get("/web/evidence")).text
        assert (await bob.get(f"/web/evidence/{evidence}")).status_code == 404


async def test_whoever_looks_at_the_list_is_told_as_some_is_kept(people: Estate) -> None:
    async with signed_in(people.api, people.signing["alice"]) as alice:
        page = await alice.get("/web/evidence")
        assert "There are none." in page.text and "kind=incident&amp;kind=report" in page.text
        async with alice.http.stream("GET", "/web/events?kind=incident") as stream:
            lines = stream.aiter_lines()
            async with asyncio.timeout(20):
                assert await event(lines) == "ready"
                await kept_at(people)
                assert await event(lines) == "change"
        assert "There are none." not in (await alice.get("/web/evidence")).text


async def test_a_list_that_is_long_goes_on_there_too(people: Estate, monkeypatch: pytest.MonkeyPatch) -> None:
    _, double, first = await kept_at(people)
    second = checks.command(Deed.KEEP, 2, about=new_id())
    await double.evidence.do(second)
    monkeypatch.setattr(views, "_LISTED", 1)
    async with signed_in(people.api, people.signing["alice"]) as alice:
        page = await alice.get("/web/evidence")
        (more,) = [link for link in links(page) if "cursor=" in link]
        rest = await alice.get(more)
        newest, oldest = f"/web/evidence/{second.id}", f"/web/evidence/{first}"
        assert newest in links(page) and oldest not in links(page)
        assert oldest in links(rest) and newest not in links(rest)
        assert not [link for link in links(rest) if "cursor=" in link and link != more]


async def test_its_incidents_words_are_shown_as_words(people: Estate) -> None:
    incident, double, evidence = await kept_at(people)
    blanket, cloud = people.machines["c1"], people.clouds["c"]
    told = incident_event(double.incident, cloud=cloud, blanket=blanket, version=2, title=HOSTILE)
    await inbox.take(people.api.bench.parts.store, blanket, cloud, [told], at=time.time())
    async with signed_in(people.api, people.signing["alice"]) as alice:
        for path in ("/web/evidence", f"/web/evidence/{evidence}", f"/web/incidents/{incident}"):
            page = await alice.get(path)
            well_formed(page.text, path)
            assert "&lt;script&gt;" in page.text, path
