"""Who may come in with a browser, and what every answer to one carries.

A browser proves nothing but that it has the session's cookie, so that whatever changes something has to come
from a page of ours as well: it says where it was sent from, and carries a token that only our pages know.
All of this is done here, around every route, so that no route can forget it.
"""

from __future__ import annotations

import contextlib
import hmac
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from urllib.parse import parse_qsl

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from supercloud.api.guard import CUT_AFTER_S, LOOK_EVERY_S, Door, Sight, last_while
from supercloud.model.errors import Denied, InvalidInput, SupercloudError, Unauthenticated, Unavailable
from supercloud.model.permissions import Permission
from supercloud.services.doorkeeper import Bearer
from supercloud.services.sessions import LASTS_S, Sessions

SIGN_IN = "/web/sign-in"
#: That something changed: for users, and for providers.
EVENTS, DOMAIN_EVENTS = "/web/events", "/web/events/domains"
_STREAMS = frozenset({EVENTS, DOMAIN_EVENTS})
_STATIC = "/web/static/"
#: `__Host-`: for this host alone, on every path, over TLS alone, whatever another page tries to set.
SESSION, VISIT = "__Host-supercloud-session", "__Host-supercloud-visit"
CSRF_FIELD = "csrf"
#: A form holds a few names and a key for ssh.
FORM_BYTES, _FIELDS = 64 << 10, 200
_FORM = "application/x-www-form-urlencoded"
#: How a WebSocket is refused before it is one: the server answers its handshake with 403.
_REFUSED = {"type": "websocket.close", "code": 1008, "reason": "refused"}
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; font-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


@dataclass(frozen=True, slots=True)
class Visit:
    """One request of a browser. `bearer` None: it has no session."""

    secret: str = field(repr=False)  # the cookie that its CSRF token belongs to
    csrf: str = field(repr=False)
    bearer: Bearer | None
    form: Mapping[str, tuple[str, ...]]
    live: bool  # asked for by the page itself, as something changed, and wants a part of it
    acts: Callable[[], object]  # to be told that somebody does something; raises Unauthenticated
    may: Callable[[Permission], bool]  # whether it is allowed anywhere


class Gate:
    """ASGI: around everything of the web, its answers to errors too."""

    def __init__(self, app: ASGIApp, *, door: Door, sessions: Sessions) -> None:
        self._app = app
        self._door = door
        self._sessions = sessions
        self._key = secrets.token_bytes(32)  # of CSRF tokens, which are worth nothing after this process

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._socket(scope, receive, send)
        elif scope["type"] == "http":
            headed = _headed(scope, send)
            try:
                answer = await self._let_in(scope, receive)
            except SupercloudError as error:
                answer = _plain(error)
            if answer is None and scope["path"] in _STREAMS:
                check = self._standing(scope["state"]["visit"])
                await last_while(check, CUT_AFTER_S, self._app(scope, receive, headed))
            else:
                await (answer or self._app)(scope, receive, headed)

    async def _let_in(self, scope: Scope, receive: Receive) -> Response | None:
        """None: further on. Else the answer. Raises: SupercloudError."""
        if scope["path"].startswith(_STATIC) and scope["method"] in {"GET", "HEAD"}:
            self._know(scope, Visit("", "", None, {}, live=False, acts=self._acts(""), may=self._may(None)))
            return None
        headers = Headers(scope=scope)
        cookies = cookies_of(headers)
        live = scope["method"] == "GET" and headers.get("hx-request") == "true"
        bearer = await self._bearer(cookies.get(SESSION), acts=not live)
        if bearer is None and scope["path"] != SIGN_IN:
            return _to_sign_in(live=live, streamed=scope["path"] in _STREAMS)
        secret = cookies.get(SESSION if bearer else VISIT) or secrets.token_urlsafe(32)
        csrf = hmac.digest(self._key, secret.encode("utf-8", "replace"), "sha256").hex()
        form: Mapping[str, tuple[str, ...]] = {}
        if scope["method"] not in {"GET", "HEAD"}:
            check_origin(headers)
            form = await _read(headers, receive)
            given = next(iter(form.get(CSRF_FIELD, ())), "")
            if not hmac.compare_digest(given.encode("utf-8", "replace"), csrf.encode()):
                raise Denied("the form is not from this page, or too old", hint="load the page again")
        self._know(scope, Visit(secret, csrf, bearer, form, live, self._acts(secret), self._may(bearer)))
        return None

    async def _socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        try:
            if "origin" not in headers:
                raise Denied("a WebSocket that does not say which page it is from")
            check_origin(headers)
            session = cookies_of(headers).get(SESSION) or ""
            bearer = await self._bearer(session, acts=True)
        except SupercloudError:
            bearer = None
        if bearer is None:
            await receive()
            await send(_REFUSED)
            return
        visit = Visit(session, "", bearer, {}, False, self._acts(session), self._may(bearer))
        self._know(scope, visit)
        await last_while(self._standing(visit), LOOK_EVERY_S, self._app(scope, receive, send))

    async def _bearer(self, session: str | None, *, acts: bool) -> Bearer | None:
        """Whose the session is, as its token stands now; None: nobody's. Raises: Unavailable."""
        if not session:
            return None
        try:
            return await self._door.check(self._sessions.find(session, acts=acts))
        except Unauthenticated:
            return None

    def _know(self, scope: Scope, visit: Visit) -> None:
        state = scope.setdefault("state", {})
        state["visit"] = visit
        bearer = visit.bearer
        if bearer is not None:
            state["enter"] = lambda permission, terms: self._door.admit(bearer, permission, terms)
            state["sight"] = _SessionsSight(self._door, bearer, self._standing(visit))

    def _acts(self, session: str) -> Callable[[], object]:
        return lambda: self._sessions.find(session, acts=True)

    def _may(self, bearer: Bearer | None) -> Callable[[Permission], bool]:
        def may(permission: Permission) -> bool:
            if bearer is None:
                return False
            try:
                self._door.admit(bearer, permission)
            except (Denied, Unauthenticated):
                return False
            return True

        return may

    def _standing(self, visit: Visit) -> Callable[[], Awaitable[object]]:
        """Whether a session and its token count still, to be asked again and again."""

        async def check() -> None:
            await self._door.check(self._sessions.find(visit.secret, acts=False))

        return check


class _SessionsSight(Sight):
    """What may be told to a browser, while its session lasts."""

    def __init__(self, door: Door, bearer: Bearer, standing: Callable[[], Awaitable[object]]) -> None:
        super().__init__(door, bearer)
        self._standing = standing

    async def renew(self) -> None:
        with contextlib.suppress(Unavailable):  # the store is away: nothing changes meanwhile
            await self._standing()
        await super().renew()


def check_origin(headers: Headers) -> None:
    """Whether a request comes from a page of this very origin.

    Our pages send no referrer, and browsers then leave the origin out of forms ("null"): for these they say
    by Sec-Fetch-Site, which no page can set, that it is the same.

    Raises:
        Denied: it does not, or it is not known.
    """
    origin = headers.get("origin", "null")
    ours = f"https://{headers.get('host', '')}"
    site = headers.get("sec-fetch-site")
    if site not in {None, "same-origin"} or (origin != ours and (origin, site) != ("null", "same-origin")):
        raise Denied("the request comes from another page than this control plane's")


def cookies_of(headers: Headers) -> dict[str, str]:
    """The ones that count; of several of one name, none: one of them is not ours."""
    found: dict[str, str] = {}
    for part in "; ".join(headers.getlist("cookie")).split(";"):
        name, _, value = part.strip().partition("=")
        if name in {SESSION, VISIT}:
            found[name] = "" if name in found else value
    return found


def keep_cookie(answer: Response, name: str, value: str) -> None:
    """For this host, over TLS, out of scripts' reach, and never with a request from another site's page."""
    made: SimpleCookie = SimpleCookie()
    made[name] = value
    lasts: dict[str, object] = {"max-age": int(LASTS_S)} if value else {"max-age": 0}
    for key, setting in {
        "path": "/",
        "secure": True,
        "httponly": True,
        "samesite": "Strict",
        **lasts,
    }.items():
        made[name][key] = setting
    answer.headers.append("Set-Cookie", made[name].OutputString())


async def _read(headers: Headers, receive: Receive) -> Mapping[str, tuple[str, ...]]:
    """The form.

    Raises:
        InvalidInput: it is none, or too large.
    """
    if headers.get("content-type", "").partition(";")[0].strip().lower() != _FORM:
        raise InvalidInput("only forms are taken here")
    body = bytearray()
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise InvalidInput("the request was cut off")
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > FORM_BYTES:
            raise InvalidInput(f"a form has at most {FORM_BYTES} bytes")
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=_FIELDS)
    except ValueError as error:
        raise InvalidInput("not a form, or one of too many fields") from error
    form: dict[str, tuple[str, ...]] = {}
    for name, value in pairs:
        form[name] = (*form.get(name, ()), value)
    return form


def _to_sign_in(*, live: bool, streamed: bool) -> Response:
    """A page is led there; a part of a page leads its page there; a stream ends and does not come back."""
    if streamed:
        return Response(status_code=204)
    if live:
        return Response(status_code=401, headers={"HX-Redirect": SIGN_IN})
    return RedirectResponse(SIGN_IN, status_code=303)


def _plain(error: SupercloudError) -> Response:
    """Before it is known who asks there is no page to say it on."""
    text = f"{error.message}\n" + (f"{error.hint}\n" if error.hint else "")
    return Response(text, error.http_status, media_type="text/plain", headers={"Connection": "close"})


def _headed(scope: Scope, send: Send) -> Send:
    cached = scope["path"].startswith(_STATIC)

    async def headed(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers.update(HEADERS)
            headers["Cache-Control"] = "no-cache" if cached else "no-store"
        await send(message)

    return headed
