"""Everything that the agent dials. It never listens."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus, WebSocketException
from websockets.typing import Subprotocol

from supercloud.agent.birth import Birth
from supercloud.agent.identity import Keys, Passport, check_joined, proof_of
from supercloud.model.errors import Denied, NotFound, Unavailable
from supercloud.model.names import Digest, Endpoint, Nonce
from supercloud.ports.keystore import JoinAnswer, JoinRequest, RenewRequest
from supercloud.trust.certificates import Kind
from supercloud.trust.tls import CONTROLLER_NAME, client_context, peer_identity
from supercloud.wire.rpc import FRAME_BYTES, Peer
from supercloud.wire.websocket import SUBPROTOCOL, WebSocketTransport

_OPEN_S = 15.0
_JOIN_S = 30.0


class Dialer:
    """Opens connections to the control plane under the identity of the moment."""

    def __init__(self, endpoint: Endpoint, passport: Passport) -> None:
        self._endpoint = endpoint
        self._passport = passport

    async def channel(self) -> WebSocketTransport:
        """Raises: Unavailable, Denied."""
        return WebSocketTransport(await self._connect("/agent/channel", FRAME_BYTES))

    @asynccontextmanager
    async def stream(self, stream: Nonce) -> AsyncIterator[ClientConnection]:
        """Raises: Unavailable, Denied, NotFound."""
        connection = await self._connect(f"/agent/streams/{stream}", 1 << 20)
        try:
            yield connection
        finally:
            await connection.close()

    @asynccontextmanager
    async def image(self, digest: Digest, offset: int) -> AsyncIterator[ClientConnection]:
        """Raises: Unavailable, Denied, NotFound."""
        connection = await self._connect(f"/agent/images/{digest}?offset={offset}", 4 << 20)
        try:
            yield connection
        finally:
            await connection.close()

    async def _connect(self, path: str, frame_bytes: int) -> ClientConnection:
        context = client_context(self._passport.authority_pem, self._passport.credentials)
        return await _open(self._endpoint, path, context, frame_bytes)


async def _open(endpoint: Endpoint, path: str, context: ssl.SSLContext, frame_bytes: int) -> ClientConnection:
    try:
        connection = await connect(
            f"wss://{endpoint}{path}",
            ssl=context,
            server_hostname=CONTROLLER_NAME,
            subprotocols=[Subprotocol(SUBPROTOCOL)],
            compression=None,
            proxy=None,
            open_timeout=_OPEN_S,
            max_size=frame_bytes,
        )
    except InvalidStatus as error:
        status = error.response.status_code
        kind = {401: Denied, 403: Denied, 404: NotFound}.get(status, Unavailable)
        raise kind(f"the control plane answered {status} to {path.split('?', maxsplit=1)[0]}") from error
    except ssl.SSLCertVerificationError as error:
        raise Denied(f"the control plane's certificate is not of our authority: {error.reason}") from error
    except (WebSocketException, OSError, TimeoutError) as error:
        raise Unavailable(f"the control plane cannot be reached: {error}") from error
    identity = peer_identity(connection.transport.get_extra_info("ssl_object"))
    if identity is None or identity.kind is not Kind.CONTROLLER or connection.subprotocol != SUBPROTOCOL:
        await connection.close()
        raise Denied("what answers there is not our control plane")
    return connection


async def join(birth: Birth, keys: Keys, *, now: Callable[[], float] = time.time) -> JoinAnswer:
    """Trade the birth's secret for a certificate. Repeating it, also after a crash, gets the same one.

    Raises:
        Denied, Conflict: the secret is not good (any more); repeating will not help.
        Unavailable, OutcomeUnknown: repeat it.
    """
    answer = await _ask(birth.endpoint, birth.authority_pem, "join.admit", proof_of(birth, keys), JoinRequest)
    check_joined(answer, birth, keys, at=now())
    # The control plane relays the answer: the authority that counts is the one we were born with.
    return JoinAnswer(certificate_pem=answer.certificate_pem, authority_pem=birth.authority_pem)


async def rejoin(endpoint: Endpoint, passport: Passport, *, now: Callable[[], float] = time.time) -> None:
    """Renew a certificate that expired while this machine was stopped.

    Raises:
        Denied: this blanket was revoked.
        Unavailable, OutcomeUnknown: repeat it.
    """
    blanket = passport.identity.blanket
    if blanket is None:
        raise Denied("the certificate names no blanket")
    request = RenewRequest(blanket=blanket, csr_pem=passport.keys.identity.csr())
    answer = await _ask(endpoint, passport.authority_pem, "join.renew", request, RenewRequest)
    passport.renewed(answer, at=now())


async def _ask(endpoint: Endpoint, authority_pem: str, method: str, value: object, kind: type) -> JoinAnswer:
    """One question to the door where nobody has a certificate yet."""
    connection = await _open(endpoint, "/agent/join", client_context(authority_pem), 1 << 20)
    peer = Peer(WebSocketTransport(connection), {})
    running = asyncio.create_task(peer.run())
    try:
        return await peer.call(method, value, kind, JoinAnswer, timeout_s=_JOIN_S)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
