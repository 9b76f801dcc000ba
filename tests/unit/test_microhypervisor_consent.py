"""Consents for a micro-hypervisor, as Python writes them; the C side decides about the same vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from supercloud.model.acts import Operation
from supercloud.model.errors import InvalidInput
from supercloud.trust.consent import Statement, consent, read

pytestmark = pytest.mark.unit

_VECTORS = Path(__file__).parents[2] / "docs/spec/microhypervisor-consent.vectors"
#: The tests' own; of no use to anybody.
_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
_SOUND: dict[str, Any] = {
    "operation": Operation.DUMP,
    "partition": "edge-2",
    "page": 16,
    "pages": 16,
    "launch": 3,
    "challenge": b"\xc4" * 32,
    "ticks": 5000,
    "requester": b"\xa2" * 32,
    "purpose": b"\xa3" * 32,
    "arguments": b"\xa4" * 32,
}


def _vector(kind: str) -> str:
    (found,) = [line.split()[-1] for line in _VECTORS.read_text().splitlines() if line.startswith(f"{kind} ")]
    return found


def test_a_consent_is_these_bytes() -> None:
    assert _KEY.public_key().public_bytes_raw().hex() == _vector("key")
    assert consent(Statement(**_SOUND), _KEY).hex() == _vector("good")


@pytest.mark.parametrize(
    "wrong",
    [
        {"partition": ""},
        {"partition": "Edge"},
        {"partition": "a" * 16},
        {"page": -1},
        {"page": 1 << 36},
        {"pages": 0},
        {"pages": (1 << 36) - 15},
        {"launch": 0},
        {"ticks": 0},
        {"ticks": 1 << 64},
        {"challenge": bytes(31)},
        {"arguments": bytes(33)},
    ],
)
def test_what_the_other_side_would_not_read_is_not_written(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="a statement's"):
        Statement(**(_SOUND | wrong))


def test_what_is_read_is_what_was_signed() -> None:
    signed = bytes.fromhex(_vector("good"))
    assert read(signed, _KEY.public_key()) == Statement(**_SOUND)
    with pytest.raises(InvalidInput, match="not signed by its cloud's consent key"):
        read(signed, Ed25519PrivateKey.generate().public_key())
    for at in range(len(signed)):
        altered = bytearray(signed)
        altered[at] ^= 1
        with pytest.raises(InvalidInput):
            read(bytes(altered), _KEY.public_key())


@pytest.mark.parametrize(
    "line", [line for line in _VECTORS.read_text().splitlines() if line.startswith("bad ")]
)
def test_what_is_not_in_the_one_encoding_is_not_read(line: str) -> None:
    with pytest.raises(InvalidInput, match="what came is no consent"):
        read(bytes.fromhex(line.rpartition(" ")[2]), _KEY.public_key())
