"""Ed25519 keys of small order, under which everybody can sign: nobody is known by one."""

from __future__ import annotations

import struct
from itertools import count
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from supercloud.model.errors import Failed, InvalidInput
from supercloud.trust.attestation import verified
from supercloud.trust.keys import ed25519_public, identity_public, named_public, to_text, verify_signature

pytestmark = pytest.mark.unit

_VECTORS = Path(__file__).parents[2] / "docs/spec/microhypervisor-consent.vectors"
_SMALL = [bytes.fromhex(line[6:]) for line in _VECTORS.read_text().splitlines() if line.startswith("small ")]
_P = 2**255 - 19
_D = -121665 * pow(121666, -1, _P) % _P
#: R is the neutral point and S is 0: good under a key whose order divides the hash of what is signed.
_FORGED = (1).to_bytes(32, "little") + bytes(32)


def _takes(key: bytes, message: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(_FORGED, message)
    except InvalidSignature:
        return False
    return True


def _forged(key: bytes) -> bytes:
    """Something that the key \"signed\", though nobody has it."""
    return next(text for number in count() if _takes(key, text := b"%d" % number))


def _order(y: int) -> int:
    """Of the points at that height: doubled (twisted Edwards, a = -1) until it is the neutral one."""
    square = (y * y - 1) * pow(_D * y * y + 1, -1, _P) % _P  # of x
    order = 1
    while (square, y) != (0, 1):
        assert order < 8
        top = (y * y + square) * pow(1 - _D * square * y * y, -1, _P) % _P
        square = 4 * square * y * y * pow(1 + _D * square * y * y, -2, _P) % _P
        y, order = top, order * 2
    return order


def test_these_are_all_of_them() -> None:
    heights = [int.from_bytes(raw, "little") & (1 << 255) - 1 for raw in _SMALL]
    assert sorted(_order(height % _P) for height in set(heights)) == [1, 1, 2, 4, 4, 8, 8]
    assert len(_SMALL) == len(set(_SMALL)) == 14, "with and without the bit of the sign"


@pytest.mark.parametrize("raw", [raw for raw in _SMALL if raw[0] not in (0xED, 0xEE)], ids=bytes.hex)
def test_without_this_they_would_have_signed(raw: bytes) -> None:
    assert _takes(raw, _forged(raw))


@pytest.mark.parametrize("raw", _SMALL, ids=bytes.hex)
def test_none_is_taken(raw: bytes) -> None:
    for refused in (
        lambda: ed25519_public(raw),
        lambda: identity_public(to_text(raw)),
        lambda: named_public(f"ed25519/{raw.hex()}"),
        lambda: verify_signature(to_text(raw), _FORGED, b""),
    ):
        with pytest.raises(InvalidInput, match="small order"):
            refused()


def test_a_measurement_that_such_a_key_signed_is_none() -> None:
    key, nonce = bytes(32), bytes(32)
    for launches in range(64):
        statement = struct.pack("<4s4x16sQ32s32s32s", b"SCM1", b"p1", launches, bytes(32), nonce, bytes(32))
        if _takes(key, statement):
            break
    else:
        raise AssertionError("one in four would be taken")
    payload = struct.pack("<32sQB32s32s64s", bytes(32), launches, 0, bytes(32), key, _FORGED)
    with pytest.raises(Failed, match="not signed by the key"):
        verified(payload, "p1", nonce)
