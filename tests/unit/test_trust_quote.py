"""A TPM's quote over a micro-hypervisor's key: taken for what it is about, and nothing else is one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st
from tpm_double import TpmDouble, sized

from supercloud.model.errors import Failed
from supercloud.trust import attestation
from supercloud.trust.quote import quoted

pytestmark = pytest.mark.unit
_MACHINE, _STATEMENT = b"\x5a" * 32, b"what the machine says"
_TPM = TpmDouble()
_QUOTE = _TPM.quote(_MACHINE, _STATEMENT)
_VECTORS = Path(__file__).parents[2] / "docs/spec/microhypervisor-quote.vectors"


def _refused(quote: bytes, machine: bytes = _MACHINE, statement: bytes = _STATEMENT) -> None:
    with pytest.raises(Failed, match="not quoted"):
        quoted(quote, machine, statement)


def test_it_says_which_tpm_and_what_was_booted() -> None:
    found = quoted(_QUOTE, _MACHINE, _STATEMENT)
    assert (found.tpm, found.booted) == (_TPM.name, _TPM.booted)
    other = replace(_TPM, pcrs=bytes(320))
    again = quoted(other.quote(_MACHINE, _STATEMENT), _MACHINE, _STATEMENT)
    assert again.tpm == found.tpm and again.booted != found.booted


def test_it_is_for_one_key_of_one_machine_and_for_one_statement() -> None:
    _refused(_QUOTE, machine=b"\x5b" * 32)
    _refused(_QUOTE, statement=b"what another says")


@pytest.mark.parametrize(
    "changed",
    [
        {"before": b"\x01" * 32},  # somebody used that PCR before the micro-hypervisor did
        {"magic": bytes.fromhex("ff544347 8017")},  # it is no quote
        {"magic": bytes.fromhex("00544347 8018")},  # nothing that a TPM said
        {"hierarchy": bytes.fromhex("40000001")},  # of the owner, who may replace it
        {"selection": bytes.fromhex("00000001 000b 03 ff8200")},  # fewer PCRs
        {"selection": bytes.fromhex("00000001 0004 03 ff8300")},  # by SHA-1
        {"scheme": bytes.fromhex("0014 000b")},
        # A key that signs what it is given, and one that may leave its TPM.
        {"template": bytes.fromhex("0023 000b 00040472 0000 0010 0018 000b 0003 0010")},
        {"template": bytes.fromhex("0023 000b 00050470 0000 0010 0018 000b 0003 0010")},
        {"template": bytes.fromhex("0023 000b 00050472 0000 0010 0018 000b 0004 0010")},
    ],
)
def test_another_form_of_it_is_none(changed: dict[str, bytes]) -> None:
    _refused(replace(_TPM, **changed).quote(_MACHINE, _STATEMENT))


def test_pcrs_and_key_are_those_that_were_signed_for() -> None:
    at = 2 + len(_TPM.area)
    _refused(_QUOTE[:at] + bytes(320) + _QUOTE[at + 320 :])
    other = TpmDouble(key=ec.generate_private_key(ec.SECP256R1()))
    _refused(sized(other.area) + _QUOTE[at:])
    _refused(_QUOTE + b"\0")
    _refused(_QUOTE[:-1])


@settings(deadline=None)  # a busy machine is no failure
@given(at=st.integers(0, len(_QUOTE) - 1), bit=st.integers(0, 7))
def test_whichever_bit_of_it_is_changed_it_is_none(at: int, bit: int) -> None:
    """But for those of the clock and the firmware's version, which are signed as everything is."""
    changed = bytearray(_QUOTE)
    changed[at] ^= 1 << bit
    _refused(bytes(changed))


@settings(deadline=None)
@given(quote=st.binary(max_size=700))
def test_whatever_is_said_to_be_one_is_a_failure(quote: bytes) -> None:
    _refused(quote)


def test_what_a_real_one_said() -> None:
    """Of swtpm beside a micro-hypervisor in QEMU."""
    lines = [line.split() for line in _VECTORS.read_text().splitlines() if line and line[0] != "#"]
    told = dict(lines)
    payload, nonce = bytes.fromhex(told["attestation"]), bytes.fromhex(told["nonce"])
    found = attestation.verified(payload, told["partition"], nonce)
    assert found.quote is not None
    assert (found.quote.tpm, found.quote.booted) == (told["tpm"], told["booted"])
    with pytest.raises(Failed):
        attestation.verified(payload, told["partition"], bytes(32))
    # Neither can be left away: the other one says that it was there.
    with pytest.raises(Failed, match="no attestation"):
        attestation.verified(payload[:169], told["partition"], nonce)
