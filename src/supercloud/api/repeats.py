"""Requests that may come again: `Idempotency-Key`, of the IETF's HTTP API working group's draft."""

from __future__ import annotations

import hashlib
import re
from typing import Protocol

import structlog
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from supercloud.api.inner import TERMS, Look, Whole, looker
from supercloud.api.problems import http_problem, problem
from supercloud.model.errors import Conflict, InvalidInput, SupercloudError
from supercloud.model.kinds import Kind
from supercloud.model.names import Id
from supercloud.services.answers import Claim, Kept, Made, ThatIsUnderWay
from supercloud.services.store.changes import Act

_log = structlog.get_logger(__name__)
HEADER = "Idempotency-Key"
REPLAYED = "Idempotency-Replayed"
METHODS = frozenset({"POST", "DELETE"})
#: A string of RFC 8941; a plain word is taken too.
_KEY = re.compile(r'"([\x21\x23-\x5b\x5d-\x7e]{1,128})"|([A-Za-z0-9_.:-]{1,128})')
#: What is not kept: a token, though nobody could use it without its holder's key, and a sign-in's code.
_UNKEPT = {
    "/v1/tokens": ("a token was minted", "mint another: supercloud token mint"),
    "/v1/web/codes": ("a code was made", "ask for another: supercloud web"),
}
_RETRY_AFTER_S = 1
_COLLECTIONS = {
    Kind.OPERATION: "operations",
    Kind.CLOUD: "clouds",
    Kind.BLANKET: "blankets",
    Kind.NETWORK: "networks",
    Kind.VOLUME: "volumes",
    Kind.INSTANCE: "instances",
    Kind.TRUST: "trust",
    Kind.IMAGE: "images",
    Kind.PROVIDER: "providers",
    Kind.PRINCIPAL: "principals",
    Kind.ORDER: "orders",
}
SOUTHBOUND = "/southbound"
_OF_DOMAINS = {
    Kind.OPERATION: "drains",
    Kind.PROVIDER: "domains",
    Kind.MAINTENANCE: "windows",
    Kind.ACT: "acts",
}
_ROLLBACK = "/rollback"
#: What has an id of who asked, by which it is the same when it comes again; it may be many at once.
_OWN_IDS = frozenset({Kind.FINDING})


class Answers(Protocol):
    """services.answers.Answers."""

    async def claim(self, principal: Id, key: str, fingerprint: str) -> Claim | Kept: ...

    async def keep(self, claim: Claim, answer: Kept) -> None: ...

    def drop(self, claim: Claim) -> None: ...


class Repeats:
    """Middleware, inside of the guard."""

    def __init__(self, app: ASGIApp, *, answers: Answers) -> None:
        self._app = app
        self._answers = answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        given = Headers(scope=scope).get(HEADER) if scope["type"] == "http" else None
        if given is None or scope["method"] not in METHODS:
            await self._app(scope, receive, send)
            return
        try:
            key = _read_key(given)
            body = await _read(receive)
            principal = scope["state"]["principal"]
            claim = await self._answers.claim(principal, key, _fingerprint(scope, body))
        except SupercloudError as error:
            answer: Response = problem(error)
            if isinstance(error, ThatIsUnderWay):
                answer.headers["Retry-After"] = str(_RETRY_AFTER_S)
            await answer(scope, receive, send)
        except HTTPException as error:
            await http_problem(error)(scope, receive, send)
        else:
            if isinstance(claim, Claim):
                await self._carried_out(claim, body, scope, send)
            else:
                await _again(claim, scope["path"])(scope, receive, send)

    async def _carried_out(self, claim: Claim, body: bytes, scope: Scope, send: Send) -> None:
        whole = Whole()
        try:
            before = await _before(claim.made, looker(self._app, scope), scope)
            if before is None:
                scope["state"][TERMS] = (*scope["state"].get(TERMS, ()), claim)
                await self._app(scope, _sent(body), whole.send)
            else:
                await before(scope, _sent(b""), whole.send)
            said = None if scope["path"] in _UNKEPT else whole.body.decode("utf-8", "replace")
            await self._answers.keep(claim, Kept(whole.status, whole.media_type, said))
        except SupercloudError as error:  # the store went away: the answer is right all the same
            _log.warning("api.answer_not_kept", why=error.message)
        finally:
            self._answers.drop(claim)
        await whole.pass_on(send)


async def _before(made: tuple[Made, ...], look: Look, scope: Scope) -> Response | None:
    """The answer of a try that was cut off after its work; None: it did none, or what may be done again."""
    made = tuple(one for one in made if one.kind not in _OWN_IDS)
    added = [one for one in made if one.act is Act.ADDED]
    started = [one for one in added if one.kind is Kind.OPERATION]
    if any(one.kind is Kind.TOKEN for one in added):
        return problem(_lost("/v1/tokens"))
    for one in (*started, *added):
        status, body = await look(*_place_of(one, scope))
        if status != 200:
            return problem(Conflict("it was carried out, and what it made is gone since"))
        return Response(body, _status_of(one), media_type="application/json")
    return Response(status_code=204) if any(one.act is Act.REMOVED for one in made) else None


def _place_of(one: Made, scope: Scope) -> tuple[str, bytes]:
    """Path and query of a thing, over the API that it was asked for by."""
    path: str = scope["path"]
    if one.kind is Kind.POLICY:  # shown where it is set, not version by version
        return path.removesuffix(_ROLLBACK), scope["query_string"]
    if path.startswith(f"{SOUTHBOUND}/"):
        return f"{SOUTHBOUND}/v1/{_OF_DOMAINS[one.kind]}/{one.id}", b""
    return f"/v1/{_COLLECTIONS[one.kind]}/{one.id}", b""


def _status_of(one: Made) -> int:
    """Of the answer to what made it."""
    if one.kind is Kind.OPERATION:
        return 202
    return 200 if one.kind is Kind.POLICY else 201


def _again(kept: Kept, path: str) -> Response:
    if kept.body is None and kept.status < 400:
        return problem(_lost(path))
    answer = Response(kept.body, kept.status, media_type=kept.media_type or None)
    answer.headers[REPLAYED] = "true"
    return answer


def _lost(path: str) -> Conflict:
    what, hint = _UNKEPT[path]
    return Conflict(f"{what}, and is not kept here", hint=hint)


def _read_key(given: str) -> str:
    """
    Raises:
        InvalidInput: it is none.
    """
    found = _KEY.fullmatch(given)
    if found is None:
        raise InvalidInput(f"{HEADER} is not a string of up to 128 characters", hint='as "1b4e28ba-2fa1"')
    return str(found[1] or found[2])


def _fingerprint(scope: Scope, body: bytes) -> str:
    headers = Headers(scope=scope)
    parts = (
        scope["method"].encode(),
        scope["raw_path"],
        scope["query_string"],
        headers.get("if-match", "").encode(),
        headers.get("if-none-match", "").encode(),
        hashlib.sha256(body).digest(),
    )
    return hashlib.sha256(b"\x00".join(hashlib.sha256(one).digest() for one in parts)).hexdigest()


async def _read(receive: Receive) -> bytes:
    """The whole body, which api.limits bounds."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise HTTPException(400, "the request was cut off")
        body += message.get("body", b"")
        if not message.get("more_body"):
            return bytes(body)


def _sent(body: bytes) -> Receive:
    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive
