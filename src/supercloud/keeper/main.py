"""`python3 -m supercloud.keeper`: the process that lets instances run, or not.

It needs nothing but the kernel, QEMU's monitors and its journal. The agent, if there is one, relays renewals.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import structlog

from supercloud import logs
from supercloud.blanket.clock import BlanketClock
from supercloud.keeper.egress import permit
from supercloud.keeper.journal import Journal
from supercloud.keeper.keeper import Hands, Keeper
from supercloud.keeper.link import SOCKET, Grant, KeeperPort, Relay, RightReport
from supercloud.keeper.monitors import Monitors
from supercloud.keeper.rights import Rights, Snapshot
from supercloud.keeper.stops import Moment
from supercloud.keeper.watchdog import Watchdog
from supercloud.model.errors import Failed, SupercloudError
from supercloud.wire.codec import prepare
from supercloud.wire.proxies import handlers, remote
from supercloud.wire.rpc import Peer, Transport
from supercloud.wire.stream import StreamTransport

JOURNAL = Path("/var/lib/supercloud/journal/keeper.sqlite")
_log = structlog.get_logger(__name__)


def new_rights(at: Moment, restored: Snapshot | None) -> Rights:
    return Rights(nonce=lambda: secrets.token_hex(16), at=at, restored=restored)


class Door:
    """The keeper's socket. One agent at a time: a new one takes the place of the old."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._peer: Peer | None = None

    async def listen(self, path: Path) -> asyncio.Server:
        """Raises: OSError."""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        before = os.umask(0o177)
        try:
            return await asyncio.start_unix_server(self._meet, path)
        finally:
            os.umask(before)

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self.meet(StreamTransport(reader, writer))

    async def meet(self, transport: Transport) -> None:
        """One agent's connection, to its end."""
        prepare(Grant, RightReport)  # of the first resume, for which a guest waits
        peer = Peer(transport, handlers(KeeperPort, "keeper", self._keeper))
        before, self._peer = self._peer, peer
        if before is not None:
            await before.close("another agent came")
        relay: Relay = remote(Relay, "relay", peer)
        serving = asyncio.create_task(self._keeper.serve(relay))
        try:
            await peer.run()
        finally:
            serving.cancel()
            with suppress(asyncio.CancelledError, SupercloudError):
                await serving
            if self._peer is peer:
                self._peer = None


async def keep(*, socket: Path = SOCKET, journal: Path = JOURNAL) -> None:
    """Until SIGTERM or SIGINT."""
    ending = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ending.set)
    async with AsyncExitStack() as stack:
        watchdog = _watchdog()
        if watchdog is not None:
            stack.callback(watchdog.close)
        book = Journal(journal)
        stack.callback(book.close)
        clock = BlanketClock()
        keeper = Keeper(
            clock=clock,
            journal=book,
            hands=Hands(
                permit=permit,
                feed=watchdog.feed if watchdog else _feed_nothing,
                catch_up=clock.catch_up,
            ),
            rights=new_rights,
            monitors=Monitors,
        )
        server = await Door(keeper).listen(socket)
        stack.callback(server.close)
        running = asyncio.create_task(keeper.run())
        waiting = asyncio.create_task(ending.wait())
        await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if running.done():
            running.result()  # raises what ended it: the watchdog is then left armed
        valid_s, guards = keeper.valid_s(), keeper.guards()
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        # While an instance has a process the watchdog stays armed: the next keeper must come before it bites.
        if watchdog is not None and guards:
            watchdog.leave(valid_s)
        elif watchdog is not None:
            watchdog.disarm()


def _watchdog() -> Watchdog | None:
    try:
        return Watchdog()
    except Failed as error:
        _log.error("keeper.no_watchdog", error=error.message)
        return None


def _feed_nothing() -> None:
    """There is no watchdog, which was said once, at the start."""


def main() -> None:
    logs.configure()
    with suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, -10)  # a busy blanket must not delay a pause
    asyncio.run(keep())
