"""What an agent takes in with a renewed certificate that the control plane relays."""

from pathlib import Path

import pytest

from supercloud.agent.identity import Passport, Safe
from supercloud.keystore.memory import memory_keystore
from supercloud.keystore.store import OwnedKeyStore
from supercloud.model.errors import Denied
from supercloud.model.names import new_id
from supercloud.ports.keystore import JoinAnswer
from supercloud.trust.authority import Authority
from supercloud.trust.join import join_request
from supercloud.trust.keys import IdentityKey

pytestmark = pytest.mark.unit

NOW = 1_900_000_000.0


class Joined:
    """A blanket that has joined, as far as its agent's identity goes."""

    def __init__(self, store: OwnedKeyStore, folder: Path) -> None:
        self.store, self.safe, self.id = store, Safe(folder), new_id()
        self.passport: Passport

    async def join(self) -> None:
        token = await self.store.invite(cloud=new_id(), blanket=self.id, lifetime_s=60)
        keys = self.safe.keys()
        asked = join_request(
            blanket=self.id, secret=token.secret, identity=keys.identity, sealing=keys.sealing
        )
        self.passport = Passport(self.safe, keys, await self.store.admit(asked))

    async def relayed(self) -> JoinAnswer:
        csr_pem = self.passport.keys.identity.csr()
        return await self.store.renew(blanket=self.id, csr_pem=csr_pem)


async def test_an_authority_that_ours_vouches_for_is_taken_in_and_kept(tmp_path: Path) -> None:
    store = memory_keystore(now=lambda: NOW)
    blanket = Joined(store, tmp_path)
    await blanket.join()
    for step in (store.prepare_authority, store.switch_authority, store.retire_authority):
        await step()
        blanket.passport.renewed(await blanket.relayed(), at=NOW)
        assert blanket.passport.authority_pem == await store.authority()
    kept = blanket.safe.certificate()
    assert kept is not None
    assert kept.authority_pem == await store.authority()


async def test_the_control_plane_cannot_slip_in_an_authority_or_a_key(tmp_path: Path) -> None:
    store = memory_keystore(now=lambda: NOW)
    blanket = Joined(store, tmp_path)
    await blanket.join()
    good, before = await blanket.relayed(), blanket.passport.authority_pem
    thief = Authority.new(at=NOW)
    now = blanket.passport.identity
    forged = thief.blanket(
        IdentityKey.new().private.public_key(),
        cloud=now.cloud or "",
        blanket=now.blanket or "",
        sealing_key=now.sealing_key or "",
        at=NOW,
        lifetime_s=3600,
    )
    for answer in (
        JoinAnswer(
            certificate_pem=good.certificate_pem, authority_pem=good.authority_pem + thief.certificate_pem
        ),
        JoinAnswer(certificate_pem=forged, authority_pem=thief.certificate_pem),
        JoinAnswer(certificate_pem=forged, authority_pem=good.authority_pem),
    ):
        with pytest.raises(Denied):
            blanket.passport.renewed(answer, at=NOW)
    assert blanket.passport.authority_pem == before
