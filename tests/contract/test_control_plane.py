"""The whole control plane on both databases, with machines that really dial in (see blanket_double)."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from blanket_double import Double, LivePlatform, Site
from websockets.exceptions import ConnectionClosedError

from supercloud.controlplane.compose import control_plane
from supercloud.controlplane.listener import AgentListener
from supercloud.keystore.memory import memory_keystore
from supercloud.keystore.userdata import keep_user_data
from supercloud.model.errors import (
    Conflict,
    Denied,
    InvalidInput,
    NotFound,
    Refused,
    RightRefused,
    Unavailable,
)
from supercloud.model.names import MIB, new_id
from supercloud.model.right import Renewal
from supercloud.model.states import BlanketState, InstanceState, OperationState
from supercloud.ports.agent import RunState, StopMode, StreamKind, UserData
from supercloud.ports.controller import RenewRights, Surrender
from supercloud.ports.rights import Decision
from supercloud.services import agents, backup, inbox, upgrades
from supercloud.services.facade import ControlPlane
from supercloud.services.northbound import (
    AddBlanket,
    AddProvider,
    CreateCloud,
    CreateNetwork,
    CreateVolume,
    InstanceView,
    OperationView,
    Publish,
    RegisterImage,
    RunInstance,
    WantedCloud,
)
from supercloud.services.parts import Parts, Settings
from supercloud.services.sagas import migrate
from supercloud.services.store.engine import normal_url
from supercloud.services.upgrades import OwnBundle
from supercloud.trust.keys import IdentityKey, to_text
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
            bundle=OwnBundle(lambda: self.folder / "bundle"),
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


async def test_a_cloud_is_shown_as_what_would_have_to_be_asked_for(bench: Bench, world: World) -> None:
    """By the requests that made it, with what has become of it since; of user data, that there is some."""
    control = bench.control
    blankets = [
        AddBlanket(name=name, cloud="c", provider="p", memory_mib=3072) for name in ("north", "south")
    ]
    await asyncio.gather(*[bench.done(await control.add_blanket(one)) for one in blankets])
    await control.create_network(CreateNetwork(name="a", cloud="c", cidr="10.10.0.0/24"))
    for name, on in (("two", None), ("one", None), ("idle", "south")):
        await control.create_volume(CreateVolume(name=name, cloud="c", size_bytes=MIB, on=on, image=None))
    run = RunInstance(
        name="web",
        cloud="c",
        image=DIGEST,
        on="north",
        networks=("lan", "a"),
        publish=(Publish(port=80),),
        user_data=await keep_user_data(world.keys, b"#cloud-config\n", instance="web"),
        ssh_keys=("ssh-ed25519 AAAA me",),
        hold=True,
    )
    await bench.done(await control.run_instance(run))
    for name in ("two", "one"):
        await bench.done(await control.attach_volume(name, instance="web"))
    await bench.done(await control.migrate_instance("web", to="south"))

    found = await control.wanted_cloud("c")
    (port,) = found.instances[0].publish
    assert port.at and port.port == 80
    wanted = WantedCloud(
        cloud=CreateCloud(name="c", cpu_model=(await control.cloud("c")).cpu_model),
        blankets=tuple(blankets),
        networks=(
            CreateNetwork(name="a", cloud="c", cidr="10.10.0.0/24"),
            CreateNetwork(name="lan", cloud="c", cidr="10.9.0.0/24"),
        ),
        volumes=(
            CreateVolume(name="idle", cloud="c", size_bytes=MIB, on="south"),
            CreateVolume(name="one", cloud="c", size_bytes=MIB),
            CreateVolume(name="two", cloud="c", size_bytes=MIB),
        ),
        instances=(
            replace(run, image="debian", on="south", disk_bytes=64 * MIB, publish=(port,), user_data=None),
        ),
        attached={"web": ("two", "one")},
        user_data=("web",),
    )
    assert found == wanted
    await bench.done(await control.detach_volume("two"))
    found = await control.wanted_cloud("c")
    assert found.attached == {"web": ("one",)} and found.volumes[2].on == "south", "where its data went"
    with pytest.raises(NotFound):
        await control.wanted_cloud("nowhere")


async def test_migrations_that_cannot_be_are_refused_with_the_reason(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agents, "_BACK_S", 0.2)
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


async def test_what_is_asked_of_a_blanket_that_was_here_a_moment_ago_waits_for_it(bench: Bench) -> None:
    await bench.blanket("north")
    await bench.run()
    south = await bench.blanket("south")
    await south.end()
    await bench.gone("south")
    asked = asyncio.create_task(bench.control.migrate_instance("web", to="south"))
    await asyncio.sleep(0)  # it is asked before the blanket is back
    south.start()
    await bench.done(await asked)
    assert (await bench.control.instance("web")).blanket == "south"
    await south.end()
    await bench.gone("south")
    booted = await bench.control.run_instance(RunInstance(name="db", cloud="c", image="debian", on="south"))
    south.start()
    await bench.done(booted)


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


async def transferring(bench: Bench) -> tuple[Double, Double, str, OperationView]:
    """North, south, an instance on its way between them, held in its transfer."""
    north, south = await bench.blanket("north"), await bench.blanket("south")
    instance = await bench.run()
    bench.site.hold_transfers = True
    view = await bench.control.migrate_instance("web", to="south")
    async with asyncio.timeout(20):
        while view.phase != "transfer":
            view = await bench.control.operation(view.id, wait_s=5)
    return north, south, instance, view


def arrived(north: Double, south: Double, instance: str) -> None:
    """Everything is at the target, paused, and the source's process ended."""
    north.rights.pop(instance)
    south.states[instance], north.states[instance] = RunState.PAUSED, RunState.DEFINED


def lost(north: Double, south: Double, instance: str) -> None:
    """The source's process ended, and nothing is at the target."""
    del south.states[instance]
    north.rights.pop(instance)
    north.states[instance] = RunState.DEFINED


async def test_a_lost_target_costs_the_memory_and_that_is_said(bench: Bench) -> None:
    north, south, instance, view = await transferring(bench)
    lost(north, south, instance)
    view = await bench.done(view)
    assert view.result is not None and view.result["memory_lost"]
    assert view.result["to"] == north.birth.blanket and bench.site.running(instance) == ["north"]
    shown = await bench.control.instance("web")
    assert (shown.state, shown.blanket, shown.epoch) == (InstanceState.RUNNING, "north", 2)
    assert "memory lost" in shown.reason and not south.copies


async def cut_off_after_commit(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> tuple[Double, Double, str]:
    """The target is away from the commit on, for longer than the operation insists."""
    monkeypatch.setattr(agents, "_BACK_S", 0.2)
    monkeypatch.setattr(migrate, "_INSIST_S", 0.5)
    north, south, instance, view = await transferring(bench)
    commit = bench.parts.rights.commit

    async def cut(operation: str, *, source_gone: bool) -> Decision:
        decision = await commit(operation, source_gone=source_gone)
        await south.end()
        return decision

    monkeypatch.setattr(bench.parts.rights, "commit", cut)
    arrived(north, south, instance)
    view = await bench.done(view, OperationState.FAILED)
    assert view.error is not None and view.error["code"] == Unavailable.code
    shown = await bench.control.instance("web")
    assert (shown.state, shown.blanket, shown.epoch) == (InstanceState.FENCED, "south", 2)
    assert len(north.copies) == 1, "kept until the target runs"
    return north, south, instance


async def until(bench: Bench, state: InstanceState) -> InstanceView:
    async with asyncio.timeout(20):
        while (  # noqa: ASYNC110 - what users see has no event
            shown := await bench.control.instance("web")
        ).state is not state:
            await asyncio.sleep(0.05)
    return shown


async def test_a_target_that_was_away_after_the_commit_goes_on_when_it_is_back(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    north, south, instance = await cut_off_after_commit(bench, monkeypatch)
    await bench.control.reconciler.blanket(north.birth.blanket)
    assert len(north.copies) == 1 and bench.site.running(instance) == []
    south.start()
    shown = await until(bench, InstanceState.RUNNING)
    assert (shown.blanket, shown.epoch, shown.reason) == ("south", 2, "")
    assert bench.site.running(instance) == ["south"]
    async with asyncio.timeout(20):
        while north.copies:  # noqa: ASYNC110 - the source is cleaned up after that
            await asyncio.sleep(0.05)
    assert [copy.blanket for copy in await bench.control.volumes()] == ["south"]
    bench.site.hold_transfers = False
    monkeypatch.undo()
    await bench.done(await bench.control.migrate_instance("web", to="north"))
    assert bench.site.running(instance) == ["north"]


async def test_a_target_that_comes_back_without_its_memory_keeps_its_disk(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have run there, unheard: what it synced is in no other copy."""
    north, south, instance = await cut_off_after_commit(bench, monkeypatch)
    await south.power_off()
    south.start()
    shown = await until(bench, InstanceState.STOPPED)
    assert shown.blanket == "south" and "memory lost" in shown.reason
    async with asyncio.timeout(20):
        while north.copies:  # noqa: ASYNC110 - the source is cleaned up after that
            await asyncio.sleep(0.05)
    await bench.done(await bench.control.start_instance("web"))
    assert bench.site.running(instance) == ["south"]


async def test_a_target_that_loses_its_memory_after_the_commit_boots_again_from_its_disk(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    north, south, instance, view = await transferring(bench)
    commit = bench.parts.rights.commit

    async def struck(operation: str, *, source_gone: bool) -> Decision:
        decision = await commit(operation, source_gone=source_gone)
        await south.power_off()
        south.start()
        return decision

    monkeypatch.setattr(bench.parts.rights, "commit", struck)
    arrived(north, south, instance)
    view = await bench.done(view)
    assert view.result is not None and view.result["memory_lost"]
    assert view.result["to"] == south.birth.blanket and bench.site.running(instance) == ["south"]
    shown = await bench.control.instance("web")
    assert (shown.state, shown.blanket, shown.epoch) == (InstanceState.RUNNING, "south", 3)
    assert "memory lost" in shown.reason and not north.copies


async def test_a_lost_target_leaves_the_sources_volume(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, instance = await cut_off_after_commit(bench, monkeypatch)
    await bench.done(await bench.control.remove_blanket("south", force=True))
    shown = await bench.control.instance("web")
    assert (shown.state, shown.blanket) == (InstanceState.STOPPED, "north") and "memory" in shown.reason
    await bench.done(await bench.control.start_instance("web"))
    assert bench.site.running(instance) == ["north"]


async def test_a_volume_goes_where_its_instance_goes_and_its_blanket_is_not_removed_by_mistake(
    bench: Bench,
) -> None:
    control = bench.control
    await bench.blanket("north"), await bench.blanket("south")
    await bench.run(on="north")
    await control.create_volume(CreateVolume(name="data", cloud="c", size_bytes=8 * MIB, on="north"))
    await bench.done(await control.attach_volume("data", instance="web"))
    await bench.done(await control.migrate_instance("web", to="south"))
    await bench.done(await control.detach_volume("data"))
    await bench.done(await control.attach_volume("data", instance="web"))
    await bench.done(await control.detach_volume("data"))
    await bench.done(await control.migrate_instance("web", to="north"))
    with pytest.raises(Conflict, match="in another blanket"):
        await control.attach_volume("data", instance="web")
    with pytest.raises(Conflict, match="the data of volume data is in blanket south"):
        await control.remove_blanket("south")
    await bench.done(await control.remove_volume("data"))
    await bench.done(await control.remove_blanket("south"))


async def test_what_a_bug_in_an_operation_leaves_is_settled(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    north, _ = await bench.blanket("north"), await bench.blanket("south")
    instance = await bench.run()
    progress = bench.parts.operations.progress

    async def stumbles(operation: str, phase: str, done: float | None) -> None:
        if phase == "transfer":
            raise RuntimeError("a bug")
        await progress(operation, phase, done)

    bench.site.hold_transfers = True
    monkeypatch.setattr(bench.parts.operations, "progress", stumbles)
    view = await bench.done(await bench.control.migrate_instance("web", to="south"), OperationState.FAILED)
    assert view.error is not None and "RuntimeError" in view.error["message"]
    await bench.control.reconciler.blanket(north.birth.blanket)
    assert (await bench.control.instance("web")).state is InstanceState.RUNNING
    assert bench.site.running(instance) == ["north"]
    monkeypatch.undo()
    bench.site.hold_transfers = False
    await bench.done(await bench.control.migrate_instance("web", to="south"))
    assert bench.site.running(instance) == ["south"], "nothing bars the next one"

    async def bug(_: str) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(bench.control.world, "locate", bug)
    await bench.done(await bench.control.stop_instance("web"), OperationState.FAILED)
    await bench.control.reconciler.expired()
    assert (await bench.control.instance("web")).state is InstanceState.STOPPED


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


async def two_clouds(bench: Bench) -> tuple[Double, Double, str]:
    """The same names in both: blankets, networks, volumes; an instance in the first."""
    north = await bench.blanket("north")
    await bench.control.create_cloud(CreateCloud(name="other"))
    stranger = await bench.blanket("north", cloud="other")
    for cloud in ("c", "other"):
        await bench.control.create_volume(CreateVolume(name="data", cloud=cloud, size_bytes=8 * MIB))
    instance = await bench.run(on=north.birth.blanket)
    return north, stranger, instance


async def test_a_blanket_sees_and_changes_nothing_of_another_cloud(bench: Bench) -> None:
    north, stranger, instance = await two_clouds(bench)
    assert stranger.mesh is not None
    assert (stranger.mesh.peers, stranger.mesh.networks, stranger.mesh.locations) == ((), (), ())
    assert stranger.located == []
    right = north.rights[instance]
    with pytest.raises(RightRefused):
        await bench.parts.rights.issue(instance, to=stranger.birth.blanket, operation=new_id())
    stolen = Renewal(instance=instance, epoch=right.epoch, nonce=right.nonce, request=secrets.token_hex(16))
    (answer,) = (await stranger.channel.renew(RenewRights(renewals=(stolen,)))).answers
    assert answer.right is None and answer.refused == RightRefused.code
    with pytest.raises(RightRefused):
        await stranger.channel.surrender(Surrender(instance=instance, epoch=right.epoch))
    await north.renew(instance)
    assert (await bench.parts.rights.standing(instance)).record.holder == north.birth.blanket

    async def steal(name: str) -> None:
        with pytest.raises(ConnectionClosedError, match="nobody waits"):
            async with stranger.dialer.stream(name) as wire:
                await wire.recv()

    north.before_stream = steal
    stream = await bench.control.open_stream("web", kind=StreamKind.CONSOLE)
    await stream.write(b"x")
    assert await anext(aiter(stream)) == b"x"
    await stream.close()


async def test_users_names_mean_their_own_things(bench: Bench) -> None:
    _, _, instance = await two_clouds(bench)
    control = bench.control
    with pytest.raises(Conflict, match="several clouds"):
        await control.blanket("north")
    with pytest.raises(Conflict, match="several clouds"):
        await control.volume("data")
    assert (await control.blanket("north", cloud="other")).cloud == "other"
    assert [one.name for one in await control.instances(cloud="other")] == []
    assert [one.cloud for one in await control.volumes(cloud="other")] == ["other"]
    with pytest.raises(NotFound):
        await control.instance(instance, cloud="other")
    with pytest.raises(NotFound):
        await control.attach_volume("data", cloud="other", instance=instance)
    with pytest.raises(NotFound):
        other = (await control.blanket("north", cloud="other")).id
        await control.migrate_instance("web", to=other)
    lan = (await control.network("lan")).id
    for refer in ({"networks": (lan,)}, {"on": (await control.blanket("north", cloud="c")).id}):
        with pytest.raises(NotFound):
            await control.run_instance(
                RunInstance(name="web", cloud="other", image="debian", **refer)  # type: ignore[arg-type]
            )
    assert [one.id for one in await control.instances()] == [instance]


async def test_the_listener_lets_in_only_whom_the_store_knows(bench: Bench) -> None:
    north, stranger, _ = await two_clouds(bench)
    with pytest.raises(Denied):
        await inbox.admit(bench.parts.store, north.birth.blanket, stranger.birth.cloud)
    await bench.parts.agents.revoke(stranger.birth.blanket, "test")
    await bench.gone(stranger.birth.blanket)
    with pytest.raises((Unavailable, ConnectionClosedError), match="revoked"):
        async with stranger.dialer.image(DIGEST, 0) as connection:
            async for _ in connection:
                pytest.fail("a revoked blanket got an image")


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


async def test_a_blanket_whose_machine_ended_is_started_again(bench: Bench, world: World) -> None:
    north = await bench.blanket("north")
    identity = north.birth.blanket
    instance = await bench.run()
    copies, boot = dict(north.copies), north.boot_id
    await world.platform.stop(identity)  # as the reboot of its host
    await bench.gone("north")
    await bench.done(await bench.control.start_blanket("north"))
    shown = await bench.control.blanket("north")
    assert (shown.state, shown.connected, shown.reason) == (BlanketState.READY, True, "")
    assert north.boot_id != boot and north.copies == copies, "its disk was kept"
    await bench.done(await bench.control.start_blanket("north"))  # it runs: nothing happens
    assert bench.site.running(instance) == [], "nothing starts by itself"
    await bench.control.reconciler.blanket(identity)
    assert (await bench.control.instance("web")).state is InstanceState.STOPPED
    await bench.done(await bench.control.start_instance("web"))
    assert bench.site.running(instance) == ["north"]


async def test_a_blanket_without_a_machine_says_so_when_started(bench: Bench, world: World) -> None:
    north = await bench.blanket("north")
    await world.platform.destroy(north.birth.blanket)
    await bench.gone("north")
    view = await bench.done(await bench.control.start_blanket("north"), OperationState.FAILED)
    assert view.error is not None and view.error["code"] == NotFound.code
    assert "no machine on its platform" in view.error["message"]
    await bench.parts.agents.revoke(north.birth.blanket, "it was cloned")
    with pytest.raises(Conflict, match="cloned"):
        await bench.control.start_blanket("north")


async def test_a_blanket_is_stopped_and_frees_what_ran_in_it(bench: Bench) -> None:
    north = await bench.blanket("north")
    instance = await bench.run()
    with pytest.raises(Conflict, match="instance web runs"):
        await bench.control.stop_blanket("north")
    await bench.done(await bench.control.stop_blanket("north", force=True))
    assert not north.up and not (await bench.control.blanket("north")).connected
    assert (await bench.control.instance("web")).state is InstanceState.STOPPED
    assert (await bench.parts.rights.standing(instance)).record.holder is None
    await bench.done(await bench.control.start_blanket("north"))
    await bench.done(await bench.control.stop_blanket("north"))
    assert not north.up


async def test_after_a_restore_rights_stand_still_and_nothing_unknown_is_lost(tmp_path: Path) -> None:
    (tmp_path / "machines").mkdir()
    database, saved = tmp_path / "supercloud.db", tmp_path / "saved.tar"
    world = World(f"sqlite:///{database}", tmp_path)
    try:
        async with world.up() as bench:
            await furnish(bench, world.keys)
            north = await bench.blanket("north")
            instance = await bench.run()
            backup.back_up(database, tmp_path / "images", saved)
            await bench.control.create_volume(CreateVolume(name="data", cloud="c", size_bytes=8 * MIB))
            await bench.done(await bench.control.attach_volume("data", instance="web"))
            with pytest.raises(Conflict, match="another control plane"):
                await backup.restore(database, tmp_path / "images", saved)
        await backup.restore(database, tmp_path / "images", saved)
        async with world.up() as bench:
            assert 60 < (await bench.control.status()).quarantine_left_s <= 75
            await bench.parts.agents.wait_for(north.birth.blanket, 10)
            await north.renew(instance)
            await bench.control.reconciler.blanket(north.birth.blanket)
            assert bench.site.running(instance) == ["north"], "nothing that is newer than the backup ends"
            assert len(north.copies) == 2
            await bench.done(await bench.control.stop_instance("web"))
            view = await bench.done(await bench.control.start_instance("web"), OperationState.FAILED)
            assert view.error is not None and view.error["code"] == RightRefused.code
            assert (await bench.control.image("debian")).complete
    finally:
        await world.close()


async def test_an_agent_of_another_version_is_served(bench: Bench) -> None:
    north = await bench.blanket("north")
    north.version = "0.0.9"
    await bench.parts.agents.drop(north.birth.blanket, "upgraded")
    await bench.gone("north")
    await bench.parts.agents.wait_for(north.birth.blanket, 10)
    async with asyncio.timeout(10):
        while (await bench.control.blanket("north")).agent_version != "0.0.9":  # noqa: ASYNC110 - as users see it
            await asyncio.sleep(0.02)
    assert bench.site.running(await bench.run()) == ["north"]


def unopenable(text: bytes) -> UserData:
    """As large as it is; it was not encrypted."""
    sealed = bytes(28) + text
    return UserData(digest=f"sha256:{hashlib.sha256(sealed).hexdigest()}", ciphertext=to_text(sealed))


async def _twice(control: ControlPlane) -> object:
    lan = await control.network("lan")
    request = RunInstance(name="x", cloud="c", image="debian", networks=("lan", lan.id))
    return await control.run_instance(request)


async def test_an_agent_is_upgraded_while_its_instances_run(bench: Bench) -> None:
    bundle = bench.site.folder.parent / "bundle"
    bundle.write_bytes(secrets.token_bytes(300_000))
    digest = "sha256:" + hashlib.sha256(bundle.read_bytes()).hexdigest()
    north = await bench.blanket("north")
    instance = await bench.run()
    view = await bench.done(await bench.control.upgrade_blanket("north"))
    assert view.result is not None and view.result["digest"] == digest
    assert (north.bundles.now, north.bundles.confirmed) == (digest, 2)
    assert bench.site.running(instance) == ["north"]
    await north.renew(instance)
    shown = await bench.control.instance("web")
    assert (shown.state, shown.epoch) == (InstanceState.RUNNING, 1)
    await bench.done(await bench.control.upgrade_blanket("north"))
    assert north.bundles.confirmed == 2, "it runs that already, so nothing restarted"


async def test_code_that_does_not_work_there_is_not_used(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    (bench.site.folder.parent / "bundle").write_bytes(b"x" * 4096)
    north = await bench.blanket("north")
    north.bundles.broken = True
    view = await bench.done(await bench.control.upgrade_blanket("north"), OperationState.FAILED)
    assert view.error is not None and "ModuleNotFoundError" in view.error["message"]
    north.bundles.broken, north.bundles.stuck = False, True
    monkeypatch.setattr(upgrades, "_BACK_S", 0.5)
    view = await bench.done(await bench.control.upgrade_blanket("north"), OperationState.FAILED)
    assert view.error is not None and "does not run the new code" in view.error["message"]
    assert north.bundles.now is None and (await bench.control.blanket("north")).connected


UNKNOWN: dict[str, Callable[[ControlPlane], Awaitable[object]]] = {
    "cloud": lambda c: c.cloud("none"),
    "provider": lambda c: c.remove_provider("none"),
    "blanket": lambda c: c.remove_blanket("none"),
    "blanket's cloud": lambda c: c.add_blanket(AddBlanket(name="x", cloud="none", provider="p")),
    "blanket's provider": lambda c: c.add_blanket(AddBlanket(name="x", cloud="c", provider="none")),
    "image": lambda c: c.remove_image("none"),
    "image's digest": lambda c: c.image("sha256:" + "f" * 64),
    "network": lambda c: c.remove_network("none"),
    "volume": lambda c: c.remove_volume("none"),
    "volume's image": lambda c: c.create_volume(
        CreateVolume(name="x", cloud="c", size_bytes=8 * MIB, image="none")
    ),
    "instance": lambda c: c.stop_instance("none"),
    "instance's image": lambda c: c.run_instance(RunInstance(name="x", cloud="c", image="none")),
    "instance's network": lambda c: c.run_instance(
        RunInstance(name="x", cloud="c", image="debian", networks=("none",))
    ),
    "target": lambda c: c.migrate_instance("web", to="none"),
    "operation": lambda c: c.cancel(new_id()),
    "operation awaited": lambda c: c.operation(new_id(), wait_s=1),
    "path": lambda c: c.cloud("../../etc/passwd"),
    "text of SQL": lambda c: c.instance("' OR 1=1 --"),
}
IN_USE: dict[str, Callable[[ControlPlane], Awaitable[object]]] = {
    "provider": lambda c: c.remove_provider("p"),
    "cloud": lambda c: c.remove_cloud("c"),
    "blanket": lambda c: c.remove_blanket("north"),
    "image": lambda c: c.remove_image("debian"),
    "network": lambda c: c.remove_network("lan"),
    "boot volume": lambda c: c.remove_volume("web-root"),
    "boot volume detached": lambda c: c.detach_volume("web-root"),
    "running instance": lambda c: c.remove_instance("web"),
    "volume not attached": lambda c: c.detach_volume("data"),
    "same provider": lambda c: c.add_provider(AddProvider(name="p", kind="simulated")),
    "same cloud": lambda c: c.create_cloud(CreateCloud(name="c")),
    "same blanket": lambda c: c.add_blanket(AddBlanket(name="north", cloud="c", provider="p")),
    "same network": lambda c: c.create_network(CreateNetwork(name="lan", cloud="c", cidr="10.8.0.0/24")),
    "same range": lambda c: c.create_network(CreateNetwork(name="x", cloud="c", cidr="10.9.0.128/25")),
    "same volume": lambda c: c.create_volume(CreateVolume(name="data", cloud="c", size_bytes=8 * MIB)),
    "same instance": lambda c: c.run_instance(RunInstance(name="web", cloud="c", image="debian")),
    "same image's name": lambda c: c.register_image(
        RegisterImage(name="debian", digest="sha256:" + "1" * 64, size_bytes=1, virtual_bytes=1)
    ),
    "same image": lambda c: c.register_image(
        RegisterImage(name="x", digest=DIGEST, size_bytes=1, virtual_bytes=1)
    ),
}
INVALID: dict[str, Callable[[ControlPlane], Awaitable[object]]] = {
    "public range": lambda c: c.create_network(CreateNetwork(name="x", cloud="c", cidr="8.8.8.0/24")),
    "huge range": lambda c: c.create_network(CreateNetwork(name="x", cloud="c", cidr="10.0.0.0/8")),
    "odd range": lambda c: c.create_network(CreateNetwork(name="x", cloud="c", cidr="10.8.0.1/24")),
    "no range": lambda c: c.create_network(CreateNetwork(name="x", cloud="c", cidr="999.0.0.0/24")),
    "reserved range": lambda c: c.create_network(CreateNetwork(name="x", cloud="c", cidr="10.0.0.0/16")),
    "no size": lambda c: c.create_volume(CreateVolume(name="x", cloud="c", size_bytes=0)),
    "odd size": lambda c: c.create_volume(CreateVolume(name="x", cloud="c", size_bytes=MIB + 1)),
    "smaller than its image": lambda c: c.create_volume(
        CreateVolume(name="x", cloud="c", size_bytes=8 * MIB, image="debian")
    ),
    "shrinking": lambda c: c.resize_volume("web-root", size_bytes=8 * MIB),
    "growing oddly": lambda c: c.resize_volume("web-root", size_bytes=64 * MIB + 1),
    "small disk": lambda c: c.run_instance(
        RunInstance(name="x", cloud="c", image="debian", disk_bytes=8 * MIB)
    ),
    "more networks than ports": lambda c: c.run_instance(
        RunInstance(name="x", cloud="c", image="debian", networks=tuple(f"n{one}" for one in range(5)))
    ),
    "network twice": lambda c: c.run_instance(
        RunInstance(name="x", cloud="c", image="debian", networks=("lan", "lan"))
    ),
    "network twice by two names": _twice,
    "published without a network": lambda c: c.run_instance(
        RunInstance(name="x", cloud="c", image="debian", publish=(Publish(port=80),))
    ),
    "much user data": lambda c: c.run_instance(
        RunInstance(name="x", cloud="c", image="debian", user_data=unopenable(b"x" * 70_000))
    ),
    "user data of another digest": lambda c: c.run_instance(
        RunInstance(name="x", cloud="c", image="debian", user_data=replace(unopenable(b""), digest=DIGEST))
    ),
    "short right": lambda c: c.create_cloud(CreateCloud(name="x", right_length_s=1)),
    "a margin that does not wait for the watchdog": lambda c: c.create_cloud(
        CreateCloud(name="x", right_margin_s=14.9)
    ),
    "an endless margin": lambda c: c.create_cloud(CreateCloud(name="x", right_margin_s=601)),
    "days of grace": lambda c: c.create_cloud(CreateCloud(name="x", right_grace_s=1e6)),
    "endless right": lambda c: c.create_cloud(CreateCloud(name="x", right_length_s=float("inf"))),
    "no right": lambda c: c.create_cloud(CreateCloud(name="x", right_length_s=float("nan"))),
    "a stream's port": lambda c: c.open_stream("web", kind=StreamKind.CONSOLE, port=80),
    "a stream without": lambda c: c.open_stream("web", kind=StreamKind.TCP),
}


async def test_bad_requests_are_refused_in_one_line_and_change_nothing(bench: Bench) -> None:
    control = bench.control
    await bench.blanket("north")
    await bench.run()
    await control.create_volume(CreateVolume(name="data", cloud="c", size_bytes=8 * MIB))

    async def everything() -> list[object]:
        shown = (control.providers, control.clouds, control.images, control.networks, control.volumes)
        return [await show() for show in shown] + [
            [one.name for one in await control.instances()],
            [one.id for one in await control.operations()],
            [one.id for one in await control.blankets()],
        ]

    before = await everything()
    for kind, requests in ((NotFound, UNKNOWN), (Conflict, IN_USE), (InvalidInput, INVALID)):
        for name, request in requests.items():
            with pytest.raises(kind) as refused:
                await request(control)
                pytest.fail(f"accepted: {name}")
            assert "\n" not in refused.value.message and len(refused.value.message) < 200, name
            assert "constraint" not in refused.value.message, (name, refused.value.message)
    assert await everything() == before
