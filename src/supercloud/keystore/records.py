"""What the key store remembers. Every record is encrypted whole; only its kind and name can be seen."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar, Protocol

from supercloud.model.names import Digest, Id


class Record(Protocol):
    """A frozen dataclass that says where it is kept."""

    kind: ClassVar[str]

    @property
    def name(self) -> str: ...


class Policy(StrEnum):
    """Which blankets the store seals keys to, without asking its owner each time."""

    ADMITTED = "admitted"  # every blanket that joined and is not revoked: failover needs nobody
    APPROVED = "approved"  # the same, once the owner has approved the blanket


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    kind: ClassVar[str] = "settings"
    policy: Policy = Policy.ADMITTED

    @property
    def name(self) -> str:
        return ""


class Role(StrEnum):
    NEXT = "next"  # already trusted, does not issue yet
    CURRENT = "current"
    PREVIOUS = "previous"  # still trusted, does not issue any more


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorityRecord:
    kind: ClassVar[str] = "authority"
    number: int  # grows by one with each authority
    role: Role
    certificate_pem: str
    key_pem: str = field(repr=False)

    @property
    def name(self) -> str:
        return str(self.number)


class Standing(StrEnum):
    """Where a blanket stands with the key store."""

    INVITED = "invited"
    ADMITTED = "admitted"
    EXPELLED = "expelled"  # not by its fault: its authority is gone, and it may be invited again
    REVOKED = "revoked"  # for ever


@dataclass(frozen=True, slots=True, kw_only=True)
class BlanketRecord:
    kind: ClassVar[str] = "blanket"
    blanket: Id
    cloud: Id | None  # None: revoked before it was ever invited
    standing: Standing
    approved: bool = False
    secret: str | None = field(default=None, repr=False)  # while invited
    expires_at: float = 0.0  # of the invitation, seconds since the epoch
    join_digest: str | None = None  # of the one request that was admitted
    public_key: str | None = None
    sealing_key: str | None = None
    issued_by: int = 0  # number of the authority that issued its newest certificate
    trusts: int = 0  # number of the newest authority it was told of

    @property
    def name(self) -> str:
        return self.blanket


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerRecord:
    """A control plane's key that the owner has certified; it may renew, for the same addresses."""

    kind: ClassVar[str] = "controller"
    public_key: str
    addresses: tuple[str, ...]
    expires_at: float
    issued_by: int
    trusts: int

    @property
    def name(self) -> str:
        return self.public_key


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeKeyRecord:
    """The key of one copy of a volume. A copy is a file in one blanket, so its key is that blanket's only."""

    kind: ClassVar[str] = "volume-key"
    volume: Id
    copy: Id
    cloud: Id | None  # None: destroyed before it was made
    blanket: Id | None
    passphrase: str | None = field(repr=False)  # None: destroyed, for ever

    @property
    def name(self) -> str:
        return volume_key_name(self.volume, self.copy)


def volume_key_name(volume: Id, copy: Id) -> str:
    return f"{volume}:{copy}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageKeyRecord:
    """The key of an encrypted image; `digest`, of the ciphertext, is known only once it is encrypted."""

    kind: ClassVar[str] = "image-key"
    id: Id
    cloud: Id | None  # None: for every cloud of this owner
    digest: Digest | None = None
    passphrase: str = field(repr=False)

    @property
    def name(self) -> str:
        return self.id


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageDigestRecord:
    kind: ClassVar[str] = "image-digest"
    cloud: Id | None
    digest: Digest
    key: Id

    @property
    def name(self) -> str:
        return image_digest_name(self.cloud, self.digest)


def image_digest_name(cloud: Id | None, digest: Digest) -> str:
    return f"{cloud or ''}:{digest}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageShareRecord:
    """That blankets of cloud `to` may have the key of an image of cloud `of` alone, for a time, as its owner
    said. One with a `parent` passes that one on, and is taken away with it."""

    kind: ClassVar[str] = "image-share"
    id: Id  # the trust relation's
    key: Id  # of the ImageKeyRecord
    digest: Digest
    of: Id
    to: Id
    until: float  # seconds since the epoch
    delegable: bool
    parent: Id | None
    depth: int

    @property
    def name(self) -> str:
        return self.id


@dataclass(frozen=True, slots=True, kw_only=True)
class UserDataKeyRecord:
    """The key of one instance's user data: of the first that it is asked for. `digest`: the ciphertext's."""

    kind: ClassVar[str] = "user-data-key"
    digest: Digest
    key: str = field(repr=False)  # base64
    kept_at: float  # seconds since the epoch
    cloud: Id | None = None  # None: nobody has asked for it yet
    instance: Id | None = None

    @property
    def name(self) -> str:
        return self.digest


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceKeyRecord:
    """What opens the evidence that blankets of one cloud keep (trust.evidence). It never changes:
    evidence may be opened years later."""

    kind: ClassVar[str] = "evidence-key"
    cloud: Id
    key: str = field(repr=False)  # X25519, base64

    @property
    def name(self) -> str:
        return self.cloud


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenKeyRecord:
    """What signs the tokens of the control plane's principals."""

    kind: ClassVar[str] = "token-key"
    key_pem: str = field(repr=False)

    @property
    def name(self) -> str:
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsentKeyRecord:
    """What a cloud's owner consents with to acts on its machines' memory, and opens what leaves by them."""

    kind: ClassVar[str] = "consent-key"
    cloud: Id
    key_pem: str = field(repr=False)

    @property
    def name(self) -> str:
        return self.cloud


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsentRecord:
    """What was consented to last of one act; without it nothing of that act is opened."""

    kind: ClassVar[str] = "consent"
    act: Id
    cloud: Id
    consent: str  # base64, of the statement and its signature
    machine: str  # base64: the key by which the machine's monitor signs
    expires_at: int  # seconds since the epoch

    @property
    def name(self) -> str:
        return self.act


@dataclass(frozen=True, slots=True, kw_only=True)
class TpmRecord:
    """A TPM of somebody's machine that the owner believes, while that has booted this (trust.quote)."""

    kind: ClassVar[str] = "tpm"
    tpm: Digest
    booted: Digest

    @property
    def name(self) -> str:
        return self.tpm


KINDS: tuple[type[Record], ...] = (
    Settings,
    AuthorityRecord,
    BlanketRecord,
    ControllerRecord,
    VolumeKeyRecord,
    ImageKeyRecord,
    ImageDigestRecord,
    ImageShareRecord,
    UserDataKeyRecord,
    EvidenceKeyRecord,
    TokenKeyRecord,
    ConsentKeyRecord,
    ConsentRecord,
    TpmRecord,
)
