"""TLS 1.3 with the cloud's own authority, and nobody else's."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass, field

from supercloud.model.errors import Denied, InvalidInput
from supercloud.trust.authority import CONTROLLER_NAME
from supercloud.trust.certificates import Identity, Revoked, identity_of

__all__ = [
    "CONTROLLER_NAME",
    "Credentials",
    "client_context",
    "peer_identity",
    "reload",
    "server_context",
    "trust_authority",
]


@dataclass(frozen=True, slots=True)
class Credentials:
    """A certificate and its private key, both in PEM."""

    certificate_pem: str
    key_pem: str = field(repr=False)


def server_context(
    credentials: Credentials, authority_pem: str, *, joining: bool = False, anonymous: bool = False
) -> ssl.SSLContext:
    """For the control plane: a client must show a certificate of the authority.

    With `joining` it may show none, and `peer_identity` is then None; one that does not verify still ends
    the handshake. With `anonymous` nobody is asked for one: clients of the API have tokens instead.

    Raises:
        InvalidInput: unusable credentials or authority.
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER, authority_pem)
    if anonymous:
        context.verify_mode = ssl.CERT_NONE
    else:
        context.verify_mode = ssl.CERT_OPTIONAL if joining else ssl.CERT_REQUIRED
    # A resumed session would skip the look at the certificate, and with it a revocation.
    context.num_tickets = 0
    reload(context, credentials)
    return context


def client_context(authority_pem: str, credentials: Credentials | None = None) -> ssl.SSLContext:
    """For agents and clients. Connect with `server_hostname=CONTROLLER_NAME`, whatever the address.

    Raises:
        InvalidInput: unusable credentials or authority.
    """
    context = _context(ssl.PROTOCOL_TLS_CLIENT, authority_pem)
    if credentials is not None:
        reload(context, credentials)
    return context


def reload(context: ssl.SSLContext, credentials: Credentials) -> None:
    """Use renewed credentials for the connections to come. Raises: InvalidInput."""
    # The standard library reads them from files only; this one is in memory and has no name.
    descriptor = os.memfd_create("credentials", os.MFD_CLOEXEC)
    with os.fdopen(descriptor, "wb") as file:
        file.write(f"{credentials.certificate_pem}\n{credentials.key_pem}".encode())
        file.flush()
        try:
            context.load_cert_chain(f"/proc/self/fd/{descriptor}")
        except ssl.SSLError as error:
            raise InvalidInput("the certificate and the private key do not fit each other") from error


def trust_authority(context: ssl.SSLContext, authority_pem: str) -> None:
    """Accept this authority too, on the connections to come (while one replaces another)."""
    try:
        context.load_verify_locations(cadata=authority_pem)
    except ssl.SSLError as error:
        raise InvalidInput("not an authority's certificates") from error


def peer_identity(connection: ssl.SSLObject, revoked: Revoked | None = None) -> Identity | None:
    """Whom the other end's certificate names, which the handshake has verified; None if it showed none.

    Raises:
        Denied: not one of supercloud's certificates, or revoked.
    """
    certificate = connection.getpeercert(binary_form=True)
    if certificate is None:
        return None
    try:
        identity = identity_of(certificate)
    except InvalidInput as error:
        raise Denied(error.message) from error
    if revoked is not None:
        revoked.check(identity)
    return identity


def _context(protocol: int, authority_pem: str) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)  # trusts nobody yet
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    trust_authority(context, authority_pem)
    return context
