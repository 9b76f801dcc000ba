"""Certificates: names come from the authority, keys from their holders, and TLS takes nothing else."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import pytest
import websockets
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from supercloud.model.errors import Denied, InvalidInput
from supercloud.model.names import new_id
from supercloud.trust.authority import LIFETIME_S, Authority
from supercloud.trust.certificates import (
    CONTROLLER_URI,
    Anchors,
    Identity,
    Kind,
    Revoked,
    blanket_uri,
    identity_of,
)
from supercloud.trust.keys import IdentityKey, SealingKey, key_of_csr, to_text
from supercloud.trust.tls import (
    CONTROLLER_NAME,
    Credentials,
    client_context,
    peer_identity,
    reload,
    server_context,
)

pytestmark = pytest.mark.unit

NOW = 1_900_000_000.0
CLOUD, BLANKET = new_id(), new_id()


def blanket_certificate(authority: Authority, key: IdentityKey, sealing: SealingKey, at: float = NOW) -> str:
    return authority.blanket(
        key.private.public_key(),
        cloud=CLOUD,
        blanket=BLANKET,
        sealing_key=sealing.public,
        at=at,
        lifetime_s=LIFETIME_S,
    )


def test_a_blankets_certificate_says_who_it_is_and_binds_its_keys() -> None:
    authority, key, sealing = Authority.new(at=NOW), IdentityKey.new(), SealingKey.new()
    identity = Anchors(authority.certificate_pem).verify(blanket_certificate(authority, key, sealing), NOW)
    assert (identity.kind, identity.cloud, identity.blanket) == (Kind.BLANKET, CLOUD, BLANKET)
    assert identity.sealing_key == sealing.public
    assert identity.public_key == key.public
    assert identity.expires_at == NOW + LIFETIME_S
    assert NOW < identity.renew_at < NOW + LIFETIME_S / 2 + 1


@pytest.mark.parametrize("at", [NOW - 3600, NOW + LIFETIME_S + 1])
def test_out_of_its_time_a_certificate_is_nothing(at: float) -> None:
    authority = Authority.new(at=NOW - 7200)
    certificate = blanket_certificate(authority, IdentityKey.new(), SealingKey.new())
    with pytest.raises(Denied, match="expired"):
        Anchors(authority.certificate_pem).verify(certificate, at)


def test_another_authoritys_certificate_is_denied_even_under_the_same_name() -> None:
    ours, theirs = Authority.new(at=NOW, serial=7), Authority.new(at=NOW, serial=7)
    certificate = blanket_certificate(theirs, IdentityKey.new(), SealingKey.new())
    with pytest.raises(Denied, match="did not issue"):
        Anchors(ours.certificate_pem).verify(certificate, NOW)


def test_a_blanket_cannot_issue_certificates() -> None:
    authority, key = Authority.new(at=NOW), IdentityKey.new()
    mine = Authority(blanket_certificate(authority, key, SealingKey.new()), key)
    key = IdentityKey.new().private.public_key()
    forged = mine.controller(key, addresses=(), at=NOW, lifetime_s=LIFETIME_S)
    with pytest.raises(Denied):
        Anchors(authority.certificate_pem).verify(forged, NOW)


def test_a_name_and_a_use_that_do_not_go_together_are_refused() -> None:
    authority, key = Authority.new(at=NOW), IdentityKey.new().private.public_key()
    name = x509.UniformResourceIdentifier(CONTROLLER_URI)
    odd = authority._issue(key, Kind.BLANKET, [name], at=NOW, lifetime_s=LIFETIME_S)
    with pytest.raises(InvalidInput, match="another use"):
        identity_of(odd)


def test_while_one_authority_replaces_another_both_are_trusted() -> None:
    old, new = Authority.new(at=NOW), Authority.new(at=NOW)
    both = Anchors(new.certificate_pem + old.certificate_pem)
    for authority in (old, new):
        certificate = blanket_certificate(authority, IdentityKey.new(), SealingKey.new())
        assert both.verify(certificate, NOW).blanket == BLANKET


def test_names_in_a_request_are_ignored() -> None:
    key = IdentityKey.new()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "somebody")])
    request = (
        x509.CertificateSigningRequestBuilder(name)
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(blanket_uri(CLOUD, BLANKET))]),
            critical=True,
        )
        .sign(key.private, None)
    )
    authority = Authority.new(at=NOW)
    certificate = authority.controller(
        key_of_csr(request.public_bytes(Encoding.PEM).decode()), addresses=(), at=NOW, lifetime_s=LIFETIME_S
    )
    assert identity_of(certificate).kind is Kind.CONTROLLER
    assert "somebody" not in x509.load_pem_x509_certificate(certificate.encode()).subject.rfc4514_string()


def test_a_request_of_another_kind_of_key_is_refused() -> None:
    request = x509.CertificateSigningRequestBuilder(x509.Name([])).sign(
        ec.generate_private_key(ec.SECP256R1()), SHA256()
    )
    with pytest.raises(InvalidInput, match="Ed25519"):
        key_of_csr(request.public_bytes(Encoding.PEM).decode())


def test_a_request_without_possession_of_its_key_is_refused() -> None:
    mine = x509.load_pem_x509_csr(IdentityKey.new().csr().encode())
    der = bytearray(mine.public_bytes(Encoding.DER))
    der[-1] ^= 1  # the last byte of the signature
    forged = x509.load_der_x509_csr(bytes(der)).public_bytes(Encoding.PEM).decode()
    with pytest.raises(InvalidInput, match="not signed"):
        key_of_csr(forged)


@given(st.text(max_size=300) | st.binary(max_size=300))
def test_no_bytes_break_the_decoders(data: str | bytes) -> None:
    with pytest.raises(InvalidInput):
        identity_of(data)
    text = data if isinstance(data, str) else data.decode("latin-1")
    with pytest.raises(InvalidInput):
        key_of_csr(text)
    with pytest.raises(InvalidInput):
        Anchors(text)
    with pytest.raises(InvalidInput):
        IdentityKey.from_pem(text)


@given(st.integers(0, 2000), st.integers(1, 255))
def test_a_changed_certificate_never_says_anything_else(place: int, change: int) -> None:
    authority = Authority.new(at=NOW)
    pem = blanket_certificate(authority, IdentityKey.new(), SealingKey.new())
    der = bytearray(x509.load_pem_x509_certificate(pem.encode()).public_bytes(Encoding.DER))
    der[place % len(der)] ^= change
    # What is not signed (the padding of the signature itself) may differ; what is said may not.
    with suppress(Denied, InvalidInput):
        assert Anchors(authority.certificate_pem).verify(bytes(der), NOW) == identity_of(pem)
    with suppress(InvalidInput):  # unverified, it may still be read: but nothing else is ever raised
        identity_of(bytes(der))


@given(st.integers(0, 2000), st.integers(1, 255))
def test_a_changed_request_never_gets_another_key_certified(place: int, change: int) -> None:
    key = IdentityKey.new()
    request = x509.load_pem_x509_csr(key.csr().encode())
    der = bytearray(request.public_bytes(Encoding.DER))
    der[place % len(der)] ^= change
    pem = "-----BEGIN CERTIFICATE REQUEST-----\n{}\n-----END CERTIFICATE REQUEST-----\n"
    with suppress(InvalidInput):
        found = key_of_csr(pem.format(to_text(bytes(der))))
        assert to_text(found.public_bytes_raw()) == key.public


def test_no_key_shows_itself() -> None:
    key = IdentityKey.new()
    shown = repr(Credentials("certificate", key.to_pem())) + repr(Authority.new(at=NOW)) + repr(key)
    assert "PRIVATE" not in shown


# ---------------------------------------------------------------- TLS

REAL_NOW = time.time()


class Cloud:
    """An authority with a controller and a blanket, valid now."""

    def __init__(self) -> None:
        self.authority = Authority.new(at=REAL_NOW)
        self.key, self.sealing = IdentityKey.new(), SealingKey.new()

    def credentials(self, kind: Kind, at: float = REAL_NOW) -> Credentials:
        key = self.key.private.public_key()
        if kind is Kind.BLANKET:
            pem = blanket_certificate(self.authority, self.key, self.sealing, at)
        else:
            pem = self.authority.controller(key, addresses=("192.0.2.7",), at=at, lifetime_s=LIFETIME_S)
        return Credentials(pem, self.key.to_pem())


@asynccontextmanager
async def listening(context: ssl.SSLContext, revoked: Revoked | None = None) -> AsyncIterator[int]:
    """A server that tells each client who it takes it for."""

    async def answer(connection: ServerConnection) -> None:
        try:
            identity = peer_identity(connection.transport.get_extra_info("ssl_object"), revoked)
            await connection.send(f"{identity.kind} {identity.blanket}" if identity else "nobody")
        except Denied as error:
            await connection.send(error.message)

    async with serve(answer, "127.0.0.1", 0, ssl=context) as server:
        yield server.sockets[0].getsockname()[1]


async def ask(port: int, context: ssl.SSLContext, name: str = CONTROLLER_NAME) -> tuple[str, Identity | None]:
    async with connect(f"wss://127.0.0.1:{port}/", ssl=context, server_hostname=name) as connection:
        said = await asyncio.wait_for(connection.recv(), 10)
        assert isinstance(said, str)
        return said, peer_identity(connection.transport.get_extra_info("ssl_object"))


#: In TLS 1.3 the client learns of its refusal only with the first bytes it reads.
REFUSED = (ssl.SSLError, OSError, websockets.exceptions.WebSocketException, EOFError)


@pytest.mark.parametrize("name", [CONTROLLER_NAME, "127.0.0.1", "10.0.2.2", "localhost", "192.0.2.7"])
async def test_both_ends_know_each_other(name: str) -> None:
    cloud = Cloud()
    authority_pem = cloud.authority.certificate_pem
    async with listening(server_context(cloud.credentials(Kind.CONTROLLER), authority_pem)) as port:
        said, server = await ask(port, client_context(authority_pem, cloud.credentials(Kind.BLANKET)), name)
    assert said == f"blanket {BLANKET}"
    assert server is not None
    assert server.kind is Kind.CONTROLLER


async def test_without_a_certificate_one_only_joins() -> None:
    cloud = Cloud()
    authority_pem = cloud.authority.certificate_pem
    credentials = cloud.credentials(Kind.CONTROLLER)
    async with listening(server_context(credentials, authority_pem, joining=True)) as port:
        assert (await ask(port, client_context(authority_pem)))[0] == "nobody"
    async with listening(server_context(credentials, authority_pem)) as port:
        with pytest.raises(REFUSED):
            await ask(port, client_context(authority_pem))


@pytest.mark.parametrize("joining", [False, True])
async def test_the_server_refuses_strangers_and_the_expired(joining: bool) -> None:
    cloud, stranger = Cloud(), Cloud()
    authority_pem = cloud.authority.certificate_pem
    expired = cloud.credentials(Kind.BLANKET, REAL_NOW - LIFETIME_S - 1)
    controller = cloud.credentials(Kind.CONTROLLER)
    async with listening(server_context(controller, authority_pem, joining=joining)) as port:
        for credentials in (stranger.credentials(Kind.BLANKET), expired, controller):
            with pytest.raises(REFUSED):
                await ask(port, client_context(authority_pem, credentials))


async def test_the_client_refuses_strangers_and_a_blanket_posing_as_the_controller() -> None:
    cloud, stranger = Cloud(), Cloud()
    authority_pem = cloud.authority.certificate_pem
    mine = client_context(authority_pem, cloud.credentials(Kind.BLANKET))
    for posing in (stranger.credentials(Kind.CONTROLLER), cloud.credentials(Kind.BLANKET)):
        async with listening(server_context(posing, authority_pem)) as port:
            with pytest.raises(ssl.SSLCertVerificationError):
                await ask(port, mine)


async def test_a_revoked_blanket_is_denied_though_its_certificate_is_good() -> None:
    cloud = Cloud()
    authority_pem = cloud.authority.certificate_pem
    context = server_context(cloud.credentials(Kind.CONTROLLER), authority_pem)
    async with listening(context, Revoked(frozenset([BLANKET]))) as port:
        said, _ = await ask(port, client_context(authority_pem, cloud.credentials(Kind.BLANKET)))
    assert "revoked" in said


async def test_older_tls_is_not_spoken() -> None:
    cloud = Cloud()
    authority_pem = cloud.authority.certificate_pem
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.load_verify_locations(cadata=authority_pem)
    reload(old, cloud.credentials(Kind.BLANKET))
    async with listening(server_context(cloud.credentials(Kind.CONTROLLER), authority_pem)) as port:
        await ask(port, old)  # it would do in every other way
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(REFUSED):
            await ask(port, old)


async def test_a_renewed_certificate_serves_the_next_connection() -> None:
    cloud = Cloud()
    authority_pem = cloud.authority.certificate_pem
    context = server_context(cloud.credentials(Kind.CONTROLLER, REAL_NOW - 3600), authority_pem)
    client = client_context(authority_pem, cloud.credentials(Kind.BLANKET))
    async with listening(context) as port:
        _, before = await ask(port, client)
        reload(context, cloud.credentials(Kind.CONTROLLER))
        _, after = await ask(port, client)
    assert before is not None
    assert after is not None
    assert after.expires_at > before.expires_at


def test_a_key_that_does_not_fit_is_refused() -> None:
    cloud = Cloud()
    credentials = replace(cloud.credentials(Kind.BLANKET), key_pem=IdentityKey.new().to_pem())
    with pytest.raises(InvalidInput):
        client_context(cloud.authority.certificate_pem, credentials)
