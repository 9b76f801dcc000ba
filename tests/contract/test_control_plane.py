"""The whole control plane on both databases: a cloud's life, its users, its blankets."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import socket
from dataclasses import replace
from pathlib import Path

import pytest
from blanket_double import Double
from control_rig import (
    DIGEST,
    Bench,
    World,
    furnish,
)
from websockets.exceptions import ConnectionClosedError

from supercloud.keystore.userdata import keep_user_data
from supercloud.model.errors import (
    Conflict,
    DataLost,
    Denied,
    InvalidInput,
    NotFound,
    RightRefused,
    Unavailable,
)
from supercloud.model.levels import Level
from supercloud.model.names import MIB, new_id
from supercloud.model.right import Renewal
from supercloud.model.states import BlanketState, InstanceState, OperationState
from supercloud.ports.agent import StopMode, StreamKind
from supercloud.ports.controller import RenewRights, Surrender
from supercloud.services import backup, inbox, upgrades
from supercloud.services.requests import (
    AddBlanket,
    CreateCloud,
    CreateNetwork,
    CreateVolume,
    Publish,
    RunInstance,
)
from supercloud.services.store.tables import VolumeCopy
from supercloud.services.views import WantedCloud

pytestmark = pytest.mark.contract


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
            CreateNetwork(name="a", cloud="c", cidr="10.10.0.0/24", level=Level.OPEN),
            CreateNetwork(name="lan", cloud="c", cidr="10.9.0.0/24", level=Level.OPEN),
        ),
        volumes=(
            CreateVolume(name="idle", cloud="c", size_bytes=MIB, on="south", level=Level.OPEN),
            CreateVolume(name="one", cloud="c", size_bytes=MIB, level=Level.OPEN),
            CreateVolume(name="two", cloud="c", size_bytes=MIB, level=Level.OPEN),
        ),
        instances=(
            replace(
                run,
                image="debian",
                on="south",
                disk_bytes=64 * MIB,
                publish=(port,),
                user_data=None,
                level=Level.OPEN,
            ),
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


async def test_a_published_port_that_another_program_took_is_told_and_had_again(world: World) -> None:
    async with world.up() as bench:
        await furnish(bench, world.keys)
        await bench.blanket("north")
        await bench.run(publish=(Publish(port=80),))
        (published,) = (await bench.control.instance("web")).published
        at = int(published.partition("->")[0].rpartition(":")[2])
    with socket.create_server(("127.0.0.1", at)):
        async with world.up() as bench:
            assert (await bench.control.status()).ports_missing == (at,)
            await bench.parts.publisher.regain()
            assert (await bench.control.status()).ports_missing == (at,)
    async with world.up() as bench:
        assert (await bench.control.status()).ports_missing == ()
        await bench.parts.publisher.silence(at)
        with socket.create_server(("127.0.0.1", at)):
            await bench.parts.publisher.resume()
            assert (await bench.control.status()).ports_missing == (at,)
        await bench.parts.publisher.regain()
        assert (await bench.control.status()).ports_missing == ()
        _, writer = await asyncio.open_connection("127.0.0.1", at)
        writer.close()


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
    stopped = await bench.control.blanket("north")
    assert (north.up, stopped.connected, stopped.state) == (False, False, BlanketState.STOPPED)
    assert (await bench.control.instance("web")).state is InstanceState.STOPPED
    assert (await bench.parts.rights.standing(instance)).record.holder is None
    await bench.done(await bench.control.start_blanket("north"))
    assert (await bench.control.blanket("north")).state is BlanketState.READY
    await bench.done(await bench.control.stop_blanket("north"))
    assert not north.up
    await bench.gone("north")  # what is noted of its silence comes later, and changes nothing
    assert (await bench.control.blanket("north")).state is BlanketState.STOPPED


async def test_what_a_removed_blanket_had_is_lost_and_never_made_anew(bench: Bench) -> None:
    control = bench.control
    await bench.blanket("north")
    south = await bench.blanket("south")
    instance = await bench.run()
    await bench.done(await control.remove_blanket("north", force=True))
    (volume,) = await control.volumes()
    assert volume.lost == "its data were in blanket north, which was removed" and volume.blanket is None
    view = await bench.done(await control.start_instance("web"), OperationState.FAILED)
    assert view.error is not None and view.error["code"] == DataLost.code
    shown = await control.instance("web")
    assert shown.state is InstanceState.FAILED and "which was removed" in shown.reason
    assert not south.copies and not bench.site.running(instance)
    await bench.done(await control.remove_instance("web", force=True))
    assert not await control.volumes()


async def test_a_lost_volume_is_not_attached_and_one_that_was_never_made_is_not_lost(bench: Bench) -> None:
    control = bench.control
    await bench.blanket("north"), await bench.blanket("south")
    await bench.run(on="north")
    for name in ("data", "new"):
        await control.create_volume(CreateVolume(name=name, cloud="c", size_bytes=8 * MIB))
    await bench.done(await control.attach_volume("data", instance="web"))
    await bench.done(await control.detach_volume("data"))
    async with bench.parts.store.write() as session:  # as a start that was cut off before it made it
        (new,) = [one for one in await control.volumes() if one.name == "new"]
        north = (await control.blanket("north")).id
        cloud = (await control.cloud("c")).id
        session.add(VolumeCopy(id=new_id(), volume=new.id, cloud=cloud, blanket=north, current=True))
    await bench.done(await control.remove_blanket("north", force=True))
    lost = {one.name: one.lost for one in await control.volumes()}
    assert lost["data"] and not lost["new"]
    await bench.run("other", on="south")
    with pytest.raises(Conflict, match="volume data is lost"):
        await control.attach_volume("data", instance="other")
    await bench.done(await control.attach_volume("new", instance="other"))


async def test_after_a_restore_rights_stand_still_and_nothing_unknown_is_lost(tmp_path: Path) -> None:
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
