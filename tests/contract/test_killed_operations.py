"""Every durable operation, killed with -9 on both sides of each of its steps, comes out done exactly once."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import multiprocessing
import os
import secrets
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from multiprocessing.forkserver import ensure_running
from pathlib import Path
from typing import Any

import pytest
import structlog
from blanket_double import Double, LivePlatform, Site
from control_child import Orders, Request, run

from supercloud.keystore.calls import handlers
from supercloud.keystore.memory import memory_keystore
from supercloud.keystore.server import listening
from supercloud.keystore.store import OwnedKeyStore
from supercloud.model.names import MIB
from supercloud.ports.agent import StopMode
from supercloud.ports.platform import Platform
from supercloud.services.northbound import (
    AddBlanket,
    AddProvider,
    CreateCloud,
    CreateNetwork,
    CreateVolume,
    RegisterImage,
    RunInstance,
)
from supercloud.wire.rpc import Peer
from supercloud.wire.stream import StreamTransport

pytestmark = pytest.mark.contract
IMAGE = secrets.token_bytes(100_000)
DIGEST = "sha256:" + hashlib.sha256(IMAGE).hexdigest()
_forking = multiprocessing.get_context("forkserver")


@pytest.fixture(scope="module", autouse=True)
def forkserver() -> None:
    """It imports once what every child needs, which Python 3.11 lets it find by its environment only."""
    _forking.set_forkserver_preload(["control_child"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))
        ensure_running()


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Machines whose control plane dies all the time would fill pages with it."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    yield
    structlog.reset_defaults()


@dataclass
class Victim:
    """A control plane that dies all the time, and what outlives it."""

    database: str
    folder: Path
    port: int
    site: Site
    both_sides: bool

    async def ask(self, *requests: Request, killed: bool = False) -> dict[str, Any]:
        """Make them one after the other; what is seen once everything has ended."""
        survived = [] if self.both_sides else ["before"]
        while True:
            orders = Orders(
                database=self.database,
                folder=self.folder,
                port=self.port,
                requests=requests,
                survived=frozenset(survived) if killed else None,
            )
            process = _forking.Process(target=run, args=(orders,), daemon=True)
            process.start()
            await asyncio.to_thread(process.join)
            if process.exitcode != -signal.SIGKILL:
                break
            survived.append(orders.answer.read_text())
            requests = ()
        assert process.exitcode == 0
        assert len(survived) > 1 or not killed, "it has steps, so it died"
        seen: dict[str, Any] = json.loads(orders.answer.read_text())
        return seen

    async def killed(self, name: str, **given: Any) -> dict[str, Any]:
        """Ask for an operation and kill it at every moment; it has to succeed all the same."""
        seen = await self.ask((name, given), killed=True)
        operation = seen["operations"][0]
        assert operation["state"] == "succeeded", operation["error"]
        return seen

    def machine(self, name: str) -> Double:
        (found,) = [one for one in self.site.machines.values() if one.birth.name == name]
        return found


@pytest.fixture
async def victim(database_url: str, tmp_path: Path) -> AsyncIterator[Victim]:
    (tmp_path / "machines").mkdir()
    site = Site(tmp_path / "machines")
    keys = memory_keystore()
    platform = handlers(Platform, "platform", LivePlatform(site))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await Peer(StreamTransport(reader, writer), platform).run()

    server = await asyncio.start_unix_server(serve, tmp_path / "platform")
    async with listening(keys, tmp_path / "keys", controller_uid=os.getuid()):
        made = Victim(database_url, tmp_path, _free_port(), site, both_sides="sqlite" in database_url)
        await _furnish(made, keys)
        yield made
        for machine in site.machines.values():
            await machine.end()
    server.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def _furnish(victim: Victim, keys: OwnedKeyStore) -> None:
    key = await keys.new_image_key()
    await keys.bind_image_key(id=key.id, digest=DIGEST)
    image = RegisterImage(name="debian", digest=DIGEST, size_bytes=len(IMAGE), virtual_bytes=64 * MIB)
    await victim.ask(
        ("add_provider", {"request": AddProvider(name="p", kind="simulated")}),
        ("create_cloud", {"request": CreateCloud(name="c")}),
        ("create_network", {"request": CreateNetwork(name="lan", cloud="c", cidr="10.9.0.0/24")}),
        ("register_image", {"request": image}),
        ("upload_image", {"digest": DIGEST, "offset": 0, "content": IMAGE}),
        ("create_volume", {"request": CreateVolume(name="data", cloud="c", size_bytes=8 * MIB)}),
        ("add_blanket", {"request": AddBlanket(name="south", cloud="c", provider="p")}),
    )


async def test_killed_at_every_step_everything_is_done_once(victim: Victim) -> None:
    seen = await victim.killed("add_blanket", request=AddBlanket(name="north", cloud="c", provider="p"))
    assert seen["blankets"]["north"]["state"] == "ready"
    assert len(victim.site.machines) == 2
    north, south = victim.machine("north"), victim.machine("south")

    run_it = RunInstance(name="web", cloud="c", image="debian", on="north", networks=("lan",))
    seen = await victim.killed("run_instance", request=run_it)
    instance, root = seen["instances"]["web"]["id"], seen["volumes"]["web-root"]["id"]
    data = seen["volumes"]["data"]["id"]
    assert (seen["instances"]["web"]["state"], seen["instances"]["web"]["epoch"]) == ("running", 1)
    assert victim.site.running(instance) == ["north"]
    assert [copy.volume for copy in north.copies.values()] == [root]

    seen = await victim.killed("attach_volume", ref="data", instance="web")
    assert north.attached == {instance: {data}}
    seen = await victim.killed("resize_volume", ref="data", size_bytes=16 * MIB)
    seen = await victim.killed("snapshot_volume", ref="data", snapshot="one")
    assert {copy.volume: (copy.size_bytes, copy.snapshots) for copy in north.copies.values()} == {
        root: (64 * MIB, ()),
        data: (16 * MIB, ("one",)),
    }

    seen = await victim.killed("migrate_instance", ref="web", to="south")
    shown = seen["instances"]["web"]
    assert (shown["state"], shown["blanket"], shown["epoch"]) == ("running", "south", 2)
    assert victim.site.running(instance) == ["south"]
    assert sorted(seen["copies"]) == sorted([volume, south.birth.blanket, True] for volume in (root, data))
    assert (len(north.copies), len(south.copies)) == (0, 2)

    keys = north.key, south.key
    await victim.killed("rotate_keys", cloud="c")
    assert north.key != keys[0] and south.key != keys[1]
    assert (north.generation, south.generation) == (3, 3), "prepared and switched once each"
    assert south.mesh is not None and [peer.keys for peer in south.mesh.peers] == [(north.key,)]

    seen = await victim.killed("detach_volume", ref="data")
    assert seen["volumes"]["data"]["instance"] is None and south.attached.get(instance, set()) == set()
    seen = await victim.killed("stop_instance", ref="web", mode=StopMode.SHUTDOWN)
    assert seen["instances"]["web"]["state"] == "stopped" and victim.site.running(instance) == []
    seen = await victim.killed("start_instance", ref="web")
    assert (seen["instances"]["web"]["state"], seen["instances"]["web"]["epoch"]) == ("running", 3)
    assert victim.site.running(instance) == ["south"]
    await victim.killed("reboot_instance", ref="web")

    seen = await victim.killed("remove_volume", ref="data")
    assert set(seen["volumes"]) == {"web-root"} and len(south.copies) == 1
    seen = await victim.killed("remove_instance", ref="web", force=True)
    assert (seen["instances"], seen["volumes"], seen["copies"]) == ({}, {}, [])
    assert not south.copies and not south.states
    seen = await victim.killed("remove_blanket", ref="north")
    assert set(seen["blankets"]) == {"south"} and list(victim.site.machines) == [south.birth.blanket]
