"""What leaves a micro-hypervisor, as its tenant opens it; the C side seals the same vectors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from supercloud.model.acts import Operation
from supercloud.model.errors import Failed
from supercloud.platforms.microhypervisor import requests
from supercloud.platforms.microhypervisor.requests import Request
from supercloud.trust import attestation, export
from supercloud.trust.consent import Statement

pytestmark = pytest.mark.unit

_VECTORS = Path(__file__).parents[2] / "docs/spec/microhypervisor-export.vectors"
_PLAIN = bytes((7 * i + i // 256) % 256 for i in range(4096))
#: The act of microhypervisor-consent.vectors, of which this is the export.
_STATEMENT = Statement(
    operation=Operation.DUMP,
    partition="edge-2",
    page=16,
    pages=16,
    launch=3,
    challenge=b"\xc4" * 32,
    ticks=5000,
    requester=b"\xa2" * 32,
    purpose=b"\xa3" * 32,
    arguments=b"\xa4" * 32,
)


def _vector(kind: str) -> bytes:
    (found,) = [line.split()[-1] for line in _VECTORS.read_text().splitlines() if line.startswith(f"{kind} ")]
    return bytes.fromhex(found)


def _pages() -> list[tuple[int, int, bytes]]:
    rows = [line.split()[1:] for line in _VECTORS.read_text().splitlines() if line.startswith("page ")]
    return [(int(page), int(version), bytes.fromhex(sealed)) for page, version, sealed in rows]


_TENANT = Ed25519PrivateKey.from_private_bytes(_vector("tenant"))
_MACHINE = Ed25519PrivateKey.from_private_bytes(_vector("machine"))


def _opened() -> export.Export:
    return export.accepted(_vector("header"), _STATEMENT, _TENANT, _MACHINE.public_key())


def test_the_tenant_opens_what_was_sealed_for_it() -> None:
    for page, version, sealed in _pages():
        assert _opened().open(page, version, sealed) == _PLAIN


def test_neither_content_nor_order_nor_age_can_be_forged() -> None:
    opened, ((page, version, sealed), (other, later, _)) = _opened(), _pages()
    changed = bytearray(sealed)
    changed[100] ^= 1
    attempts = [
        (page, version, bytes(changed)),
        (page, version, sealed[:-1]),
        (page, version, b""),
        (other, version, sealed),
        (page, later, sealed),
        (15, version, sealed),
        (20, version, sealed),
        (page, 0, sealed),
        (page, 1 << 64, sealed),
    ]
    for attempt in attempts:
        with pytest.raises(Failed, match=f"page {attempt[0]}"):
            opened.open(*attempt)


def test_all_pages_come_once_and_in_order() -> None:
    (_, first, sealed), (_, second, later) = _pages()
    opened = replace(_opened(), pages=2)
    assert opened.open_all([(first, sealed), (second, later)]) == _PLAIN * 2
    for wrong in ([(first, sealed)], [(second, later), (first, sealed)], [(first, sealed), (first, sealed)]):
        with pytest.raises(Failed, match="missing, or out of order"):
            opened.open_all(wrong)


def test_an_export_of_something_else_is_not_accepted() -> None:
    others = [
        {"operation": Operation.MIGRATE},
        {"partition": "edge-3"},
        {"page": 17},
        {"pages": 3},
        {"launch": 4},
        {"challenge": b"\xc5" * 32},
        {"purpose": b"\xa9" * 32},
    ]
    for other in others:
        with pytest.raises(Failed, match="something else"):
            export.accepted(_vector("header"), replace(_STATEMENT, **other), _TENANT, _MACHINE.public_key())


@settings(deadline=None)  # a busy machine is no failure
@given(at=st.integers(0, 207), bit=st.integers(0, 7))
def test_whichever_bit_of_the_header_is_changed_it_is_none(at: int, bit: int) -> None:
    header = bytearray(_vector("header"))
    header[at] ^= 1 << bit
    with pytest.raises(Failed):
        export.accepted(bytes(header), _STATEMENT, _TENANT, _MACHINE.public_key())


def test_another_machine_or_another_tenant_opens_nothing() -> None:
    with pytest.raises(Failed, match="not signed by that machine"):
        export.accepted(_vector("header"), _STATEMENT, _TENANT, _TENANT.public_key())
    with pytest.raises(Failed, match="something else"):
        export.accepted(_vector("header"), _STATEMENT, _MACHINE, _MACHINE.public_key())
    with pytest.raises(Failed, match="no header"):
        export.accepted(b"", _STATEMENT, _TENANT, _MACHINE.public_key())


def _attested(nonce: bytes, tenant: bytes) -> bytes:
    signed = b"SCM1" + bytes(4) + b"edge-2".ljust(16, b"\0") + (3).to_bytes(8, "little") + b"\xd1" * 32
    signature = _MACHINE.sign(signed + nonce + tenant)
    key = _MACHINE.public_key().public_bytes_raw()
    return b"\xd1" * 32 + (3).to_bytes(8, "little") + b"\0" + tenant + key + signature


def test_a_measurement_is_signed_for_its_nonce() -> None:
    nonce, tenant = b"\x01" * 32, _TENANT.public_key().public_bytes_raw()
    said = attestation.verified(_attested(nonce, tenant), "edge-2", nonce)
    assert (said.digest, said.launches, said.tenant, said.quote) == (b"\xd1" * 32, 3, tenant, None)
    assert attestation.verified(_attested(nonce, bytes(32)), "edge-2", nonce).tenant == b""
    for partition, other in (("edge-2", b"\x02" * 32), ("edge-3", nonce)):
        with pytest.raises(Failed, match="not signed"):
            attestation.verified(_attested(nonce, tenant), partition, other)


@settings(deadline=None)  # a busy machine is no failure
@given(payload=st.binary(min_size=169, max_size=169) | st.binary(max_size=20))
def test_whatever_is_said_to_be_attested_is_a_failure(payload: bytes) -> None:
    with pytest.raises(Failed):
        attestation.verified(payload, "edge-2", bytes(32))


def test_a_launch_is_measured_by_each_part_of_it() -> None:
    launch = attestation.Launch(kernel=b"k", initrd=b"i", cmdline="c", memory=256 << 20, cores=1)
    others = [
        {"kernel": b"ki"},
        {"initrd": b""},
        {"cmdline": "c "},
        {"memory": 1},
        {"cores": 2},
        {"devices": [0x18]},
        {"console_shown": True},
        {"tenant": bytes(32)},
    ]
    digests = {replace(launch, **other).digest() for other in others} | {launch.digest()}
    assert len(digests) == 1 + len(others)


def test_requests_of_the_monitor_and_their_replies() -> None:
    asked = requests.ask(Request.ACT, 1, "a", rest=requests.act(Operation.DUMP, 2, 3, b"c" * 248))
    assert len(asked.payload) == 16 + 17 + 248
    assert requests.ask(Request.PAGE, 1, "a", rest=requests.page(2, 1000)).payload[16:].hex() == (
        "0200000000000000" + "e803"
    )
    assert requests.challenge(b"\xc4" * 32 + bytes([7]) + bytes(7)).launch == 7
    assert requests.page_part(bytes([9]) + bytes(7) + b"abc") == (9, b"abc")
    counted = requests.acts(b"".join(n.to_bytes(8, "little") for n in range(10)))
    assert (counted.challenges, counted.given, counted.not_next) == (0, 2, 9)
    for decode, short in ((requests.challenge, 39), (requests.page_part, 8), (requests.acts, 79)):
        with pytest.raises(Failed):
            decode(bytes(short))
