"""Requests over one TLS connection, each signed by its token's holder; problem details become our errors."""

from __future__ import annotations

import copy
import http.client
import json
import re
import secrets
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar, overload
from urllib.parse import quote, urlencode

from supercloud.client.place import NORTHBOUND, Access
from supercloud.model.errors import Failed, NotFound, OutcomeUnknown, Unavailable, error_from
from supercloud.trust.files import read_private

if TYPE_CHECKING:
    from supercloud.client.sse import Said

T = TypeVar("T")
#: The name in the controller's certificate, whatever address it is reached at.
CONTROLLER_NAME = "controller.supercloud"
_TIMEOUT_S = 60.0
_WAIT_S = 10
_AWAY_S = 30.0
#: The other end closes a connection that idles for longer (api.listener); what is sent then may be lost.
_IDLE_S = 5.0
_LOOK_EVERY_S = 0.5
_CHUNK = 1 << 20
#: Of a list in one answer.
_PART = 1000
#: After a request that got no answer.
_AGAIN_AFTER_S = (0.1, 0.5, 1.0, 2.0, 4.0)
#: The other end says something at least every fifteen seconds.
_SILENT_S = 45.0
_NEXT = re.compile(r'<[^>]*[?&]cursor=([A-Za-z0-9_-]+)[^>]*>; rel="next"')
OPEN_STATES = ("pending", "running", "cancelling")

Watch = Callable[[str, float | None], None]
#: What is sent as JSON: a thing, or several.
Sent = Mapping[str, Any] | Sequence[Mapping[str, Any]]


class Client:
    """One connection, opened when first needed. Not for use by several threads at once.

    Raises, all methods: the errors of model.errors; Unavailable when nothing answers.
    """

    def __init__(self, access: Access, *, base: str = NORTHBOUND, timeout_s: float = _TIMEOUT_S) -> None:
        """`base`: NORTHBOUND, or SOUTHBOUND for what providers ask."""
        self.access = access
        self._base = base
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.tls.minimum_version = ssl.TLSVersion.TLSv1_3
        try:
            self.tls.load_verify_locations(access.authority)
        except (OSError, ssl.SSLError) as error:
            raise Unavailable(f"{access.authority}: {error}", hint="supercloud up") from error
        from supercloud.trust.keys import IdentityKey  # late: what only asks for help need not load it

        self._key = IdentityKey.from_pem(_private(access.key).decode("ascii", "replace"))
        self._token = _private(access.token).decode("ascii", "replace").strip()
        self._timeout_s = timeout_s
        self._connection: _Pinned | None = None
        self._channel = ""
        self._used = 0.0
        self._closed = False
        self._stream: _Pinned | None = None  # that events come over

    def close(self) -> None:
        """End it, from any thread: whatever waits for something fails."""
        self._closed = True
        for one in (self._connection, self._stream):
            if one is not None and one.sock is not None:
                with suppress(OSError):
                    one.sock.shutdown(socket.SHUT_RDWR)

    @overload
    def get(self, path: str, as_: type[T], /, **query: object) -> T: ...
    @overload
    def get(self, path: str, /, **query: object) -> Any: ...
    def get(self, path: str, as_: type[Any] | None = None, /, **query: object) -> Any:
        """One thing, or the first part of a list. `as_`: a view of services.northbound; else it is JSON."""
        return typed(self._ask("GET", path, query)[0], as_)

    @overload
    def all(self, path: str, as_: type[T], /, **query: object) -> list[T]: ...
    @overload
    def all(self, path: str, /, **query: object) -> list[Any]: ...
    def all(self, path: str, as_: type[Any] | None = None, /, **query: object) -> list[Any]:
        """All of a list, however many answers it comes in; `limit`: of each (see api.pages)."""
        return [*self.each(path, as_, **{"limit": _PART} | query)]

    def each(self, path: str, as_: type[Any] | None = None, /, **query: object) -> Iterator[Any]:
        """The same, one after the other."""
        asked: dict[str, object] | None = query
        while asked is not None:
            found, following = self._ask("GET", path, asked)
            for one in found:
                yield typed(one, as_)
            asked = None if following is None else {**query, "cursor": following}

    def post(self, path: str, body: Sent | None = None, **query: object) -> Any:
        """Safe to repeat, and repeated by itself if its answer is lost: it carries a key for that."""
        return self._repeated("POST", path, query, json.dumps(body or {}).encode(), "application/json")

    def put(self, path: str, body: Mapping[str, Any], **query: object) -> Any:
        return self._ask("PUT", path, query, body=json.dumps(body).encode(), kind="application/json")[0]

    def delete(self, path: str, **query: object) -> Any:
        """As `post`."""
        return self._repeated("DELETE", path, query, None, None)

    def events(self, *, since: str | None = None, **query: object) -> Iterator[Said]:
        """What changes, from now on or from what came after `since`; `cloud`, `kind`, `lasts_s` as the API's.

        A connection that ends is made again, and what came meanwhile is told then. `ready` is told once.
        After `lost`, list what you need: it goes on from there. A control plane that stays away for longer
        than `_AWAY_S` ends it, as does a token that counts no more.
        """
        from supercloud.client.sse import following

        yield from following(self._opened, since, query, away_s=_AWAY_S)

    def wait(self, operation: Mapping[str, Any], watch: Watch) -> dict[str, Any]:
        """Follow an operation to its end, telling `watch` of each phase.

        It is durable, so a control plane that is restarted meanwhile is waited for, up to `_AWAY_S`.

        Raises:
            SupercloudError: what the operation failed with.
            Unavailable: the control plane stays away; the operation goes on when it is back.
        """
        seen = dict(operation)
        answered = time.monotonic()
        while seen["state"] in OPEN_STATES:
            watch(seen["phase"], seen["done"])
            try:
                seen = self.get(f"/operations/{seen['id']}", wait_s=_WAIT_S, seen_phase=seen["phase"])
                answered = time.monotonic()
            except Unavailable:
                if time.monotonic() - answered > _WAIT_S + _AWAY_S:
                    raise
                watch("the control plane is away", seen["done"])
                time.sleep(_LOOK_EVERY_S)  # whether it is back has no event
        if seen["error"]:
            problem = seen["error"]
            raise error_from(problem["code"], problem["message"], problem.get("hint"))
        return seen

    def upload(self, digest: str, file: Path, offset: int, watch: Callable[[int], None]) -> Any:
        """Append a file's bytes from `offset` to the image `digest`."""
        with file.open("rb") as content:
            content.seek(offset)
            answer, _ = self._ask(
                "PUT",
                f"/images/{digest}/content",
                {"offset": offset},
                body=_Watched(content, watch),
                kind="application/octet-stream",
                length=file.stat().st_size - offset,
            )
        return answer

    def stream(self, path: str, **query: object) -> dict[str, Any]:
        """What `websockets` connects with for a stream of bytes, once: the address and the proof."""
        from supercloud.trust.proof import digest_of

        target = _target(self._base, path, query)
        self._open()  # the proof names the server's certificate
        return {
            "uri": f"wss://{self.access.host}:{self.access.port}{target}",
            "additional_headers": self._proof("GET", target, digest_of(b"")),
            "ssl": self.tls,
            "server_hostname": CONTROLLER_NAME,
            "compression": None,
            "open_timeout": self._timeout_s,  # an agent that is busy dials back late
        }

    def _proof(self, method: str, target: str, digest: str | None) -> dict[str, str]:
        from supercloud.trust.proof import Signed, prove

        path, _, query = target.partition("?")
        request = Signed(
            method=method, path=path, query=query, token=self._token, channel=self._channel, digest=digest
        )
        return prove(self._key, request, at=time.time())

    def _ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, object],
        *,
        body: bytes | _Watched | None = None,
        kind: str | None = None,
        length: int | None = None,
        key: str | None = None,
    ) -> tuple[Any, str | None]:
        """The answer, and the cursor of what follows it."""
        headers = {"Accept": "application/json"}
        if key:
            headers["Idempotency-Key"] = f'"{key}"'
        if kind:
            headers["Content-Type"] = kind
        if length is not None:
            headers["Content-Length"] = str(length)
        answer, text = self._sent(method, _target(self._base, path, query), body, headers, read=True)
        if answer.status == http.HTTPStatus.CONFLICT and answer.headers["Retry-After"] and key:
            raise OutcomeUnknown("the request is being carried out", hint="supercloud operation ls")
        return self._take(answer.status, text), next_cursor(answer.headers["Link"] or "")

    def _sent(
        self, method: str, target: str, body: bytes | _Watched | None, headers: dict[str, str], *, read: bool
    ) -> tuple[http.client.HTTPResponse, bytes]:
        from supercloud.trust.proof import digest_of

        connection = self._open()
        # The bytes of an image are checked against the digest that its path names.
        digest = None if isinstance(body, _Watched) else digest_of(body or b"")
        headers |= self._proof(method, target, digest)
        try:
            connection.request(method, target, body=body, headers=headers)
            answer = connection.getresponse()
            text = answer.read() if read else b""
            self._used = time.monotonic()
        except (OSError, http.client.HTTPException) as error:
            self._connection = None
            kind_of = Unavailable if method == "GET" else OutcomeUnknown
            raise kind_of(
                f"the control plane did not answer: {error or type(error).__name__}", hint="supercloud status"
            ) from error
        return answer, text

    def _repeated(
        self, method: str, path: str, query: Mapping[str, object], body: bytes | None, kind: str | None
    ) -> Any:
        """Under a key of its own, so that asking again until an answer comes does nothing twice.

        Raises:
            Unavailable: nothing answers, and nothing was sent.
            OutcomeUnknown: something was sent, and no answer came to any try.
        """
        key = secrets.token_hex(16)
        unknown: OutcomeUnknown | None = None
        pauses = iter(_AGAIN_AFTER_S)
        while True:
            try:
                return self._ask(method, path, query, body=body, kind=kind, key=key)[0]
            except OutcomeUnknown as error:
                unknown = error
            except Unavailable:
                if unknown is None:
                    raise
            pause_s = next(pauses, None)
            if pause_s is None:
                raise unknown
            time.sleep(pause_s)  # that it is back has no event

    def _opened(self, query: Mapping[str, object]) -> Iterator[bytes]:
        """The bytes of one stream of events, over a connection of its own.

        Raises:
            SupercloudError: what it was refused with.
            Unavailable: the connection ended, or nothing came for longer than the other end is ever silent.
        """
        own = copy.copy(self)
        own._connection, own._timeout_s = None, _SILENT_S
        answer, _ = own._sent("GET", _target(self._base, "/events", query), None, {}, read=False)
        self._stream = own._connection
        if self._closed:
            raise Failed("this client is closed")
        try:
            if answer.status != http.HTTPStatus.OK:
                self._take(answer.status, answer.read())
            while chunk := answer.read1(_CHUNK):
                yield chunk
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(f"the events broke off: {error or type(error).__name__}") from error
        finally:
            if own._connection is not None:
                own._connection.close()

    def _open(self) -> _Pinned:
        if self._connection is not None and (
            self._connection.sock is None or time.monotonic() - self._used > _IDLE_S
        ):
            self._connection.close()
            self._connection = None
        if self._connection is None:
            connection = _Pinned(self.access, self.tls, self._timeout_s)
            try:
                connection.connect()
            except OSError as error:
                raise Unavailable(
                    f"the control plane at {self.access.host}:{self.access.port} does not answer",
                    hint="supercloud up",
                ) from error
            self._connection = connection
            from supercloud.trust.proof import channel_of

            self._channel = channel_of(connection.certificate)
        return self._connection

    @staticmethod
    def _take(status: int, text: bytes) -> Any:
        if status == http.HTTPStatus.NO_CONTENT:
            return None
        try:
            said = json.loads(text)
        except ValueError as error:
            raise Failed(f"the control plane answered {status} and no JSON") from error
        if status >= http.HTTPStatus.BAD_REQUEST:
            raise error_from(
                said.get("code", "failed"), said.get("detail", f"status {status}"), said.get("hint")
            )
        return said


class _Pinned(http.client.HTTPSConnection):
    """Connects to an address and expects the controller's name there."""

    def __init__(self, access: Access, tls: ssl.SSLContext, timeout_s: float) -> None:
        super().__init__(access.host, access.port, timeout=timeout_s, context=tls)
        self._tls = tls
        self.auto_open = 0  # a proof is for one connection
        self.certificate = b""  # that the server showed, DER

    def connect(self) -> None:
        http.client.HTTPConnection.connect(self)
        wrapped = self._tls.wrap_socket(self.sock, server_hostname=CONTROLLER_NAME)
        self.sock = wrapped
        self.certificate = wrapped.getpeercert(binary_form=True) or b""


def _private(path: str) -> bytes:
    """
    Raises:
        Unavailable: it is not there.
        Denied: others may read it.
    """
    try:
        return read_private(Path(path))
    except NotFound as error:
        raise Unavailable(error.message, hint="supercloud up, or supercloud key ls") from error


class _Watched:
    """A file that tells how much of it was read."""

    def __init__(self, file: IO[bytes], watch: Callable[[int], None]) -> None:
        self._file = file
        self._watch = watch

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(min(size, _CHUNK) if size > 0 else _CHUNK)
        self._watch(len(data))
        return data


def next_cursor(link: str) -> str | None:
    """Of a `Link` header, the cursor of the part that follows."""
    found = _NEXT.search(link)
    return None if found is None else found[1]


def typed(value: Any, as_: type[T] | None) -> Any:
    """JSON as a value of `as_`, if one is given. Raises: InvalidInput."""
    if as_ is None:
        return value
    from supercloud.wire.codec import from_json  # late: the command line prints JSON as it is

    return from_json(as_, value)


def _target(base: str, path: str, query: Mapping[str, object]) -> str:
    """Whatever a name in `path` holds, it stays in the path, and the path is ASCII."""
    given = {key: value for key, value in query.items() if value is not None}
    return f"{base}{quote(path, safe='/:')}" + ("?" + urlencode(given, doseq=True) if given else "")
