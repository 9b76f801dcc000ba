"""Every key store, in memory and as the owner's process over its sockets: joining, and other certificates."""

from dataclasses import replace

import pytest
from keystore_rig import CLOUD, DIGEST, Blanket, Faces

from supercloud.keystore.calls import methods
from supercloud.keystore.faces import Owner, Served
from supercloud.model.errors import (
    Conflict,
    Denied,
    InvalidInput,
    NotFound,
)
from supercloud.model.names import new_id
from supercloud.model.permissions import Permission, Role
from supercloud.ports.keystore import TokenRequest
from supercloud.trust import tokens
from supercloud.trust.certificates import Anchors, Kind, identity_of
from supercloud.trust.evidence import fresh_key
from supercloud.trust.keys import IdentityKey, SealingKey, to_text

pytestmark = pytest.mark.contract


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


# ---------------------------------------------------------------- evidence


async def test_what_a_blanket_seals_to_its_owner_only_the_owner_opens(faces: Faces) -> None:
    """By a key in the blanket's own certificate, the same for all of a cloud's and for ever."""
    one, other, abroad = Blanket(), Blanket(), Blanket(new_id())
    keys = [
        identity_of((await who.join(faces.served)).certificate_pem).owner_key for who in (one, other, abroad)
    ]
    assert keys[0] == keys[1] != keys[2] and keys[0] is not None
    renewed = await faces.served.renew(blanket=one.id, csr_pem=one.identity.csr())
    assert identity_of(renewed.certificate_pem).owner_key == keys[0]
    evidence = new_id()
    key, sealed = fresh_key(keys[0], cloud=CLOUD, blanket=one.id, evidence=evidence)
    of = {"cloud": CLOUD, "blanket": one.id, "evidence": evidence}
    found = await faces.owner.evidence_key(**of, sealed=sealed)
    assert (found.key, found.signed_by) == (to_text(key), one.identity.public)
    for name, wrong in (("cloud", abroad.cloud), ("blanket", other.id), ("evidence", new_id())):
        with pytest.raises(Denied):
            await faces.owner.evidence_key(**(of | {name: wrong}), sealed=sealed)
    with pytest.raises(NotFound):
        await faces.owner.evidence_key(**(of | {"cloud": new_id()}), sealed=sealed)


async def test_evidence_of_a_blanket_that_has_gone_is_opened_still(faces: Faces) -> None:
    blanket, evidence = Blanket(), new_id()
    owner_key = identity_of((await blanket.join(faces.served)).certificate_pem).owner_key
    _, sealed = fresh_key(owner_key or "", cloud=CLOUD, blanket=blanket.id, evidence=evidence)
    await faces.served.revoke(blanket=blanket.id)
    found = await faces.owner.evidence_key(cloud=CLOUD, blanket=blanket.id, evidence=evidence, sealed=sealed)
    assert found.signed_by == blanket.identity.public
    never = await faces.owner.evidence_key(
        cloud=CLOUD,
        blanket=(other := new_id()),
        evidence=evidence,
        sealed=fresh_key(owner_key or "", cloud=CLOUD, blanket=other, evidence=evidence)[1],
    )
    assert never.signed_by is None, "nobody says who made it"


def test_the_control_plane_can_ask_for_no_key_of_evidence() -> None:
    assert "evidence_key" in methods(Owner) and "evidence_key" not in methods(Served)
