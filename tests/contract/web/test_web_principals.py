"""Who may do what, in the page: principals, tokens that were minted for them, and whoever reaches a cloud."""

from __future__ import annotations

import httpx
import pytest
from api_rig import Served
from control_rig import share_with
from test_authorization import _client
from web_rig import links, person, signed_in, well_formed

from supercloud.model.permissions import Permission
from supercloud.services.requests import AddPrincipal, CreateCloud, MintToken
from supercloud.services.views import MintedView
from supercloud.trust.keys import IdentityKey
from supercloud.trust.tokens import Bounds, attenuate

pytestmark = pytest.mark.contract


def page_of(token: MintedView) -> str:
    return f"/web/tokens/{token.id[:32]}"


async def test_principals_are_read_with_their_keys_and_what_they_may(cloud: Served) -> None:
    dave, erin = await person(cloud, "dave"), await person(cloud, "erin")
    ids = {name: (await cloud.bench.control.principal(name)).id for name in ("dave", "erin")}
    async with signed_in(cloud) as operator:
        listed = await operator.get("/web/principals")
        assert {f"/web/principals/{one}" for one in ids.values()} <= links(listed)
        assert dave.key.name in listed.text and erin.key.name in listed.text
        page = await operator.get(f"/web/principals/{ids['dave']}")
        well_formed(page.text, "dave")
        assert page_of(dave.whole) in links(page) and page_of(erin.whole) not in links(page)
        assert "read, write, create, export" in page.text, "what an owner's role allows of clouds"
    async with signed_in(cloud, dave.signing()) as one:
        assert f"/web/principals/{ids['erin']}" not in links(await one.get("/web/principals"))
        assert (await one.get(f"/web/principals/{ids['erin']}")).status_code == 404
        assert (await one.get(page_of(erin.whole))).status_code == 404
        assert page_of(erin.whole) not in links(await one.get("/web/tokens"))
        assert (await one.get(page_of(dave.whole))).status_code == 200
        page = await one.get(f"/web/principals/{ids['dave']}")
        assert '<th scope="row">vm' in page.text and '<th scope="row">domain' not in page.text


async def test_a_token_is_revoked_from_its_page_if_it_is_named(cloud: Served) -> None:
    dave = await person(cloud, "dave")
    only = frozenset({Permission.VM_RUN, Permission.CLOUD_READ})
    request = MintToken(principal="dave", only=only)
    less = await cloud.bench.control.mint_token(request)
    assert await dave.asks(less.token) == 200
    async with signed_in(cloud, dave.signing()) as one:
        path = page_of(less)
        assert path in links(await one.get("/web/tokens"))
        page = await one.get(path)
        well_formed(page.text, path)
        assert "cloud:read, vm:run" in page.text and "in clouds of its principal" in page.text
        assert ">write<" not in page.text and "counts" in page.text
        assert f"{path}/revoke" in links(page)
        unsure = await one.post(f"{path}/revoke")
        assert unsure.status_code == 422 and await dave.asks(less.token) == 200
        assert less.id[:16] in (await one.get(f"{path}/revoke")).text
        done = await one.post(f"{path}/revoke", {"sure": less.id[:16]})
        assert done.headers["location"] == path
        assert await dave.asks(less.token) == 401 and await dave.asks(dave.whole.token) == 200
        page = await one.get(path)
        assert ">revoked<" in page.text and f"{path}/revoke" not in links(page) and "Nothing." in page.text


async def test_a_session_ends_with_its_own_token_that_it_revokes(cloud: Served) -> None:
    dave = await person(cloud, "dave")
    async with signed_in(cloud, dave.signing()) as one:
        path = page_of(dave.whole)
        await one.get(path)
        await one.post(f"{path}/revoke", {"sure": dave.whole.id[:16]})
        away = await one.get("/web/tokens")
        assert away.status_code == 303 and "/web/sign-in" in away.headers["location"]


async def test_less_of_a_token_revokes_no_other(cloud: Served) -> None:
    dave = await person(cloud, "dave")
    other = await cloud.bench.control.mint_token(MintToken(principal="dave"))
    only = frozenset({Permission.TOKEN_REVOKE, Permission.TOKEN_READ, Permission.WEB_SIGN_IN})
    text = attenuate(dave.whole.token, Bounds(only=only))
    async with signed_in(cloud, dave.signing(text)) as one:
        await one.get(page_of(other))
        refused = await one.post(f"{page_of(other)}/revoke", {"sure": other.id[:16]})
        assert refused.status_code == 403 and "as it was minted" in refused.text
    assert await dave.asks(other.token) == 200


async def test_a_clouds_page_says_who_may_do_what_in_it(cloud: Served) -> None:
    control = cloud.bench.control
    await control.add_principal(AddPrincipal(name="erin", key=IdentityKey.new().name))
    await share_with(cloud.bench, "erin")
    dave = await person(cloud, "dave")
    async with signed_in(cloud, dave.signing()) as browser:
        await browser.get("/web/new/clouds")
        path = (await browser.post("/web/new/clouds", {"name": "mine"})).headers["location"]
        identity = path.rpartition("/")[2]
        some = frozenset({Permission.VM_RUN})
        here = await control.mint_token(MintToken(principal="dave", only=some, clouds=(identity,)))
        elsewhere = await control.create_cloud(CreateCloud(name="other"))
        not_here = await control.mint_token(MintToken(principal="dave", clouds=(elsewhere.id,)))
        page = await browser.get(path)
        well_formed(page.text, path)
        assert "/web/principals/dave" in links(page) and "owns it" in page.text
        assert page_of(here) in links(page) and "operation:read, vm:read, vm:run" in page.text
        assert page_of(not_here) not in links(page)
    async with signed_in(cloud) as operator:
        (relation,) = await control.trusts()
        path = f"/web/clouds/{relation.cloud_id}"
        page = await operator.get(path)
        assert "every operator" in page.text and f"/web/trust/{relation.id}" in links(page)
        assert "share-image debian" in page.text


async def test_a_token_is_shown_by_as_much_of_its_id_as_tells_it_apart(cloud: Served) -> None:
    dave, erin = await person(cloud, "dave"), await person(cloud, "erin")
    client: httpx.AsyncClient = _client(cloud, dave.signing())
    async with client:
        for prefix in (dave.whole.id, dave.whole.id[:8]):
            shown = (await client.get(f"/tokens/{prefix}")).json()
            assert (shown["id"], shown["principal"], shown["revoked"]) == (dave.whole.id, "dave", False)
            assert "token" not in shown
        assert (await client.get(f"/tokens/{erin.whole.id}")).status_code == 404
        assert (await client.get("/tokens/short")).status_code == 422
