"""Stands for the reference monitor of a micro-hypervisor: the rules of microhypervisor/monitor/monitor.c,
over partitions whose pages say whose they are. What it seals and signs is real."""

from __future__ import annotations

import hashlib
import os
import struct
import time
from dataclasses import dataclass, field

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from supercloud.model.acts import NO_ARGUMENTS
from supercloud.model.errors import InvalidInput
from supercloud.platforms.microhypervisor.requests import Request
from supercloud.trust.consent import Statement, read

NOBODY = bytes(32)
CLOCK_KHZ = 1_000_000
#: Pages of each partition that are memory.
PAGES = 64
_PART = 1000
_ARGUMENTS = bytes.fromhex(NO_ARGUMENTS.removeprefix("sha256:"))


@dataclass
class Refusal(Exception):
    code: int
    text: str


@dataclass
class _Act:
    pages: range
    next: int
    launch: int
    until: int
    seal: ChaCha20Poly1305
    last: tuple[int, bytes] = (0, b"")


@dataclass
class Watched:
    """A partition, as the monitor sees it."""

    name: str
    tenant: bytes = NOBODY
    next_tenant: bytes = NOBODY
    launches: int = 0
    challenge: bytes | None = None
    issued: int = 0
    sealed: int = 0
    act: _Act | None = None
    refused: list[str] = field(default_factory=list)

    def page(self, number: int) -> bytes:
        return f"page {number} of {self.name}, launch {self.launches}".encode().ljust(4096, b".")

    @property
    def digest(self) -> bytes:
        return hashlib.sha256(self.name.encode() + self.tenant).digest()


class MonitorDouble:
    """`answer` raises Refusal."""

    def __init__(self) -> None:
        self.key = Ed25519PrivateKey.generate()
        self.partitions: dict[str, Watched] = {}
        self.skipped = 0  # ticks, by which its clock is ahead

    def launch(self, name: str) -> None:
        """Clear the memory, and take over whoever is to have it."""
        it = self.partitions.setdefault(name, Watched(name))
        it.tenant, it.launches = it.next_tenant, it.launches + 1

    def answer(self, kind: Request, name: str, rest: bytes, *, runs: bool = True) -> bytes:
        it = self.partitions.setdefault(name, Watched(name))
        match kind:
            case Request.TENANT:
                return _name_tenant(it, rest, runs)
            case Request.ATTEST:
                return self._attest(it, rest)
            case Request.CHALLENGE:
                it.challenge, it.issued = os.urandom(32), self._now()
                return it.challenge + struct.pack("<Q", it.launches)
            case Request.ACT:
                return self._begin(it, rest)
            case Request.PAGE:
                return self._page(it, *struct.unpack("<QH", rest))
        raise Refusal(1, "there is no such request")

    def _now(self) -> int:
        return time.monotonic_ns() + self.skipped

    def _attest(self, it: Watched, nonce: bytes) -> bytes:
        said = struct.pack(
            "<4s4x16sQ32s32s32s", b"SCM1", it.name.encode(), it.launches, it.digest, nonce, it.tenant
        )
        key = self.key.public_key().public_bytes_raw()
        return struct.pack("<32sQB", it.digest, it.launches, 0) + it.tenant + key + self.key.sign(said)

    def _begin(self, it: Watched, rest: bytes) -> bytes:
        operation, first, pages = struct.unpack("<BQQ", rest[:17])
        it.act = None
        try:
            return self._given(it, operation, range(first, first + pages), rest[17:])
        except Refusal as refusal:
            it.refused.append(refusal.text)
            raise

    def _given(self, it: Watched, operation: int, pages: range, signed: bytes) -> bytes:
        if it.tenant == NOBODY:
            raise Refusal(11, "the partition has no tenant who could consent")
        if not pages or pages.stop > PAGES:
            raise Refusal(9, "it is the consent to something else")
        said = _read(signed, it.tenant)
        if it.challenge is None or said.challenge != it.challenge:
            raise Refusal(8, "the challenge is not the one that was issued last, or was used")
        challenge, it.challenge = it.challenge, None
        agreed = range(said.page, said.page + said.pages)
        about = (said.operation, said.partition, said.launch, said.arguments)
        within = agreed.start <= pages.start and pages.stop <= agreed.stop
        if about != (operation, it.name, it.launches, _ARGUMENTS) or not within:
            raise Refusal(9, "it is the consent to something else")
        if self._now() - it.issued > said.ticks:
            raise Refusal(10, "its time has passed")
        header, seal = self._header(it, operation, pages, challenge, signed)
        it.act = _Act(pages, pages.start, it.launches, it.issued + said.ticks, seal)
        return header

    def _header(
        self, it: Watched, operation: int, pages: range, challenge: bytes, signed: bytes
    ) -> tuple[bytes, ChaCha20Poly1305]:
        once = X25519PrivateKey.generate()
        public, of = once.public_key().public_bytes_raw(), hashlib.sha256(signed).digest()
        head = struct.pack(
            "<4sB3x16sQQQ", b"SCE1", operation, it.name.encode(), pages.start, len(pages), it.launches
        )
        head += challenge + public + of
        shared = once.exchange(_as_x25519(it.tenant))
        key = HKDF(hashes.SHA256(), 32, salt=challenge, info=head).derive(shared)
        return head + self.key.sign(head), ChaCha20Poly1305(key)

    def _page(self, it: Watched, number: int, start: int) -> bytes:
        act = it.act
        if act is not None and self._now() > act.until:
            it.act = None
            raise Refusal(10, "its time has passed")
        again = act is not None and act.next > act.pages.start and number == act.next - 1
        comes = act is not None and number == act.next and number in act.pages
        if act is None or act.launch != it.launches or not (again or comes):
            raise Refusal(12, "no act that was consented to comes to that page now")
        if not again:
            it.sealed += 1
            nonce, bound = struct.pack("<Q4x", it.sealed), struct.pack("<QQ", number, it.sealed)
            act.last = (it.sealed, act.seal.encrypt(nonce, it.page(number), bound))
            act.next += 1
        version, sealed = act.last
        return struct.pack("<Q", version) + sealed[start : start + _PART]


def _name_tenant(it: Watched, key: bytes, runs: bool) -> bytes:
    if len(key) != 32:
        raise Refusal(2, "the payload's length is wrong")
    if runs:
        raise Refusal(4, "it runs, for the tenant that it has")
    it.next_tenant = key
    return b""


def _read(signed: bytes, tenant: bytes) -> Statement:
    try:
        return read(signed, Ed25519PublicKey.from_public_bytes(tenant))
    except InvalidInput as error:
        if "not signed" in error.message:
            raise Refusal(7, "its tenant has not signed it") from error
        raise Refusal(6, "what came is no consent") from error


def _as_x25519(tenant: bytes) -> X25519PublicKey:
    """The map of RFC 7748, 4.1."""
    p = 2**255 - 19
    y = int.from_bytes(tenant, "little") & (2**255 - 1)
    return X25519PublicKey.from_public_bytes(((1 + y) * pow(1 - y, -1, p) % p).to_bytes(32, "little"))
