"""The agent's end of the keeper's socket: a keeper that is being started again is waited for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from supercloud.agent import keeperlink
from supercloud.agent.keeperlink import KeeperLink
from supercloud.keeper.link import KeeperPort, KeeperReport, Relay
from supercloud.model.errors import Unavailable
from supercloud.model.names import new_id
from supercloud.wire.proxies import handlers
from supercloud.wire.rpc import Peer
from supercloud.wire.stream import StreamTransport

pytestmark = pytest.mark.unit
ID = new_id()


class Keeper:
    """It knows one instance, and nothing else."""

    async def grant(self, request: Any) -> Any:
        raise NotImplementedError

    async def park(self, request: Any) -> bool:
        raise NotImplementedError

    async def forget(self, request: Any) -> None:
        raise NotImplementedError

    async def report(self) -> KeeperReport:
        return KeeperReport(epochs={ID: 7})


@asynccontextmanager
async def keeper(path: Path) -> AsyncIterator[None]:
    path.unlink(missing_ok=True)
    peers: list[StreamTransport] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peers.append(StreamTransport(reader, writer))
        await Peer(peers[-1], handlers(KeeperPort, "keeper", Keeper())).run()

    server = await asyncio.start_unix_server(serve, path)
    try:
        yield
    finally:
        server.close()
        for peer in peers:
            await peer.close()


@asynccontextmanager
async def linked(path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[KeeperLink]:
    monkeypatch.setattr(keeperlink, "_RETRY_S", 0.02)
    link = KeeperLink(cast(Relay, object.__new__(_Nobody)), path=path)
    running = asyncio.create_task(link.run())
    try:
        yield link
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


class _Nobody:
    async def renew(self, request: Any) -> Any:
        raise NotImplementedError

    async def happened(self, request: Any) -> None:
        raise NotImplementedError


async def test_a_keeper_that_is_not_there_yet_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "keeper.sock"
    async with asyncio.timeout(10), linked(path, monkeypatch) as link:
        asked = asyncio.create_task(link.report())
        await asyncio.sleep(0)
        async with keeper(path):
            assert (await asked).epochs == {ID: 7}


async def test_a_keeper_that_was_started_again_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "keeper.sock"
    async with asyncio.timeout(10), linked(path, monkeypatch) as link:
        async with keeper(path):
            await link.report()
        while link._connected.is_set():  # noqa: ASYNC110 - its end has no event of its own
            await asyncio.sleep(0.01)
        asked = asyncio.create_task(link.report())
        await asyncio.sleep(0)
        async with keeper(path):
            assert (await asked).epochs


async def test_a_keeper_that_does_not_come_is_not_waited_for_forever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeperlink, "_BACK_S", 0.1)
    async with asyncio.timeout(10), linked(tmp_path / "keeper.sock", monkeypatch) as link:
        with pytest.raises(Unavailable, match="not there"):
            await link.report()
