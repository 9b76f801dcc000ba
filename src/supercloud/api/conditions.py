"""Entity tags and what requests make of them (RFC 9110, 8.8.3 and 13).

A tag is made of what is shown, but for what counts down: otherwise an instance would be another one each
moment. What is asked under a condition is compared in the transaction that changes the thing.
"""

from __future__ import annotations

import hashlib
import json
import re

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from supercloud.api.inner import TERMS, Look, Whole, looker
from supercloud.api.problems import problem
from supercloud.model.errors import InvalidInput, PreconditionFailed, SupercloudError
from supercloud.services.store import security, tables

#: Members of views that say how much time is left.
_COUNTS_DOWN = re.compile(rb'"(?:right|quarantine)_left_s":[^,}]*')
#: `/instances/move` is about a group of them.
_THING = re.compile(r"((?:/southbound)?/v1/([a-z]+)/(?!move$)[^/]+)(?:/[a-z-]+)?")
_TAG = re.compile(r'\s*(?:(W/)?("[\x21\x23-\x7e]*"))\s*(?:,|$)')
_TAGS_CHARS = 4096
_JSON = "application/json"
_TABLES: dict[str, type[tables.Base]] = {
    "clouds": tables.Cloud,
    "blankets": tables.Blanket,
    "networks": tables.Network,
    "volumes": tables.Volume,
    "instances": tables.Instance,
    "trust": tables.Trust,
    "operations": tables.Operation,
    "images": tables.Image,
    "providers": tables.Provider,
    "principals": tables.Principal,
    "domains": tables.Provider,
    "windows": tables.Maintenance,
    "drains": tables.Operation,
    "findings": security.FindingRow,
    "incidents": security.IncidentRow,
    "orders": security.OrderRow,
    "commands": security.OrderRow,
    "acts": security.ActRow,
}


def tag(body: bytes) -> str:
    """Of what is shown, as JSON."""
    return f'"{hashlib.sha256(_COUNTS_DOWN.sub(b"", body)).hexdigest()[:32]}"'


class Conditions:
    """Middleware, inside of the guard."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            asked = _Asked(Headers(scope=scope))
            if scope["method"] == "GET":
                await _Tagged(asked, send).answered(self._app, scope, receive)
                return
            if asked.any:
                terms = _terms(asked, self._app, scope)
                scope["state"][TERMS] = (*scope["state"].get(TERMS, ()), terms)
        except SupercloudError as error:
            await problem(error)(scope, receive, send)
            return
        await self._app(scope, receive, send)


class _Asked:
    """Of one request. Raises: InvalidInput."""

    def __init__(self, headers: Headers) -> None:
        self._match = _tags(headers.getlist("if-match"))
        self._none_match = _tags(headers.getlist("if-none-match"))

    @property
    def any(self) -> bool:
        return self._match is not None or self._none_match is not None

    def same(self, current: str) -> bool:
        """Whether who asks has it already (weak comparison)."""
        return self._none_match is not None and (not self._none_match or current in self._none_match.values())

    def refused(self, current: str | None) -> bool:
        """Whether `If-Match` does not hold; `current` None: nothing is there."""
        if self._match is None:
            return False
        if current is None:
            return True
        return bool(self._match) and current not in self._match  # of which a weak one is none of ours


def _tags(given: list[str]) -> dict[str, str] | None:
    """As they were given -> without the mark of weak ones; empty: `*`; None: there are none.

    Raises:
        InvalidInput: they are not tags.
    """
    if not given:
        return None
    text, found, at = ",".join(given).strip(), {}, 0
    if text == "*":
        return {}
    while at < len(text) <= _TAGS_CHARS:
        one = _TAG.match(text, at)
        if one is None:
            break
        found[f"{one[1] or ''}{one[2]}"] = one[2]
        at = one.end()
    if at < len(text) or not found:
        raise InvalidInput("that is not a list of entity tags", hint='as "0123abcd", from an ETag')
    return found


class _Tagged:
    """An answer to a GET: JSON gets its tag, everything else goes through as it comes."""

    def __init__(self, asked: _Asked, send: Send) -> None:
        self._asked = asked
        self._send = send
        self._whole: Whole | None = None

    async def answered(self, app: ASGIApp, scope: Scope, receive: Receive) -> None:
        await app(scope, receive, self._heard)
        whole = self._whole
        if whole is None or whole.start is None:
            return
        current = tag(bytes(whole.body))
        if self._asked.refused(current):
            await problem(_failed())(scope, receive, self._send)
            return
        headers = MutableHeaders(scope=whole.start)
        headers["ETag"] = current
        headers["Cache-Control"] = "private, no-cache"
        headers["Vary"] = "Authorization"
        if not self._asked.same(current):
            await whole.pass_on(self._send)
            return
        kept = {name: headers[name] for name in ("ETag", "Cache-Control", "Vary", "Link") if name in headers}
        await Response(status_code=304, headers=kept)(scope, receive, self._send)

    async def _heard(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            kind = Headers(raw=message["headers"]).get("content-type", "")
            if message["status"] == 200 and kind == _JSON:
                self._whole = Whole()
        if self._whole is None:
            await self._send(message)
        else:
            await self._whole.send(message)


def about_one(path: str) -> bool:
    """Whether a change that is asked for there may have a condition. In a description, too."""
    found = _THING.fullmatch(path)
    return found is not None and found[2] in _TABLES


def _terms(asked: _Asked, app: ASGIApp, scope: Scope) -> _Terms:
    """
    Raises:
        PreconditionFailed: it is about no thing, so that nothing is there to compare with.
    """
    found = _THING.fullmatch(scope["path"])
    if found is None or found[2] not in _TABLES:
        raise PreconditionFailed("a condition is about one thing", hint="leave If-Match out here")
    query = b"&".join(part for part in scope["query_string"].split(b"&") if part.startswith(b"cloud="))
    return _Terms(asked, looker(app, scope), found[1], query, _TABLES[found[2]])


class _Terms:
    """services.caller.Terms: compared once, when the first transaction has begun."""

    def __init__(self, asked: _Asked, look: Look, path: str, query: bytes, table: type[tables.Base]) -> None:
        self._asked = asked
        self._look = look
        self._where = path, query
        self._table = table
        self._held = False

    async def before(self, session: AsyncSession) -> None:
        """On SQLite nobody else writes from here on; on PostgreSQL nobody else changes the thing's row.

        Raises:
            PreconditionFailed.
        """
        if self._held:
            return
        status, body = await self._look(*self._where)
        if status == 200 and session.get_bind().dialect.name != "sqlite":
            row = self._table.__table__.c.id
            await session.execute(select(row).where(row == json.loads(body)["id"]).with_for_update())
            status, body = await self._look(*self._where)
        current = tag(body) if status == 200 else None
        if self._asked.refused(current) or (current is not None and self._asked.same(current)):
            raise _failed()
        self._held = True

    async def after(self, session: AsyncSession) -> None:
        """Nothing is noted."""


def _failed() -> PreconditionFailed:
    return PreconditionFailed("it is not as it was any more", hint="look at it again, then decide")
