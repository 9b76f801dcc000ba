"""Every durable operation, killed with -9 on both sides of each of its steps, comes out done exactly once."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import multiprocessing
import os
import secrets
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from multiprocessing.forkserver import ensure_running
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import structlog
from blanket_double import Double, LivePlatform, Site
from control_child import Orders, Request, run
from incident_rig import held, incident_event
from sqlalchemy import select

from supercloud.keystore.calls import handlers
from supercloud.keystore.memory import memory_keystore
from supercloud.keystore.server import listening
from supercloud.keystore.store import OwnedKeyStore
from supercloud.keystore.userdata import keep_user_data
from supercloud.model.errors import NotFound
from supercloud.model.names import MIB, new_id
from supercloud.ports.agent import RunState, StopMode, UserData
from supercloud.ports.platform import Platform
from supercloud.ports.tools import ForeignVm
from supercloud.services import inbox
from supercloud.services.requests import (
    AddBlanket,
    AddProvider,
    AdoptVm,
    CreateCloud,
    CreateNetwork,
    CreateVolume,
    MoveGroup,
    PlaceInstance,
    RegisterImage,
    RunInstance,
)
from supercloud.services.store.engine import Store
from supercloud.services.store.tables import Operation
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


@dataclass(frozen=True)
class Child:
    process: BaseProcess
    answer: Path

    async def ended(self) -> int | None:
        """Its exit status."""
        await asyncio.to_thread(self.process.join)
        return self.process.exitcode

    def seen(self) -> dict[str, Any]:
        """What it saw before it ended in order."""
        assert self.process.exitcode == 0
        seen: dict[str, Any] = json.loads(self.answer.read_text())
        return seen


@dataclass
class Victim:
    """A control plane that dies all the time, and what outlives it."""

    database: str
    folder: Path
    port: int
    site: Site
    keys: OwnedKeyStore
    both_sides: bool

    def start(self, *requests: Request, survived: frozenset[str] | None = None, port: int = 0) -> Child:
        """A control plane that makes them one after the other."""
        orders = Orders(
            database=self.database,
            folder=self.folder,
            port=port or self.port,
            answer=self.folder / f"answer-{port or self.port}",
            requests=requests,
            survived=survived,
        )
        process = _forking.Process(target=run, args=(orders,), daemon=True)
        process.start()
        return Child(process, orders.answer)

    async def ask(self, *requests: Request, killed: bool = False) -> dict[str, Any]:
        """What is seen once everything has ended."""
        survived = [] if self.both_sides else ["before"]
        while True:
            child = self.start(*requests, survived=frozenset(survived) if killed else None)
            if await child.ended() != -signal.SIGKILL:
                break
            survived.append(child.answer.read_text())
            requests = ()
        assert len(survived) > 1 or not killed, "it has steps, so it died"
        seen = child.seen()
        self.site.names |= {one["id"]: name for name, one in seen["blankets"].items()}
        return seen

    async def killed(self, name: str, **given: Any) -> dict[str, Any]:
        """Ask for an operation and kill it at every moment; it has to succeed all the same."""
        seen = await self.ask((name, given), killed=True)
        operation = seen["operations"][0]
        assert operation["state"] == "succeeded", operation["error"]
        return seen

    def machine(self, name: str) -> Double:
        (found,) = [one for one in self.site.machines.values() if one.name == name]
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
        made = Victim(database_url, tmp_path, _free_port(), site, keys, both_sides="sqlite" in database_url)
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
        ("add_provider", {"request": AddProvider(name="q", kind="simulated")}),
        ("create_cloud", {"request": CreateCloud(name="c", right_length_s=600.0)}),  # nobody renews here
        ("create_network", {"request": CreateNetwork(name="lan", cloud="c", cidr="10.9.0.0/24")}),
        ("register_image", {"request": image}),
        ("upload_image", {"digest": DIGEST, "offset": 0, "content": IMAGE}),
        ("create_volume", {"request": CreateVolume(name="data", cloud="c", size_bytes=8 * MIB)}),
        ("add_blanket", {"request": AddBlanket(name="south", cloud="c", provider="p")}),
    )


@dataclass(frozen=True)
class Life:
    """One instance's, of which each act is a part: it finds what the one before left."""

    victim: Victim
    north: Double
    south: Double
    instance: str
    root: str  # volumes
    data: str
    user_data: UserData

    def running(self) -> list[str]:
        return self.victim.site.running(self.instance)


@pytest.mark.timeout(1200)  # some hundred control planes are started for it
async def test_killed_at_every_step_everything_is_done_once(victim: Victim) -> None:
    life = await _it_begins(victim)
    for act in (
        _its_volume,
        _restored,
        _moved,
        _its_blanket,
        _keys_rotated,
        _backed_up,
        _adopted,
        _stopped_and_started,
    ):
        await act(life)
    await _removed(life)


async def _it_begins(victim: Victim) -> Life:
    seen = await victim.killed("add_blanket", request=AddBlanket(name="north", cloud="c", provider="q"))
    assert seen["blankets"]["north"]["state"] == "ready"
    assert len(victim.site.machines) == 2
    north, south = victim.machine("north"), victim.machine("south")

    user_data = await keep_user_data(victim.keys, b"#cloud-config\n", instance="web")
    run_it = RunInstance(
        name="web", cloud="c", image="debian", on="north", networks=("lan",), user_data=user_data
    )
    seen = await victim.killed("run_instance", request=run_it)
    instance, root = seen["instances"]["web"]["id"], seen["volumes"]["web-root"]["id"]
    assert (seen["instances"]["web"]["state"], seen["instances"]["web"]["epoch"]) == ("running", 1)
    assert victim.site.running(instance) == ["north"]
    assert [copy.volume for copy in north.copies.values()] == [root]
    assert north.seeds == {instance: b"#cloud-config\n"}, "asked for again and again, it keeps its key"
    return Life(victim, north, south, instance, root, seen["volumes"]["data"]["id"], user_data)


async def _its_volume(life: Life) -> None:
    await life.victim.killed("attach_volume", ref="data", instance="web")
    assert life.north.attached == {life.instance: {life.data}}
    await life.victim.killed("resize_volume", ref="data", size_bytes=16 * MIB)
    await life.victim.killed("snapshot_volume", ref="data", snapshot="one")
    assert {copy.volume: (copy.size_bytes, copy.snapshots) for copy in life.north.copies.values()} == {
        life.root: (64 * MIB, ()),
        life.data: (16 * MIB, ("one",)),
    }


async def _restored(life: Life) -> None:
    """Its own volume to its image, while what its blanket does about it stays; another one to a snapshot."""
    victim, north = life.victim, life.north
    seen = await victim.killed("restore_instance", ref="web", snapshot=None)
    assert _succeeded(seen, "instance.restore")["volume"] == life.root
    assert set(north.restored) == {(life.root, None)} and life.running() == ["north"]
    assert (seen["instances"]["web"]["state"], seen["instances"]["web"]["epoch"]) == ("running", 2)
    await victim.killed("detach_volume", ref="data")
    await victim.killed("restore_volume", ref="data", snapshot="one")
    assert set(north.restored) == {(life.root, None), (life.data, "one")}
    await victim.killed("attach_volume", ref="data", instance="web")


async def _moved(life: Life) -> None:
    """There alone, back with its group, and there again because its domain is drained. What its blanket does
    about it is in force wherever it is plugged in and goes on, whoever was killed when."""
    victim, north, south = life.victim, life.north, life.south
    contained = held(life.instance, cloud=north.birth.cloud, blanket=north.birth.blanket)
    north.loop.held[life.instance] = (contained,)
    victim.site.guards[life.instance] = {one.id for one in contained.reactions}
    seen = await victim.killed("migrate_instance", ref="web", to="south")
    shown = seen["instances"]["web"]
    assert (shown["state"], shown["blanket"], shown["epoch"]) == ("running", "south", 3)
    assert life.running() == ["south"]
    both = (life.root, life.data)
    assert sorted(seen["copies"]) == sorted([volume, south.birth.blanket, True] for volume in both)
    assert (len(north.copies), len(south.copies)) == (0, 2)

    await victim.ask(("place_instance", {"ref": "web", "request": PlaceInstance(group="g")}))
    seen = await victim.killed("move_group", request=MoveGroup(cloud="c", group="g", to=("north",)))
    assert _succeeded(seen, "group.move")["moved"] == 1
    assert life.running() == ["north"] and seen["instances"]["web"]["epoch"] == 4
    seen = await victim.killed("drain_provider", ref="q")
    assert _succeeded(seen, "provider.drain")["moved"] == 1
    assert life.running() == ["south"] and seen["instances"]["web"]["epoch"] == 5
    assert len([one for one in seen["operations"] if one["kind"] == "instance.migrate"]) == 3
    assert (len(north.copies), len(south.copies)) == (0, 2)
    await victim.ask(("undrain_provider", {"ref": "q"}))
    assert victim.site.unguarded == []
    assert (north.loop.holds(life.instance), south.loop.holds(life.instance)) == (
        set(),
        victim.site.guards.pop(life.instance),
    )


async def _its_blanket(life: Life) -> None:
    """Upgraded while it runs, stopped and started; what the control plane keeps of what was in force about it
    is so again, before it has a port."""
    victim, south = life.victim, life.south
    cloud, blanket = south.birth.cloud, south.birth.blanket
    event = incident_event(new_id(), cloud=cloud, blanket=blanket, instance=life.instance)
    store = await Store.open(victim.database)
    try:
        await inbox.take(store, blanket, cloud, [event], at=event.at)
    finally:
        await store.close()
    victim.site.guards[life.instance] = {one["command"]["id"] for one in event.data["reactions"]}
    (victim.folder / "bundle").write_bytes(IMAGE)
    await victim.killed("upgrade_blanket", ref="south")
    assert south.bundles.now == DIGEST and life.running() == ["south"]
    seen = await victim.killed("stop_blanket", ref="south", force=True)
    assert seen["instances"]["web"]["state"] == "stopped" and not south.up
    seen = await victim.killed("start_blanket", ref="south")
    assert seen["blankets"]["south"]["state"] == "ready" and life.running() == []
    seen = await victim.killed("start_instance", ref="web")
    assert seen["instances"]["web"]["epoch"] == 6 and life.running() == ["south"]
    assert victim.site.unguarded == []
    assert south.loop.holds(life.instance) == victim.site.guards.pop(life.instance)


async def _keys_rotated(life: Life) -> None:
    north, south = life.north, life.south
    keys = north.key, south.key
    await life.victim.killed("rotate_keys", cloud="c")
    assert north.key != keys[0] and south.key != keys[1]
    assert (north.generation, south.generation) == (3, 3), "prepared and switched once each"
    assert south.mesh is not None and [peer.keys for peer in south.mesh.peers] == [(north.key,)]


async def _backed_up(life: Life) -> None:
    victim, south = life.victim, life.south
    seen = await victim.killed("detach_volume", ref="data")
    assert seen["volumes"]["data"]["instance"] is None and south.attached.get(life.instance, set()) == set()
    copies = seen["copies"]
    seen = await victim.killed("back_up_volume", ref="data", image="saved")
    assert seen["images"]["saved"]["complete"] and seen["copies"] == copies and len(south.copies) == 2
    assert len(victim.site.image_keys) == 1, "it was made once"
    await victim.ask(("remove_image", {"ref": "saved"}))


async def _adopted(life: Life) -> None:
    """What tools made in a blanket, though the agent is asked again and again."""
    victim, north = life.victim, life.north
    vm = ForeignVm(
        id=new_id(), name="old", state=RunState.DEFINED, vcpus=1, memory_mib=64, disk_bytes=16 * MIB
    )
    north.foreign[vm.id] = vm
    before = len(victim.site.image_keys)
    seen = await victim.killed(
        "adopt_vm", request=AdoptVm(vm="old", blanket="north", cloud="c", name="old", on="north")
    )
    instance, image = seen["instances"]["old"], seen["images"]["old"]
    assert _succeeded(seen, "blanket.adopt")["instance"] == instance["id"]
    assert (instance["state"], instance["epoch"], instance["image"]) == ("running", 1, "old")
    assert victim.site.running(instance["id"]) == ["north"] and not north.foreign
    assert image["complete"] and len(victim.site.image_keys) == before + 1, "it was made once"
    assert set(seen["volumes"]) & {"old-root", "old-adopted"} == {"old-root"} and len(north.copies) == 1
    await victim.ask(("remove_instance", {"ref": "old", "force": True}))
    await victim.ask(("remove_image", {"ref": "old"}))


async def _stopped_and_started(life: Life) -> None:
    seen = await life.victim.killed("stop_instance", ref="web", mode=StopMode.SHUTDOWN)
    assert seen["instances"]["web"]["state"] == "stopped" and life.running() == []
    seen = await life.victim.killed("start_instance", ref="web")
    assert (seen["instances"]["web"]["state"], seen["instances"]["web"]["epoch"]) == ("running", 7)
    assert life.running() == ["south"]
    await life.victim.killed("reboot_instance", ref="web")


async def _removed(life: Life) -> None:
    """With everything that it had, its key too."""
    victim, south = life.victim, life.south
    seen = await victim.killed("remove_volume", ref="data")
    assert set(seen["volumes"]) == {"web-root"} and len(south.copies) == 1
    seen = await victim.killed("remove_instance", ref="web", force=True)
    assert (seen["instances"], seen["volumes"], seen["copies"]) == ({}, {}, [])
    assert not south.copies and not south.states and not south.seeds
    cloud, blanket = south.birth.cloud, south.birth.blanket
    with pytest.raises(NotFound):
        await victim.keys.user_data_key(
            cloud=cloud, instance=life.instance, digest=life.user_data.digest, blanket=blanket
        )
    seen = await victim.killed("remove_blanket", ref="north")
    assert set(seen["blankets"]) == {"south"} and list(victim.site.machines) == [south.birth.blanket]


def _succeeded(seen: dict[str, Any], kind: str) -> dict[str, Any]:
    """The result of an operation that has parts, which are newer."""
    (operation,) = (one for one in seen["operations"] if one["kind"] == kind)
    assert operation["state"] == "succeeded", operation["error"]
    result: dict[str, Any] = operation["result"]
    return result


# ---------------------------------------------------------------- two controllers


@asynccontextmanager
async def address(at: int, *controllers: int) -> AsyncIterator[None]:
    """What stands before several controllers: leads each connection to the first one that listens."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for port in controllers:
            with contextlib.suppress(OSError):
                there, to = await asyncio.open_connection("127.0.0.1", port)
                await asyncio.gather(_copy(reader, to), _copy(there, writer))
                return
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", at):
        yield


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()


async def _until_transfer(database: str) -> None:
    store = await Store.open(database)
    phase = select(Operation.phase).where(Operation.kind == "instance.migrate")
    try:
        async with asyncio.timeout(60):
            while True:
                async with store.read() as session:
                    if await session.scalar(phase) == "transfer":
                        return
                await asyncio.sleep(0.05)  # another process moves it on
    finally:
        await store.close()


async def _until_listening(port: int) -> None:
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(OSError):
                (await asyncio.open_connection("127.0.0.1", port))[1].close()
                return
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_what_a_dead_controller_left_another_carries_on(victim: Victim) -> None:
    run_it = RunInstance(name="web", cloud="c", image="debian", on="north", networks=("lan",))
    seen = await victim.ask(
        ("add_blanket", {"request": AddBlanket(name="north", cloud="c", provider="p")}),
        ("run_instance", {"request": run_it}),
    )
    instance = seen["instances"]["web"]["id"]
    north, south = victim.machine("north"), victim.machine("south")
    victim.site.hold_transfers = True
    ports = _free_port(), _free_port()
    async with address(victim.port, *ports):
        first = victim.start(("migrate_instance", {"ref": "web", "to": "south"}), port=ports[0])
        await _until_transfer(victim.database)
        second = victim.start(port=ports[1])
        await _until_listening(ports[1])
        assert first.process.is_alive() and len(south.received) == 1
        first.process.kill()
        await first.ended()
        north.states[instance], south.states[instance] = RunState.DEFINED, RunState.PAUSED  # it arrived
        north.rights.pop(instance)
        assert await second.ended() == 0
    seen = second.seen()
    assert seen["operations"][0]["state"] == "succeeded", seen["operations"][0]["error"]
    assert victim.site.running(instance) == ["south"] and len(south.received) == 1
    shown = seen["instances"]["web"]
    assert (shown["state"], shown["blanket"], shown["epoch"]) == ("running", "south", 2)
