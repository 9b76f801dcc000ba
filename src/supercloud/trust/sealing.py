"""Keys on their way to a blanket: HPKE (RFC 9180), to one blanket, for one purpose."""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from supercloud.model.errors import Denied, InvalidInput
from supercloud.model.names import Digest, Id
from supercloud.ports.agent import SealedKey
from supercloud.trust.canonical import canonical
from supercloud.trust.keys import SealingKey, from_text, sealing_public, to_text

_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)
_PURPOSE = "supercloud seal 1"
_CIPHERTEXT_CHARS = 4096


def volume_purpose(volume: Id, copy: Id) -> str:
    """What a volume copy's key is sealed for."""
    return f"volume:{volume}:{copy}"


def image_purpose(digest: Digest) -> str:
    """What an image's key is sealed for."""
    return f"image:{digest}"


def user_data_purpose(instance: Id, digest: Digest) -> str:
    """What the key of an instance's user data is sealed for."""
    return f"user-data:{instance}:{digest}"


def seal(secret: bytes, *, to: str, blanket: Id, purpose: str) -> SealedKey:
    """`secret` so that only the blanket whose sealing key is `to` opens it, and only for `purpose`.

    Raises:
        InvalidInput: `to` is not an X25519 public key.
    """
    info = canonical(_PURPOSE, blanket, purpose)
    try:
        sealed = _SUITE.encrypt(secret, sealing_public(to), info=info)
    except ValueError as error:  # a point of small order
        raise InvalidInput("not a key that can be sealed to") from error
    return SealedKey(blanket=blanket, purpose=purpose, ciphertext=to_text(sealed))


def open_sealed(sealed: SealedKey, *, key: SealingKey, blanket: Id, purpose: str) -> bytes:
    """The secret inside. `blanket` and `purpose` are what the opener expects, not what `sealed` says.

    Raises:
        InvalidInput: not a sealed key.
        Denied: sealed to another blanket or for another purpose, or changed on the way.
    """
    if len(sealed.ciphertext) > _CIPHERTEXT_CHARS:
        raise InvalidInput("a sealed key of more than 4 KiB")
    info = canonical(_PURPOSE, blanket, purpose)
    try:
        return _SUITE.decrypt(from_text(sealed.ciphertext), key.private, info=info)
    except (InvalidTag, ValueError) as error:
        raise Denied(f"the key for {purpose} was not sealed for that to blanket {blanket}") from error
