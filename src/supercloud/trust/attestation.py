"""What a micro-hypervisor measured, recomputed and verified: `docs/spec/microhypervisor-channel.md`, 3."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature

from supercloud.model.errors import Failed, InvalidInput
from supercloud.trust.keys import ed25519_public
from supercloud.trust.quote import Quote, quoted

_REPLY = struct.Struct("<32sQB32s32s64s")
_STATEMENT = struct.Struct("<4s4x16sQ32s32s32s")
_NO_TENANT = bytes(32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What a partition is started with; `memory` in bytes, `devices` as bus << 8 | slot << 3 | function."""

    kernel: bytes
    initrd: bytes
    cmdline: str
    memory: int
    cores: int
    devices: Sequence[int] = ()
    console_shown: bool = False
    tenant: bytes = b""  # its Ed25519 key

    def digest(self) -> bytes:
        parts = [
            self.kernel,
            self.initrd,
            self.cmdline.encode("ascii"),
            struct.pack("<Q", self.memory),
            struct.pack("<Q", self.cores),
            b"".join(struct.pack("<H", device) for device in self.devices),
            struct.pack("<Q", self.console_shown),
            self.tenant,
        ]
        return hashlib.sha256(b"".join(struct.pack("<Q", len(part)) + part for part in parts)).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Attestation:
    """A signed measurement. Without a `quote` nothing but the admin's channel says whose `machine` is: who
    takes that key by hand is trusting the admin. With one it is that TPM's word, for who knows the TPM."""

    digest: bytes
    launches: int
    tenant: bytes  # empty: none
    machine: bytes  # the key that signed, which the machine made when it started
    quote: Quote | None


def verified(payload: bytes, partition: str, nonce: bytes) -> Attestation:
    """What the reply to ATTEST says, if it is signed for this partition and nonce by the key that it names,
    and, where it says that a TPM has quoted that key, a TPM has.

    Raises:
        Failed: it is not.
    """
    signed, quote = payload[: _REPLY.size], payload[_REPLY.size :]
    if len(signed) != _REPLY.size:
        raise Failed("what came is no attestation")
    digest, launches, attested, tenant, machine, signature = _REPLY.unpack(signed)
    if attested != bool(quote):
        raise Failed("what came is no attestation")
    statement = _STATEMENT.pack(b"SCM1", partition.encode(), launches, digest, nonce, tenant)
    try:
        ed25519_public(machine).verify(signature, statement)
    except (InvalidSignature, InvalidInput):
        raise Failed("the measurement is not signed by the key that came with it") from None
    return Attestation(
        digest=digest,
        launches=launches,
        tenant=b"" if tenant == _NO_TENANT else tenant,
        machine=machine,
        quote=quoted(quote, machine, statement) if quote else None,
    )
