"""Requests over one TLS connection, each signed by its token's holder; problem details become our errors."""

from __future__ import annotations

import http.client
import json
import ssl
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote, urlencode

from supercloud.client.place import Access
from supercloud.model.errors import Failed, NotFound, OutcomeUnknown, Unavailable, error_from
from supercloud.trust.files import read_private

#: The name in the controller's certificate, whatever address it is reached at.
CONTROLLER_NAME = "controller.supercloud"
_TIMEOUT_S = 60.0
_WAIT_S = 10
_AWAY_S = 30.0
#: The other end closes a connection that idles for longer (api.listener); what is sent then may be lost.
_IDLE_S = 5.0
_LOOK_EVERY_S = 0.5
_CHUNK = 1 << 20
OPEN_STATES = ("pending", "running", "cancelling")

Watch = Callable[[str, float | None], None]


class Client:
    """One connection, opened when first needed. Not for use by several threads at once.

    Raises, all methods: the errors of model.errors; Unavailable when nothing answers.
    """

    def __init__(self, access: Access, *, timeout_s: float = _TIMEOUT_S) -> None:
        self.access = access
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

    def get(self, path: str, **query: object) -> Any:
        return self._ask("GET", path, query)

    def post(self, path: str, body: Mapping[str, Any] | None = None, **query: object) -> Any:
        return self._ask("POST", path, query, body=json.dumps(body or {}).encode(), kind="application/json")

    def put(self, path: str, body: Mapping[str, Any], **query: object) -> Any:
        return self._ask("PUT", path, query, body=json.dumps(body).encode(), kind="application/json")

    def delete(self, path: str, **query: object) -> Any:
        return self._ask("DELETE", path, query)

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
                seen = self.get(f"/operations/{seen['id']}", wait_s=_WAIT_S)
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
            return self._ask(
                "PUT",
                f"/images/{digest}/content",
                {"offset": offset},
                body=_Watched(content, watch),
                kind="application/octet-stream",
                length=file.stat().st_size - offset,
            )

    def stream(self, path: str, **query: object) -> dict[str, Any]:
        """What `websockets` connects with for a stream of bytes, once: the address and the proof."""
        from supercloud.trust.proof import digest_of

        target = _target(path, query)
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
    ) -> Any:
        from supercloud.trust.proof import digest_of

        headers = {"Accept": "application/json"}
        if kind:
            headers["Content-Type"] = kind
        if length is not None:
            headers["Content-Length"] = str(length)
        connection = self._open()
        target = _target(path, query)
        # The bytes of an image are checked against the digest that its path names.
        digest = None if isinstance(body, _Watched) else digest_of(body or b"")
        headers |= self._proof(method, target, digest)
        try:
            connection.request(method, target, body=body, headers=headers)
            answer = connection.getresponse()
            text = answer.read()
            self._used = time.monotonic()
        except (OSError, http.client.HTTPException) as error:
            self._connection = None
            kind_of = Unavailable if method == "GET" else OutcomeUnknown
            raise kind_of(
                f"the control plane did not answer: {error or type(error).__name__}", hint="supercloud status"
            ) from error
        return self._take(answer.status, text)

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


def _target(path: str, query: Mapping[str, object]) -> str:
    """Whatever a name in `path` holds, it stays in the path, and the path is ASCII."""
    given = {key: value for key, value in query.items() if value is not None}
    return f"/v1{quote(path, safe='/:')}" + ("?" + urlencode(given) if given else "")
