"""The agent's end of the keeper's socket: asks the keeper, and relays what the keeper asks."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Protocol

import structlog

from supercloud.agent.journal import Journal
from supercloud.keeper.link import (
    SOCKET,
    Grant,
    Happened,
    KeeperPort,
    KeeperReport,
    Relay,
    RightReport,
)
from supercloud.model.errors import Unavailable
from supercloud.ports.agent import InstanceRef
from supercloud.ports.controller import RenewRights, RightsRenewed
from supercloud.wire.proxies import handlers, remote
from supercloud.wire.rpc import Peer
from supercloud.wire.stream import StreamTransport

_RETRY_S = 0.5
#: A keeper that is not back by then has left the watchdog (12 s) hungry, which resets the blanket.
_BACK_S = 15.0
_log = structlog.get_logger(__name__)


class Renewer(Protocol):
    async def renew(self, request: RenewRights) -> RightsRenewed: ...


class AgentRelay:
    """keeper.link.Relay: the control plane answers the heartbeat, the outbox takes what happened."""

    def __init__(self, controller: Renewer, journal: Journal) -> None:
        self._controller = controller
        self._journal = journal

    async def renew(self, request: RenewRights) -> RightsRenewed:
        return await self._controller.renew(request)

    async def happened(self, request: Happened) -> None:
        await self._journal.note(request.kind, request.data, id=request.id)


class KeeperLink:
    """keeper.link.KeeperPort over the socket, connected again whenever the keeper comes back."""

    def __init__(self, relay: Relay, *, path: Path = SOCKET) -> None:
        self._relay = relay
        self._path = path
        self._keeper: KeeperPort | None = None
        self._connected = asyncio.Event()

    async def connected(self) -> None:
        await self._connected.wait()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                reader, writer = await asyncio.open_unix_connection(self._path)
            except OSError as error:
                _log.info("agent.no_keeper", reason=str(error))
            else:
                await self._use(Peer(StreamTransport(reader, writer), handlers(Relay, "relay", self._relay)))
            await asyncio.sleep(_RETRY_S)

    async def _use(self, peer: Peer) -> None:
        self._keeper = remote(KeeperPort, "keeper", peer)
        self._connected.set()
        try:
            _log.warning("agent.keeper_left", reason=await peer.run())
        finally:
            self._connected.clear()
            self._keeper = None

    async def _there(self) -> KeeperPort:
        """One that is being started again is waited for.

        Raises:
            Unavailable: it does not come.
        """
        try:
            async with asyncio.timeout(_BACK_S):
                while (keeper := self._keeper) is None:
                    await self._connected.wait()
        except TimeoutError:
            raise Unavailable("the keeper of this blanket is not there") from None
        return keeper

    async def grant(self, request: Grant) -> RightReport:
        return await (await self._there()).grant(request)

    async def park(self, request: InstanceRef) -> bool:
        return await (await self._there()).park(request)

    async def forget(self, request: InstanceRef) -> None:
        await (await self._there()).forget(request)

    async def report(self) -> KeeperReport:
        return await (await self._there()).report()
