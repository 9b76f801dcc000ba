"""Key store port: the owner's own process. It holds the cloud's certificate authority and every key.

The control plane relays what it answers and can open none of it: keys leave only sealed to a blanket whose
sealing key the store itself certified at join.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from supercloud.model.names import Digest, Id, PublicKey
from supercloud.model.permissions import Permission, Role
from supercloud.ports.agent import SealedKey


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinToken:
    """Single use. `secret` goes into the blanket's birth data and nowhere else."""

    blanket: Id
    cloud: Id
    secret: str = field(repr=False)
    authority_pem: str
    expires_at: float  # wall clock, seconds since the epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinRequest:
    """Proof of the token by HMAC over the request, so that the secret itself never travels."""

    blanket: Id
    csr_pem: str
    sealing_key: str  # base64 X25519
    proof: str  # hex HMAC-SHA256(secret, canonical bytes of the fields above)


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinAnswer:
    certificate_pem: str
    authority_pem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewRequest:
    """For a blanket whose certificate expired while it was stopped. The CSR proves that it has the key."""

    blanket: Id
    csr_pem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRequest:
    """What a fresh token is to say. `only` and `clouds` bound it; None: everything that the roles allow."""

    principal: Id
    roles: tuple[Role, ...]
    holder: PublicKey
    until: float  # seconds since the epoch
    only: tuple[Permission, ...] | None = None
    clouds: tuple[Id, ...] | None = None


class KeyStore(Protocol):
    """Raises: NotFound, Denied (the owner's policy), Conflict (a token used twice), Unavailable.

    Fifteen methods, as it is one process: blankets, keys of volumes' copies, images and user data, tokens,
    and the public half of what the owner consents with.
    """

    async def invite(self, *, cloud: Id, blanket: Id, lifetime_s: float) -> JoinToken: ...

    async def admit(self, request: JoinRequest) -> JoinAnswer:
        """The identical request again gets a certificate of the same keys: an answer may be lost."""
        ...

    async def renew(self, *, blanket: Id, csr_pem: str) -> JoinAnswer:
        """Only for the key that joined; Denied for another."""
        ...

    async def revoke(self, *, blanket: Id) -> None:
        """Certify and seal nothing for it any more."""
        ...

    async def volume_key(self, *, cloud: Id, volume: Id, copy: Id, blanket: Id) -> SealedKey:
        """The copy's key sealed to the blanket; made at first asking, and from then on for that blanket only.

        A destroyed copy's stays NotFound.
        """
        ...

    async def destroy_key(self, *, volume: Id, copy: Id) -> None: ...

    async def image_key(self, *, cloud: Id, digest: Digest, blanket: Id) -> SealedKey:
        """Of an image of all clouds or of this one, or one that the owner lets this one have for a time."""
        ...

    async def withdraw_image_key(self, *, share: Id) -> None:
        """Give out no key by this share any more, nor by what was made from it. A repeat is harmless."""
        ...

    async def bind_copy(
        self, *, cloud: Id, volume: Id, copy: Id, blanket: Id, digest: Digest, signature: str
    ) -> None:
        """Let the copy's key be an image's too, for its cloud: `blanket` has made the copy to be that
        (`signature`, see trust.vouch), and `digest` is its file's. The image key's id is the copy's.

        Raises: Denied (it did not), Conflict (another key, or another digest, is bound already).
        """
        ...

    async def destroy_image_key(self, *, image: Id) -> None:
        """Of an image that was a copy. Any other id: nothing happens."""
        ...

    async def user_data_key(self, *, cloud: Id, instance: Id, digest: Digest, blanket: Id) -> SealedKey:
        """The key of the user data with this digest, sealed to the blanket.

        The first asking makes it this instance's, in this cloud, and from then on nobody else's.
        """
        ...

    async def destroy_user_data_key(self, *, digest: Digest) -> None: ...

    async def token_root(self) -> PublicKey:
        """The key that every token is signed with; made at first asking."""
        ...

    async def mint_token(self, request: TokenRequest) -> str:
        """Sign a token."""
        ...

    async def consent_key(self, *, cloud: Id) -> PublicKey:
        """Whose signature an act on the memory of this cloud's machines needs; made at first asking."""
        ...
