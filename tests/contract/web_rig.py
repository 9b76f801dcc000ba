"""A browser without a screen: it keeps cookies, reads forms, and says where it comes from."""

from __future__ import annotations

import hashlib
import html
import re
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
from api_rig import HOST, Named, Served, Signing
from starlette.routing import BaseRoute
from websockets.asyncio.client import connect

from supercloud.ports.agent import StopMode
from supercloud.services.requests import AddPrincipal, MintToken
from supercloud.services.views import MintedView
from supercloud.trust.keys import IdentityKey
from supercloud.web.actions import ACTIONS
from supercloud.web.gate import SESSION

_CSRF = re.compile(r'name="csrf" value="([0-9a-f]{64})"')
HOSTILE = '<script>alert("1")</script>'
#: Whatever any form asks for.
FILLED = {
    "name": "more",
    "cloud": "c",
    "provider": "p",
    "image": "debian",
    "on": "north",
    "to": "north",
    "instance": "web",
    "networks": "lan",
    "kind": "share-image",
    "level": "open",
    "mode": StopMode.SHUTDOWN.value,
    "snapshot": "kept",
    "size_gib": "1",
    "cidr": "10.9.1.0/24",
    "options": "key=value",
    "currency": "eur",
    "vcpu_hour": "0.01",
    "begins_at": "2031-05-01T12:00",
    "ends_at": "2031-05-01T13:00",
    "drain_ahead_min": "30",
    "blanket": "north",
    "reaction": "restart:device",
    "takes": "restart:device",
    "status": "200",
    "answered": "7c9e6679-7425-40de-944b-e07fc1f90ae7",
    "incident": "7c9e6679-7425-40de-944b-e07fc1f90ae7",
    "operation": "dump",
    "machine": "7c9e6679-7425-40de-944b-e07fc1f90ae7",
    "arguments": "sha256:" + "e" * 64,
    "purpose": "a crash",
    "not_before": "2031-05-01T12:00",
    "expires_at": "2031-05-01T13:00",
}
_LINKS = re.compile(r'(?:href|hx-get|action)="(/web/?[^"#]*)"')


class Clock:
    """Seconds, as a test says."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Browser:
    """One, with or without a session."""

    http: httpx.AsyncClient
    origin: str
    csrf: str = ""

    async def get(self, path: str, **headers: str) -> httpx.Response:
        answer = await self.http.get(path, headers=headers)
        if found := _CSRF.search(answer.text):
            self.csrf = found[1]
        return answer

    async def post(
        self, path: str, form: Mapping[str, object] | None = None, headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        """As a form of ours does: with the token of the page that was seen last."""
        data = {"csrf": self.csrf, **(form or {})}
        return await self.http.post(path, data=data, headers={"Origin": self.origin, **(headers or {})})

    async def sign_in(self, code: str) -> httpx.Response:
        await self.get("/web/sign-in", **{})
        return await self.post("/web/sign-in", {"code": code})

    @property
    def session(self) -> str:
        return self.http.cookies.get(SESSION, "")

    def socket(self, path: str, *, origin: str | None = None, session: str | None = None) -> connect:
        cookie = self.session if session is None else session
        return connect(
            f"wss{self.origin.removeprefix('https')}{path}",
            ssl=insecure(),
            server_hostname="",
            origin=self.origin if origin is None else origin or None,  # type: ignore[arg-type]
            additional_headers={"Cookie": f"{SESSION}={cookie}"} if cookie else {},
            compression=None,
        )


def links(answer: httpx.Response) -> set[str]:
    """Where a page leads to, here."""
    return {html.unescape(one) for one in _LINKS.findall(answer.text)}


async def crawled(one: Browser) -> dict[str, httpx.Response]:
    """Every page that there is a way to."""
    found: dict[str, httpx.Response] = {}
    left = {"/web/"}
    buttons = tuple(f"/{name}" for (_, name), action in ACTIONS.items() if not action.has_page)
    while left:
        path = left.pop()
        found[path] = page = await one.get(path)
        if page.headers["content-type"].startswith("text/html"):
            more = {link for link in links(page) if not link.endswith(("/sign-out", *buttons))}
            left |= {link for link in more if "/static/" not in link} - set(found)
    return found


def well_formed(text: str, path: str) -> None:
    """Nothing in it but what we wrote: no script in place, no style in place, nothing from elsewhere."""
    assert "<script>" not in text and "javascript:" not in text, path
    assert not re.search(r"<[^>]*\s(style|on\w+)\s*=", text), path
    assert not re.search(r'(src|href|action)="(?!/web|#)', text), path


async def event(lines: AsyncIterator[str], heard: bytearray | None = None) -> str:
    """The name of the next one; nothing of what changed is said. `heard`: every byte."""
    name = ""
    async for line in lines:
        if heard is not None:
            heard.extend(line.encode())
        field, _, value = line.partition(": ")
        if field == "event":
            name = value
        elif field.startswith("data"):
            assert value == ""
        elif not line and name:
            return name
    raise AssertionError("it ended")


def flattened(routes: list[BaseRoute]) -> list[BaseRoute]:
    """With those of the routers that were included."""
    found: list[BaseRoute] = []
    for route in routes:
        inner = getattr(route, "original_router", None)
        found += [route] if inner is None else flattened(inner.routes)
    return found


def insecure() -> ssl.SSLContext:
    """As somebody who goes on at a browser's warning. Connections then show whatever browsers are shown."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def fingerprint(port: int) -> str:
    """Of the certificate that browsers are shown."""
    der = ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate((HOST, port)))
    digest = hashlib.sha256(der).hexdigest().upper()
    return ":".join(digest[at : at + 2] for at in range(0, 64, 2))


@asynccontextmanager
async def browser(api: Served) -> AsyncIterator[Browser]:
    """A new one."""
    origin = f"https://{HOST}:{api.access.port}"
    async with httpx.AsyncClient(base_url=origin, verify=insecure(), timeout=30) as http:
        yield Browser(http, origin)


@asynccontextmanager
async def signed_in(api: Served, signing: httpx.Auth | None = None) -> AsyncIterator[Browser]:
    """With a session of `signing`'s, or of the operator's."""
    async with browser(api) as one:
        answer = await one.sign_in(await code(api, signing))
        assert answer.status_code == 303, answer.text
        await one.get("/web/")
        yield one


async def code(api: Served, signing: httpx.Auth | None = None) -> str:
    """Asked for as the command line does."""
    transport = Named(api.client().tls)
    base = f"https://{HOST}:{api.access.port}"
    async with httpx.AsyncClient(
        base_url=base,
        transport=transport,
        headers={"Host": "controller.supercloud"},
        auth=signing or api.sign(),
    ) as http:
        answer = await http.post("/v1/web/codes")
    answer.raise_for_status()
    return str(answer.json()["code"])


class Person:
    """Somebody who has no role but to have clouds."""

    def __init__(self, api: Served, name: str, key: IdentityKey, whole: MintedView) -> None:
        self.name, self.key, self.whole, self._api = name, key, whole, api

    def signing(self, token: str | None = None) -> Signing:
        return Signing(self.key, token or self.whole.token, self._api.channel)

    async def asks(self, token: str) -> int:
        """What the API answers to it."""
        async with httpx.AsyncClient(
            base_url=f"https://{HOST}:{self._api.access.port}/v1",
            transport=Named(self._api.client().tls),
            headers={"Host": "controller.supercloud"},
            auth=self.signing(token),
        ) as client:
            return (await client.get("/clouds")).status_code


async def person(api: Served, name: str) -> Person:
    key, control = IdentityKey.new(), api.bench.control
    await control.add_principal(AddPrincipal(name=name, key=key.name))
    return Person(api, name, key, await control.mint_token(MintToken(principal=name)))
