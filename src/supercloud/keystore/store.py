"""The key store itself: the port's methods for the control plane, and some that are for its owner only."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Self

import structlog

from supercloud.keystore.admission import Admission
from supercloud.keystore.authorities import Authorities, AuthorityStatus
from supercloud.keystore.consents import Consents
from supercloud.keystore.faces import Consent, ConsentTo, EvidenceKey, ImageKey, ImageShare, KnownTpm
from supercloud.keystore.records import (
    BlanketRecord,
    ControllerRecord,
    EvidenceKeyRecord,
    ImageDigestRecord,
    ImageKeyRecord,
    Policy,
    Settings,
    TokenKeyRecord,
    UserDataKeyRecord,
    VolumeKeyRecord,
    image_digest_name,
    volume_key_name,
)
from supercloud.keystore.shares import Shares
from supercloud.keystore.tpms import Tpms
from supercloud.keystore.vault import Vault
from supercloud.model.errors import Conflict, Denied, NotFound
from supercloud.model.names import Digest, Id, PublicKey, new_id
from supercloud.ports.agent import SealedKey
from supercloud.ports.keystore import JoinAnswer, JoinRequest, JoinToken, TokenRequest
from supercloud.trust.authority import LIFETIME_S
from supercloud.trust.evidence import open_key
from supercloud.trust.keys import KEY_BYTES, IdentityKey, from_text, key_of_csr, to_text
from supercloud.trust.sealing import image_purpose, seal, user_data_purpose, volume_purpose
from supercloud.trust.tokens import Bounds, mint
from supercloud.trust.vouch import verify_vouch

_KEY_BYTES = 32
#: How long a key of user data waits for the instance that was to be started with it.
_UNCLAIMED_S = 24 * 3600.0
_log = structlog.get_logger(__name__)


def _passphrase() -> str:
    """A fresh key: 256 random bits, in hexadecimal because QEMU takes UTF-8 only."""
    return secrets.token_hex(_KEY_BYTES)


def _own(record: VolumeKeyRecord, cloud: Id, blanket: Id) -> str:
    """A copy's key, for the blanket whose copy it is.

    Raises:
        NotFound: it is destroyed.
        Denied: it is another's. The control plane may have made up a blanket, which gets none of them.
    """
    if record.passphrase is None:
        raise NotFound(f"the key of copy {record.copy} of volume {record.volume} is destroyed")
    if (record.cloud, record.blanket) != (cloud, blanket):
        raise Denied(f"copy {record.copy} of volume {record.volume} is another blanket's")
    return record.passphrase


class OwnedKeyStore:
    """Both faces of a key store (`faces.Served` and `faces.Owner`) over its vault.

    Every method is one synchronous transaction: two callers never see each other's half.
    """

    def __init__(self, vault: Vault, *, now: Callable[[], float] = time.time) -> None:
        self._vault = vault
        self._now = now
        self._authorities = Authorities(vault)
        self._admission = Admission(vault, self._authorities, now)
        self._shares = Shares(vault, now)
        self._tpms = Tpms(vault)
        self._consents = Consents(vault, self._tpms, now)

    @classmethod
    def begin(
        cls, vault: Vault, *, policy: Policy | None = None, now: Callable[[], float] = time.time
    ) -> Self:
        """The key store in this vault, with an authority if it has none yet."""
        store = cls(vault, now=now)
        with vault.transaction():
            store._authorities.begin(now())
            if policy is not None:
                vault.put(Settings(policy=policy))
        return store

    # ------------------------------------------------------------ for the control plane

    async def invite(self, *, cloud: Id, blanket: Id, lifetime_s: float) -> JoinToken:
        with self._vault.transaction():
            return self._admission.invite(cloud, blanket, lifetime_s)

    async def admit(self, request: JoinRequest) -> JoinAnswer:
        with self._vault.transaction():
            return self._admission.admit(request)

    async def renew(self, *, blanket: Id, csr_pem: str) -> JoinAnswer:
        with self._vault.transaction():
            return self._admission.renew(blanket, csr_pem)

    async def revoke(self, *, blanket: Id) -> None:
        with self._vault.transaction():
            self._admission.revoke(blanket)

    async def revoked(self) -> tuple[Id, ...]:
        return self._admission.revoked()

    async def volume_key(self, *, cloud: Id, volume: Id, copy: Id, blanket: Id) -> SealedKey:
        with self._vault.transaction():
            holder = self._admission.entitled(blanket, cloud)
            record = self._vault.get(VolumeKeyRecord, volume_key_name(volume, copy))
            if record is None:
                record = VolumeKeyRecord(
                    volume=volume, copy=copy, cloud=cloud, blanket=blanket, passphrase=_passphrase()
                )
                self._vault.put(record)
            passphrase = _own(record, cloud, blanket)
        return self._sealed(passphrase.encode(), holder, volume_purpose(volume, copy))

    async def destroy_key(self, *, volume: Id, copy: Id) -> None:
        with self._vault.transaction():
            known = self._vault.get(VolumeKeyRecord, volume_key_name(volume, copy))
            tombstone = VolumeKeyRecord(volume=volume, copy=copy, cloud=None, blanket=None, passphrase=None)
            self._vault.put(tombstone if known is None else replace(known, passphrase=None))
        self._vault.forget_history()
        _log.info("keystore.key_destroyed", volume=volume, copy=copy)

    async def image_key(self, *, cloud: Id, digest: Digest, blanket: Id) -> SealedKey:
        holder = self._admission.entitled(blanket, cloud)
        bound = self._vault.get(ImageDigestRecord, image_digest_name(cloud, digest)) or self._vault.get(
            ImageDigestRecord, image_digest_name(None, digest)
        )
        key = self._shares.key_for(cloud, digest) if bound is None else bound.key
        record = None if key is None else self._vault.get(ImageKeyRecord, key)
        if record is None:
            raise NotFound(
                f"no key of an image {digest} in cloud {cloud}",
                hint="a backup's is shared by whoever has the key store: supercloud trust approve",
            )
        return self._sealed(record.passphrase.encode(), holder, image_purpose(digest))

    async def withdraw_image_key(self, *, share: Id) -> None:
        with self._vault.transaction():
            self._shares.withdraw(share)

    async def bind_copy(
        self, *, cloud: Id, volume: Id, copy: Id, blanket: Id, digest: Digest, signature: str
    ) -> None:
        with self._vault.transaction():
            holder = self._admission.entitled(blanket, cloud)
            record = self._vault.get(VolumeKeyRecord, volume_key_name(volume, copy))
            if record is None:
                raise NotFound(f"no key of copy {copy} of volume {volume}")
            passphrase = _own(record, cloud, blanket)
            verify_vouch(
                signature,
                public_key=holder.public_key or "",
                blanket=blanket,
                volume=volume,
                copy=copy,
                digest=digest,
            )
            if self._vault.get(ImageKeyRecord, copy) is None:
                self._vault.put(ImageKeyRecord(id=copy, cloud=cloud, passphrase=passphrase))
            self._bind(copy, digest)
        _log.info("keystore.copy_bound", blanket=blanket, volume=volume, copy=copy, digest=digest)

    async def destroy_image_key(self, *, image: Id) -> None:
        with self._vault.transaction():
            record = self._vault.get(ImageKeyRecord, image)
            if record is None:
                return
            self._vault.delete(record)
            self._shares.forget(record.id)
            if record.digest is not None:
                name = image_digest_name(record.cloud, record.digest)
                if (bound := self._vault.get(ImageDigestRecord, name)) is not None:
                    self._vault.delete(bound)
        self._vault.forget_history()
        _log.info("keystore.image_key_destroyed", image=image)

    async def user_data_key(self, *, cloud: Id, instance: Id, digest: Digest, blanket: Id) -> SealedKey:
        with self._vault.transaction():
            holder = self._admission.entitled(blanket, cloud)
            record = self._vault.get(UserDataKeyRecord, digest)
            if record is None:
                raise NotFound(f"no key of user data {digest}", hint="run the instance anew")
            if record.instance is None:
                record = replace(record, cloud=cloud, instance=instance)
                self._vault.put(record)
            elif (record.cloud, record.instance) != (cloud, instance):
                raise Denied(f"user data {digest} is another instance's")
        return self._sealed(from_text(record.key), holder, user_data_purpose(instance, digest))

    async def destroy_user_data_key(self, *, digest: Digest) -> None:
        with self._vault.transaction():
            record = self._vault.get(UserDataKeyRecord, digest)
            if record is None:
                return
            self._vault.delete(record)
        self._vault.forget_history()
        _log.info("keystore.user_data_key_destroyed", digest=digest)

    async def token_root(self) -> PublicKey:
        return self._token_key().name

    async def mint_token(self, request: TokenRequest) -> str:
        text = mint(
            self._token_key(),
            principal=request.principal,
            roles=request.roles,
            holder=request.holder,
            until=request.until,
            bounds=Bounds(
                only=None if request.only is None else frozenset(request.only),
                clouds=None if request.clouds is None else frozenset(request.clouds),
            ),
        )
        _log.info("keystore.token_minted", principal=request.principal, until=request.until)
        return text

    async def consent_key(self, *, cloud: Id) -> PublicKey:
        with self._vault.transaction():
            return self._consents.key(cloud).name

    async def renew_controller(self, *, csr_pem: str) -> JoinAnswer:
        public_key = to_text(key_of_csr(csr_pem).public_bytes_raw())
        with self._vault.transaction():
            known = self._vault.get(ControllerRecord, public_key)
            if known is None:
                raise Denied("the owner never certified this control plane's key")
            return self._certify_controller(csr_pem, known.addresses)

    # ------------------------------------------------------------ for the owner only

    async def authority(self) -> str:
        return self._authorities.pem()

    async def issue_controller(self, *, csr_pem: str, addresses: tuple[str, ...] = ()) -> JoinAnswer:
        with self._vault.transaction():
            for old in self._vault.every(ControllerRecord):
                if old.expires_at <= self._now():
                    self._vault.delete(old)
            return self._certify_controller(csr_pem, addresses)

    async def new_image_key(self, *, cloud: Id | None = None) -> ImageKey:
        record = ImageKeyRecord(id=new_id(), cloud=cloud, passphrase=_passphrase())
        with self._vault.transaction():
            self._vault.put(record)
        return ImageKey(id=record.id, passphrase=record.passphrase)

    async def bind_image_key(self, *, id: Id, digest: Digest) -> None:
        with self._vault.transaction():
            self._bind(id, digest)

    async def share_image_key(self, *, share: ImageShare) -> None:
        with self._vault.transaction():
            self._shares.share(share)

    async def keep_user_data_key(self, *, digest: Digest, key: str) -> None:
        from_text(key, length=KEY_BYTES)
        with self._vault.transaction():
            for old in self._vault.every(UserDataKeyRecord):
                if old.instance is None and old.kept_at + _UNCLAIMED_S <= self._now():
                    self._vault.delete(old)
            known = self._vault.get(UserDataKeyRecord, digest)
            if known is None:
                self._vault.put(UserDataKeyRecord(digest=digest, key=key, kept_at=self._now()))
            elif known.key != key:
                raise Conflict(f"user data {digest} has a key already")

    async def evidence_key(self, *, cloud: Id, blanket: Id, evidence: Id, sealed: SealedKey) -> EvidenceKey:
        if self._vault.get(EvidenceKeyRecord, cloud) is None:
            raise NotFound(f"no blanket of cloud {cloud} has ever joined here")
        own = self._admission.evidence_key(cloud)
        key = open_key(sealed, key=own, cloud=cloud, blanket=blanket, evidence=evidence)
        _log.info("keystore.evidence_opened", cloud=cloud, blanket=blanket, evidence=evidence)
        return EvidenceKey(key=to_text(key), signed_by=self._admission.signing_key(blanket, cloud))

    async def approve(self, *, blanket: Id) -> None:
        with self._vault.transaction():
            self._admission.approve(blanket)

    async def consent(self, *, to: ConsentTo) -> Consent:
        with self._vault.transaction():
            return self._consents.consent(to)

    async def export_key(self, *, act: Id, header: str) -> str:
        with self._vault.transaction():
            return self._consents.export_key(act, from_text(header))

    async def trust_tpm(self, *, tpm: Digest, booted: Digest) -> None:
        with self._vault.transaction():
            self._tpms.trust(tpm, booted)

    async def trusted_tpms(self) -> tuple[KnownTpm, ...]:
        return tuple(self._tpms.every())

    async def forget_tpm(self, *, tpm: Digest) -> None:
        with self._vault.transaction():
            self._tpms.forget(tpm)

    async def authority_status(self) -> AuthorityStatus:
        return self._authorities.status(self._now())

    async def prepare_authority(self) -> None:
        with self._vault.transaction():
            self._authorities.prepare(self._now())

    async def switch_authority(self, *, force: bool = False) -> None:
        with self._vault.transaction():
            self._authorities.switch(self._now(), force=force)

    async def retire_authority(self, *, force: bool = False) -> None:
        with self._vault.transaction():
            self._authorities.retire(self._now(), force=force)
        self._vault.forget_history()

    async def recreate_authority(self) -> None:
        with self._vault.transaction():
            self._authorities.recreate(self._now())
            if (tokens := self._vault.get(TokenKeyRecord, "")) is not None:
                self._vault.delete(tokens)  # and with it every token
        self._vault.forget_history()

    # ------------------------------------------------------------ inside

    def _token_key(self) -> IdentityKey:
        with self._vault.transaction():
            record = self._vault.get(TokenKeyRecord, "")
            if record is None:
                record = TokenKeyRecord(key_pem=IdentityKey.new().to_pem())
                self._vault.put(record)
        return IdentityKey.from_pem(record.key_pem)

    def _bind(self, id: Id, digest: Digest) -> None:
        record = self._vault.get(ImageKeyRecord, id)
        if record is None:
            raise NotFound(f"no image key {id}")
        if record.digest not in (None, digest):
            raise Conflict(f"image key {id} belongs to {record.digest}")
        bound = self._vault.get(ImageDigestRecord, image_digest_name(record.cloud, digest))
        if bound is not None and bound.key != id:
            raise Conflict(f"{digest} has a key already")
        self._vault.put(replace(record, digest=digest))
        self._vault.put(ImageDigestRecord(cloud=record.cloud, digest=digest, key=id))

    def _sealed(self, key: bytes, holder: BlanketRecord, purpose: str) -> SealedKey:
        _log.info("keystore.key_released", blanket=holder.blanket, purpose=purpose)
        return seal(key, to=holder.sealing_key or "", blanket=holder.blanket, purpose=purpose)

    def _certify_controller(self, csr_pem: str, addresses: tuple[str, ...]) -> JoinAnswer:
        key = key_of_csr(csr_pem)
        certificate_pem = self._authorities.current.controller(
            key, addresses=addresses, at=self._now(), lifetime_s=LIFETIME_S
        )
        self._vault.put(
            ControllerRecord(
                public_key=to_text(key.public_bytes_raw()),
                addresses=addresses,
                expires_at=self._now() + LIFETIME_S,
                issued_by=self._authorities.number,
                trusts=self._authorities.newest,
            )
        )
        return JoinAnswer(certificate_pem=certificate_pem, authority_pem=self._authorities.pem())

    @contextmanager
    def closing(self) -> Iterator[Self]:
        """Close the vault at the end."""
        try:
            yield self
        finally:
            self._vault.close()
