"""A key store's consents: for those machines alone that their monitor says were launched with its key."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from tpm_double import TpmDouble

from supercloud.keystore.backup import back_up, open_backup
from supercloud.keystore.faces import ConsentTo
from supercloud.keystore.records import ConsentKeyRecord
from supercloud.keystore.store import OwnedKeyStore
from supercloud.keystore.vault import Vault
from supercloud.model.acts import ActKind, Operation
from supercloud.model.errors import Denied, Failed, InvalidInput, NotFound
from supercloud.model.names import new_id
from supercloud.trust.consent import hash_of, read
from supercloud.trust.keys import from_text, to_text

pytestmark = pytest.mark.unit
_NOW = 2_000_000_000.0
_KHZ = 1_000_000


@dataclass
class Site:
    vault: Vault = field(default_factory=Vault.in_memory)
    machine: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    now: float = _NOW

    def __post_init__(self) -> None:
        self.store = OwnedKeyStore.begin(self.vault, now=lambda: self.now)
        self.cloud = new_id()

    async def tenant(self, cloud: str = "") -> bytes:
        key = await self.store.consent_key(cloud=cloud or self.cloud)
        return bytes.fromhex(key.removeprefix("ed25519/"))

    async def to(
        self,
        *,
        launch: int = 3,
        tenant: bytes | None = None,
        name: str = "p1",
        tpm: TpmDouble | None = None,
        **changed: Any,
    ) -> ConsentTo:
        """`launch`, `tenant`, `name`: what the monitor signs, and `tpm` quotes; `changed`: what is said
        beside it."""
        nonce, digest = os.urandom(32), os.urandom(32)
        key = self.machine.public_key().public_bytes_raw()
        tenant = await self.tenant() if tenant is None else tenant
        said = struct.pack("<4s4x16sQ32s32s32s", b"SCM1", name.encode(), launch, digest, nonce, tenant)
        signed = struct.pack("<32sQB", digest, launch, tpm is not None)
        signed += tenant + key + self.machine.sign(said)
        signed += b"" if tpm is None else tpm.quote(key, said)
        made = ConsentTo(
            act=new_id(),
            cloud=self.cloud,
            operation=ActKind.DUMP,
            page=16,
            pages=4,
            requester=new_id(),
            purpose="a crash",
            expires_at=int(_NOW) + 100,
            partition="p1",
            launch=3,
            challenge=to_text(os.urandom(32)),
            clock_khz=_KHZ,
            nonce=nonce.hex(),
            attestation=to_text(signed),
        )
        return replace(made, **changed)


@pytest.fixture
def site() -> Site:
    return Site()


async def test_it_signs_for_exactly_this(site: Site) -> None:
    to = await site.to()
    signed = await site.store.consent(to=to)
    said = read(from_text(signed.consent), Ed25519PublicKey.from_public_bytes(await site.tenant()))
    assert (said.operation, said.partition, said.page, said.pages) == (Operation.DUMP, "p1", 16, 4)
    assert (said.launch, to_text(said.challenge)) == (3, to.challenge)
    assert said.ticks == 100 * 1000 * _KHZ, "until the act expires, in the machine's own time"
    assert (said.requester, said.purpose) == (hash_of(to.requester), hash_of("a crash"))
    assert signed.machine == site.machine.public_key().public_bytes_raw().hex()
    assert not signed.vouched


@pytest.mark.parametrize(
    ("changed", "error", "why"),
    [
        ({"launch": 4}, Denied, "another launch"),
        ({"tenant": bytes(32)}, Denied, "not launched with this cloud's consent key"),
        ({"tenant": os.urandom(32)}, Denied, "not launched with this cloud's consent key"),
        ({"name": "p2"}, Failed, "not signed by the key"),
        ({"nonce": "00" * 32}, Failed, "not signed by the key"),
        # No signature of zeros: under a key of zeros, which is of small order, one in four of them is good.
        ({"attestation": to_text(bytes(105) + b"\1" * 64)}, Failed, "not signed by the key"),
        ({"attestation": to_text(bytes(9))}, Failed, "no attestation"),
        ({"operation": ActKind.READ_DISK}, InvalidInput, "no act on memory"),
        ({"pages": 0}, InvalidInput, "no such act"),
        ({"challenge": to_text(bytes(31))}, InvalidInput, "base64"),
        ({"clock_khz": 0}, InvalidInput, "no such act"),
        ({"expires_at": int(_NOW)}, InvalidInput, "over"),
        ({"expires_at": int(_NOW) + 90 * 86400}, InvalidInput, "too far"),
    ],
)
async def test_it_signs_for_nothing_else(
    site: Site, changed: dict[str, Any], error: type[Exception], why: str
) -> None:
    with pytest.raises(error, match=why):
        await site.store.consent(to=await site.to(**changed))


async def test_a_tpm_that_its_owner_knows_vouches_for_a_machine(site: Site) -> None:
    tpm, other = TpmDouble(), TpmDouble()
    unknown = await site.store.consent(to=await site.to(tpm=tpm))
    assert (unknown.vouched, unknown.tpm, unknown.booted) == (False, tpm.name, tpm.booted)
    await site.store.trust_tpm(tpm=tpm.name, booted=tpm.booted)
    known = await site.store.consent(to=await site.to(tpm=tpm, only_vouched=True))
    assert (known.vouched, known.tpm) == (True, tpm.name)
    assert not (await site.store.consent(to=await site.to(tpm=other))).vouched
    for silent in (other, None):
        with pytest.raises(Denied, match="no TPM that you trust vouches"):
            await site.store.consent(to=await site.to(tpm=silent, only_vouched=True))
    await site.store.forget_tpm(tpm=tpm.name)
    assert await site.store.trusted_tpms() == ()
    assert not (await site.store.consent(to=await site.to(tpm=tpm))).vouched
    with pytest.raises(NotFound):
        await site.store.forget_tpm(tpm=tpm.name)


async def test_a_machine_that_booted_something_else_gets_no_consent(site: Site) -> None:
    tpm = TpmDouble()
    await site.store.trust_tpm(tpm=tpm.name, booted=tpm.booted)
    changed = replace(tpm, pcrs=bytes(320))
    with pytest.raises(Denied, match="has booted something else") as refused:
        await site.store.consent(to=await site.to(tpm=changed))
    assert changed.booted in (refused.value.hint or "")
    await site.store.trust_tpm(tpm=tpm.name, booted=changed.booted)
    assert (await site.store.consent(to=await site.to(tpm=changed))).vouched
    assert [one.booted for one in await site.store.trusted_tpms()] == [changed.booted]


async def test_a_quote_for_another_machines_key_is_none(site: Site) -> None:
    to = await site.to(tpm=TpmDouble())
    whole = from_text(to.attestation)
    quote = TpmDouble().quote(bytes(32), b"")
    with pytest.raises(Failed, match="not quoted"):
        await site.store.consent(to=replace(to, attestation=to_text(whole[:169] + quote)))


async def test_a_cloud_has_one_key_and_no_two_the_same(site: Site) -> None:
    assert await site.tenant() == await site.tenant()
    other = await site.tenant(new_id())
    assert other != await site.tenant()
    with pytest.raises(Denied, match="not launched with this cloud's consent key"):
        await site.store.consent(to=await site.to(tenant=other))


async def test_it_opens_nothing_that_it_did_not_consent_to(site: Site) -> None:
    to = await site.to()
    with pytest.raises(NotFound):
        await site.store.export_key(act=to.act, header=to_text(bytes(208)))
    await site.store.consent(to=to)
    with pytest.raises(Failed, match="not signed by that machine"):
        await site.store.export_key(act=to.act, header=to_text(bytes(208)))
    site.now += 60 * 86400
    await site.store.consent(to=await site.to(expires_at=int(site.now) + 5))
    with pytest.raises(NotFound):
        await site.store.export_key(act=to.act, header=to_text(bytes(208)))


async def test_a_backup_has_the_key_and_nobody_else_reads_it(site: Site) -> None:
    await site.tenant()
    kept = back_up(site.vault, recovery := os.urandom(32))
    (found,) = [one for one in open_backup(kept, recovery) if isinstance(one, ConsentKeyRecord)]
    assert found.key_pem not in repr(found) and "PRIVATE" not in kept.decode("latin-1")
