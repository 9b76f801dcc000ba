"""The real agent and the real keeper over fake drivers: flows, kills, cuts and repeats."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from blanket_rig import CLOUD, Blanket, ControlPlane, blanket

from supercloud.agent import backups
from supercloud.agent.identity import Safe
from supercloud.keystore.memory import memory_keystore
from supercloud.keystore.store import OwnedKeyStore
from supercloud.keystore.userdata import keep_user_data
from supercloud.model.errors import (
    Conflict,
    Denied,
    Failed,
    InvalidInput,
    NotFound,
    RightRefused,
    Unavailable,
)
from supercloud.model.migration import Source, Target
from supercloud.model.names import new_id
from supercloud.ports.agent import (
    Abroad,
    BackupReport,
    BackUpVolume,
    Disk,
    ForeignPeer,
    InstanceRef,
    InstanceSpec,
    MakeVolume,
    Mesh,
    Nic,
    OperationRef,
    Peer,
    PlaceImage,
    ReceiveInstance,
    RunState,
    SealedKey,
    SendCopy,
    SendInstance,
    StartInstance,
    StopInstance,
    StopMode,
    VolumeRef,
)
from supercloud.ports.hypervisor import TransferStatus
from supercloud.trust.announce import announce
from supercloud.trust.join import join_request
from supercloud.trust.keys import IdentityKey, SealingKey, from_text, to_text
from supercloud.trust.sealing import seal, user_data_purpose
from supercloud.trust.userdata import encrypt
from supercloud.wire.proxies import RemoteAgent

pytestmark = pytest.mark.contract


@dataclass
class World:
    plane: ControlPlane
    store: OwnedKeyStore
    north: Blanket
    south: Blanket


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    plane, store = ControlPlane(), memory_keystore()
    north = await blanket(plane, store, tmp_path / "north")
    south = await blanket(plane, store, tmp_path / "south")
    north.hypervisor.landed = south.hypervisor
    async with north.keeping(), south.keeping():
        yield World(plane, store, north, south)
    await plane.close()


@asynccontextmanager
async def both(world: World) -> AsyncIterator[tuple[RemoteAgent, RemoteAgent]]:
    async with AsyncExitStack() as stack:
        yield (
            await stack.enter_async_context(world.north.agent()),
            await stack.enter_async_context(world.south.agent()),
        )


def spec() -> InstanceSpec:
    return InstanceSpec(
        id=new_id(),
        name="web",
        cloud=CLOUD,
        vcpus=1,
        memory_mib=256,
        cpu_model="EPYC-v2",
        disks=(Disk(volume=new_id(), size_bytes=1 << 30, boot=True),),
        nics=(Nic(network=new_id(), mac="52:54:00:00:00:01", ip="10.1.0.2"),),
    )


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what others do meanwhile has no event here
            await asyncio.sleep(0.01)


def kinds(world: World, place: Blanket) -> list[str]:
    return [event.kind for event in world.plane.events.get(place.id, {}).values()]


# ---------------------------------------------------------------- start and stop


async def test_a_start_is_renewed_before_it_boots_and_repeating_it_boots_nothing_more(world: World) -> None:
    guest = spec()
    async with world.north.agent() as agent:
        request = StartInstance(spec=guest, right=world.plane.issue(guest.id, world.north.id))
        report = await agent.instances.start(request)
        assert (report.state, report.epoch) == (RunState.RUNNING, 1)
        assert report.right_left_s is not None and 50 < report.right_left_s <= 60
        assert world.plane.renewals >= 1
        assert world.north.overlay.ports[guest.id] == ["t" + guest.id.replace("-", "")[:12]]
        assert (await agent.instances.start(request)).state is RunState.RUNNING
        assert world.north.hypervisor.boots == [guest.id]
        assert (await agent.report()).boot_id == "boot"


async def test_a_right_that_the_store_refuses_boots_nothing(world: World) -> None:
    guest = spec()
    async with world.north.agent() as agent:
        stale = world.plane.issue(guest.id, world.north.id)
        world.plane.commit(guest.id, world.south.id)  # taken away before it arrived
        with pytest.raises(RightRefused):
            await agent.instances.start(StartInstance(spec=guest, right=stale))
        assert world.north.hypervisor.boots == []


@pytest.mark.parametrize("stubborn", [False, True])
async def test_a_stop_proves_that_nothing_runs_and_its_right_never_starts_again(
    world: World, stubborn: bool
) -> None:
    guest = spec()
    world.north.hypervisor.ignores_shutdown = stubborn
    async with world.north.agent() as agent:
        request = StartInstance(spec=guest, right=world.plane.issue(guest.id, world.north.id))
        await agent.instances.start(request)
        stop = StopInstance(instance=guest.id, mode=StopMode.SHUTDOWN, timeout_s=0.3)
        assert (await agent.instances.stop(stop)).state is RunState.ABSENT
        assert (await agent.instances.stop(stop)).epoch is None
        assert world.north.overlay.ports == {}
        with pytest.raises(RightRefused):  # a late repeat of the start
            await agent.instances.start(request)
        assert world.north.hypervisor.boots == [guest.id]
        await agent.instances.remove(InstanceRef(instance=guest.id))
        assert guest.id not in {report.instance for report in await agent.instances.list()}


async def test_what_runs_is_not_removed(world: World) -> None:
    guest = spec()
    async with world.north.agent() as agent:
        await agent.instances.start(
            StartInstance(spec=guest, right=world.plane.issue(guest.id, world.north.id))
        )
        with pytest.raises(Conflict):
            await agent.instances.remove(InstanceRef(instance=guest.id))


async def test_a_guest_that_powers_off_gives_its_right_up_also_when_nobody_listens(world: World) -> None:
    guest = spec()
    async with world.north.agent() as agent:
        await agent.instances.start(
            StartInstance(spec=guest, right=world.plane.issue(guest.id, world.north.id))
        )
        world.plane.reachable = False
        await world.plane.cut(world.north.id)
        world.north.hypervisor.show(guest.id, RunState.ABSENT, "shutdown")
        await asyncio.sleep(0.2)
        assert world.plane.rights[guest.id].holder == world.north.id
        world.plane.reachable = True
        await until(lambda: world.plane.rights[guest.id].holder is None)
        await until(lambda: "instance.ended" in kinds(world, world.north))


async def test_what_ended_while_the_agent_was_dead_is_settled_when_it_comes_back(world: World) -> None:
    guest = spec()
    async with world.north.agent() as agent:
        await agent.instances.start(
            StartInstance(spec=guest, right=world.plane.issue(guest.id, world.north.id))
        )
    world.north.hypervisor.show(guest.id, RunState.ABSENT, "crashed")
    async with world.north.agent():
        await until(lambda: world.plane.rights[guest.id].holder is None)
    assert world.plane.hellos[-1].epochs == {guest.id: 1}  # type: ignore[attr-defined]


async def test_what_runs_unasked_is_paused_and_reported(world: World) -> None:
    async with world.north.agent():
        rogue = new_id()
        world.north.hypervisor.show(rogue, RunState.RUNNING, "libvirt resumed it")
        await until(lambda: world.north.hypervisor.states[rogue] is RunState.PAUSED)
        await until(lambda: "instance.paused" in kinds(world, world.north))


# ---------------------------------------------------------------- events


async def test_events_come_at_least_once_across_cuts_and_restarts(world: World) -> None:
    rogues = [new_id() for _ in range(3)]
    async with world.north.agent():
        await until(lambda: "agent.started" in kinds(world, world.north))
        world.plane.lose_answers = True  # stored there, not acknowledged here: it comes twice
        world.north.hypervisor.show(rogues[0], RunState.RUNNING)
        await until(lambda: kinds(world, world.north).count("instance.paused") == 1)
        await world.plane.back(world.north.id)
        world.plane.reachable = False
        await world.plane.cut(world.north.id)
        world.north.hypervisor.show(rogues[1], RunState.RUNNING)
        await until(lambda: world.north.hypervisor.states[rogues[1]] is RunState.PAUSED)
        await asyncio.sleep(0.2)
        assert kinds(world, world.north).count("instance.paused") == 1
    world.plane.reachable = True
    async with world.north.agent():
        await until(lambda: kinds(world, world.north).count("instance.paused") == 2)
    events = list(world.plane.events[world.north.id].values())
    assert world.plane.deliveries > len(events)
    assert len({event.seq for event in events}) == len(events)
    assert {event.data["instance"] for event in events if event.kind == "instance.paused"} == set(rogues[:2])


# ---------------------------------------------------------------- user data

SECRET = b"#cloud-config\npassword: correct-horse-battery-staple\n"


async def start_with_user_data(world: World, guest: InstanceSpec, place: Blanket) -> StartInstance:
    data = await keep_user_data(world.store, SECRET, instance=guest.name)
    key = await world.store.user_data_key(
        cloud=CLOUD, instance=guest.id, digest=data.digest, blanket=place.id
    )
    right = world.plane.issue(guest.id, place.id)
    return StartInstance(spec=guest, right=right, user_data=data, user_data_key=key)


async def test_user_data_is_opened_for_the_seed_and_written_nowhere_else(world: World) -> None:
    guest = spec()
    async with both(world) as (north, south):
        request = await start_with_user_data(world, guest, world.north)
        await north.instances.start(request)
        assert world.north.hypervisor.seeds == {guest.id: SECRET}
        await south.overlay.apply(Mesh(address="100.64.0.2", generation=1))
        assert request.user_data is not None
        await south.migration.receive(
            ReceiveInstance(
                operation=new_id(),
                spec=guest,
                source_address="100.64.0.1",
                expires_s=60,
                user_data=request.user_data,
                user_data_key=await world.store.user_data_key(
                    cloud=CLOUD, instance=guest.id, digest=request.user_data.digest, blanket=world.south.id
                ),
            )
        )
        assert world.south.hypervisor.seeds == {guest.id: SECRET}
    for place in (world.north, world.south):
        files = [path for path in place.folder.rglob("*") if path.is_file()]
        assert any(guest.id.encode() in path.read_bytes() for path in files), "the journal knows it"
        for path in files:
            content = path.read_bytes()
            assert SECRET not in content and request.user_data.ciphertext.encode() not in content, path
    assert request.user_data.ciphertext not in repr(request)


async def test_other_user_data_than_the_instances_own_boots_nothing(world: World) -> None:
    guest, other = spec(), replace(spec(), name="other")
    good = await start_with_user_data(world, guest, world.north)
    others = await start_with_user_data(world, other, world.north)
    assert good.user_data is not None and good.user_data_key is not None and others.user_data is not None
    sealed = bytearray(from_text(good.user_data.ciphertext))
    sealed[20] ^= 1
    tampered = to_text(bytes(sealed))
    honest, key = encrypt(SECRET, instance=other.name)
    passport = world.north.passport

    def sealed_again(key: bytes, digest: str) -> SealedKey:
        """As somebody would who has a blanket's public key, and a key of his own."""
        to, purpose = passport.keys.sealing.public, user_data_purpose(guest.id, digest)
        return seal(key, to=to, blanket=world.north.id, purpose=purpose)

    async with world.north.agent() as agent:
        for request, error, why in (
            (replace(good, user_data=replace(good.user_data, ciphertext=tampered)), InvalidInput, "changed"),
            (
                replace(good, user_data=replace(good.user_data, ciphertext="AAAA")),
                InvalidInput,
                "not encrypted",
            ),
            (replace(good, user_data=replace(good.user_data, ciphertext="?")), InvalidInput, "base64"),
            (replace(good, user_data=others.user_data), Denied, "not sealed for that"),
            (replace(good, user_data_key=others.user_data_key), Denied, "not sealed for that"),
            (replace(good, user_data_key=None), InvalidInput, "without its key"),
            (replace(others, spec=replace(other, name="web")), Denied, "for instance web"),
            (
                replace(good, user_data=honest, user_data_key=sealed_again(key, honest.digest)),
                Denied,
                "for instance web",
            ),
            (
                replace(good, user_data_key=sealed_again(bytes(32), good.user_data.digest)),
                Denied,
                "under this key",
            ),
            (
                replace(good, user_data_key=sealed_again(b"short", good.user_data.digest)),
                Denied,
                "under this key",
            ),
        ):
            with pytest.raises(error, match=why) as refused:
                await agent.instances.start(request)
            assert "horse" not in f"{refused.value!r} {refused.value.hint}"
        assert world.north.hypervisor.boots == [] and world.plane.renewals == 0
        assert world.north.hypervisor.seeds == {}
        await agent.instances.start(good)
    assert world.north.hypervisor.seeds == {guest.id: SECRET}


# ---------------------------------------------------------------- migration


async def landed(world: World, guest: InstanceSpec, north: RemoteAgent, south: RemoteAgent) -> OperationRef:
    """Started in north, and on its way to south."""
    await north.instances.start(StartInstance(spec=guest, right=world.plane.issue(guest.id, world.north.id)))
    await south.overlay.apply(Mesh(address="100.64.0.2", generation=1))
    ref = OperationRef(operation=new_id(), instance=guest.id)
    landing = await south.migration.receive(
        ReceiveInstance(operation=ref.operation, spec=guest, source_address="100.64.0.1", expires_s=60)
    )
    assert landing.address == "100.64.0.2"
    assert world.south.overlay.grants == {("100.64.0.1", port): 60 for port in (1, 2, 3)}
    send = SendInstance(operation=ref.operation, instance=guest.id, landing=landing, expires_s=60)
    assert (await north.migration.send(send)).source is Source.ALIVE
    await north.migration.send(send)  # a repeat sends nothing more
    assert world.north.hypervisor.sent == [guest.id]
    return ref


async def test_a_migration_answers_at_the_hypervisors_word_and_resumes_without_asking_again(
    world: World,
) -> None:
    guest = spec()
    async with both(world) as (north, south):
        ref = await landed(world, guest, north, south)
        assert (await south.migration.target_status(ref)).target is Target.INCOMING
        waiting = asyncio.create_task(south.migration.target_status(ref))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        loop = asyncio.get_running_loop()
        before = loop.time()
        world.north.hypervisor.arrive(guest.id)
        assert (await waiting).target is Target.COMPLETE
        assert loop.time() - before < 0.2
        assert (await north.migration.source_status(ref)).source is Source.GONE
        assert world.plane.rights[guest.id].holder == world.north.id  # not surrendered under a migration

        right = world.plane.commit(guest.id, world.south.id)
        renewals = world.plane.renewals
        report = await south.instances.resume(StartInstance(spec=guest, right=right, operation=ref.operation))
        assert (report.state, report.epoch) == (RunState.RUNNING, 2)
        assert world.plane.renewals == renewals
        for agent in (north, south):
            await agent.migration.release(ref)
            await agent.migration.release(ref)
        assert world.south.hypervisor.states[guest.id] is RunState.RUNNING
        assert guest.id not in {report.instance for report in await north.instances.list()}
        assert world.north.forwards.open == world.south.forwards.open == {}
        assert set(world.south.overlay.grants.values()) == {0}
        assert guest.id in world.south.overlay.ports and guest.id not in world.north.overlay.ports


async def test_a_source_whose_process_is_being_ended_is_waited_for_and_known_to_be_gone_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """libvirt refuses to say how it is meanwhile; its process's end is known before libvirt knows it."""
    guest, hypervisor = spec(), world.north.hypervisor
    ended = False

    async def state(_: str) -> RunState:
        raise Conflict("Requested operation is not valid: domain is not running")

    async def transfer(_: str) -> TransferStatus:
        return TransferStatus(over=False, ended=ended)

    async with both(world) as (north, south):
        ref = await landed(world, guest, north, south)
        monkeypatch.setattr(hypervisor, "state", state)
        monkeypatch.setattr(hypervisor, "transfer", transfer)
        assert (await north.migration.source_status(ref)).source is Source.ALIVE
        waiting = asyncio.create_task(north.migration.source_status(ref))
        ended = True
        hypervisor.show(guest.id, RunState.ABSENT, "its process ended")
        seen = await waiting
        assert seen.source is Source.GONE and not seen.transfer_over
        monkeypatch.undo()
        hypervisor.arrive(guest.id)


async def test_a_resume_of_another_operation_has_to_ask_first(world: World) -> None:
    guest = spec()
    async with both(world) as (north, south):
        ref = await landed(world, guest, north, south)
        world.north.hypervisor.arrive(guest.id)
        assert (await south.migration.target_status(ref)).target is Target.COMPLETE
        stale = world.plane.commit(guest.id, world.south.id)
        world.plane.commit(guest.id, world.north.id)
        with pytest.raises(RightRefused):
            await south.instances.resume(StartInstance(spec=guest, right=stale, operation=new_id()))
        assert world.south.hypervisor.states[guest.id] is RunState.PAUSED


async def test_both_agents_killed_in_the_middle_adopt_the_transfer(world: World) -> None:
    guest = spec()
    async with both(world) as (north, south):
        ref = await landed(world, guest, north, south)
    world.north.hypervisor.arrive(guest.id)
    async with both(world) as (north, south):
        assert (await north.migration.source_status(ref)).source is Source.GONE
        assert (await south.migration.target_status(ref)).target is Target.COMPLETE
        await asyncio.sleep(0.2)
        assert world.plane.rights[guest.id].holder == world.north.id
        right = world.plane.commit(guest.id, world.south.id)
        report = await south.instances.resume(StartInstance(spec=guest, right=right))  # asks first: fine too
        assert report.state is RunState.RUNNING
        await north.migration.release(ref)
        await south.migration.release(ref)
        assert world.south.hypervisor.states[guest.id] is RunState.RUNNING


async def test_a_cancelled_migration_goes_on_at_the_source_and_leaves_nothing_at_the_target(
    world: World,
) -> None:
    guest = spec()
    async with both(world) as (north, south):
        ref = await landed(world, guest, north, south)
        report = await north.migration.cancel(ref)
        assert (report.source, report.transfer_over, report.reason) == (Source.ALIVE, True, "cancelled")
        world.south.hypervisor.show(guest.id, RunState.PAUSED)  # a copy that libvirt left behind
        await south.migration.release(ref)
        await north.migration.release(ref)
        assert world.south.hypervisor.states[guest.id] is RunState.ABSENT
        assert world.north.hypervisor.states[guest.id] is RunState.RUNNING
        (left,) = await north.instances.list()
        assert left.epoch == 1 and left.right_left_s


# ---------------------------------------------------------------- keys, images, mesh


async def test_a_key_opens_only_for_what_it_was_sealed_for(world: World) -> None:
    volume, copy = new_id(), new_id()
    sealed = await world.store.volume_key(cloud=CLOUD, volume=volume, copy=copy, blanket=world.north.id)
    async with both(world) as (north, south):
        made = MakeVolume(volume=volume, copy=copy, size_bytes=1 << 30, key=sealed)
        await north.volumes.make(made)
        ((key, _),) = world.north.volumes.keys.values()
        assert len(key) == 64
        with pytest.raises((Denied, InvalidInput)):
            await north.volumes.make(MakeVolume(volume=volume, copy=new_id(), size_bytes=1, key=sealed))
        with pytest.raises((Denied, InvalidInput)):
            await south.volumes.make(made)


async def backup(world: World, **other: object) -> BackUpVolume:
    volume, copy, into = new_id(), new_id(), new_id()
    keys = [
        await world.store.volume_key(cloud=CLOUD, volume=volume, copy=one, blanket=world.north.id)
        for one in (copy, into)
    ]
    return BackUpVolume(volume=volume, copy=copy, key=keys[0], into=into, into_key=keys[1], **other)  # type: ignore[arg-type]


async def test_a_backup_is_made_vouched_for_and_sent(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backups, "_LOOK_S", 0.05)
    request, volumes = await backup(world), world.north.volumes
    path = volumes.copy_path(request.volume, request.into)
    async with world.north.agent() as agent:
        assert await agent.volumes.back_up(request) == BackupReport(done=0.25)
    async with world.north.agent() as agent:  # a restarted one begins anew
        assert await agent.volumes.back_up(request) == BackupReport(done=0.25)
        volumes.flattened.set()
        while (made := (await agent.volumes.back_up(request)).image) is None:
            pass
        assert len(path.read_bytes()) == 128, "both keys were opened"
        assert made.digest == "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
        await world.store.bind_copy(
            cloud=CLOUD,
            volume=request.volume,
            copy=request.into,
            blanket=world.north.id,
            digest=made.digest,
            signature=made.signature,
        )
        stream = SendCopy(stream="ab" * 16, volume=request.volume, copy=request.into, offset=100)
        await agent.volumes.send(stream)
        dialled = world.north.dialer.streams[stream.stream]
        await dialled.ended.wait()
        assert dialled.said == path.read_bytes()[100:]
        with pytest.raises(InvalidInput):
            await agent.volumes.send(replace(stream, stream="cd" * 16, offset=129))
        await agent.volumes.remove(VolumeRef(volume=request.volume, copy=request.into))
        with pytest.raises(NotFound):
            await agent.volumes.send(replace(stream, stream="ef" * 16))


async def test_what_a_process_has_open_is_read_by_that_process(world: World) -> None:
    instance, hypervisor = new_id(), world.north.hypervisor
    world.north.volumes.flattened.set()
    for state, reads in ((RunState.RUNNING, True), (RunState.PAUSED, True), (RunState.DEFINED, False)):
        request = await backup(world, instance=instance)
        hypervisor.states[instance] = state
        async with world.north.agent() as agent:
            while (await agent.volumes.back_up(request)).image is None:
                pass
        assert ((instance, request.volume, request.into) in hypervisor.read) == reads


async def test_a_backup_can_be_given_up(world: World) -> None:
    volumes = world.north.volumes
    request = await backup(world)
    async with world.north.agent() as agent:
        asked = asyncio.create_task(agent.volumes.back_up(request))
        await volumes.flattening.wait()
        await agent.volumes.remove(VolumeRef(volume=request.volume, copy=request.into))
        with pytest.raises(Unavailable, match="given up"):
            await asked
        volumes.flattened.set()
        assert not volumes.copy_path(request.volume, request.into).exists()


async def test_an_image_is_there_whole_or_not_at_all(world: World) -> None:
    data = bytes(range(256)) * 2048
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    path = world.north.volumes.image_path(digest)
    dialer = world.north.dialer
    async with world.north.agent() as agent:
        request = PlaceImage(digest=digest, size_bytes=len(data))
        dialer.images[digest] = bytes(len(data))
        with pytest.raises(Failed):
            await agent.volumes.place_image(request)
        assert list(path.parent.glob(path.name + "*")) == []
        dialer.images[digest] = data
        dialer.cut_after = 300_000  # one cut: it goes on from there
        await agent.volumes.place_image(request)
        assert path.read_bytes() == data
        dialer.images.clear()
        await agent.volumes.place_image(request)  # there already


async def test_peers_enter_the_mesh_by_their_own_word_only(world: World) -> None:
    async with both(world) as (north, south):
        said = (await south.overlay.report()).announcement
        assert said is not None
        good = Peer(
            blanket=world.south.id,
            address="100.64.0.2",
            endpoint="10.0.2.2:1",
            keys=(said.key,),
            vxlan_port=4789,
            announcement=said,
        )
        forged = Peer(
            blanket=world.south.id,
            address="100.64.0.3",
            endpoint=None,
            keys=("B" * 43 + "=",),
            vxlan_port=4790,
            announcement=said,
        )
        await north.overlay.apply(Mesh(address="100.64.0.1", generation=1, peers=(good, forged)))
        assert world.north.overlay.mesh.peers == (good,)
        await until(lambda: "peer.refused" in kinds(world, world.north))

        world.south.overlay.key = "C" * 43 + "="
        newer = (await south.overlay.report()).announcement
        assert newer is not None and newer.generation == said.generation + 1
        fresh = Peer(
            blanket=world.south.id,
            address="100.64.0.2",
            endpoint=None,
            keys=(newer.key,),
            vxlan_port=4789,
            announcement=newer,
        )
        await north.overlay.apply(Mesh(address="100.64.0.1", generation=2, peers=(fresh,)))
        await north.overlay.apply(Mesh(address="100.64.0.1", generation=3, peers=(good,)))
        assert world.north.overlay.mesh.peers == ()  # an older word of the peer's is void

        # Rolled back, it knows nothing of its last word: its next one is beyond that, for the same key too.
        late = Mesh(address="100.64.0.2", generation=1, announced=newer.generation + 7)
        again = (await south.overlay.apply(late)).announcement
        assert again is not None and again.generation == newer.generation + 8 and again.key == newer.key
        assert (await south.overlay.report()).announcement == again, "said once"


async def test_another_clouds_blankets_enter_as_that_clouds_only(world: World) -> None:
    async with both(world) as (north, south):
        ours = (await south.overlay.report()).announcement
        other, blanket_id, key = new_id(), new_id(), IdentityKey.new()
        token = await world.store.invite(cloud=other, blanket=blanket_id, lifetime_s=600)
        joined = await world.store.admit(
            request=join_request(
                blanket=blanket_id, secret=token.secret, identity=key, sealing=SealingKey.new()
            )
        )
        said = announce(
            identity=key,
            certificate_pem=joined.certificate_pem,
            blanket=blanket_id,
            key="D" * 43 + "=",
            next_key=None,
            generation=1,
        )
        good = ForeignPeer(
            blanket=blanket_id, cloud=other, endpoint=None, keys=(said.key,), announcement=said
        )
        assert ours is not None
        of_ours = ForeignPeer(
            blanket=world.south.id, cloud=CLOUD, endpoint=None, keys=(ours.key,), announcement=ours
        )
        wrong = (
            replace(good, cloud=new_id()),  # not the cloud that the relation is with
            replace(good, cloud=CLOUD),
            replace(good, keys=("E" * 43 + "=",)),
            replace(good, announcement=None),
            of_ours,  # ours is no foreigner
            replace(of_ours, cloud=other),
        )
        mesh = Mesh(address="100.64.0.1", generation=1, abroad=Abroad(peers=(*wrong, good)))
        await north.overlay.apply(mesh)
        assert world.north.overlay.mesh.abroad.peers == (good,)
        as_ours = Peer(
            blanket=blanket_id,
            address="100.64.0.9",
            endpoint=None,
            keys=(said.key,),
            vxlan_port=4791,
            announcement=said,
        )
        await north.overlay.apply(Mesh(address="100.64.0.1", generation=2, peers=(as_ours,)))
        assert world.north.overlay.mesh.peers == (), "another cloud's blanket is none of the mesh"


async def test_identity_is_private_and_stays(world: World) -> None:
    folder = world.north.folder / "identity"
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    again = Safe(folder)
    assert again.keys().identity.public == world.north.passport.keys.identity.public
    other = await world.store.renew(blanket=world.south.id, csr_pem=world.south.passport.keys.identity.csr())
    with pytest.raises(Denied):
        world.north.passport.renewed(other, at=world.north.passport.identity.issued_at + 1)
