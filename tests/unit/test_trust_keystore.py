"""Inside the key store: an authority replaced while everything runs, records at rest, frames."""

import asyncio
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supercloud.keystore.backup import back_up, open_backup, restore
from supercloud.keystore.calls import handlers, methods
from supercloud.keystore.faces import Owner, Served
from supercloud.keystore.memory import memory_keystore
from supercloud.keystore.records import KINDS, VolumeKeyRecord
from supercloud.keystore.store import OwnedKeyStore
from supercloud.keystore.vault import Vault, make_key, read_key
from supercloud.model.errors import (
    Conflict,
    Denied,
    InvalidInput,
    NotFound,
    Refused,
    SupercloudError,
    Unavailable,
)
from supercloud.model.names import new_id
from supercloud.trust.authority import LIFETIME_S, Authority
from supercloud.trust.certificates import Anchors, succeed
from supercloud.trust.join import join_request
from supercloud.trust.keys import IdentityKey, SealingKey
from supercloud.trust.sealing import open_sealed, volume_purpose
from supercloud.wire.codec import from_json
from supercloud.wire.rpc import FRAME_BYTES
from supercloud.wire.stream import StreamTransport

pytestmark = pytest.mark.unit

CLOUD = new_id()


class Wall:
    """A wall clock that moves when told."""

    def __init__(self) -> None:
        self.now = 1_900_000_000.0

    def __call__(self) -> float:
        return self.now


class Blanket:
    """Trusts what it was born with, and from then on only what that vouches for."""

    def __init__(self, store: OwnedKeyStore, wall: Wall) -> None:
        self.store, self.wall, self.id = store, wall, new_id()
        self.identity, self.sealing = IdentityKey.new(), SealingKey.new()
        self.trusts = self.certificate = ""

    async def join(self) -> None:
        token = await self.store.invite(cloud=CLOUD, blanket=self.id, lifetime_s=600)
        self.trusts = token.authority_pem
        asked = join_request(
            blanket=self.id, secret=token.secret, identity=self.identity, sealing=self.sealing
        )
        answer = await self.store.admit(asked)
        self.certificate = answer.certificate_pem
        Anchors(self.trusts).verify(self.certificate, self.wall.now)

    async def renew(self) -> None:
        answer = await self.store.renew(blanket=self.id, csr_pem=self.identity.csr())
        self.trusts = succeed(self.trusts, answer.authority_pem)
        self.certificate = answer.certificate_pem
        Anchors(self.trusts).verify(self.certificate, self.wall.now)

    async def key(self, volume: str, copy: str) -> bytes:
        sealed = await self.store.volume_key(cloud=CLOUD, volume=volume, copy=copy, blanket=self.id)
        return open_sealed(sealed, key=self.sealing, blanket=self.id, purpose=volume_purpose(volume, copy))


def accept(left: Blanket, right: Blanket) -> None:
    """Two blankets in one mesh take each other's certificates."""
    for one, other in ((left, right), (right, left)):
        Anchors(one.trusts).verify(other.certificate, one.wall.now)


async def test_the_authority_is_replaced_while_everything_runs() -> None:
    wall = Wall()
    store = memory_keystore(now=wall)
    early, late = Blanket(store, wall), Blanket(store, wall)
    controller = IdentityKey.new()
    await early.join()
    await late.join()
    await store.issue_controller(csr_pem=controller.csr())
    first = await store.authority()

    await store.prepare_authority()
    with pytest.raises(Conflict):
        await store.prepare_authority()
    await early.renew()
    await store.renew_controller(csr_pem=controller.csr())
    accept(early, late)
    assert (await store.authority_status()).untold == (late.id,)
    with pytest.raises(Refused, match=late.id):
        await store.switch_authority()  # `late` would not know who issued the others' certificates
    await late.renew()
    await store.switch_authority()

    with pytest.raises(Refused):
        await store.retire_authority()
    await early.renew()
    accept(early, late)  # one has the new authority's certificate, the other still the old one's
    await late.renew()
    await store.renew_controller(csr_pem=controller.csr())
    await store.retire_authority()
    await early.renew()
    await late.renew()
    accept(early, late)
    assert first not in await store.authority()
    assert early.trusts == await store.authority()
    with pytest.raises(Denied):
        succeed(early.trusts, first)  # what is retired does not come back
    with pytest.raises(Conflict):
        await store.retire_authority()
    with pytest.raises(Conflict):
        await store.switch_authority()


async def test_a_control_plane_that_is_gone_does_not_hold_up_a_replacement() -> None:
    wall = Wall()
    store = memory_keystore(now=wall)
    await store.issue_controller(csr_pem=IdentityKey.new().csr())
    await store.prepare_authority()
    with pytest.raises(Refused):
        await store.switch_authority()
    wall.now += LIFETIME_S + 1
    await store.switch_authority()


async def test_a_relay_cannot_put_in_its_own_authority() -> None:
    wall = Wall()
    store = memory_keystore(now=wall)
    ours = await store.authority()
    thief = Authority.new(at=wall.now)
    for forged in (thief, Authority.new(at=wall.now, after=thief)):
        for offered in (forged.certificate_pem, ours + forged.certificate_pem):
            with pytest.raises(Denied, match="vouch"):
                succeed(ours, offered)
    with pytest.raises(InvalidInput):
        succeed(ours, "")
    assert succeed(ours, ours) == ours


async def test_after_a_theft_everybody_joins_again_and_keeps_its_volumes() -> None:
    wall = Wall()
    store = memory_keystore(now=wall)
    blanket, revoked, volume, copy = Blanket(store, wall), new_id(), new_id(), new_id()
    controller = IdentityKey.new()
    await blanket.join()
    await store.revoke(blanket=revoked)
    await store.issue_controller(csr_pem=controller.csr())
    key = await blanket.key(volume, copy)
    stolen = await store.authority()

    await store.recreate_authority()
    with pytest.raises(Denied):
        await blanket.key(volume, copy)
    with pytest.raises(Denied):
        await blanket.renew()
    with pytest.raises(Denied):
        await store.renew_controller(csr_pem=controller.csr())
    with pytest.raises(Denied):
        await store.invite(cloud=CLOUD, blanket=revoked, lifetime_s=600)
    with pytest.raises(Denied):
        succeed(stolen, await store.authority())  # the stolen key vouches for nothing new

    await blanket.join()
    assert await blanket.key(volume, copy) == key
    with pytest.raises(Denied):
        Anchors(stolen).verify(blanket.certificate, wall.now)


async def test_a_blanket_that_slept_longer_than_its_certificate_joins_as_itself() -> None:
    wall = Wall()
    store = memory_keystore(now=wall)
    token = await store.invite(cloud=CLOUD, blanket=new_id(), lifetime_s=600)
    identity, sealing = IdentityKey.new(), SealingKey.new()
    asked = join_request(blanket=token.blanket, secret=token.secret, identity=identity, sealing=sealing)
    await store.admit(asked)
    wall.now += 10 * LIFETIME_S
    fresh = Anchors(token.authority_pem).verify((await store.admit(asked)).certificate_pem, wall.now)
    assert (fresh.blanket, fresh.public_key) == (token.blanket, identity.public)


# ---------------------------------------------------------------- at rest


def record() -> VolumeKeyRecord:
    return VolumeKeyRecord(
        volume=new_id(), copy=new_id(), cloud=CLOUD, blanket=new_id(), passphrase="swordfish"
    )


def test_a_record_moved_to_another_name_is_refused(tmp_path: Path) -> None:
    vault = Vault.on_disk(tmp_path, make_key(tmp_path / "key"))
    one, other = record(), record()
    with vault.transaction():
        vault.put(one)
        vault.put(other)
    assert vault.get(VolumeKeyRecord, one.name) == one
    with sqlite3.connect(tmp_path / "keystore.sqlite") as thief:
        thief.execute(
            "UPDATE records SET body = (SELECT body FROM records WHERE name = ?) WHERE name = ?",
            (other.name, one.name),
        )
    with pytest.raises(Denied):
        vault.get(VolumeKeyRecord, one.name)
    vault.close()


def test_a_transaction_that_fails_leaves_nothing(tmp_path: Path) -> None:
    vault = Vault.on_disk(tmp_path, make_key(tmp_path / "key"))
    one = record()

    def half() -> None:
        with vault.transaction():
            vault.put(one)
            raise Conflict("in the middle")

    with pytest.raises(Conflict):
        half()
    assert vault.get(VolumeKeyRecord, one.name) is None
    with vault.transaction():
        vault.put(one)
    vault.close()
    again = Vault.on_disk(tmp_path, read_key(tmp_path / "key"))
    assert again.get(VolumeKeyRecord, one.name) == one


async def test_a_destroyed_key_leaves_no_bytes_on_the_disk(tmp_path: Path) -> None:
    wall = Wall()
    vault = Vault.on_disk(tmp_path, make_key(tmp_path / "key"))
    store = OwnedKeyStore.begin(vault, now=wall)
    blanket, volume, copy = Blanket(store, wall), new_id(), new_id()
    await blanket.join()
    await blanket.key(volume, copy)
    with sqlite3.connect(tmp_path / "keystore.sqlite") as thief:
        (body,) = thief.execute("SELECT body FROM records WHERE kind = ?", (VolumeKeyRecord.kind,)).fetchone()
    thief.close()

    def on_disk() -> bool:
        return any(body in path.read_bytes() for path in tmp_path.iterdir())

    assert on_disk()
    await store.destroy_key(volume=volume, copy=copy)
    assert not on_disk()


@given(st.binary(max_size=300), st.booleans())
def test_no_bytes_break_the_reading_of_a_backup(data: bytes, after_the_magic: bool) -> None:
    vault, key = Vault.in_memory(), bytes(32)
    good = back_up(vault, key)
    magic = good[: good.index(b"\n") + 1]
    with pytest.raises((InvalidInput, Denied)):
        open_backup(magic + data if after_the_magic else data, key)


def test_a_backup_holds_every_kind_of_record() -> None:
    source, target = Vault.in_memory(), Vault.in_memory()
    one = record()
    OwnedKeyStore.begin(source)
    with source.transaction():
        source.put(one)
    restore(target, open_backup(back_up(source, bytes(32)), bytes(32)))
    for kind in KINDS:
        found: Any = kind
        assert target.every(found) == source.every(found)
    with pytest.raises(Conflict):
        restore(target, ())


def test_key_files_say_what_is_wrong_without_their_content(tmp_path: Path) -> None:
    path = tmp_path / "key"
    make_key(path)
    assert len(read_key(path)) == 32
    path.write_text("swordfish")
    with pytest.raises(InvalidInput) as caught:
        read_key(path)
    assert "swordfish" not in str(caught.value)
    with pytest.raises(NotFound):
        read_key(tmp_path / "absent")


# ---------------------------------------------------------------- on its sockets


def test_the_two_faces_are_apart() -> None:
    store = memory_keystore()
    served, owner = handlers(Served, "keystore", store), handlers(Owner, "owner", store)
    assert set(methods(Served)) >= {"invite", "admit", "renew", "volume_key", "image_key", "destroy_key"}
    assert not {"keystore.new_image_key", "keystore.issue_controller", "keystore.approve"} & set(served)
    assert "owner.volume_key" not in owner


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
arguments = st.dictionaries(
    st.sampled_from(
        ["cloud", "blanket", "lifetime_s", "request", "csr_pem", "volume", "copy", "digest", "id"]
    ),
    json_values | st.just(CLOUD),
)


@given(st.sampled_from([*methods(Served), *methods(Owner)]), json_values | arguments)
def test_no_values_break_a_method(name: str, values: Any) -> None:
    store = memory_keystore()
    every = {**handlers(Served, "k", store), **handlers(Owner, "k", store)}
    handler = every[f"k.{name}"]

    async def call() -> None:
        given_values = () if handler.takes is None else (from_json(handler.takes, values),)
        await handler.run(*given_values)

    try:
        asyncio.run(call())
    except SupercloudError as error:
        json.dumps(error.message)


class Wire:
    """Collects what a transport writes."""

    def __init__(self) -> None:
        self.written = b""
        self.closed = False

    def write(self, data: bytes) -> None:
        self.written += data

    async def drain(self) -> None: ...

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    async def wait_closed(self) -> None: ...


def reading(data: bytes) -> StreamTransport:
    reader = asyncio.StreamReader()
    reader.feed_data(data)
    reader.feed_eof()
    wire: Any = Wire()
    return StreamTransport(reader, wire)


@given(st.lists(st.text(max_size=50), max_size=5))
def test_frames_arrive_as_they_were_sent(frames: list[str]) -> None:
    async def go() -> None:
        wire: Any = Wire()
        sender = StreamTransport(asyncio.StreamReader(), wire)
        for frame in frames:
            await sender.send(frame)
        receiver = reading(wire.written)
        assert [await receiver.receive() for _ in frames] == frames
        with pytest.raises(Unavailable):
            await receiver.receive()

    asyncio.run(go())


@given(st.binary(max_size=100))
def test_no_bytes_break_the_frames(data: bytes) -> None:
    async def go() -> None:
        receiver = reading(data)
        with pytest.raises((Unavailable, InvalidInput)):
            while True:
                await receiver.receive()

    asyncio.run(go())


async def test_a_frame_that_is_too_large_is_refused_before_it_is_read() -> None:
    with pytest.raises(InvalidInput):
        await reading((FRAME_BYTES + 1).to_bytes(4, "big")).receive()


async def test_on_a_closed_stream_nothing_is_sent() -> None:
    transport = reading(b"")
    await transport.close()
    with pytest.raises(Unavailable):
        await transport.send("late")
