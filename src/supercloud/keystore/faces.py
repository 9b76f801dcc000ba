"""The two faces of the key store's process: one for the control plane, one for the owner."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from supercloud.keystore.authorities import AuthorityStatus
from supercloud.model.acts import ActKind
from supercloud.model.names import Digest, Id, PublicKey
from supercloud.ports.agent import SealedKey
from supercloud.ports.keystore import JoinAnswer, KeyStore


class Served(KeyStore, Protocol):
    """What the control plane may ask: the port, and what its own process needs for itself."""

    async def renew_controller(self, *, csr_pem: str) -> JoinAnswer:
        """Another certificate for a key that the owner certified. Raises: Denied."""
        ...

    async def revoked(self) -> tuple[Id, ...]:
        """Blankets to refuse although their certificates have not expired."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageKey:
    """The fresh key of an image about to be encrypted; `passphrase` never leaves the owner's side."""

    id: Id
    passphrase: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageShare:
    """Let blankets of cloud `to` have the key of an image that is cloud `of`'s alone, or that was shared with
    `of` by another one (`parent`). `id`: the trust relation's."""

    id: Id
    digest: Digest
    of: Id
    to: Id
    until: float  # seconds since the epoch
    delegable: bool = False
    parent: Id | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsentTo:
    """One exact act on a machine's memory, and what the machine's monitor answered for it (ports.platform's
    `Challenge`). Bytes are in base64, the nonce in hexadecimal."""

    act: Id
    cloud: Id
    operation: ActKind
    page: int
    pages: int
    requester: Id  # the domain that asks
    purpose: str  # its word
    expires_at: int  # seconds since the epoch
    partition: str
    launch: int
    challenge: str
    clock_khz: int
    nonce: str
    attestation: str
    only_vouched: bool = False  # not for a machine that no TPM of the owner's knowing vouches for


@dataclass(frozen=True, slots=True, kw_only=True)
class Consent:
    """What was signed, in base64; and of the machine, in hexadecimal, the key of its monitor and the digest
    of what was launched. `vouched` is false where nobody that the owner knows vouches for that key. Where a
    TPM does, known or not: which, and what it says was booted."""

    consent: str
    machine: str
    digest: str
    vouched: bool
    tpm: Digest | None = None
    booted: Digest | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownTpm:
    """Both as trust.quote has them."""

    tpm: Digest
    booted: Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceKey:
    """What opens one piece of evidence, and with what its blanket signed it (base64; None: nobody knows any
    more)."""

    key: str = field(repr=False)
    signed_by: str | None


class Owner(Protocol):
    """What only the owner may ask."""

    async def authority(self) -> str:
        """Every authority to trust, in PEM."""
        ...

    async def issue_controller(self, *, csr_pem: str, addresses: tuple[str, ...] = ()) -> JoinAnswer:
        """Certify a control plane's key, for these addresses besides the usual ones; it renews by itself."""
        ...

    async def new_image_key(self, *, cloud: Id | None = None) -> ImageKey:
        """A key for an image of one cloud, or (None) of all the clouds of this owner."""
        ...

    async def bind_image_key(self, *, id: Id, digest: Digest) -> None:
        """The image encrypted under this key has this digest. Raises: NotFound, Conflict."""
        ...

    async def share_image_key(self, *, share: ImageShare) -> None:
        """
        Raises:
            NotFound: it is not `of`'s to share.
            Denied: wider, longer or farther than what it is made from. Conflict, InvalidInput.
        """
        ...

    async def withdraw_image_key(self, *, share: Id) -> None: ...

    async def keep_user_data_key(self, *, digest: Digest, key: str) -> None:
        """What opens the user data whose ciphertext has this digest (trust.userdata), in base64.

        One that no instance was started with within a day is destroyed.
        Raises: Conflict (there is another for it), InvalidInput.
        """
        ...

    async def evidence_key(self, *, cloud: Id, blanket: Id, evidence: Id, sealed: SealedKey) -> EvidenceKey:
        """Of evidence that a blanket of the cloud keeps. Raises: NotFound (of a cloud without any), Denied
        (it was sealed to somebody else, or as something else), InvalidInput."""
        ...

    async def approve(self, *, blanket: Id) -> None:
        """Let a blanket that has joined have keys under the policy `approved`. Raises: Denied."""
        ...

    async def revoke(self, *, blanket: Id) -> None: ...

    async def revoked(self) -> tuple[Id, ...]: ...

    async def consent_key(self, *, cloud: Id) -> PublicKey: ...

    async def consent(self, *, to: ConsentTo) -> Consent:
        """Consent, as the owner of the cloud, to one act, once.

        Raises: Denied (the machine is not this cloud's, by its monitor's word; or has booted something else
        than what its TPM is believed with; or nobody vouches for it, and somebody should), InvalidInput.
        """
        ...

    async def trust_tpm(self, *, tpm: Digest, booted: Digest) -> None:
        """Believe a TPM that quotes a machine's launches, while that machine has booted this."""
        ...

    async def trusted_tpms(self) -> tuple[KnownTpm, ...]: ...

    async def forget_tpm(self, *, tpm: Digest) -> None:
        """Raises: NotFound."""
        ...

    async def export_key(self, *, act: Id, header: str) -> str:
        """What opens the pages of one export that was consented to, in base64, as its header.

        Raises: NotFound, Failed (it is something else).
        """
        ...

    async def authority_status(self) -> AuthorityStatus: ...

    async def prepare_authority(self) -> None: ...

    async def switch_authority(self, *, force: bool = False) -> None: ...

    async def retire_authority(self, *, force: bool = False) -> None: ...

    async def recreate_authority(self) -> None: ...
