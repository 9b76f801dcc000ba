"""Every key store: whose the keys of copies, images and user data are, and for how long."""

import os
import time
from dataclasses import replace

import pytest
from keystore_rig import CLOUD, DIGEST, Blanket, Faces, Process

from supercloud.keystore.faces import ImageShare, Owner
from supercloud.keystore.memory import memory_keystore
from supercloud.keystore.records import ImageShareRecord
from supercloud.model.errors import (
    Conflict,
    Denied,
    InvalidInput,
    NotFound,
)
from supercloud.model.names import new_id
from supercloud.trust.keys import to_text
from supercloud.trust.sealing import image_purpose, user_data_purpose, volume_purpose
from supercloud.trust.vouch import vouch

pytestmark = pytest.mark.contract


async def test_a_copys_key_is_made_once_and_is_its_own(faces: Faces) -> None:
    blanket, volume, copy = Blanket(), new_id(), new_id()
    await blanket.join(faces.served)
    key = await blanket.key(faces.served, volume, copy)
    assert len(bytes.fromhex(key.decode("ascii"))) == 32
    assert await blanket.key(faces.served, volume, copy) == key
    assert await blanket.key(faces.served, volume, new_id()) != key
    assert await blanket.key(faces.served, new_id(), copy) != key


async def test_a_copys_key_is_for_its_blanket_only(faces: Faces) -> None:
    one, other, foreign = Blanket(), Blanket(), Blanket(new_id())
    for blanket in (one, other, foreign):
        await blanket.join(faces.served)
    volume, copy = new_id(), new_id()
    sealed = await faces.served.volume_key(cloud=CLOUD, volume=volume, copy=copy, blanket=one.id)
    with pytest.raises(Denied):
        other.opened(sealed, volume_purpose(volume, copy))
    for blanket in (other, foreign):
        with pytest.raises(Denied):
            await blanket.key(faces.served, volume, copy)
    with pytest.raises(Denied):
        await faces.served.volume_key(cloud=CLOUD, volume=new_id(), copy=new_id(), blanket=foreign.id)
    with pytest.raises(Denied):
        await faces.served.volume_key(cloud=CLOUD, volume=new_id(), copy=new_id(), blanket=new_id())


@pytest.mark.parametrize("made", [True, False])
async def test_a_destroyed_key_is_not_found_for_ever(faces: Faces, made: bool) -> None:
    blanket, volume, copy = Blanket(), new_id(), new_id()
    await blanket.join(faces.served)
    if made:
        await blanket.key(faces.served, volume, copy)
    for _ in range(2):
        await faces.served.destroy_key(volume=volume, copy=copy)
        with pytest.raises(NotFound):
            await blanket.key(faces.served, volume, copy)
    await blanket.key(faces.served, volume, new_id())  # the volume's other copies are not touched


async def test_an_image_is_encrypted_before_its_digest_is_known(faces: Faces) -> None:
    blanket = Blanket()
    await blanket.join(faces.served)
    fresh = await faces.owner.new_image_key(cloud=CLOUD)
    with pytest.raises(NotFound):
        await faces.served.image_key(cloud=CLOUD, digest=DIGEST, blanket=blanket.id)
    for _ in range(2):
        await faces.owner.bind_image_key(id=fresh.id, digest=DIGEST)
    sealed = await faces.served.image_key(cloud=CLOUD, digest=DIGEST, blanket=blanket.id)
    assert blanket.opened(sealed, image_purpose(DIGEST)) == fresh.passphrase.encode()
    assert fresh.passphrase not in repr(fresh)

    second = await faces.owner.new_image_key(cloud=CLOUD)
    with pytest.raises(Conflict):
        await faces.owner.bind_image_key(id=second.id, digest=DIGEST)
    with pytest.raises(Conflict):
        await faces.owner.bind_image_key(id=fresh.id, digest="sha256:" + "cd" * 32)
    with pytest.raises(NotFound):
        await faces.owner.bind_image_key(id=new_id(), digest=DIGEST)
    with pytest.raises(NotFound):
        elsewhere = Blanket(new_id())
        await elsewhere.join(faces.served)
        await faces.served.image_key(cloud=elsewhere.cloud, digest=DIGEST, blanket=elsewhere.id)


async def test_an_image_of_the_owners_is_for_each_of_his_clouds(faces: Faces) -> None:
    fresh = await faces.owner.new_image_key()
    await faces.owner.bind_image_key(id=fresh.id, digest=DIGEST)
    for blanket in (Blanket(), Blanket(new_id())):
        await blanket.join(faces.served)
        sealed = await faces.served.image_key(cloud=blanket.cloud, digest=DIGEST, blanket=blanket.id)
        assert blanket.opened(sealed, image_purpose(DIGEST)) == fresh.passphrase.encode()


def shared(to: str, **other: object) -> ImageShare:
    """For an hour, of `CLOUD`."""
    until = time.time() + 3600
    return replace(ImageShare(id=new_id(), digest=DIGEST, of=CLOUD, to=to, until=until), **other)


async def bound(owner: Owner) -> str:
    """The key of an image that is `CLOUD`'s alone."""
    fresh = await owner.new_image_key(cloud=CLOUD)
    await owner.bind_image_key(id=fresh.id, digest=DIGEST)
    return fresh.passphrase


async def test_a_shared_images_key_is_for_its_cloud_and_time_only(faces: Faces) -> None:
    user, other = Blanket(new_id()), Blanket(new_id())
    for blanket in (user, other):
        await blanket.join(faces.served)
    share = shared(user.cloud, delegable=True)
    with pytest.raises(NotFound, match="alone"):
        await faces.owner.share_image_key(share=share)
    passphrase = await bound(faces.owner)

    async def has(blanket: Blanket) -> bool:
        try:
            sealed = await faces.served.image_key(cloud=blanket.cloud, digest=DIGEST, blanket=blanket.id)
        except NotFound:
            return False
        assert blanket.opened(sealed, image_purpose(DIGEST)) == passphrase.encode()
        return True

    assert not await has(user)
    for _ in range(2):
        await faces.owner.share_image_key(share=share)
    assert await has(user) and not await has(other)
    with pytest.raises(Denied):  # a blanket of the cloud itself, and no other's
        await faces.served.image_key(cloud=user.cloud, digest=DIGEST, blanket=other.id)
    for wrong, error in (
        (replace(share, to=other.cloud), Conflict),
        (shared(other.cloud, until=time.time() - 1), InvalidInput),
        (shared(other.cloud, until=time.time() + 401 * 86400), InvalidInput),
        (shared(other.cloud, of=user.cloud), NotFound),
        (shared(other.cloud, parent=share.id), NotFound),
        (shared(other.cloud, of=user.cloud, parent=share.id, until=share.until + 1), Denied),
    ):
        with pytest.raises(error):
            await faces.owner.share_image_key(share=wrong)
    onward = shared(other.cloud, of=user.cloud, parent=share.id, until=share.until)
    await faces.owner.share_image_key(share=onward)
    last = shared(new_id(), of=other.cloud, parent=onward.id, until=share.until)
    with pytest.raises(Denied, match="passed on"):
        await faces.owner.share_image_key(share=last)
    assert await has(other)
    for _ in range(2):
        await faces.served.withdraw_image_key(share=share.id)
    assert not await has(user) and not await has(other)


async def test_a_share_ends_by_itself_and_with_its_image() -> None:
    now = time.time()
    store = memory_keystore(now=lambda: now)
    user = Blanket(new_id())
    await user.join(store)
    await bound(store)
    share = shared(user.cloud)
    await store.share_image_key(share=share)
    await store.image_key(cloud=user.cloud, digest=DIGEST, blanket=user.id)
    now = share.until
    with pytest.raises(NotFound):
        await store.image_key(cloud=user.cloud, digest=DIGEST, blanket=user.id)
    another = shared(user.cloud, until=now + 9)
    await store.share_image_key(share=another)
    (key,) = (one.key for one in store._vault.every(ImageShareRecord))
    await store.destroy_image_key(image=key)
    assert list(store._vault.every(ImageShareRecord)) == []


async def test_what_is_shared_does_not_come_back_with_a_backup(process: Process) -> None:
    """It may have been withdrawn since."""
    user, backup, recovery = Blanket(new_id()), process.home / "backup", process.home / "recovery.key"
    async with process.serving() as faces:
        await user.join(faces.served)
        await bound(faces.owner)
        share = shared(user.cloud)
        await faces.owner.share_image_key(share=share)
        await faces.served.image_key(cloud=user.cloud, digest=DIGEST, blanket=user.id)
        assert (await process.run("backup", backup, "--recovery-key", recovery))[0] == 0
    restored = Process(process.home / "restored")
    restored.home.mkdir()
    assert (await restored.run("restore", backup, "--recovery-key", recovery))[0] == 0
    async with restored.serving() as faces:
        with pytest.raises(NotFound):
            await faces.served.image_key(cloud=user.cloud, digest=DIGEST, blanket=user.id)
        await faces.owner.share_image_key(share=share)
        await faces.served.image_key(cloud=user.cloud, digest=DIGEST, blanket=user.id)


async def test_a_key_of_user_data_is_its_first_instances(faces: Faces) -> None:
    one, other, foreign = Blanket(), Blanket(), Blanket(new_id())
    for blanket in (one, other, foreign):
        await blanket.join(faces.served)
    key, instance = os.urandom(32), new_id()
    for _ in range(2):
        await faces.owner.keep_user_data_key(digest=DIGEST, key=to_text(key))
    with pytest.raises(Conflict, match="already"):
        await faces.owner.keep_user_data_key(digest=DIGEST, key=to_text(os.urandom(32)))
    for wrong in (to_text(key[:31]), "", "?" * 44):
        with pytest.raises(InvalidInput):
            await faces.owner.keep_user_data_key(digest="sha256:" + "cd" * 32, key=wrong)
    with pytest.raises(Denied):
        await faces.served.user_data_key(cloud=CLOUD, instance=instance, digest=DIGEST, blanket=foreign.id)
    for blanket in (one, other):  # it moves
        sealed = await faces.served.user_data_key(
            cloud=CLOUD, instance=instance, digest=DIGEST, blanket=blanket.id
        )
        assert blanket.opened(sealed, user_data_purpose(instance, DIGEST)) == key
        with pytest.raises(Denied):
            blanket.opened(sealed, user_data_purpose(new_id(), DIGEST))
    with pytest.raises(Denied, match="another instance's"):
        await faces.served.user_data_key(cloud=CLOUD, instance=new_id(), digest=DIGEST, blanket=one.id)
    with pytest.raises(Denied, match="another instance's"):
        await faces.served.user_data_key(
            cloud=foreign.cloud, instance=instance, digest=DIGEST, blanket=foreign.id
        )
    for _ in range(2):
        await faces.served.destroy_user_data_key(digest=DIGEST)
        with pytest.raises(NotFound):
            await faces.served.user_data_key(cloud=CLOUD, instance=instance, digest=DIGEST, blanket=one.id)


async def test_a_key_of_user_data_that_nobody_asks_for_is_destroyed() -> None:
    now = 1e9
    store = memory_keystore(now=lambda: now)
    blanket, digests = Blanket(), ["sha256:" + two * 32 for two in ("aa", "bb", "cc")]
    await blanket.join(store)
    for digest in digests[:2]:
        await store.keep_user_data_key(digest=digest, key=to_text(os.urandom(32)))
    instance = new_id()
    await store.user_data_key(cloud=CLOUD, instance=instance, digest=digests[0], blanket=blanket.id)
    now += 24 * 3600
    await store.keep_user_data_key(digest=digests[2], key=to_text(os.urandom(32)))
    for digest, there in zip(digests, (True, False, True), strict=True):
        wanted = instance if digest == digests[0] else new_id()
        asked = store.user_data_key(cloud=CLOUD, instance=wanted, digest=digest, blanket=blanket.id)
        if there:
            await asked
        else:
            with pytest.raises(NotFound):
                await asked


async def test_a_copy_becomes_an_image_by_its_blankets_word_alone(faces: Faces) -> None:
    maker, user = Blanket(), Blanket()
    await maker.join(faces.served)
    await user.join(faces.served)
    volume, copy, other = new_id(), new_id(), "sha256:" + "cd" * 32
    key = await maker.key(faces.served, volume, copy)

    async def bind(
        by: Blanket = maker,
        signed: str = DIGEST,
        digest: str = DIGEST,
        of: str = copy,
        holder: str = maker.id,
    ) -> None:
        signature = vouch(identity=by.identity, blanket=holder, volume=volume, copy=of, digest=signed)
        await faces.served.bind_copy(
            cloud=CLOUD, volume=volume, copy=of, blanket=holder, digest=digest, signature=signature
        )

    for refused in (bind(by=user), bind(signed=other), bind(by=user, holder=user.id)):
        with pytest.raises(Denied):
            await refused
    with pytest.raises(NotFound):
        await bind(of=new_id())
    with pytest.raises(NotFound):
        await faces.served.image_key(cloud=CLOUD, digest=DIGEST, blanket=user.id)

    for _ in range(2):
        await bind()
    with pytest.raises(Conflict):
        await bind(signed=other, digest=other)
    await faces.served.destroy_key(volume=volume, copy=copy)
    sealed = await faces.served.image_key(cloud=CLOUD, digest=DIGEST, blanket=user.id)
    assert user.opened(sealed, image_purpose(DIGEST)) == key, "it outlives the copy"

    for _ in range(2):
        await faces.served.destroy_image_key(image=copy)
    with pytest.raises(NotFound):
        await faces.served.image_key(cloud=CLOUD, digest=DIGEST, blanket=user.id)
    with pytest.raises(NotFound):
        await bind()
