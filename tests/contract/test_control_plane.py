"""The whole control plane on both databases, with machines that really dial in (see blanket_double)."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from blanket_double import Double, LivePlatform, Site

from supercloud.controlplane.compose import control_plane
from supercloud.controlplane.listener import AgentListener
from supercloud.keystore.memory import memory_keystore
from supercloud.model.errors import Conflict, InvalidInput, Refused, RightRefused
from supercloud.model.names import MIB, new_id
from supercloud.model.states import BlanketState, InstanceState, OperationState
from supercloud.ports.agent import StopMode, StreamKind
from supercloud.services.facade import ControlPlane
from supercloud.services.northbound import (
    AddBlanket,
    AddProvider,
    CreateCloud,
    CreateNetwork,
    CreateVolume,
    OperationView,
    Publish,
    RegisterImage,
    RunInstance,
)
from supercloud.services.parts import Parts, Settings
from supercloud.services.store.engine import normal_url
from supercloud.trust.keys import IdentityKey
from supercloud.trust.tls import Credentials, server_context

pytestmark = pytest.mark.contract
IMAGE = secrets.token_bytes(700_000)
DIGEST = "sha256:" + hashlib.sha256(IMAGE).hexdigest()


@dataclass
class Bench:
    control: ControlPlane
    parts: Parts
    site: Site

    async def done(
        self, view: OperationView, end: OperationState = OperationState.SUCCEEDED
    ) -> OperationView:
        async with asyncio.timeout(40):
            while view.ended_at is None:
                view = await self.control.operation(view.id, wait_s=10)
        assert view.state is end, view.error
        return view

    async def gone(self, blanket: str) -> None:
        async with asyncio.timeout(10):
            while (await self.control.blanket(blanket)).connected:  # noqa: ASYNC110 - what users see has no event
                await asyncio.sleep(0.02)

    async def blanket(self, name: str, cloud: str = "c") -> Double:
        view = await self.done(
            await self.control.add_blanket(AddBlanket(name=name, cloud=cloud, provider="p"))
        )
        return self.site.machines[view.object]

    async def run(self, name: str = "web", on: str = "north", **other: object) -> str:
        request = RunInstance(name=name, cloud="c", image="debian", on=on, networks=("lan",), **other)  # type: ignore[arg-type]
        return (await self.done(await self.control.run_instance(request))).object


class World:
    """One key store, one site, one database; controllers come and go."""

    def __init__(self, database: str, folder: Path) -> None:
        self.database = database
        self.folder = folder
        self.keys = memory_keystore()
        self.site = Site(folder / "machines")
        self.platform = LivePlatform(self.site)
        self.port = 0

    @asynccontextmanager
    async def up(self) -> AsyncIterator[Bench]:
        settings = Settings(
            images=self.folder / "images",
            agents_port=self.port,
            blanket_image=lambda: "sha256:" + "0" * 64,
            database=normal_url(self.database).get_backend_name(),
            join_s=30,
        )
        identity = IdentityKey.new()
        answer = await self.keys.issue_controller(csr_pem=identity.csr())
        context = server_context(
            Credentials(answer.certificate_pem, identity.to_pem()), answer.authority_pem, joining=True
        )
        async with control_plane(
            database=self.database, settings=settings, keys=self.keys, drivers=lambda *_: self.platform
        ) as (control, parts, _, takeover):
            listener = AgentListener(parts)
            self.port = await listener.start("127.0.0.1", self.port, context)
            object.__setattr__(settings, "agents_port", self.port)  # known only now: any free one
            await takeover.sweep()
            await control.start()
            try:
                yield Bench(control, parts, self.site)
            finally:
                await listener.close()

    async def close(self) -> None:
        for machine in self.site.machines.values():
            await machine.end()


@pytest.fixture
async def world(database_url: str, tmp_path: Path) -> AsyncIterator[World]:
    (tmp_path / "machines").mkdir()
    made = World(database_url, tmp_path)
    try:
        yield made
    finally:
        await made.close()


async def furnish(bench: Bench, keys: object) -> None:
    """A provider, a cloud with a network, an image."""
    control = bench.control
    await control.add_provider(AddProvider(name="p", kind="simulated"))
    await control.create_cloud(CreateCloud(name="c"))
    await control.create_network(CreateNetwork(name="lan", cloud="c", cidr="10.9.0.0/24"))
    key = await keys.new_image_key()  # type: ignore[attr-defined]
    await keys.bind_image_key(id=key.id, digest=DIGEST)  # type: ignore[attr-defined]
    await control.register_image(
        RegisterImage(name="debian", digest=DIGEST, size_bytes=len(IMAGE), virtual_bytes=64 * MIB)
    )

    async def content(start: int, end: int) -> AsyncIterator[bytes]:
        yield IMAGE[start:end]

    half = len(IMAGE) // 2
    partial = await control.upload_image(DIGEST, 0, content(0, half))
    assert (partial.complete, partial.present_bytes) == (False, half)
    with pytest.raises(Conflict):
        await control.upload_image(DIGEST, 0, content(0, half))
    assert (await control.upload_image(DIGEST, half, content(half, len(IMAGE)))).complete


@pytest.fixture
async def bench(world: World) -> AsyncIterator[Bench]:
    async with AsyncExitStack() as stack:
        made = await stack.enter_async_context(world.up())
        await furnish(made, world.keys)
        yield made


async def test_a_cloud_from_nothing_to_a_migration_and_back(bench: Bench) -> None:
    north, south = await asyncio.gather(bench.blanket("north"), bench.blanket("south"))
    blanket = await bench.control.blanket("north")
    assert (blanket.state, blanket.connected, blanket.instances) == (BlanketState.READY, True, 0)
    for one, other in ((north, south), (south, north)):
        assert one.mesh is not None
        (peer,) = one.mesh.peers
        assert (peer.keys, peer.announcement is not None) == ((other.key,), True)
        assert [network.name for network in one.mesh.networks] == ["lan"]

    instance = await bench.run()
    shown = await bench.control.instance("web")
    assert (shown.state, shown.blanket, shown.epoch) == (InstanceState.RUNNING, "north", 1)
    assert shown.right_left_s is not None and 55 < shown.right_left_s < 65
    assert shown.addresses == ("10.9.0.2",) and bench.site.running(instance) == ["north"]
    (first,) = north.copies

    for target, epoch in (("south", 2), ("north", 3)):
        view = await bench.done(await bench.control.migrate_instance("web", to=target))
        assert view.result is not None and view.result["downtime_ms"] == 12.0
        shown = await bench.control.instance("web")
        assert (shown.state, shown.blanket, shown.epoch) == (InstanceState.RUNNING, target, epoch)
        assert bench.site.running(instance) == [target]
        assert [one.epoch for one in south.located if one.instance == instance][-1] == epoch
    (copy,) = north.copies
    assert copy != first and not south.copies, "each copy is its own, and the former one is gone"

    await bench.done(await bench.control.stop_instance("web", mode=StopMode.SHUTDOWN))
    assert bench.site.running(instance) == []
    assert (await bench.parts.rights.standing(instance)).record.holder is None
    await bench.done(await bench.control.start_instance("web"))
    assert bench.site.running(instance) == ["north"]
    with pytest.raises(Conflict):
        await bench.control.remove_instance("web")
    await bench.done(await bench.control.remove_instance("web", force=True))
    assert not await bench.control.instances() and not await bench.control.volumes()
    assert not north.copies and instance not in north.states
    for name in ("north", "south"):
        await bench.done(await bench.control.remove_blanket(name))
    assert not bench.site.machines
    await bench.control.remove_network("lan")
    await bench.control.remove_cloud("c")


async def test_migrations_that_cannot_be_are_refused_with_the_reason(bench: Bench) -> None:
    await bench.blanket("north")
    await bench.run()
    with pytest.raises(Refused, match="already"):
        await bench.control.migrate_instance("web", to="north")
    south = await bench.blanket("south")
    await south.end()
    await bench.gone("south")
    with pytest.raises(Refused, match="not connected"):
        await bench.control.migrate_instance("web", to="south")
    assert (await bench.control.instance("web")).state is InstanceState.RUNNING


async def test_a_cancelled_migration_goes_on_at_the_source(bench: Bench) -> None:
    await bench.blanket("north")
    south = await bench.blanket("south")
    instance = await bench.run()
    bench.site.hold_transfers = True
    view = await bench.control.migrate_instance("web", to="south")
    async with asyncio.timeout(20):
        while view.phase != "transfer":
            view = await bench.control.operation(view.id, wait_s=5)
    await bench.control.cancel(view.id)
    await bench.done(view, OperationState.CANCELLED)
    shown = await bench.control.instance("web")
    assert (shown.state, shown.blanket, shown.epoch) == (InstanceState.RUNNING, "north", 1)
    assert bench.site.running(instance) == ["north"]
    assert not south.copies and instance not in south.states, "nothing is left at the target"


async def test_a_restarted_controller_goes_on_and_pauses_nobody(world: World) -> None:
    async with world.up() as bench:
        await furnish(bench, world.keys)
        north, south = await bench.blanket("north"), await bench.blanket("south")
        instance = await bench.run()
        world.site.hold_transfers = True
        migration = await bench.control.migrate_instance("web", to="south")
        async with asyncio.timeout(20):
            while migration.phase != "transfer":
                migration = await bench.control.operation(migration.id, wait_s=5)
    world.site.hold_transfers = False
    south.states[instance], north.states[instance] = (
        type(north.state(instance)).PAUSED,
        type(north.state(instance)).DEFINED,
    )  # the transfer ended while nobody controlled it
    async with world.up() as bench:
        await bench.done(migration)
        assert bench.site.running(instance) == ["south"]
        shown = await bench.control.instance("web")
        assert (shown.state, shown.blanket, shown.epoch) == (InstanceState.RUNNING, "south", 2)


async def test_a_clone_is_revoked(bench: Bench) -> None:
    north = await bench.blanket("north")
    instance = await bench.run()
    old = north.rights[instance]
    await north.renew(instance)
    north.rights[instance] = old  # rolled back
    with pytest.raises(AssertionError, match="cloned"):
        await north.renew(instance)
    await bench.gone("north")
    assert (await bench.control.blanket("north")).state is BlanketState.REVOKED


async def test_published_ports_and_streams_reach_the_instance(bench: Bench) -> None:
    await bench.blanket("north")
    await bench.run(publish=(Publish(port=80),))
    (published,) = (await bench.control.instance("web")).published
    at = int(published.partition("->")[0].rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", at)
    writer.write(b"hello" * 50_000)
    async with asyncio.timeout(10):
        assert await reader.readexactly(250_000) == b"hello" * 50_000
    writer.close()
    stream = await bench.control.open_stream("web", kind=StreamKind.CONSOLE)
    await stream.write(b"x")
    assert await anext(aiter(stream)) == b"x"
    await stream.close()
    with pytest.raises(Conflict):
        await bench.control.run_instance(
            RunInstance(
                name="second",
                cloud="c",
                image="debian",
                networks=("lan",),
                publish=(Publish(port=80, at=at),),
            )
        )


async def test_volumes_attach_grow_and_go(bench: Bench) -> None:
    north = await bench.blanket("north")
    await bench.run()
    await bench.control.create_volume(CreateVolume(name="data", cloud="c", size_bytes=8 * MIB))
    await bench.done(await bench.control.attach_volume("data", instance="web"))
    shown = await bench.control.volume("data")
    assert (shown.instance, shown.blanket) == ("web", "north")
    await bench.done(await bench.control.resize_volume("data", size_bytes=16 * MIB))
    with pytest.raises(InvalidInput):
        await bench.control.resize_volume("data", size_bytes=8 * MIB)
    await bench.done(await bench.control.snapshot_volume("data", snapshot="one"))
    assert (await bench.control.volume("data")).snapshots == ("one",)
    with pytest.raises(Conflict):
        await bench.control.remove_volume("data")
    await bench.done(await bench.control.detach_volume("data"))
    await bench.done(await bench.control.remove_volume("data"))
    assert len(north.copies) == 1, "only the instance's own is left"


async def test_keys_rotate_for_everybody(bench: Bench) -> None:
    north, south = await bench.blanket("north"), await bench.blanket("south")
    before = north.key
    await bench.done(await bench.control.rotate_keys("c"))
    assert north.key != before and south.mesh is not None
    assert [peer.keys for peer in south.mesh.peers] == [(north.key,)]


async def test_clouds_do_not_see_each_other(bench: Bench) -> None:
    north = await bench.blanket("north")
    await bench.control.create_cloud(CreateCloud(name="other"))
    stranger = await bench.blanket("north", cloud="other")
    await bench.run(on=north.birth.blanket)
    assert stranger.mesh is not None
    assert (stranger.mesh.peers, stranger.mesh.networks, stranger.mesh.locations) == ((), (), ())
    with pytest.raises(Conflict, match="several clouds"):
        await bench.control.blanket("north")
    assert [one.name for one in await bench.control.instances(cloud="other")] == []
    (instance,) = await bench.control.instances(cloud="c")
    with pytest.raises(RightRefused):
        await bench.parts.rights.issue(instance.id, to=stranger.birth.blanket, operation=new_id())


async def test_what_the_store_does_not_know_is_removed(bench: Bench) -> None:
    north = await bench.blanket("north")
    instance = await bench.run()
    orphan = new_id()
    north.states[orphan] = north.state(instance)
    await bench.control.reconciler.blanket(north.birth.blanket)
    assert set(north.states) == {instance}


async def test_an_instance_that_ended_by_itself_is_seen(bench: Bench) -> None:
    north = await bench.blanket("north")
    instance = await bench.run()
    await north.instances.stop(type("R", (), {"instance": instance})())  # type: ignore[arg-type]
    await bench.control.reconciler.blanket(north.birth.blanket)
    assert (await bench.control.instance("web")).state is InstanceState.STOPPED
    assert (await bench.parts.rights.standing(instance)).record.holder is None
