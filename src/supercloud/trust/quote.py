"""A TPM's quote over a micro-hypervisor's key, verified: `docs/spec/microhypervisor-channel.md`, 4.

It comes through the hands of the machine's admin: whatever is not exactly as that has it ends in `Failed`. A
TPM itself is nobody's word but its own: it is its key that somebody has to know.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils

from supercloud.model.errors import Failed
from supercloud.model.names import Digest

_DIGEST = 32
#: PCRs 0 to 9 are firmware's and loader's; what is selected are they and 15, the key's.
_BOOTED = 10
_SELECTION = bytes.fromhex("00000001 000b 03 ff8300")
#: A restricted signing key of this TPM's, on P-256: it signs what the TPM says, and nothing that it is given.
_KEY = bytes.fromhex("0023 000b 00050472 0000 0010 0018 000b 0003 0010")
_ENDORSEMENT = bytes.fromhex("4000000b")
_SHA256 = bytes.fromhex("000b")
_ECDSA_SHA256 = bytes.fromhex("0018 000b")
#: TPM_GENERATED_VALUE and TPM_ST_ATTEST_QUOTE.
_QUOTE = bytes.fromhex("ff544347 8018")
_CLOCK_AND_FIRMWARE = 17 + 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """`tpm`: by which key it was signed (the SHA-256 of its public area, as in the key's
    name); `booted`: the SHA-256 of PCRs 0 to 9."""

    tpm: Digest
    booted: Digest


def quoted(quote: bytes, machine: bytes, statement: bytes) -> Quote:
    """What a TPM says of the machine whose monitor signs by the key `machine`, for this very statement of it.

    Raises:
        Failed: it does not.
    """
    try:
        return _quoted(_Bytes(quote), machine, statement)
    except (struct.error, ValueError, InvalidSignature):
        raise Failed("the measurement is not quoted by the TPM that is said to have") from None


def _quoted(quote: _Bytes, machine: bytes, statement: bytes) -> Quote:
    area = quote.sized()
    pcrs = quote.take(_BOOTED * _DIGEST)
    said, signature = quote.sized(), quote.rest()
    _public(area).verify(_signature(signature), said, ec.ECDSA(hashes.SHA256()))
    held = _hash(bytes(_DIGEST) + _hash(machine))
    name = _SHA256 + _hash(area)
    _require_said(_Bytes(said), name, _hash(statement), _hash(pcrs + held))
    return Quote(tpm=f"sha256:{_hash(area).hex()}", booted=f"sha256:{_hash(pcrs).hex()}")


def _public(area: bytes) -> ec.EllipticCurvePublicKey:
    """A TPMT_PUBLIC of exactly the one form that we take."""
    read = _Bytes(area)
    read.expect(_KEY)
    x, y = (int.from_bytes(read.sized(), "big") for _ in range(2))
    read.expect_end()
    return ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()


def _signature(encoded: bytes) -> bytes:
    """A TPMT_SIGNATURE, as X9.62 has it."""
    read = _Bytes(encoded)
    read.expect(_ECDSA_SHA256)
    r, s = (int.from_bytes(read.sized(), "big") for _ in range(2))
    read.expect_end()
    return utils.encode_dss_signature(r, s)


def _require_said(said: _Bytes, name: bytes, statement: bytes, pcrs: bytes) -> None:
    """A TPMS_ATTEST: by the key of this name in the endorsement hierarchy, for this, of these PCRs."""
    said.expect(_QUOTE)
    said.expect_sized(_SHA256 + _hash(_ENDORSEMENT + name))
    said.expect_sized(statement)
    said.take(_CLOCK_AND_FIRMWARE)
    said.expect(_SELECTION)
    said.expect_sized(pcrs)
    said.expect_end()


def _hash(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


class _Bytes:
    """Read from the front. What is not there, or not as expected, raises ValueError or struct.error."""

    def __init__(self, content: bytes) -> None:
        self._content, self._at = content, 0

    def take(self, size: int) -> bytes:
        (found,) = struct.unpack_from(f"{size}s", self._content, self._at)
        self._at += size
        return bytes(found)

    def sized(self) -> bytes:
        """With its length before it, in two bytes (TPM2B)."""
        return self.take(int.from_bytes(self.take(2), "big"))

    def rest(self) -> bytes:
        return self.take(len(self._content) - self._at)

    def expect(self, wanted: bytes) -> None:
        if self.take(len(wanted)) != wanted:
            raise ValueError("something else")

    def expect_sized(self, wanted: bytes) -> None:
        if self.sized() != wanted:
            raise ValueError("something else")

    def expect_end(self) -> None:
        if self._at != len(self._content):
            raise ValueError("more than there should be")
