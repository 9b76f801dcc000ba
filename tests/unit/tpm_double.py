"""Stands for a TPM and for what a micro-hypervisor has it do: its quotes are signed, and by a real key."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, field

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils

_TEMPLATE = bytes.fromhex("0023 000b 00050472 0000 0010 0018 000b 0003 0010")


def sized(content: bytes) -> bytes:
    return struct.pack(">H", len(content)) + content


def sha256(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


@dataclass(kw_only=True)
class TpmDouble:
    """What is changed in it is what a test is about."""

    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    template: bytes = _TEMPLATE
    pcrs: bytes = b"".join(bytes([number]) * 32 for number in range(10))
    before: bytes = bytes(32)  # of the PCR that takes the machine's key
    magic: bytes = bytes.fromhex("ff544347 8018")
    hierarchy: bytes = bytes.fromhex("4000000b")
    selection: bytes = bytes.fromhex("00000001 000b 03 ff8300")
    scheme: bytes = bytes.fromhex("0018 000b")

    @property
    def area(self) -> bytes:
        numbers = self.key.public_key().public_numbers()
        point = [sized(number.to_bytes(32, "big")) for number in (numbers.x, numbers.y)]
        return self.template + b"".join(point)

    @property
    def name(self) -> str:
        return f"sha256:{sha256(self.area).hex()}"

    @property
    def booted(self) -> str:
        return f"sha256:{sha256(self.pcrs).hex()}"

    def said(self, machine: bytes, statement: bytes) -> bytes:
        name = bytes.fromhex("000b") + sha256(self.area)
        held = sha256(self.before + sha256(machine))
        return (
            self.magic
            + sized(bytes.fromhex("000b") + sha256(self.hierarchy + name))
            + sized(sha256(statement))
            + bytes(17 + 8)
            + self.selection
            + sized(sha256(self.pcrs + held))
        )

    def quote(self, machine: bytes, statement: bytes) -> bytes:
        """As docs/spec/microhypervisor-channel.md, 4 has it."""
        said = self.said(machine, statement)
        r, s = utils.decode_dss_signature(self.key.sign(said, ec.ECDSA(hashes.SHA256())))
        signature = self.scheme + b"".join(sized(number.to_bytes(32, "big")) for number in (r, s))
        return sized(self.area) + self.pcrs + sized(said) + signature
