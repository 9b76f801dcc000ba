"""The two keys that a blanket makes inside itself and never gives away: one signs, one opens.

Neither changes in a blanket's life. A key store that certified another key on the control plane's word would
let the control plane speak in the blanket's name.
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Self

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from supercloud.model.errors import InvalidInput

if TYPE_CHECKING:
    from supercloud.model.names import PublicKey

KEY_BYTES = 32
_NAMED = "ed25519/"
#: Every encoding of the eight points of small order (1, 2, 4 and 8), without the bit of its sign; those two
#: that are below 19 also with p = 2^255 - 19 added. Under such a key a signature that nobody made is good for
#: one text in a few, so everybody holds it. RFC 8032 leaves them in; libsodium, in the micro-hypervisor, not.
_SMALL_ORDER = frozenset(
    bytes.fromhex(y)
    for y in (
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    )
)
#: Greatest PEM text that is parsed: a certificate of ours is below 2 KiB.
PEM_CHARS = 16 << 10


def to_text(raw: bytes) -> str:
    """Bytes in base64."""
    return base64.b64encode(raw).decode()


def from_text(text: str, *, length: int | None = None) -> bytes:
    """Bytes out of strict base64. Raises: InvalidInput, which does not quote the text."""
    try:
        raw = base64.b64decode(text.encode("ascii"), validate=True)
    except (ValueError, binascii.Error) as error:
        raise InvalidInput("not base64") from error
    if (length is not None and len(raw) != length) or to_text(raw) != text:
        raise InvalidInput("base64 of a wrong length or form")
    return raw


class IdentityKey:
    """An Ed25519 key: who somebody is in TLS, and what signs a blanket's announcements."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key

    @classmethod
    def new(cls) -> Self:
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_pem(cls, pem: str) -> Self:
        try:
            key = load_pem_private_key(pem.encode(), password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise InvalidInput("not a private key in PEM") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise InvalidInput("not an Ed25519 key")
        return cls(key)

    def to_pem(self) -> str:
        """The private key, PKCS #8 without a password: for a private file only."""
        return self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()

    @property
    def private(self) -> Ed25519PrivateKey:
        return self._key

    @property
    def public(self) -> str:
        return to_text(self._key.public_key().public_bytes_raw())

    @property
    def name(self) -> PublicKey:
        """The public key, as tokens and principals are written."""
        return f"{_NAMED}{self._key.public_key().public_bytes_raw().hex()}"

    def sign(self, data: bytes) -> bytes:
        return self._key.sign(data)

    def csr(self) -> str:
        """A request for a certificate of this key. It names nobody: names are the authority's business."""
        from cryptography import x509  # late: who signs requests, as the command line, makes no certificates

        request = x509.CertificateSigningRequestBuilder(x509.Name([]))
        return request.sign(self._key, None).public_bytes(Encoding.PEM).decode()


class SealingKey:
    """An X25519 key: what a key store seals to, and only its holder opens."""

    def __init__(self, key: X25519PrivateKey) -> None:
        self._key = key

    @classmethod
    def new(cls) -> Self:
        return cls(X25519PrivateKey.generate())

    @classmethod
    def from_text(cls, text: str) -> Self:
        return cls(X25519PrivateKey.from_private_bytes(from_text(text, length=KEY_BYTES)))

    def to_text(self) -> str:
        """The private key in base64: for a private file only."""
        return to_text(self._key.private_bytes_raw())

    @property
    def private(self) -> X25519PrivateKey:
        return self._key

    @property
    def public(self) -> str:
        return to_text(self._key.public_key().public_bytes_raw())


def sealing_public(text: str) -> X25519PublicKey:
    """A sealing public key out of its text. Raises: InvalidInput."""
    raw = from_text(text, length=KEY_BYTES)
    if not any(raw):
        raise InvalidInput("the zero point is nobody's key")
    return X25519PublicKey.from_public_bytes(raw)


def ed25519_public(raw: bytes) -> Ed25519PublicKey:
    """A public key that is to be trusted, out of its bytes.

    Raises:
        InvalidInput: not of a key's length, or of small order, so that it is everybody's.
    """
    if len(raw) != KEY_BYTES:
        raise InvalidInput("not an Ed25519 key")
    if raw[:-1] + bytes([raw[-1] & 0x7F]) in _SMALL_ORDER:
        raise InvalidInput("an Ed25519 key of small order, under which everybody can sign")
    return Ed25519PublicKey.from_public_bytes(raw)


def named_public(name: PublicKey) -> Ed25519PublicKey:
    """The key of a principal or of a cloud, out of its name. Raises: InvalidInput (of small order)."""
    return ed25519_public(bytes.fromhex(name.removeprefix(_NAMED)))


def identity_public(text: str) -> Ed25519PublicKey:
    """An identity public key out of its text. Raises: InvalidInput."""
    return ed25519_public(from_text(text, length=KEY_BYTES))


def verify_signature(public: str, signature: bytes, data: bytes) -> bool:
    """Whether the holder of the identity key `public` signed `data`. Raises: InvalidInput (no such key)."""
    try:
        identity_public(public).verify(signature, data)
    except InvalidSignature:
        return False
    return True


def key_of_csr(csr_pem: str) -> Ed25519PublicKey:
    """The key of a request whose signature proves possession of it. Everything else in it is ignored.

    Raises:
        InvalidInput: not a request, not Ed25519, signed by another key, or for one that is everybody's.
    """
    from cryptography import x509

    if len(csr_pem) > PEM_CHARS:
        raise InvalidInput("a certificate request of more than 16 KiB")
    try:
        request = x509.load_pem_x509_csr(csr_pem.encode())
        key, proven = request.public_key(), request.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise InvalidInput("not a certificate request in PEM") from error
    if not isinstance(key, Ed25519PublicKey):
        raise InvalidInput("the request is not for an Ed25519 key")
    if not proven:
        raise InvalidInput("the request is not signed by the key it asks for")
    return ed25519_public(key.public_bytes_raw())
