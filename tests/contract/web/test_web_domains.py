"""A provider's own view: its domains, what it does there, and no word of anybody else's in it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest
from api_rig import Served, Signing
from control_rig import World
from provider_rig import security
from test_southbound import SOUTH, Marks, blanket, furnish_bare, populate, provider_client
from web_rig import FILLED, Browser, crawled, event, links, signed_in

from supercloud.model.domains import Capacity
from supercloud.model.placement import Price
from supercloud.model.states import OperationState
from supercloud.services.requests import AddPrincipal, CreateCloud, MintToken
from supercloud.services.southbound import DomainTerms, DrainView
from supercloud.trust.keys import IdentityKey
from supercloud.web.actions import ACTIONS
from supercloud.web.domains import DOMAIN_ACTIONS, DOMAIN_KINDS, DOMAIN_MAKINGS
from supercloud.web.gate import DOMAIN_EVENTS
from supercloud.web.kinds import KINDS
from supercloud.web.levels import LEVELLED
from supercloud.web.making import MAKINGS
from supercloud.web.principals import PRINCIPAL_ACTIONS, PRINCIPAL_KINDS

pytestmark = pytest.mark.contract


async def _signing(api: Served, name: str) -> Signing:
    """Of a new provider."""
    key = IdentityKey.new()
    await api.bench.control.add_principal(AddPrincipal(name=name, key=key.name, provider=True))
    token = (await api.bench.control.mint_token(MintToken(principal=name))).token
    return Signing(key, token, api.channel)


@asynccontextmanager
async def _provider(api: Served, name: str = "acme") -> AsyncIterator[Browser]:
    async with signed_in(api, await _signing(api, name)) as one:
        yield one


async def _registered(api: Served, one: Browser, name: str = "edge") -> str:
    """The path of a domain that is registered in the page, and accepted."""
    asked = {"name": name, "kind": "simulated", "location": "de-by", "vcpu_hour": "0.01", "currency": "eur"}
    made = await one.post("/web/new/domains", {**asked, "machines": "3"})
    assert made.status_code == 303, made.text
    await api.bench.control.accept_provider(name)
    return made.headers["location"]


async def _drained(api: Served) -> DrainView:
    south = api.bench.control.southbound()
    (view,) = await south.drains()
    async with asyncio.timeout(40):
        while view.ended_at is None:
            view = await south.drain(view.id, wait_s=10)
    return view


def _utc(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M")


async def test_a_provider_does_in_the_page_what_the_southbound_api_lets_it(api: Served) -> None:
    control = api.bench.control
    async with _provider(api) as one:
        assert "/web/new/domains" in links(await one.get("/web/"))
        wrong = await one.post("/web/new/domains", {"name": "edge", "kind": "simulated", "vcpu_hour": "1"})
        assert wrong.status_code == 422 and "a price needs a currency" in wrong.text
        assert 'value="edge"' in wrong.text, "what was filled in stays"
        path = await _registered(api, one)
        domain = await control.southbound().domain("edge")
        assert domain.price == Price(currency="EUR", vcpu_hour="0.01") and domain.location == "de-by"
        await control.create_cloud(CreateCloud(name="c"))
        machine = await blanket(api.bench, "e1", "edge")

        page = (await one.get(path)).text
        assert machine in page and "0.01 a vCPU" in page and "1 of 3" in page
        assert machine in (await one.get("/web/")).text, "in its cell"
        assert "Agents connected" in (await one.get(f"{path}/health")).text
        form = (await one.get(f"{path}/set")).text
        assert 'value="de-by"' in form and 'value="0.01"' in form, "what is not changed stays"
        assert (await one.post(f"{path}/set", {"location": "fr", "vcpus": "8"})).status_code == 303
        domain = await control.southbound().domain("edge")
        assert (domain.location, domain.price, domain.capacity) == ("fr", None, Capacity(vcpus=8))

        at = time.time() + 90_000
        window = {
            "begins_at": _utc(at),
            "ends_at": _utc(at + 3600),
            "drain_ahead_min": "30",
            "reason": "disks",
        }
        assert (await one.post(f"{path}/plan", {**window, "begins_at": "soon"})).status_code == 422
        assert (await one.post(f"{path}/plan", window)).status_code == 303
        (planned,) = await control.southbound().windows()
        assert (planned.begins_at, planned.drain_ahead_s) == (at // 60 * 60, 1800.0)
        assert "disks" in (await one.get(path)).text
        assert "30 min ahead" in (await one.get("/web/windows")).text
        unsure = await one.post(f"/web/windows/{planned.id}/cancel")
        assert unsure.status_code == 422 and await control.southbound().windows(), "not without its name"
        name = _utc(planned.begins_at).replace("T", " ") + ":00 UTC"
        assert (await one.post(f"/web/windows/{planned.id}/cancel", {"sure": name})).status_code == 303
        assert not await control.southbound().windows()

        assert (await one.post(f"{path}/drain")).status_code == 303
        assert (await _drained(api)).state is OperationState.SUCCEEDED
        page = (await one.get(path)).text
        assert (
            "drain of edge" in page
            and f"{path}/undrain" in page
            and f"{path}/drain" not in links(await one.get(path))
        )
        assert (await one.post(f"{path}/undrain")).status_code == 303
        assert not (await control.southbound().domain("edge")).draining
        refused = await one.post(f"{path}/remove", {"sure": "edge"})
        assert refused.status_code == 409 and "1 machines are rented there" in refused.text
        await api.bench.done(await control.remove_blanket("e1"))
        assert (await one.post(f"{path}/remove", {"sure": "edge"})).headers["location"] == "/web/domains"
        assert not await control.southbound().domains()


async def test_a_provider_sees_its_own_domains_and_nothing_of_users(api: Served) -> None:
    await furnish_bare(api)
    async with _provider(api) as one, _provider(api, "rival") as other:
        path = await _registered(api, one)
        ways = {link for link in links(await one.get("/web/")) if link.count("/") == 2 and "?" not in link}
        kinds = (*DOMAIN_KINDS, *PRINCIPAL_KINDS)  # of the latter, itself and what it holds
        assert ways == {"/web/", "/web/sign-out", *(f"/web/{kind.path}" for kind in kinds)}
        for kind in KINDS.values():
            ours = kind in kinds
            assert (await one.get(f"/web/{kind.path}")).status_code == (200 if ours else 403), kind.path
        for making in MAKINGS.values():
            status = 200 if making in DOMAIN_MAKINGS else 403
            assert (await one.get(f"/web/new/{making.of}")).status_code == status, making.of
        for action in ACTIONS.values():
            if action not in DOMAIN_ACTIONS:
                refused = await one.post(f"/web/{action.of}/p/{action.name}", FILLED)
                assert refused.status_code == (404 if action in PRINCIPAL_ACTIONS else 403), action
        for kind in PRINCIPAL_KINDS:
            seen = (await one.get(f"/web/{kind.path}")).text
            assert "acme" in seen and "rival" not in seen and "operator" not in seen, kind.path
        assert (await one.get("/web/events")).status_code == 403
        assert (await one.get("/web/domains/p")).status_code == 404, "which is nobody's"
        for way in (path, f"{path}/health", f"{path}/set", "/web/domains/edge"):
            assert (await one.get(way)).status_code == 200
            assert (await other.get(way)).status_code == 404
        for action in DOMAIN_ACTIONS:
            if action.of == "domains":
                refused = await other.post(f"{path}/{action.name}", {**FILLED, "sure": "edge"})
                assert refused.status_code == 404, action.name
        assert "edge" not in (await other.get("/web/")).text + (await other.get("/web/domains")).text


async def test_no_word_of_a_user_is_in_any_page_of_a_provider(api: Served, world: World) -> None:
    """Everything that users name has a word of its own; then every page there is a way to, every form that is
    sent, and all that the stream says meanwhile, are looked through."""
    marks, said = Marks({}), bytearray()
    await furnish_bare(api)
    key = IdentityKey.new().name
    await api.bench.control.add_principal(AddPrincipal(name=marks["user"], key=key))
    signing = await _signing(api, "acme")
    async with signed_in(api, signing) as one:
        path = await _registered(api, one)
        async with one.http.stream("GET", DOMAIN_EVENTS) as stream:
            told = stream.aiter_lines()
            assert await event(told, said) == "ready"
            hidden = await populate(api, world, marks)
            assert await event(told, said) == "change"
        async with provider_client(api, signing) as asking:
            await security(api, asking, SOUTH, marks["cloud"], marks["first"])
        at = time.time() + 90_000
        window = {"begins_at": _utc(at), "ends_at": _utc(at + 60)}
        assert (await one.post(f"{path}/plan", window)).status_code == 303
        assert (await one.post(f"{path}/drain")).status_code == 303
        drain = await _drained(api)
        assert drain.state is OperationState.FAILED and drain.in_use == 1, "one stays, one moved"
        pages = await crawled(one)
        for kind in DOMAIN_KINDS:
            assert any(way.startswith(f"/web/{kind.path}/") for way in pages), kind.path
        live = {"HX-Request": "true"}
        for page in [*pages.values(), *[await one.get(way, **live) for way in pages]]:
            said.extend(page.content + repr(page.headers.raw).encode())
        assert not [each for each in hidden if each.encode() in said], "nor an id, but a machine's"
        answers = []
        things = [*hidden, "nosuch", path.rpartition("/")[2]]
        for kind in KINDS.values():
            answers += [await one.get(f"/web/{kind.path}/{thing}") for thing in things if "." not in thing]
        for levelled in LEVELLED:
            answers.append(await one.get(f"/web/{levelled}/{things[0]}/level"))
        for action in sorted(ACTIONS.values(), key=lambda action: action.name in {"undrain", "remove"}):
            where = path if action.of == "domains" else f"/web/{action.of}/{drain.id}"
            answers.append(await one.post(f"{where}/{action.name}", {**FILLED, "sure": "edge"}))
        for answer in answers:
            assert answer.status_code < 500, answer.text
            said.extend(answer.content + repr(answer.headers.raw).encode())
        assert len(pages) >= 12 and len(answers) > 50
    assert drain.id.encode() in said and b"simulated" in said
    assert not marks.found_in(bytes(said)) and len(marks.words) >= 14
    # The test would see them: the user's own pages are full of them.
    async with signed_in(api) as operator:
        own = b"".join([page.content for page in (await crawled(operator)).values()])
    assert len(marks.found_in(own)) >= 8


async def test_a_provider_is_not_told_of_users_things(api: Served) -> None:
    async with (
        _provider(api) as one,
        one.http.stream("GET", DOMAIN_EVENTS) as stream,
        asyncio.timeout(60),
    ):
        told = stream.aiter_lines()
        assert await event(told) == "ready"
        await api.bench.control.create_cloud(CreateCloud(name="c"))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await event(told)


async def test_a_provider_is_told_of_its_own_and_no_more(api: Served) -> None:
    async with _provider(api) as one, _provider(api, "rival") as other:
        await _registered(api, one)
        async with (
            one.http.stream("GET", DOMAIN_EVENTS) as mine,
            other.http.stream("GET", DOMAIN_EVENTS) as others,
            asyncio.timeout(60),
        ):
            told, untold = mine.aiter_lines(), others.aiter_lines()
            assert await event(told) == await event(untold) == "ready"
            await api.bench.control.southbound().set_domain("edge", DomainTerms(location="fr"))
            assert await event(told) == "change"
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1):
                    await event(untold)
            await one.post("/web/sign-out")
            assert await event(told) == "end"
