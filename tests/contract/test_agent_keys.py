"""The real agent with keys, images and the mesh: what it takes in on whose word, and what it gives away."""

import asyncio
import hashlib
from dataclasses import replace

import pytest
from agent_rig import World, both, kinds, until, world
from blanket_rig import CLOUD

from supercloud.agent import backups
from supercloud.agent.identity import Safe
from supercloud.model.errors import (
    Denied,
    Failed,
    InvalidInput,
    NotFound,
    Unavailable,
)
from supercloud.model.names import new_id
from supercloud.ports.agent import (
    BackupReport,
    BackUpVolume,
    MakeVolume,
    PlaceImage,
    RunState,
    SendCopy,
    VolumeRef,
)
from supercloud.ports.overlay import Abroad, ForeignPeer, Mesh, Peer
from supercloud.trust.announce import announce
from supercloud.trust.join import join_request
from supercloud.trust.keys import IdentityKey, SealingKey

__all__ = ["world"]  # a fixture

pytestmark = pytest.mark.contract


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
