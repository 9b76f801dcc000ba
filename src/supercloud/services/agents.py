"""Connected agents: who they are, what they report, and asking them.

An agent dials in; its blanket is its certificate's, never what it says. A second live connection of one
identity replaces the first and is recorded as a finding; whether one of them is a clone shows at its next
renewal, whose nonce only the right one knows.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog

from supercloud.model.errors import Denied, SupercloudError, Unavailable
from supercloud.model.names import Id
from supercloud.model.right import Cloned, Renewal
from supercloud.model.states import JOINED
from supercloud.ports.controller import (
    Acknowledged,
    CertificateAnswer,
    CertificateRequest,
    Event,
    Events,
    Hello,
    RenewalAnswer,
    RenewRights,
    RightsRenewed,
    Surrender,
    Welcome,
)
from supercloud.ports.keystore import KeyStore
from supercloud.ports.rights import RightsStore
from supercloud.services import inbox
from supercloud.services.store.engine import Store
from supercloud.services.store.rights import SqlRights
from supercloud.services.store.tables import Blanket
from supercloud.services.together import Together
from supercloud.wire.proxies import RemoteAgent, controller_handlers
from supercloud.wire.rpc import Peer, Transport

_log = structlog.get_logger(__name__)
_PROBE_S = 3.0
_HELLO_S = 15.0
#: An agent that was cut off is back in this, busy machine or not: it dials again every few seconds.
_BACK_S = 20.0
_TRIES = 3
#: Heartbeats in one transaction: nobody waits for long while they are worked out.
_TOGETHER = 16

T = TypeVar("T")

#: Told of a blanket that connected, with its agent; and of events that it reported.
OnReady = Callable[[Id], Awaitable[None]]
OnEvents = Callable[[Id, tuple[Event, ...]], Awaitable[None]]


@dataclass(slots=True)
class _Connection:
    peer: Peer
    agent: RemoteAgent
    hello: Hello


class _Route:
    """What RemoteAgent asks, over whatever connection a blanket has at the moment of each call.

    Every method may be repeated, so a call whose connection ended in the middle is made again on the next:
    an agent or a control plane that merely restarted fails no operation.
    """

    def __init__(self, agents: Agents, blanket: Id) -> None:
        self._agents = agents
        self._blanket = blanket

    async def call(self, method: str, value: object, takes: Any, gives: type[T], *, timeout_s: float) -> T:
        """
        Raises:
            Unavailable: it is not connected, and was not a moment ago; or its connections end each time.
            SupercloudError: what the agent answered.
        """
        tries = _TRIES
        while True:
            peer = await self._agents.peer(self._blanket)
            try:
                return await peer.call(method, value, takes, gives, timeout_s=timeout_s)
            except Unavailable:
                tries -= 1
                if not peer.closed or not tries:
                    raise


class Agents:
    """The registry of one controller's connections."""

    def __init__(self, store: Store, rights: SqlRights, keys: KeyStore) -> None:
        self._store = store
        self._rights = rights
        self._keys = keys
        self._connections: dict[Id, _Connection] = {}
        self._arrivals: dict[Id, asyncio.Event] = {}
        #: Until when a blanket that left is expected back (monotonic). Of one that was not here yet
        #: since we started, our own restart may be all that keeps it away.
        self._expected: dict[Id, float] = {}
        self._expected_first = time.monotonic() + _BACK_S
        self._tasks: set[asyncio.Task[None]] = set()
        #: SQLite has one writer, and each of its transactions costs more than the heartbeats in it. On
        #: PostgreSQL a heartbeat must wait for no other blanket's rows, which another controller may hold.
        self._renewals = Together(rights.renew_all, most=_TOGETHER) if store.sqlite else None
        self.on_ready: list[OnReady] = []
        self.on_events: list[OnEvents] = []

    # ------------------------------------------------------------ asking

    def agent(self, blanket: Id) -> RemoteAgent:
        """Its calls raise Unavailable while the blanket is not connected and was not a moment ago."""
        return RemoteAgent(_Route(self, blanket))

    async def peer(self, blanket: Id) -> Peer:
        """The connection of a blanket; one that is expected back is waited for.

        Raises:
            Unavailable: it has none.
        """
        if not self.is_connected(blanket):
            await self.wait_for(blanket, self._back_in_s(blanket))
        return self._connections[blanket].peer

    def is_expected(self, blanket: Id) -> bool:
        """Whether it is connected, or was a moment ago: then asking it is worth the wait."""
        return self._back_in_s(blanket) > 0

    def may_answer(self, blanket: Blanket) -> bool:
        """Whether it has joined, is still accepted, and is worth the wait: what is asked of it may begin."""
        return blanket.state in JOINED and self.is_expected(blanket.id)

    async def comes_back(self, blanket: Id) -> bool:
        """Whether it is connected, once one that is expected back had its time."""
        try:
            await self.peer(blanket)
        except Unavailable:
            return False
        return True

    def _back_in_s(self, blanket: Id) -> float:
        if blanket in self._connections:
            return _BACK_S
        return max(0.0, self._expected.get(blanket, self._expected_first) - time.monotonic())

    def is_connected(self, blanket: Id) -> bool:
        connection = self._connections.get(blanket)
        return connection is not None and not connection.peer.closed

    @property
    def connected(self) -> frozenset[Id]:
        return frozenset(self._connections)

    async def wait_for(self, blanket: Id, timeout_s: float) -> RemoteAgent:
        """Its agent, once it has said hello.

        Raises:
            Unavailable: not in `timeout_s`.
        """
        arrival = self._arrivals.setdefault(blanket, asyncio.Event())
        try:
            async with asyncio.timeout(timeout_s):
                while not self.is_connected(blanket):
                    arrival.clear()
                    await arrival.wait()
        except TimeoutError as error:
            raise Unavailable(
                f"the agent of blanket {blanket} is not connected",
                hint="supercloud blanket show says since when",
            ) from error
        return self.agent(blanket)

    # ------------------------------------------------------------ being dialled

    async def serve(self, blanket: Id, cloud: Id, transport: Transport) -> str:
        """One connection of the certified `blanket` of `cloud`, to its end; returns why it ended.

        Raises:
            Denied: unknown or revoked, or another cloud's.
        """
        await inbox.admit(self._store, blanket, cloud)
        session = _Session(self, blanket, cloud)
        session.peer = Peer(transport, controller_handlers(session))
        watchdog = asyncio.get_running_loop().call_later(_HELLO_S, session.expect_hello)
        reason = "cancelled"
        try:
            reason = await session.peer.run()
        finally:
            watchdog.cancel()
            await self._left(blanket, session, reason)
        return reason

    async def drop(self, blanket: Id, reason: str) -> None:
        """End its connection, if there is one."""
        self._expected[blanket] = 0.0
        connection = self._connections.pop(blanket, None)
        if connection is not None:
            await connection.peer.close(reason)

    async def revoke(self, blanket: Id, reason: str) -> None:
        """Never accept this identity again. Its instances stop as their rights run out."""
        await inbox.revoke(self._store, blanket, reason)
        await self._keys.revoke(blanket=blanket)
        _log.warning("agent.revoked", blanket=blanket, reason=reason)
        await self.drop(blanket, reason)

    async def _arrived(self, session: _Session, hello: Hello) -> None:
        blanket = session.blanket
        former = self._connections.get(blanket)
        self._connections[blanket] = _Connection(session.peer, RemoteAgent(session.peer), hello)
        if former is not None and former.peer is not session.peer:
            self._later(self._replace(blanket, session.cloud, former, hello))
        await self._rights.heard(hello.epochs, cloud=session.cloud)
        self._later(self._ready(blanket))
        self._arrivals.setdefault(blanket, asyncio.Event()).set()

    async def _ready(self, blanket: Id) -> None:
        try:
            report = await self.agent(blanket).report()
            await inbox.ready(self._store, blanket, report)
            for told in self.on_ready:
                await told(blanket)
        except SupercloudError as error:
            _log.warning("agent.not_ready", blanket=blanket, why=error.message)

    async def _replace(self, blanket: Id, cloud: Id, former: _Connection, hello: Hello) -> None:
        """A connection that is only half dead is no finding; one that still answers is."""
        try:
            async with asyncio.timeout(_PROBE_S):
                await former.agent.report()
        except (SupercloudError, TimeoutError):
            pass
        else:
            found = {"boot_ids": [former.hello.boot_id, hello.boot_id]}
            await inbox.finding(self._store, blanket, cloud, "finding.duplicate-identity", found)
            _log.warning("agent.duplicate_identity", blanket=blanket)
        await former.peer.close("another connection of this identity came")

    async def _left(self, blanket: Id, session: _Session, reason: str) -> None:
        connection = self._connections.get(blanket)
        if connection is not None and connection.peer is session.peer:
            del self._connections[blanket]
            self._expected[blanket] = time.monotonic() + _BACK_S
            await inbox.unreachable(self._store, blanket)
            _log.info("agent.left", blanket=blanket, reason=reason)

    async def _renew(self, blanket: Id, renewals: tuple[Renewal, ...]) -> Sequence[RenewalAnswer]:
        if self._renewals is None:
            return await self._rights.renew(by=blanket, renewals=renewals)
        return await self._renewals((blanket, renewals))

    def _later(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        for blanket in list(self._connections):
            await self.drop(blanket, "the control plane ends")
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class _Session:
    """ports.controller.Controller for one connection."""

    peer: Peer

    def __init__(self, agents: Agents, blanket: Id, cloud: Id) -> None:
        self._agents = agents
        self._rights: RightsStore = agents._rights
        self.blanket = blanket
        self.cloud = cloud
        self._greeted = False

    def expect_hello(self) -> None:
        if not self._greeted:
            self._agents._later(self.peer.close("no hello came"))

    async def hello(self, request: Hello) -> Welcome:
        self._greeted = True
        await self._agents._arrived(self, request)
        _log.info("agent.hello", blanket=self.blanket, version=request.agent_version)
        return Welcome(blanket=self.blanket, cloud=self.cloud)

    async def renew(self, request: RenewRights) -> RightsRenewed:
        self._check()
        answers = await self._agents._renew(self.blanket, request.renewals)
        if any(answer.refused == Cloned.code for answer in answers):
            self._agents._later(
                self._agents.revoke(self.blanket, "it was rolled back or cloned: an old nonce came again")
            )
        return RightsRenewed(answers=tuple(answers))

    async def surrender(self, request: Surrender) -> None:
        self._check()
        await self._rights.surrender(request.instance, by=self.blanket, epoch=request.epoch)

    async def report(self, request: Events) -> Acknowledged:
        self._check()
        last = await inbox.take(self._agents._store, self.blanket, self.cloud, request.events, at=time.time())
        for told in self._agents.on_events:
            await told(self.blanket, request.events)
        return Acknowledged(seq=last)

    async def renew_certificate(self, request: CertificateRequest) -> CertificateAnswer:
        self._check()
        answer = await self._agents._keys.renew(blanket=self.blanket, csr_pem=request.csr_pem)
        return CertificateAnswer(certificate_pem=answer.certificate_pem, authority_pem=answer.authority_pem)

    def _check(self) -> None:
        if not self._greeted:
            raise Denied("say hello first")
