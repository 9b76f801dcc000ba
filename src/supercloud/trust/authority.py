"""The cloud owner's certificate authority: its key signs, its rules say what.

Only a key, and the proof that the asker has it, is ever taken from a request. Names, uses and times are the
authority's.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from supercloud.model.errors import InvalidInput
from supercloud.model.names import Id
from supercloud.trust.certificates import (
    CONTROLLER_URI,
    KEY_USE,
    OWNER_KEY_OID,
    SEALING_KEY_OID,
    VOUCHED_OID,
    Kind,
    blanket_uri,
    vouching,
)
from supercloud.trust.keys import KEY_BYTES, IdentityKey, from_text, sealing_public

LIFETIME_S = 24 * 3600.0
AUTHORITY_LIFETIME_S = 20 * 365 * 24 * 3600.0
#: Certificates are valid from a little earlier than now, for clocks that are late.
SKEW_S = 300.0
#: What a client asks the control plane to prove that it is, whatever address it dialled.
CONTROLLER_NAME = "controller.supercloud"
#: The loopback, and the host's loopback as a QEMU guest on user-mode NAT sees it.
CONTROLLER_ADDRESSES = (CONTROLLER_NAME, "localhost", "127.0.0.1", "10.0.2.2")


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority. `key` is its secret; `certificate_pem` is what everybody pins."""

    certificate_pem: str
    key: IdentityKey = field(repr=False)

    @classmethod
    def new(cls, *, at: float, serial: int | None = None, after: Authority | None = None) -> Self:
        """A fresh authority, valid from `at` (seconds since the epoch); `after` vouches for it, if given."""
        key = IdentityKey.new()
        serial = x509.random_serial_number() if serial is None else serial
        # Each authority has a name of its own, so that two of them can be trusted side by side.
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"supercloud authority {serial:x}"[:64])])
        public = key.private.public_key()
        builder = (
            x509.CertificateBuilder(name, name, public, serial)
            .not_valid_before(_time(at - SKEW_S))
            .not_valid_after(_time(at + AUTHORITY_LIFETIME_S))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        )
        if after is not None:
            word = after.key.sign(vouching(key.public))
            builder = builder.add_extension(x509.UnrecognizedExtension(VOUCHED_OID, word), critical=False)
        return cls(builder.sign(key.private, None).public_bytes(Encoding.PEM).decode(), key)

    def blanket(
        self,
        key: Ed25519PublicKey,
        *,
        cloud: Id,
        blanket: Id,
        sealing_key: str,
        owner_key: str | None = None,
        at: float,
        lifetime_s: float,
    ) -> str:
        """A blanket's certificate in PEM; its sealing key is bound into it, and its owner's."""
        keys = {SEALING_KEY_OID: sealing_key} | ({} if owner_key is None else {OWNER_KEY_OID: owner_key})
        names = [x509.UniformResourceIdentifier(blanket_uri(cloud, blanket))]
        extensions = [_binding(oid, text) for oid, text in keys.items()]
        return self._issue(key, Kind.BLANKET, names, at=at, lifetime_s=lifetime_s, extensions=extensions)

    def controller(
        self, key: Ed25519PublicKey, *, addresses: Iterable[str], at: float, lifetime_s: float
    ) -> str:
        """The control plane's certificate, for `addresses` (names or IPs) besides the usual ones."""
        every = dict.fromkeys([*CONTROLLER_ADDRESSES, *addresses])
        names = [x509.UniformResourceIdentifier(CONTROLLER_URI), *(_address(one) for one in every)]
        return self._issue(key, Kind.CONTROLLER, names, at=at, lifetime_s=lifetime_s)

    def _issue(
        self,
        key: Ed25519PublicKey,
        kind: Kind,
        names: Sequence[x509.GeneralName],
        *,
        at: float,
        lifetime_s: float,
        extensions: Iterable[x509.UnrecognizedExtension] = (),
    ) -> str:
        issuer = x509.load_pem_x509_certificate(self.certificate_pem.encode())
        issuer_key = self.key.private.public_key()
        builder = (
            x509.CertificateBuilder(issuer.subject, x509.Name([]), key, x509.random_serial_number())
            .not_valid_before(_time(at - SKEW_S))
            .not_valid_after(_time(at + lifetime_s))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([KEY_USE[kind]]), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=True)  # the subject is empty
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
        )
        for extension in extensions:
            builder = builder.add_extension(extension, critical=False)
        return builder.sign(self.key.private, None).public_bytes(Encoding.PEM).decode()


def _binding(oid: x509.ObjectIdentifier, key: str) -> x509.UnrecognizedExtension:
    """Of an X25519 key. Raises: InvalidInput."""
    sealing_public(key)
    return x509.UnrecognizedExtension(oid, bytes([0x04, KEY_BYTES]) + from_text(key, length=KEY_BYTES))


def _time(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)


def _address(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        pass  # a name, then
    try:
        return x509.DNSName(text)
    except ValueError as error:
        raise InvalidInput("neither an IP address nor a DNS name") from error


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
