"""One suite for every key store: the one in memory, and the owner's process over its sockets."""

import asyncio
import itertools
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from supercloud.keystore.client import RemoteKeyStore, RemoteOwner
from supercloud.keystore.faces import Owner, Served
from supercloud.keystore.memory import memory_keystore
from supercloud.keystore.server import owner_socket
from supercloud.model.errors import (
    Conflict,
    Denied,
    InvalidInput,
    NotFound,
    OutcomeUnknown,
    SupercloudError,
    Unavailable,
)
from supercloud.model.names import new_id
from supercloud.model.permissions import Permission, Role
from supercloud.ports.agent import SealedKey
from supercloud.ports.keystore import JoinAnswer, JoinRequest, TokenRequest
from supercloud.trust import tokens
from supercloud.trust.certificates import Anchors, Kind, identity_of
from supercloud.trust.join import join_request
from supercloud.trust.keys import IdentityKey, SealingKey, to_text
from supercloud.trust.sealing import image_purpose, open_sealed, user_data_purpose, volume_purpose
from supercloud.trust.vouch import vouch

pytestmark = pytest.mark.contract

CLOUD = new_id()
DIGEST = "sha256:" + "ab" * 32
_READY_S = 30


@dataclass
class Faces:
    served: Served
    owner: Owner


class Process:
    """`python -m supercloud.keystore` in a directory of its own."""

    def __init__(self, home: Path) -> None:
        self.home, self.state, self.socket = home, home / "state", home / "socket"
        self.running: asyncio.subprocess.Process | None = None

    async def run(self, *arguments: str | Path) -> tuple[int, str]:
        """A command that ends; returns its status and everything it wrote."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "supercloud.keystore", "--state", self.state, "--socket", self.socket),
            *arguments,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        async with asyncio.timeout(_READY_S):
            said, _ = await process.communicate()
        return process.returncode or 0, said.decode()

    async def start(self, *arguments: str | Path) -> None:
        with (self.home / "log").open("ab") as log:
            self.running = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "supercloud.keystore"),
                *("--state", self.state, "--socket", self.socket, *arguments),
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
            )
        assert self.running.stdout is not None
        async with asyncio.timeout(_READY_S):
            said = await self.running.stdout.readline()
        assert said == b"ready\n", (self.home / "log").read_text()

    async def end(self, number: int = signal.SIGTERM) -> None:
        if self.running is not None:
            if self.running.returncode is None:
                self.running.send_signal(number)
            await self.running.wait()
            self.running = None

    @asynccontextmanager
    async def serving(self, *arguments: str | Path) -> AsyncIterator[Faces]:
        await self.start(*arguments)
        served, owner = RemoteKeyStore(self.socket), RemoteOwner(self.socket)
        try:
            yield Faces(served, owner)
        finally:
            await served.close()
            await owner.close()
            await self.end()


@pytest.fixture
def process() -> Iterator[Process]:
    # Not pytest's own directory: the path of a UNIX socket is 107 bytes at most.
    with tempfile.TemporaryDirectory(prefix="sc-keystore-") as home:
        yield Process(Path(home))


@pytest.fixture(params=["memory", "process"])
async def faces(request: pytest.FixtureRequest, process: Process) -> AsyncIterator[Faces]:
    if request.param == "memory":
        store = memory_keystore()
        yield Faces(store, store)
    else:
        async with process.serving() as found:
            yield found


class Blanket:
    """The blanket's side: keys made inside, and nothing but what travels."""

    def __init__(self, cloud: str = CLOUD) -> None:
        self.id, self.cloud = new_id(), cloud
        self.identity, self.sealing = IdentityKey.new(), SealingKey.new()
        self.request: JoinRequest | None = None

    async def join(self, served: Served) -> JoinAnswer:
        token = await served.invite(cloud=self.cloud, blanket=self.id, lifetime_s=600)
        self.request = self.asking(token.secret)
        return await served.admit(self.request)

    def asking(self, secret: str) -> JoinRequest:
        return join_request(blanket=self.id, secret=secret, identity=self.identity, sealing=self.sealing)

    def opened(self, sealed: SealedKey, purpose: str) -> bytes:
        return open_sealed(sealed, key=self.sealing, blanket=self.id, purpose=purpose)

    async def key(self, served: Served, volume: str, copy: str) -> bytes:
        sealed = await served.volume_key(cloud=self.cloud, volume=volume, copy=copy, blanket=self.id)
        return self.opened(sealed, volume_purpose(volume, copy))


# ---------------------------------------------------------------- joining


async def test_an_invited_blanket_gets_a_certificate_of_its_keys(faces: Faces) -> None:
    blanket = Blanket()
    answer = await blanket.join(faces.served)
    identity = identity_of(answer.certificate_pem)
    assert Anchors(answer.authority_pem).verify(answer.certificate_pem, identity.issued_at + 600) == identity
    assert (identity.kind, identity.cloud, identity.blanket) == (Kind.BLANKET, CLOUD, blanket.id)
    assert (identity.public_key, identity.sealing_key) == (blanket.identity.public, blanket.sealing.public)


async def test_a_token_used_twice_is_a_conflict(faces: Faces) -> None:
    token = await faces.served.invite(cloud=CLOUD, blanket=new_id(), lifetime_s=600)
    first, second = Blanket(), Blanket()
    first.id = second.id = token.blanket
    await faces.served.admit(first.asking(token.secret))
    with pytest.raises(Conflict):
        await faces.served.admit(second.asking(token.secret))
    with pytest.raises(Conflict):
        await faces.served.invite(cloud=CLOUD, blanket=token.blanket, lifetime_s=600)


async def test_an_answer_that_was_lost_is_given_again(faces: Faces) -> None:
    blanket = Blanket()
    answer = await blanket.join(faces.served)
    assert blanket.request is not None
    again = await faces.served.admit(blanket.request)
    one, two = identity_of(answer.certificate_pem), identity_of(again.certificate_pem)
    assert (one.blanket, one.public_key, one.sealing_key) == (two.blanket, two.public_key, two.sealing_key)


async def test_a_repeated_invitation_is_the_same_one(faces: Faces) -> None:
    blanket = Blanket()
    one = await faces.served.invite(cloud=CLOUD, blanket=blanket.id, lifetime_s=600)
    two = await faces.served.invite(cloud=CLOUD, blanket=blanket.id, lifetime_s=600)
    assert two.secret == one.secret
    assert two.expires_at >= one.expires_at
    with pytest.raises(Conflict):
        await faces.served.invite(cloud=new_id(), blanket=blanket.id, lifetime_s=600)


async def test_without_an_invitation_or_its_secret_nobody_joins(faces: Faces) -> None:
    blanket = Blanket()
    with pytest.raises(NotFound):
        await faces.served.admit(blanket.asking("guessed"))
    token = await faces.served.invite(cloud=CLOUD, blanket=blanket.id, lifetime_s=600)
    with pytest.raises(Denied):
        await faces.served.admit(blanket.asking("guessed"))
    good = blanket.asking(token.secret)
    with pytest.raises(Denied):
        await faces.served.admit(replace(good, sealing_key=SealingKey.new().public))
    await faces.served.admit(good)  # the failures used nothing up


async def test_an_expired_invitation_is_denied(faces: Faces) -> None:
    blanket = Blanket()
    token = await faces.served.invite(cloud=CLOUD, blanket=blanket.id, lifetime_s=1e-6)
    with pytest.raises(Denied, match="expired"):
        await faces.served.admit(blanket.asking(token.secret))
    with pytest.raises(InvalidInput):
        await faces.served.invite(cloud=CLOUD, blanket=blanket.id, lifetime_s=0)


async def test_only_the_key_that_joined_is_renewed(faces: Faces) -> None:
    blanket = Blanket()
    await blanket.join(faces.served)
    renewed = await faces.served.renew(blanket=blanket.id, csr_pem=blanket.identity.csr())
    identity = identity_of(renewed.certificate_pem)
    assert (identity.public_key, identity.sealing_key) == (blanket.identity.public, blanket.sealing.public)
    with pytest.raises(Denied, match="another key"):
        await faces.served.renew(blanket=blanket.id, csr_pem=IdentityKey.new().csr())
    with pytest.raises(InvalidInput):
        await faces.served.renew(blanket=blanket.id, csr_pem="not a request")
    with pytest.raises(Denied):
        await faces.served.renew(blanket=new_id(), csr_pem=blanket.identity.csr())


async def test_a_revoked_blanket_gets_nothing_any_more(faces: Faces) -> None:
    blanket, volume, copy = Blanket(), new_id(), new_id()
    await blanket.join(faces.served)
    await blanket.key(faces.served, volume, copy)
    for _ in range(2):  # a repeat changes nothing
        await faces.served.revoke(blanket=blanket.id)
    assert await faces.served.revoked() == (blanket.id,)
    with pytest.raises(Denied):
        await blanket.key(faces.served, volume, copy)
    with pytest.raises(Denied):
        await faces.served.image_key(cloud=CLOUD, digest=DIGEST, blanket=blanket.id)
    with pytest.raises(Denied):
        await faces.served.renew(blanket=blanket.id, csr_pem=blanket.identity.csr())
    with pytest.raises(Denied):
        await faces.served.invite(cloud=CLOUD, blanket=blanket.id, lifetime_s=600)
    assert blanket.request is not None
    with pytest.raises(Denied):
        await faces.served.admit(blanket.request)


async def test_a_blanket_revoked_before_it_was_invited_stays_out(faces: Faces) -> None:
    blanket = new_id()
    await faces.served.revoke(blanket=blanket)
    with pytest.raises(Denied):
        await faces.served.invite(cloud=CLOUD, blanket=blanket, lifetime_s=600)


# ---------------------------------------------------------------- keys


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


# ---------------------------------------------------------------- certificates besides the blankets'


async def test_the_owner_certifies_a_control_plane_that_then_renews_by_itself(faces: Faces) -> None:
    key = IdentityKey.new()
    with pytest.raises(Denied):
        await faces.served.renew_controller(csr_pem=key.csr())
    first = await faces.owner.issue_controller(csr_pem=key.csr(), addresses=("192.0.2.7", "cloud.example"))
    again = await faces.served.renew_controller(csr_pem=key.csr())
    for answer in (first, again):
        identity = identity_of(answer.certificate_pem)
        assert (identity.kind, identity.public_key) == (Kind.CONTROLLER, key.public)
    with pytest.raises(InvalidInput):
        await faces.owner.issue_controller(csr_pem=key.csr(), addresses=("not a näme",))


async def test_tokens_are_signed_with_one_key_until_the_authority_is_made_anew(faces: Faces) -> None:
    root = await faces.served.token_root()
    request = TokenRequest(
        principal=new_id(),
        roles=(Role.OWNER,),
        holder=IdentityKey.new().name,
        until=2_000_000_000.0,
        only=(Permission.VM_READ,),
    )
    token = tokens.read(await faces.served.mint_token(request), root)
    assert (token.principal, token.holder, token.roles) == (
        request.principal,
        request.holder,
        {Role.OWNER},
    )
    assert not token.undivided and await faces.served.token_root() == root
    await faces.owner.recreate_authority()
    other = await faces.served.token_root()
    assert other != root
    with pytest.raises(Denied):
        tokens.read(await faces.served.mint_token(request), root)


# ---------------------------------------------------------------- the process alone


async def test_killed_in_the_middle_it_has_lost_nothing_it_acknowledged(process: Process) -> None:
    blanket = Blanket()
    acknowledged: dict[tuple[str, str], bytes] = {}
    destroyed: list[tuple[str, str]] = []
    async with process.serving() as faces:
        await blanket.join(faces.served)

        async def work() -> None:
            for number in itertools.count(1):
                name = (new_id(), new_id())
                acknowledged[name] = await blanket.key(faces.served, *name)
                if number % 3 == 0:
                    gone = next(iter(acknowledged))
                    del acknowledged[gone]  # until it is answered, both are right
                    await faces.served.destroy_key(volume=gone[0], copy=gone[1])
                    destroyed.append(gone)

        workers = [asyncio.create_task(work()) for _ in range(4)]
        async with asyncio.timeout(60):
            while len(acknowledged) < 40:
                await asyncio.wait(workers, timeout=0.01)
        await process.end(signal.SIGKILL)
        for ended in await asyncio.gather(*workers, return_exceptions=True):
            assert isinstance(ended, Unavailable)  # OutcomeUnknown is one

    async with process.serving() as faces:
        for name, key in acknowledged.items():
            assert await blanket.key(faces.served, *name) == key
        assert destroyed
        for name in destroyed:
            with pytest.raises(NotFound):
                await blanket.key(faces.served, *name)
        assert blanket.request is not None
        await faces.served.admit(blanket.request)  # it is still admitted


async def test_a_client_outlives_the_key_store(process: Process) -> None:
    async with process.serving() as faces:
        pem = await faces.owner.authority()
        await process.end()
        with pytest.raises((Unavailable, OutcomeUnknown)):
            await faces.owner.authority()
        await process.start()
        assert await faces.owner.authority() == pem


async def test_one_key_store_at_a_time(process: Process) -> None:
    async with process.serving() as faces:
        status, said = await process.run()
        assert (status, "another key store runs" in said) == (Conflict.exit_status, True)
        await faces.owner.authority()  # the first one goes on


async def test_what_it_keeps_is_private_and_unreadable(process: Process) -> None:
    blanket, volume, copy = Blanket(), new_id(), new_id()
    async with process.serving() as faces:
        token = await faces.served.invite(cloud=CLOUD, blanket=blanket.id, lifetime_s=600)
        await faces.served.admit(blanket.asking(token.secret))
        key = await blanket.key(faces.served, volume, copy)
        image = await faces.owner.new_image_key(cloud=CLOUD)
        for socket in (process.socket, owner_socket(process.socket)):
            assert socket.stat().st_mode & 0o777 == 0o600
        files = [path for path in process.home.rglob("*") if path.is_file()]
        assert len(files) >= 4  # the state, its write-ahead log, the owner's key, what it logged
        for path in files:
            content = path.read_bytes()
            assert path.name == "log" or path.stat().st_mode & 0o077 == 0
            for secret in (token.secret.encode(), key, image.passphrase.encode(), b"PRIVATE KEY"):
                assert secret not in content, path
        assert process.running is not None
        command = Path(f"/proc/{process.running.pid}/cmdline").read_bytes()
        assert (process.state / "owner.key").read_bytes().strip() not in command


async def test_the_owners_methods_are_not_on_the_control_planes_socket(process: Process) -> None:
    async with process.serving():
        posing = RemoteOwner(process.socket)
        posing._to._socket = process.socket
        with pytest.raises(NotFound, match="no method"):
            await posing.new_image_key(cloud=CLOUD)
        await posing.close()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make a socket over to another user")
async def test_a_process_of_another_user_is_not_answered(process: Process) -> None:
    async with process.serving("--controller-uid", "65534"):
        served = RemoteKeyStore(process.socket)
        with pytest.raises(SupercloudError) as caught:  # root may connect to it, and is still not that user
            await served.revoked()
        assert isinstance(caught.value, Unavailable)
        await served.close()


async def test_the_wrong_owner_key_opens_nothing_and_harms_nothing(process: Process) -> None:
    key, moved = process.state / "owner.key", process.home / "moved.key"
    async with process.serving() as faces:
        pem = await faces.owner.authority()
    key.rename(moved)
    status, said = await process.run()
    assert status == NotFound.exit_status, said
    assert not key.exists()  # a fresh key for an old state would only hide the loss
    other = Process(process.home / "other")
    other.home.mkdir()
    async with other.serving():
        pass
    status, said = await process.run("--owner-key", other.state / "owner.key")
    assert (status, "does not open this state" in said) == (Denied.exit_status, True)
    async with process.serving("--owner-key", moved) as faces:
        assert await faces.owner.authority() == pem


async def test_the_way_back_from_a_backup(process: Process) -> None:
    blanket, late, volume, copy, gone = Blanket(), Blanket(), new_id(), new_id(), new_id()
    backup, recovery = process.home / "backup", process.home / "recovery.key"
    async with process.serving() as faces:
        await blanket.join(faces.served)
        key = await blanket.key(faces.served, volume, copy)
        await faces.served.destroy_key(volume=volume, copy=gone)
        token = await faces.served.invite(cloud=CLOUD, blanket=late.id, lifetime_s=600)
        pem = await faces.owner.authority()
        assert (await process.run("backup", backup, "--recovery-key", recovery))[0] == 0
    assert key not in backup.read_bytes()
    assert (await process.run("backup", backup, "--recovery-key", recovery))[0] == Conflict.exit_status

    # Everything is lost, the owner's key too: a fresh directory, the backup and its key are enough.
    restored = Process(process.home / "restored")
    restored.home.mkdir()
    wrong = process.state / "owner.key"
    assert (await restored.run("restore", backup, "--recovery-key", wrong))[0] == Denied.exit_status
    status, said = await restored.run("restore", backup, "--recovery-key", recovery)
    assert status == 0, said
    async with restored.serving() as faces:
        assert await faces.owner.authority() == pem
        assert await blanket.key(faces.served, volume, copy) == key
        await faces.served.renew(blanket=blanket.id, csr_pem=blanket.identity.csr())
        with pytest.raises(NotFound):
            await blanket.key(faces.served, volume, gone)
        # The invitation may have been used after the backup: it is worth nothing now, a new one is.
        with pytest.raises(Denied):
            await faces.served.admit(late.asking(token.secret))
        await late.join(faces.served)
    assert (await restored.run("restore", backup, "--recovery-key", recovery))[0] == Conflict.exit_status


async def test_under_the_policy_approved_the_owner_looks_first(process: Process) -> None:
    blanket, volume, copy = Blanket(), new_id(), new_id()
    async with process.serving("--policy", "approved") as faces:
        await faces.served.invite(cloud=CLOUD, blanket=blanket.id, lifetime_s=600)
        with pytest.raises(Denied, match="invited"):  # nobody's keys could be approved yet
            await faces.owner.approve(blanket=blanket.id)
        await blanket.join(faces.served)
        with pytest.raises(Denied, match="not approved"):
            await blanket.key(faces.served, volume, copy)
        status, said = await process.run("approve", blanket.id)
        assert status == 0, said
        await blanket.key(faces.served, volume, copy)
        assert (await process.run("revoke", blanket.id))[0] == 0
        with pytest.raises(Denied):
            await blanket.key(faces.served, volume, copy)
    async with process.serving() as faces:  # the policy is remembered
        other = Blanket()
        await other.join(faces.served)
        with pytest.raises(Denied, match="not approved"):
            await other.key(faces.served, volume, new_id())
