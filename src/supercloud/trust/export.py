"""What a tenant gets of an act that it consented to: `docs/spec/microhypervisor-export.md`.

The header says what is exported and by which machine; every page is sealed to the tenant's key. All of it
came through the hands of somebody who is not trusted: whatever is not exactly as consented to ends in
`Failed`.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from supercloud.model.errors import Failed
from supercloud.trust.consent import Statement, consent

_STATEMENT = struct.Struct("<4sB3x16sQQQ32s32s32s")
_SIGNATURE_SIZE = 64
#: Bytes of a page in clear, and what its seal adds.
PAGE_SIZE = 4096
SEALED_SIZE = PAGE_SIZE + 16


@dataclass(frozen=True, slots=True)
class Export:
    """An act's pages, as far as the tenant can open them: made by `accepted`, or with the `key` of one."""

    first: int
    pages: int
    key: bytes = field(repr=False)  # of this export alone

    def open(self, page: int, version: int, sealed: bytes) -> bytes:
        """A page in clear.

        Raises:
            Failed: it is not that page, in that version, as that machine sealed it in this act.
        """
        if not (self.first <= page < self.first + self.pages and 0 < version < 1 << 64):
            raise Failed(f"page {page} is no part of what was consented to")
        nonce, bound = struct.pack("<Q4x", version), struct.pack("<QQ", page, version)
        try:
            plain = ChaCha20Poly1305(self.key).decrypt(nonce, sealed, bound)
        except InvalidTag:
            raise Failed(f"page {page} was not sealed for this act, or was changed on its way") from None
        if len(plain) != PAGE_SIZE:
            raise Failed(f"page {page} is no whole page")
        return plain

    def open_all(self, sealed: Sequence[tuple[int, bytes]]) -> bytes:
        """Every page of the act, as (version, sealed) in order of their numbers.

        Raises:
            Failed: some are missing, out of order or older than one before, or `open` refused one.
        """
        versions = [version for version, _ in sealed]
        if len(sealed) != self.pages or sorted(set(versions)) != versions:
            raise Failed("pages are missing, or out of order")
        return b"".join(self.open(self.first + at, version, it) for at, (version, it) in enumerate(sealed))


def accepted(
    header: bytes, statement: Statement, key: Ed25519PrivateKey, machine: Ed25519PublicKey
) -> Export:
    """What the header begins, if it is the act that `statement` consents to, or a part of it.

    Args:
        key: the tenant's.
        machine: the key by which the micro-hypervisor signs, which somebody must have vouched for.

    Raises:
        Failed: it is not, or not signed by that machine.
    """
    if len(header) != _STATEMENT.size + _SIGNATURE_SIZE:
        raise Failed("what came is no header of an export")
    signed, signature = header[: _STATEMENT.size], header[_STATEMENT.size :]
    try:
        machine.verify(signature, signed)
    except InvalidSignature:
        raise Failed("the export was not signed by that machine") from None
    magic, operation, name, first, pages, launch, challenge, public, of = _STATEMENT.unpack(signed)
    agreed = hashlib.sha256(consent(statement, key)).digest()  # Ed25519 signs the same the same way
    same = (magic, of, challenge, launch) == (b"SCE1", agreed, statement.challenge, statement.launch)
    named = (operation, name.rstrip(b"\0")) == (statement.operation, statement.partition.encode())
    within = statement.page <= first and pages >= 1 and first + pages <= statement.page + statement.pages
    if not (same and named and within):
        raise Failed("the export is of something else than was consented to")
    return Export(first, pages, _shared_key(key, public, challenge, signed))


def _shared_key(key: Ed25519PrivateKey, public: bytes, challenge: bytes, signed: bytes) -> bytes:
    """X25519 with the tenant's key (RFC 8032, 5.1.5: what its seed becomes), then HKDF (RFC 5869)."""
    own = X25519PrivateKey.from_private_bytes(hashlib.sha512(key.private_bytes_raw()).digest()[:32])
    try:
        shared = own.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        raise Failed("the export's key is no sound one") from None
    return HKDF(hashes.SHA256(), 32, salt=challenge, info=signed).derive(shared)
