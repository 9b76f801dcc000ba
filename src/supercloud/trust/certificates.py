"""Certificates as this program reads them: who is named, by whom, until when.

An identity is a URI in the subject alternative name:

    supercloud:cloud/<cloud>/blanket/<blanket>      an agent
    supercloud:controller                           the control plane
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import cast

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.x509.oid import ExtendedKeyUsageOID, ObjectIdentifier

from supercloud.model.errors import Denied, InvalidInput
from supercloud.model.names import Id
from supercloud.trust.canonical import canonical
from supercloud.trust.keys import KEY_BYTES, PEM_CHARS, sealing_public, to_text

#: Private extension: a blanket's X25519 sealing key, 32 bytes. Under 2.25, where every UUID owns a number
#: (ITU-T X.667); this one is a4f2bb5c-0a3b-4f5d-9c39-0b6e1f4f7d21.
SEALING_KEY_OID = ObjectIdentifier("2.25.219253727251245017132344175416386223393")
#: Private extension: the X25519 key of the blanket's owner, 32 bytes, to which it seals what only the owner
#: is to read (trust.evidence). The UUID is 5b0f8c1d-93ce-4c0e-8d07-3c3f7f4f6a92.
OWNER_KEY_OID = ObjectIdentifier("2.25.121040473950010285327047153923507841682")
#: Private extension of an authority: its predecessor's word for it. The UUID is
#: 1dc2bae4-d71e-4f0e-be15-5833f0541f80.
VOUCHED_OID = ObjectIdentifier("2.25.39558708127101567562194289759549136768")

_UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_BLANKET_URI = re.compile(rf"supercloud:cloud/({_UUID})/blanket/({_UUID})")
CONTROLLER_URI = "supercloud:controller"
#: What the parser raises for an extension or a key that is missing, malformed or unknown to it.
_UNREADABLE = (
    ValueError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
    x509.UnsupportedGeneralNameType,
)


class Kind(StrEnum):
    """What somebody is to the cloud."""

    BLANKET = "blanket"
    CONTROLLER = "controller"


#: A blanket's certificate can never serve as the control plane's, nor the other way round.
KEY_USE = {
    Kind.BLANKET: ExtendedKeyUsageOID.CLIENT_AUTH,
    Kind.CONTROLLER: ExtendedKeyUsageOID.SERVER_AUTH,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who a certificate names. `cloud`, `blanket` and `sealing_key` are set for a blanket, and only then;
    `owner_key` as well, but in certificates of before there was one."""

    kind: Kind
    cloud: Id | None = None
    blanket: Id | None = None
    sealing_key: str | None = None  # base64 X25519
    owner_key: str | None = None  # as well
    public_key: str  # base64 Ed25519
    serial: int
    issued_at: float  # seconds since the epoch
    expires_at: float

    @property
    def renew_at(self) -> float:
        """Half of its life, in seconds since the epoch."""
        return (self.issued_at + self.expires_at) / 2


def blanket_uri(cloud: Id, blanket: Id) -> str:
    return f"supercloud:cloud/{cloud}/blanket/{blanket}"


def identity_of(certificate: str | bytes) -> Identity:
    """Whom a certificate names, out of PEM text or DER bytes. Its issuer is NOT verified here.

    Raises:
        InvalidInput: not a certificate, or not one of ours.
    """
    return _identity(_load(certificate))


def _load(certificate: str | bytes) -> x509.Certificate:
    if len(certificate) > PEM_CHARS:
        raise InvalidInput("a certificate of more than 16 KiB")
    try:
        if isinstance(certificate, bytes):
            return x509.load_der_x509_certificate(certificate)
        return x509.load_pem_x509_certificate(certificate.encode())
    except (ValueError, x509.InvalidVersion) as error:
        raise InvalidInput("not a certificate") from error


def _identity(certificate: x509.Certificate) -> Identity:
    try:
        key = certificate.public_key()
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
        uses = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except _UNREADABLE as error:
        raise InvalidInput("not one of supercloud's certificates") from error
    if len(uris) != 1 or not isinstance(key, Ed25519PublicKey):
        raise InvalidInput("not one of supercloud's certificates")
    kind, cloud, blanket = _who(uris[0])
    if list(uses) != [KEY_USE[kind]]:
        raise InvalidInput(f"a {kind} certificate for another use")
    return Identity(
        kind=kind,
        cloud=cloud,
        blanket=blanket,
        sealing_key=_bound(certificate, SEALING_KEY_OID) if kind is Kind.BLANKET else None,
        owner_key=_owner_key(certificate) if kind is Kind.BLANKET else None,
        public_key=to_text(key.public_bytes_raw()),
        serial=certificate.serial_number,
        issued_at=certificate.not_valid_before_utc.timestamp(),
        expires_at=certificate.not_valid_after_utc.timestamp(),
    )


def _who(uri: str) -> tuple[Kind, Id | None, Id | None]:
    if uri == CONTROLLER_URI:
        return Kind.CONTROLLER, None, None
    if (match := _BLANKET_URI.fullmatch(uri)) is not None:
        return Kind.BLANKET, match[1], match[2]
    raise InvalidInput("a certificate that names nobody we know")


def _owner_key(certificate: x509.Certificate) -> str | None:
    try:
        certificate.extensions.get_extension_for_oid(OWNER_KEY_OID)
    except x509.ExtensionNotFound:
        return None
    return _bound(certificate, OWNER_KEY_OID)


def _bound(certificate: x509.Certificate, oid: ObjectIdentifier) -> str:
    """An X25519 key that a blanket's certificate binds."""
    try:
        extension = certificate.extensions.get_extension_for_oid(oid).value
    except x509.ExtensionNotFound as error:
        raise InvalidInput("a blanket's certificate without its sealing key") from error
    raw = cast(x509.UnrecognizedExtension, extension).value
    # DER: an OCTET STRING of 32 bytes.
    if raw[:2] != bytes([0x04, KEY_BYTES]) or len(raw) != KEY_BYTES + 2:
        raise InvalidInput("a blanket's certificate with a malformed sealing key")
    text = to_text(raw[2:])
    sealing_public(text)
    return text


@dataclass(frozen=True, slots=True)
class Anchors:
    """The authority, or while it is being replaced the old and the new one, that certificates must come from.

    Raises, when made: InvalidInput (no authority in the text).
    """

    pem: str
    _authorities: tuple[x509.Certificate, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        try:
            found = tuple(x509.load_pem_x509_certificates(self.pem.encode()))
        except (ValueError, x509.InvalidVersion) as error:
            raise InvalidInput("not an authority's certificates") from error
        object.__setattr__(self, "_authorities", found)

    @property
    def authorities(self) -> tuple[x509.Certificate, ...]:
        return self._authorities

    def verify(self, certificate: str | bytes, at: float) -> Identity:
        """Whom a certificate names, having checked who issued it and that it is valid `at` (epoch seconds).

        Raises:
            InvalidInput: not one of supercloud's certificates.
            Denied: another authority's, forged, expired or not yet valid.
        """
        loaded = _load(certificate)
        if not any(_issued(loaded, authority, at) for authority in self._authorities):
            raise Denied("a certificate that this cloud's authority did not issue")
        identity = _identity(loaded)
        if not identity.issued_at <= at <= identity.expires_at:
            raise Denied("a certificate that has expired or is not valid yet")
        return identity


def vouching(public_key: str) -> bytes:
    """What an authority signs to make the authority with this key its successor."""
    return canonical("supercloud authority 1", public_key)


def succeed(trusted_pem: str, offered_pem: str) -> str:
    """The authorities to trust from now on, when whoever relays our renewed certificate offers these.

    Each must be trusted already, or be the successor that a trusted one vouches for: a relay can neither
    put in its own authority nor bring back a retired one.

    Raises:
        Denied: one of them is not.
        InvalidInput: no authorities in the text.
    """
    trusted, offered = Anchors(trusted_pem).authorities, Anchors(offered_pem).authorities
    for candidate in offered:
        if candidate not in trusted and not any(_vouches(one, candidate) for one in trusted):
            raise Denied("an authority that the one we trust does not vouch for")
    return offered_pem


def _vouches(authority: x509.Certificate, successor: x509.Certificate) -> bool:
    key, next_key = authority.public_key(), successor.public_key()
    if not isinstance(key, Ed25519PublicKey) or not isinstance(next_key, Ed25519PublicKey):
        return False
    try:
        extension = successor.extensions.get_extension_for_oid(VOUCHED_OID).value
        signature = cast(x509.UnrecognizedExtension, extension).value
        key.verify(signature, vouching(to_text(next_key.public_bytes_raw())))
        successor.verify_directly_issued_by(successor)
    except (InvalidSignature, TypeError, *_UNREADABLE):
        return False
    return True


def _issued(certificate: x509.Certificate, authority: x509.Certificate, at: float) -> bool:
    begins, ends = authority.not_valid_before_utc, authority.not_valid_after_utc
    if not begins.timestamp() <= at <= ends.timestamp():
        return False
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


@dataclass(frozen=True, slots=True)
class Revoked:
    """Blankets that are let in no more, although their certificates have not expired yet."""

    blankets: frozenset[Id] = frozenset()

    def check(self, identity: Identity) -> None:
        """Raises: Denied."""
        if identity.blanket is not None and identity.blanket in self.blankets:
            raise Denied(f"blanket {identity.blanket} is revoked")
