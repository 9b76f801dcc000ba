"""Who may call what: every request proves whose it is before anything reads it, and each operation declares
the one permission that it needs, as the type of its first parameter.

An operation gets at a control plane in no other way than by such a parameter, so that none can forget. One
that declares nothing, or two things, keeps the API from starting.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Awaitable, Callable, Iterable
from http import HTTPStatus
from typing import Annotated, Any, Protocol

from fastapi import APIRouter, Depends
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, APIWebSocketRoute
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from supercloud.api.inner import TERMS
from supercloud.api.problems import problem
from supercloud.model.errors import SupercloudError, Unauthenticated
from supercloud.model.names import Id
from supercloud.model.permissions import Permission
from supercloud.services.caller import Terms
from supercloud.services.doorkeeper import Bearer, Presented
from supercloud.services.northbound import Northbound
from supercloud.services.southbound import Southbound
from supercloud.services.store.changes import Change
from supercloud.trust import proof
from supercloud.trust.keys import to_text

#: How often it is looked whether the token of an open stream counts still: its time may be over, and another
#: controller may have revoked it.
LOOK_EVERY_S = 1.0
CUT_AFTER_S = 5.0
#: The path of a stream that is no WebSocket's. It ends in order when its token does, if it is read from; one
#: that is not is cut.
EVENTS = "/events"
#: In the API's description.
PERMISSION_KEY = "x-permission"
SECURITY_SCHEME = {
    "token": {
        "type": "http",
        "scheme": proof.SCHEME,
        "description": "A Biscuit, with a signature of its holder's key over each request (RFC 9421).",
    }
}


class Door(Protocol):
    """services.doorkeeper.Doorkeeper."""

    async def authenticate(self, presented: Presented) -> Bearer: ...

    async def check(self, bearer: Bearer) -> Bearer: ...

    def sees(self, bearer: Bearer, change: Change) -> bool: ...

    def sees_of_domains(self, bearer: Bearer, change: Change) -> bool: ...

    def admit(self, bearer: Bearer, permission: Permission, terms: tuple[Terms, ...] = ()) -> Northbound: ...


class Sight:
    """What the bearer of an open stream may be told of, as its token and its principal stand by now."""

    def __init__(self, door: Door, bearer: Bearer) -> None:
        self._door = door
        self._bearer = bearer
        self._known: dict[tuple[str, Id | None, Id | None], bool] = {}

    async def renew(self) -> None:
        """To be awaited about once a second; what was found out before is not relied on any longer.

        Raises:
            Unauthenticated: the token counts no more.
        """
        try:
            self._bearer = await self._door.check(self._bearer)
        except Unauthenticated:
            raise
        except SupercloudError:
            return  # the store is away: nothing changes meanwhile
        self._known.clear()

    def of(self, change: Change) -> bool:
        """Whether it may be told of this change. Raises: Unauthenticated."""
        what = (change.kind, change.cloud, change.owner)
        if what not in self._known:
            self._known[what] = self._door.sees(self._bearer, change)
        return self._known[what]

    def of_domains(self, change: Change) -> bool:
        """Whether it may be told of this change as a provider. Raises: Unauthenticated."""
        return self._door.sees_of_domains(self._bearer, change)


class Guard:
    """Middleware: nobody gets further without a token and the proof of its key.

    A body must be the one that was signed, except on paths whose bytes are checked against a digest that the
    path itself holds.
    """

    def __init__(self, app: ASGIApp, *, door: Door, content_suffix: str) -> None:
        self._app = app
        self._door = door
        self._content_suffix = content_suffix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        try:
            presented = _presented(scope, self._content_suffix)
            bearer = await self._door.authenticate(presented)
        except SupercloudError as error:
            await _refuse(error, scope, receive, send)
            return
        state = scope.setdefault("state", {})
        state["principal"] = bearer.token.principal
        state["bearer"] = bearer
        state["enter"] = lambda permission, terms: self._door.admit(bearer, permission, terms)
        state["sight"] = Sight(self._door, bearer)
        if scope["type"] == "websocket":
            await self._watched(bearer, LOOK_EVERY_S, scope, receive, send)
            return
        digest = presented.covered.digest
        receive = receive if digest is None else _signed(receive, digest)
        if scope["path"].endswith(EVENTS):
            await self._watched(bearer, CUT_AFTER_S, scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _watched(
        self, bearer: Bearer, every_s: float, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """A stream lasts as long as its token counts."""
        await last_while(lambda: self._door.check(bearer), every_s, self._app(scope, receive, send))


async def last_while(check: Callable[[], Awaitable[object]], every_s: float, work: Awaitable[None]) -> None:
    """Do it until `check`, looked at every so often, raises Unauthenticated: then it is cancelled."""
    stream = asyncio.ensure_future(work)
    try:
        while not stream.done():
            await asyncio.wait({stream}, timeout=every_s)
            try:
                await check()
            except Unauthenticated:
                stream.cancel()
                await asyncio.wait({stream})
            except SupercloudError:
                continue  # the store is away: it is looked again, and nobody new gets in meanwhile
    finally:
        stream.cancel()
    if not stream.cancelled():
        stream.result()


def _presented(scope: Scope, content_suffix: str) -> Presented:
    headers = Headers(scope=scope)
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() != proof.SCHEME.lower() or not token:
        raise Unauthenticated("the request carries no token", hint="supercloud up")
    streamed = scope["type"] == "http" and scope["method"] == "PUT" and scope["path"].endswith(content_suffix)
    covered = proof.Signed(
        method=scope.get("method", "GET"),  # a WebSocket's handshake is one
        path=scope["raw_path"].decode("ascii", "backslashreplace"),
        query=scope["query_string"].decode("ascii", "backslashreplace"),
        token=token.strip(),
        channel=headers.get(proof.CHANNEL_HEADER, ""),
        digest=None if streamed else headers.get("content-digest", ""),
    )
    return Presented(
        covered=covered,
        signature_input=headers.get("signature-input", ""),
        signature=headers.get("signature", ""),
    )


def _signed(receive: Receive, digest: str) -> Receive:
    """The same body, whose end does not come unless it is what was signed."""
    seen = hashlib.sha256()

    async def checked() -> Message:
        message = await receive()
        if message["type"] == "http.request":
            seen.update(message.get("body", b""))
            if not message.get("more_body") and not hmac.compare_digest(
                f"sha-256=:{to_text(seen.digest())}:".encode(), digest.encode("utf-8", "replace")
            ):
                # FastAPI lets nothing else through from where it reads a body.
                raise HTTPException(HTTPStatus.UNAUTHORIZED, "the body is not the one that was signed")
        return message

    return checked


async def _refuse(error: SupercloudError, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 4001, "reason": error.code})
        return
    answer = problem(error)
    answer.headers["Connection"] = "close"  # else a body that still comes would be read and thrown away
    await answer(scope, receive, send)


# ---------------------------------------------------------------- what an operation needs


class Needs:
    """The dependency that lets a request in to the control plane as its caller sees it."""

    def __init__(self, permission: Permission) -> None:
        self.permission = permission

    async def __call__(self, connection: HTTPConnection) -> Northbound:
        enter: Callable[[Permission, tuple[Terms, ...]], Northbound] = connection.state.enter
        return enter(self.permission, connection.scope["state"].get(TERMS, ()))


class NeedsOfDomains(Needs):
    """The same, to what its caller can ask as a provider, and to nothing else."""

    async def __call__(self, connection: HTTPConnection) -> Southbound:  # type: ignore[override]
        return (await super().__call__(connection)).southbound()


DomainRead = Annotated[Southbound, Depends(NeedsOfDomains(Permission.DOMAIN_READ))]
DomainWrite = Annotated[Southbound, Depends(NeedsOfDomains(Permission.DOMAIN_WRITE))]
DomainReport = Annotated[Southbound, Depends(NeedsOfDomains(Permission.DOMAIN_REPORT))]
DomainAnswer = Annotated[Southbound, Depends(NeedsOfDomains(Permission.DOMAIN_ANSWER))]
DomainAsk = Annotated[Southbound, Depends(NeedsOfDomains(Permission.DOMAIN_ASK))]
CloudRead = Annotated[Northbound, Depends(Needs(Permission.CLOUD_READ))]
CloudWrite = Annotated[Northbound, Depends(Needs(Permission.CLOUD_WRITE))]
CloudCreate = Annotated[Northbound, Depends(Needs(Permission.CLOUD_CREATE))]
CloudExport = Annotated[Northbound, Depends(Needs(Permission.CLOUD_EXPORT))]
BlanketRead = Annotated[Northbound, Depends(Needs(Permission.BLANKET_READ))]
BlanketWrite = Annotated[Northbound, Depends(Needs(Permission.BLANKET_WRITE))]
BlanketTools = Annotated[Northbound, Depends(Needs(Permission.BLANKET_TOOLS))]
BlanketConsole = Annotated[Northbound, Depends(Needs(Permission.BLANKET_CONSOLE))]
NetworkRead = Annotated[Northbound, Depends(Needs(Permission.NETWORK_READ))]
NetworkWrite = Annotated[Northbound, Depends(Needs(Permission.NETWORK_WRITE))]
VolumeRead = Annotated[Northbound, Depends(Needs(Permission.VOLUME_READ))]
VolumeWrite = Annotated[Northbound, Depends(Needs(Permission.VOLUME_WRITE))]
VmRead = Annotated[Northbound, Depends(Needs(Permission.VM_READ))]
VmRun = Annotated[Northbound, Depends(Needs(Permission.VM_RUN))]
VmMigrate = Annotated[Northbound, Depends(Needs(Permission.VM_MIGRATE))]
VmConsole = Annotated[Northbound, Depends(Needs(Permission.VM_CONSOLE))]
TrustRead = Annotated[Northbound, Depends(Needs(Permission.TRUST_READ))]
TrustWrite = Annotated[Northbound, Depends(Needs(Permission.TRUST_WRITE))]
FindingRead = Annotated[Northbound, Depends(Needs(Permission.FINDING_READ))]
IncidentRead = Annotated[Northbound, Depends(Needs(Permission.INCIDENT_READ))]
IncidentClose = Annotated[Northbound, Depends(Needs(Permission.INCIDENT_CLOSE))]
IncidentAnswer = Annotated[Northbound, Depends(Needs(Permission.INCIDENT_ANSWER))]
IncidentEvidence = Annotated[Northbound, Depends(Needs(Permission.INCIDENT_EVIDENCE))]
PolicyRead = Annotated[Northbound, Depends(Needs(Permission.POLICY_READ))]
PolicyWrite = Annotated[Northbound, Depends(Needs(Permission.POLICY_WRITE))]
OrderRead = Annotated[Northbound, Depends(Needs(Permission.ORDER_READ))]
OrderWrite = Annotated[Northbound, Depends(Needs(Permission.ORDER_WRITE))]
ActRead = Annotated[Northbound, Depends(Needs(Permission.ACT_READ))]
ActDecide = Annotated[Northbound, Depends(Needs(Permission.ACT_DECIDE))]
OperationRead = Annotated[Northbound, Depends(Needs(Permission.OPERATION_READ))]
OperationCancel = Annotated[Northbound, Depends(Needs(Permission.OPERATION_CANCEL))]
ImageRead = Annotated[Northbound, Depends(Needs(Permission.IMAGE_READ))]
ImageWrite = Annotated[Northbound, Depends(Needs(Permission.IMAGE_WRITE))]
ProviderRead = Annotated[Northbound, Depends(Needs(Permission.PROVIDER_READ))]
ProviderWrite = Annotated[Northbound, Depends(Needs(Permission.PROVIDER_WRITE))]
PrincipalRead = Annotated[Northbound, Depends(Needs(Permission.PRINCIPAL_READ))]
PrincipalWrite = Annotated[Northbound, Depends(Needs(Permission.PRINCIPAL_WRITE))]
TokenRead = Annotated[Northbound, Depends(Needs(Permission.TOKEN_READ))]
TokenMint = Annotated[Northbound, Depends(Needs(Permission.TOKEN_MINT))]
TokenRevoke = Annotated[Northbound, Depends(Needs(Permission.TOKEN_REVOKE))]

WebSignIn = Annotated[Northbound, Depends(Needs(Permission.WEB_SIGN_IN))]


def declared(routers: Iterable[APIRouter]) -> None:
    """Write each operation's permission into the API's description.

    Raises:
        TypeError: one declares none, or several; or a route is of a kind that cannot declare any.
    """
    for router in routers:
        for route in router.routes:
            if not isinstance(route, APIRoute | APIWebSocketRoute):
                raise TypeError(f"{route} cannot declare what it needs")
            needed = permissions(route.dependant)
            if len(needed) != 1:
                raise TypeError(f"{route.path} needs one permission, and declares {len(needed)}")
            if isinstance(route, APIRoute):
                extra: dict[str, Any] = {PERMISSION_KEY: str(needed[0]), "security": [{"token": []}]}
                route.openapi_extra = {**(route.openapi_extra or {}), **extra}


async def may(dependant: Dependant, connection: HTTPConnection) -> None:
    """Whether who asks may at all. Raises: Denied and other SupercloudErrors."""
    for one in dependant.dependencies:
        if isinstance(one.call, Needs):
            await one.call(connection)


def permissions(dependant: Dependant) -> list[Permission]:
    """What a route declares that it needs."""
    return [one.call.permission for one in dependant.dependencies if isinstance(one.call, Needs)]
