"""A tenant's consent, as a micro-hypervisor reads it: `docs/spec/microhypervisor-consent.md`."""

from __future__ import annotations

import hashlib
import re
import struct
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from supercloud.model.acts import Operation
from supercloud.model.errors import InvalidInput
from supercloud.model.names import Id

_STATEMENT = struct.Struct("<4sB3x16sQQQ32sQ32s32s32s")
_NAME = re.compile(r"[a-z0-9-]{1,15}")
_HASH_SIZE, _SIGNATURE_SIZE = 32, 64
#: In pages of 4 KiB: 2^48 bytes.
_PAGES_LIMIT = 1 << 36


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """One exact act on a partition's memory.

    `page` and `pages` are in units of 4 KiB; `ticks` are of the micro-hypervisor's clock, from when it issued
    the challenge; `requester`, `purpose` and `arguments` are SHA-256 digests.
    """

    operation: Operation
    partition: str
    page: int
    pages: int
    launch: int
    challenge: bytes
    ticks: int
    requester: bytes
    purpose: bytes
    arguments: bytes

    def __post_init__(self) -> None:
        hashes = (self.challenge, self.requester, self.purpose, self.arguments)
        numbers = (self.launch, self.ticks)
        if not _NAME.fullmatch(self.partition) or any(len(each) != _HASH_SIZE for each in hashes):
            raise ValueError("a statement's partition or one of its digests is not of its form")
        if not (0 <= self.page < _PAGES_LIMIT and 1 <= self.pages <= _PAGES_LIMIT - self.page):
            raise ValueError("a statement's pages are out of bounds")
        if any(not 1 <= each < 1 << 64 for each in numbers):
            raise ValueError("a statement's launch or its time is out of bounds")

    def encode(self) -> bytes:
        return _STATEMENT.pack(
            b"SCC1",
            self.operation,
            self.partition.encode(),
            self.page,
            self.pages,
            self.launch,
            self.challenge,
            self.ticks,
            self.requester,
            self.purpose,
            self.arguments,
        )


def consent(statement: Statement, key: Ed25519PrivateKey) -> bytes:
    """The statement and the tenant's signature under it: what a micro-hypervisor takes."""
    encoded = statement.encode()
    return encoded + key.sign(encoded)


def read(signed: bytes, tenant: Ed25519PublicKey) -> Statement:
    """What the tenant consented to.

    Raises:
        InvalidInput: it is not in the one encoding, or not signed by that key.
    """
    statement, signature = signed[: _STATEMENT.size], signed[_STATEMENT.size :]
    try:
        magic, operation, name, page, pages, launch, challenge, ticks, *hashes = _STATEMENT.unpack(statement)
        requester, purpose, arguments = hashes
        found = Statement(
            operation=Operation(operation),
            partition=name.rstrip(b"\0").decode("ascii"),
            page=page,
            pages=pages,
            launch=launch,
            challenge=challenge,
            ticks=ticks,
            requester=requester,
            purpose=purpose,
            arguments=arguments,
        )
        if magic != b"SCC1" or found.encode() != statement or len(signature) != _SIGNATURE_SIZE:
            raise ValueError("not in its one encoding")
        tenant.verify(signature, statement)
    except (struct.error, ValueError) as error:
        raise InvalidInput("what came is no consent") from error
    except InvalidSignature as error:
        raise InvalidInput("the consent is not signed by its cloud's consent key") from error
    return found


def hash_of(word: Id | str) -> bytes:
    """What a statement has of who asks (a domain's id) and of the purpose: the SHA-256 of its UTF-8."""
    return hashlib.sha256(word.encode()).digest()
