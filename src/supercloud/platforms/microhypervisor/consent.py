"""A tenant's consent, as a micro-hypervisor reads it: `docs/spec/microhypervisor-consent.md`."""

from __future__ import annotations

import enum
import re
import struct
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_STATEMENT = struct.Struct("<4sB3x16sQQQ32sQ32s32s32s")
_NAME = re.compile(r"[a-z0-9-]{1,15}")
_HASH_SIZE = 32
#: In pages of 4 KiB: 2^48 bytes.
_PAGES_LIMIT = 1 << 36


class Operation(enum.IntEnum):
    DUMP = 1
    INTROSPECT = 2
    MIGRATE = 3


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
