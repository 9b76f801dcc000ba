"""The key store's process alone: killed, backed up, with a policy, and what it keeps on the disk."""

import asyncio
import itertools
import os
import signal
from pathlib import Path

import pytest
from keystore_rig import CLOUD, Blanket, Process

from supercloud.keystore.client import RemoteKeyStore, RemoteOwner
from supercloud.keystore.server import owner_socket
from supercloud.model.errors import (
    Conflict,
    Denied,
    NotFound,
    OutcomeUnknown,
    SupercloudError,
    Unavailable,
)
from supercloud.model.names import new_id

pytestmark = pytest.mark.contract


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
