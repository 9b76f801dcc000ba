"""Who gets into the web view, for how long, and what of it a thief gets."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from api_rig import Served
from control_rig import World
from test_authorization import _assembled
from web_rig import Clock, browser, code, fingerprint, signed_in

from supercloud.services.sessions import CODE_S, CODES_OF_ONE, IDLE_S, LASTS_S, SESSIONS_OF_ONE
from supercloud.web.gate import SESSION, VISIT

pytestmark = pytest.mark.contract


async def test_a_code_signs_in_once_and_says_whom(api: Served) -> None:
    made = await code(api)
    async with browser(api) as one, browser(api) as other:
        page = await one.get(f"/web/sign-in?code={made}")
        assert "Sign in as operator" in page.text
        assert "Sign in as operator" in (await one.get(f"/web/sign-in?code={made}")).text, "looking is free"
        assert (await one.sign_in(made)).headers["location"] == "/web/"
        assert "operator" in (await one.get("/web/")).text
        again = await other.sign_in(made)
        assert again.status_code == 401 and "was used" in again.text
        assert not other.session and (await other.get("/web/")).status_code == 303


async def test_a_code_is_good_for_a_minute(api: Served, clock: Clock) -> None:
    made = await code(api)
    clock.now += CODE_S + 1
    async with browser(api) as one:
        assert (await one.get(f"/web/sign-in?code={made}")).status_code == 401
        assert (await one.sign_in(made)).status_code == 401
        assert (await one.sign_in("guessed")).status_code == 401
        assert not one.session


async def test_a_code_is_not_kept_for_a_repeated_request(api: Served) -> None:
    client = api.client()
    first, again = [await asyncio.to_thread(_ask_for_code, client, "same") for _ in range(2)]
    assert first[0] == 201 and again[0] == 409 and first[1]["code"] not in str(again[1])


def _ask_for_code(client: Any, key: str) -> tuple[int, Any]:
    try:
        return 201, client._ask("POST", "/web/codes", {}, body=b"{}", kind="application/json", key=key)[0]
    except Exception as error:  # noqa: BLE001 - what it is, is looked at
        return 409, error


async def test_a_session_is_whose_the_code_is(api: Served, world: World) -> None:
    cast = await _assembled(api, world)
    async with signed_in(api, cast.signing["alice"]) as alice, signed_in(api, cast.signing["bob"]) as bob:
        hers, his = await alice.get("/web/clouds"), await bob.get("/web/clouds")
        assert ">c</a>" in hers.text and ">c</a>" not in his.text
        await bob.sign_in(await code(api, cast.signing["alice"]))
        assert ">c</a>" in (await bob.get("/web/clouds")).text, "the newer one counts"


async def test_a_session_ends(api: Served, clock: Clock) -> None:
    async with signed_in(api) as idle:
        clock.now += IDLE_S - 1
        assert (await idle.get("/web/")).status_code == 200
        clock.now += IDLE_S - 1
        live = await idle.get("/web/", **{"HX-Request": "true"})
        assert live.status_code == 200, "a page that follows changes is let do so"
        clock.now += 2
        assert (await idle.get("/web/")).status_code == 303, "which does not keep the session alive"
        live = await idle.get("/web/", **{"HX-Request": "true"})
        assert (live.status_code, live.headers["hx-redirect"]) == (401, "/web/sign-in")
    async with signed_in(api) as busy:
        began = clock.now
        while clock.now < began + LASTS_S - IDLE_S / 2:
            assert (await busy.get("/web/")).status_code == 200
            clock.now += IDLE_S / 2
        clock.now = began + LASTS_S + 1
        assert (await busy.get("/web/")).status_code == 303


async def test_signing_out_ends_it_for_whoever_has_the_cookie(api: Served) -> None:
    async with signed_in(api) as one, browser(api) as thief:
        stolen = one.session
        thief.http.cookies.set(SESSION, stolen)
        assert (await thief.get("/web/")).status_code == 200
        out = await one.post("/web/sign-out")
        assert out.headers["location"] == "/web/sign-in" and not one.session
        assert (await thief.get("/web/")).status_code == 303


async def test_a_session_ends_with_its_token(api: Served, world: World) -> None:
    cast = await _assembled(api, world)
    async with signed_in(api, cast.signing["alice"]) as one:
        token = cast.signing["alice"].token
        revoked = await cast.clients["operator"].post("/tokens/revoke", json={"token": token})
        assert revoked.status_code == 200
        assert (await one.get("/web/")).status_code == 303


async def test_the_oldest_make_room(api: Served) -> None:
    codes = [await code(api) for _ in range(CODES_OF_ONE + 1)]
    async with browser(api) as one:
        assert (await one.sign_in(codes[0])).status_code == 401
        assert (await one.sign_in(codes[1])).status_code == 303
        first = one.session
        for _ in range(SESSIONS_OF_ONE):
            async with signed_in(api):
                pass
        assert (await one.get("/web/")).status_code == 303 and first


async def test_cookies_are_out_of_reach(api: Served) -> None:
    async with browser(api) as one:
        visit = (await one.get("/web/sign-in")).headers.get_list("set-cookie")
        session = (await one.sign_in(await code(api))).headers.get_list("set-cookie")
        for said in (*visit, *session):
            parts = {part.strip().lower() for part in said.split(";")[1:]}
            assert {"path=/", "secure", "httponly", "samesite=strict"} <= parts
            assert not any(part.startswith("domain") for part in parts)
        names = {said.partition("=")[0] for said in (*visit, *session)}
        assert names == {SESSION, VISIT} and all(name.startswith("__Host-") for name in names)
        kept = [said for said in session if said.startswith(SESSION)]
        assert f"Max-Age={int(LASTS_S)}" in kept[0]


async def test_of_two_cookies_of_one_name_neither_counts(api: Served) -> None:
    async with signed_in(api) as one:
        cookie = f"{SESSION}={one.session}; {SESSION}=another"
        one.http.cookies.clear()
        assert (await one.get("/web/", Cookie=cookie)).status_code == 303


async def test_browsers_are_shown_the_certificate_that_the_command_line_tells_of(api: Served) -> None:
    said = (await api.ok("web", "-o", "json")).json
    assert said["fingerprint"] == await asyncio.to_thread(fingerprint, api.access.port)
    text = (await api.ok("web")).out
    assert said["fingerprint"] in text
    url = text.splitlines()[0]
    async with browser(api) as one:
        assert (await one.get(url.removeprefix(one.origin))).status_code == 200
