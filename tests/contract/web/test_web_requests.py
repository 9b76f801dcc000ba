"""What every answer to a browser carries, and which of its requests count."""

from __future__ import annotations

from typing import Any
from unittest.mock import MagicMock

import httpx
import pytest
from api_rig import Served
from fastapi.routing import APIRoute
from starlette.routing import Mount
from web_rig import FILLED, Browser, browser, code, flattened, signed_in

from supercloud.services.sessions import Sessions
from supercloud.web.actions import ACTIONS
from supercloud.web.gate import DOMAIN_EVENTS, EVENTS, FORM_BYTES
from supercloud.web.kinds import KINDS
from supercloud.web.levels import LEVELLED
from supercloud.web.making import MAKINGS

pytestmark = pytest.mark.contract


async def test_every_answer_carries_the_headers(cloud: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    async with signed_in(cloud) as one, browser(cloud) as stranger:
        answers = [
            await one.get("/web/"),
            await one.get("/web/nosuch"),
            await one.get("/web/static/web.css"),
            await one.get("/web/static/nosuch"),
            await one.get("/web/static/foreign/htmx.min.js"),
            await stranger.get("/web/"),
            await stranger.get("/web/sign-in"),
            await stranger.post("/web/sign-in"),
            await one.post("/web/sign-out", headers={"Origin": "https://evil.example"}),
            await one.http.request("DELETE", "/web/"),
        ]
        monkeypatch.setattr("supercloud.web.views._grid", MagicMock(side_effect=RuntimeError("a bug")))
        answers.append(await one.get("/web/"))
        assert [one.status_code for one in answers] == [200, 404, 200, 404, 200, 303, 200, 401, 403, 403, 500]
        for answer in answers:
            policy = dict(part.strip().split(" ", 1) for part in _header(answer, "csp").split(";"))
            assert policy["default-src"] == "'none'" and policy["frame-ancestors"] == "'none'"
            assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
            assert "unsafe" not in _header(answer, "csp") and policy["base-uri"] == "'none'"
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["referrer-policy"] == "no-referrer"
            assert answer.headers["cache-control"] in {"no-store", "no-cache"}
            assert "a bug" not in answer.text


def _header(answer: httpx.Response, _: str) -> str:
    return answer.headers["content-security-policy"]


#: Whatever is done to a thing, by the path that it is posted to.
DONE = {
    "/web/new/{path}": [f"/web/new/{path}" for path in MAKINGS],
    "/web/{path}/{ref}/level": [f"/web/{path}/{{{path}}}/level" for path in LEVELLED],
    "/web/{path}/{ref}/{action}": [f"/web/{path}/{{{path}}}/{name}" for path, name in ACTIONS],
}


def posts(web: Any, refs: dict[str, str]) -> set[str]:
    """Every path that takes a POST, of every route there is."""
    found = set()
    for route in flattened(web.routes):
        if isinstance(route, APIRoute) and "GET" not in route.methods:
            assert "{" not in route.path or route.path in DONE, f"{route.path} is not known here"
            found |= {path.format(**refs) for path in DONE.get(route.path, [route.path])}
    return found


async def test_whatever_is_posted_has_to_come_from_a_page_of_ours(cloud: Served) -> None:
    control = cloud.bench.control
    operation = (await control.operations())[0]
    refs = dict.fromkeys(KINDS, "nosuch") | {
        "instances": (await control.instance("web")).id,
        "blankets": (await control.blanket("north")).id,
        "providers": (await control.provider("p")).id,
        "domains": (await control.provider("p")).id,
        "operations": operation.id,
    }
    paths = posts(cloud.web, refs)
    assert {"/web/sign-in", "/web/sign-out", "/web/new/instances"} < paths
    assert len(paths) == 2 + len(MAKINGS) + len(LEVELLED) + len(ACTIONS)
    before = await control.operations()
    async with signed_in(cloud) as one, browser(cloud) as other:
        await other.get("/web/sign-in")
        for path in sorted(paths):
            form = {**FILLED, "sure": "web", "code": await code(cloud)}
            for name, headers, csrf in attacks(one, other.csrf):
                answer = await one.post(path, {**form, "csrf": csrf}, headers=headers)
                assert answer.status_code == 403, f"{path}: {name}: {answer.status_code}"
        assert await control.operations() == before, "nothing was begun"
        assert len(await control.clouds()) == 1, "nothing was made"
        assert (await one.get("/web/")).status_code == 200, "nobody was signed out"


def attacks(one: Browser, foreign: str) -> list[tuple[str, dict[str, str], str]]:
    """What is wrong, the headers, the token."""
    good = one.csrf
    return [
        ("no token", {}, ""),
        ("another token", {}, "0" * 64),
        ("another session's token", {}, foreign),
        ("another origin", {"Origin": "https://evil.example"}, good),
        ("another port", {"Origin": one.origin.rpartition(":")[0]}, good),
        ("without TLS", {"Origin": one.origin.replace("https", "http")}, good),
        ("no origin that is known", {"Origin": "null"}, good),
        ("a frame in a sandbox", {"Origin": "null", "Sec-Fetch-Site": "cross-site"}, good),
        ("another site", {"Sec-Fetch-Site": "cross-site"}, good),
        ("another page of this host", {"Origin": "null", "Sec-Fetch-Site": "same-site"}, good),
    ]


async def test_a_form_of_ours_without_an_origin_is_one_that_the_browser_vouches_for(api: Served) -> None:
    async with signed_in(api) as one:
        out = await one.post("/web/sign-out", headers={"Origin": "null", "Sec-Fetch-Site": "same-origin"})
        assert out.status_code == 303


async def test_a_page_of_another_origin_reads_and_changes_nothing_over_the_api(cloud: Served) -> None:
    """A browser's cookies open nothing there, and no answer says that another origin may read it."""
    control = cloud.bench.control
    evil = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}
    asks = {**evil, "Access-Control-Request-Method": "POST"}
    async with signed_in(cloud) as one:
        assert one.session
        for path in ("/v1/status", "/v1/clouds", "/v1/events", "/v1/openapi.json", "/southbound/v1/domains"):
            for method, headers in (("GET", evil), ("POST", evil), ("DELETE", evil), ("OPTIONS", asks)):
                body = {"content": '{"name": "theirs"}'} if method == "POST" else {}
                answer = await one.http.request(method, path, headers=headers, **body)
                assert answer.status_code == 401, (method, path, answer.text)
                allowed = [name for name in answer.headers if name.startswith("access-control-")]
                assert not allowed, (method, path)
        page = await one.get("/web/", **evil)
        assert not [name for name in page.headers if name.startswith("access-control-")]
        assert page.headers["cross-origin-resource-policy"] == "same-origin"
    assert [view.name for view in await control.clouds()] == ["c"]


async def test_only_small_forms_are_read(api: Served) -> None:
    async with signed_in(api) as one:
        large = await one.post("/web/sign-out", {"more": "x" * FORM_BYTES})
        assert large.status_code == 422 and "at most" in large.text
        many = await one.post("/web/sign-out", {f"f{number}": "" for number in range(300)})
        assert many.status_code == 422
        text = await one.http.post("/web/sign-out", json={"csrf": one.csrf}, headers={"Origin": one.origin})
        assert text.status_code == 422
        assert (await one.get("/web/")).status_code == 200


async def test_without_a_session_there_is_nothing_but_signing_in(cloud: Served) -> None:
    instance = (await cloud.bench.control.instance("web")).id
    seen = 0
    async with browser(cloud) as one:
        for route in flattened(cloud.web.routes):  # type: ignore[union-attr]
            if not isinstance(route, APIRoute) or route.path == "/web/sign-in" or "GET" not in route.methods:
                continue
            path = route.path.format(path="instances", ref=instance, action="stop")
            answer = await one.get(path)
            if path in {EVENTS, DOMAIN_EVENTS}:
                assert answer.status_code == 204, "a stream that would come back is told not to"
            else:
                assert (answer.status_code, answer.headers["location"]) == (303, "/web/sign-in"), path
            assert "web" not in answer.text
            seen += 1
    assert seen >= 12


def test_files_of_others_are_there() -> None:
    from supercloud.web.pages import foreign_files

    missing = [name for name, there in foreign_files().items() if not there]
    assert not missing, "run `scripts/fetch-front-end`"


def test_mounts_hold_files_only() -> None:
    """Whatever has no permission of its own is a file."""
    from supercloud.web.app import _create

    mounted = [one.path for one in _create(Sessions()).routes if isinstance(one, Mount)]
    assert mounted == ["/web/static/foreign", "/web/static"]
