"""The certificate that browsers are shown, and who is shown it.

Browsers do not speak Ed25519, which all of the authority's certificates are made with, and they do not know
the authority. So they get one of their own, on P-256 and signed by itself, whose fingerprint the command line
prints after it has asked over a connection that the authority vouches for. Whoever expects the controller's
name (every client of the API does) gets the authority's certificate; whoever does not is a browser.
"""

from __future__ import annotations

import ipaddress
import ssl
import time
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from supercloud.trust.tls import CONTROLLER_NAME, Credentials, reload

_LASTS = timedelta(days=397)  # browsers take none that lasts longer
_SKEW = timedelta(hours=1)


class BrowserCertificate:
    """One for this process's life, or for half of what it lasts: its key is kept nowhere."""

    def __init__(self, hosts: tuple[str, ...]) -> None:
        self._hosts = tuple(dict.fromkeys((*hosts, "localhost", "127.0.0.1", "::1")))
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_3
        self._context.num_tickets = 0
        self._fingerprint = ""
        self._renew_at = 0.0
        self.renew()

    def fingerprint(self) -> str:
        """SHA-256, as browsers write it."""
        return self._fingerprint

    def serve(self, context: ssl.SSLContext) -> None:
        """Show it to those who connect to a listener with `context` and do not expect the controller."""

        def choose(connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
            if name != CONTROLLER_NAME:
                connection.context = self._context

        context.sni_callback = choose

    def renew(self) -> None:
        """Make another one if it is time."""
        if time.time() < self._renew_at:
            return
        key = ec.generate_private_key(ec.SECP256R1())
        made = _certificate(key, self._hosts)
        pem = made.public_bytes(serialization.Encoding.PEM).decode()
        reload(self._context, Credentials(pem, _pem(key)))
        self._fingerprint = ":".join(f"{byte:02X}" for byte in made.fingerprint(hashes.SHA256()))
        self._renew_at = time.time() + _LASTS.total_seconds() / 2


def _certificate(key: ec.EllipticCurvePrivateKey, hosts: tuple[str, ...]) -> x509.Certificate:
    now = datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "supercloud web view")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now - _SKEW + _LASTS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([_host(one) for one in hosts]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    )
    return builder.sign(key, hashes.SHA256())


def _host(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
