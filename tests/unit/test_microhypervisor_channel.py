"""The management channel of a micro-hypervisor, as Python speaks it; the C side reads the same vectors."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supercloud.model.errors import Failed
from supercloud.platforms.microhypervisor import requests
from supercloud.platforms.microhypervisor.frames import MAX_PAYLOAD, RESET, Frame, Receiver
from supercloud.platforms.microhypervisor.requests import Request, State

pytestmark = pytest.mark.unit

_VECTORS = Path(__file__).parents[2] / "docs/spec/microhypervisor-channel.vectors"
_FRAMES = st.builds(
    Frame,
    kind=st.integers(0, 255),
    sequence=st.integers(0, 65535),
    payload=st.binary(max_size=MAX_PAYLOAD),
)


def _lines(kind: str) -> list[list[str]]:
    found = [line.split()[1:] for line in _VECTORS.read_text().splitlines() if line.startswith(f"{kind} ")]
    assert found
    return found


def _bytes(text: str) -> bytes:
    return b"" if text == "-" else bytes.fromhex(text)


@pytest.mark.parametrize(("kind", "sequence", "payload", "encoded"), _lines("good"))
def test_a_frame_is_these_bytes(kind: str, sequence: str, payload: str, encoded: str) -> None:
    frame = Frame(kind=int(kind, 16), sequence=int(sequence), payload=_bytes(payload))
    assert frame.encode() == _bytes(encoded)
    assert list(Receiver().feed(_bytes(encoded))) == [frame]


@pytest.mark.parametrize(("why", "encoded"), _lines("bad"))
def test_these_bytes_are_no_frame(why: str, encoded: str) -> None:
    assert list(Receiver().feed(_bytes(encoded))) == [], why


@settings(deadline=None)  # a busy machine is no failure
@given(noise=st.binary(max_size=3000), frames=st.lists(_FRAMES, max_size=4))
def test_frames_are_found_after_any_noise(noise: bytes, frames: list[Frame]) -> None:
    receiver = Receiver()
    list(receiver.feed(noise + RESET))
    assert list(receiver.feed(b"".join(frame.encode() for frame in frames))) == frames


def test_what_does_not_fit_is_no_frame() -> None:
    for wrong in ({"kind": 256}, {"sequence": -1}, {"payload": bytes(MAX_PAYLOAD + 1)}):
        with pytest.raises(ValueError, match="out of bounds"):
            Frame(**({"kind": 0, "sequence": 0} | wrong))


def test_requests_and_their_replies() -> None:
    asked = requests.ask(Request.CONSOLE, 9, "edge", 512)
    assert asked.payload == b"edge".ljust(16, b"\0") + struct.pack("<Q", 512)
    with pytest.raises(ValueError, match="15 characters"):
        requests.ask(Request.START, 1, "a" * 16)
    assert requests.accepted(asked, Frame(kind=0x86, sequence=9, payload=bytes(8))) == bytes(8)
    refused = Frame(kind=0xFF, sequence=9, payload=b"\x05its console is \x1b[2Jnot shown")
    with pytest.raises(Failed, match=r"its console is \?\[2Jnot shown"):
        requests.accepted(asked, refused)
    for other in (Frame(kind=0x86, sequence=8), Frame(kind=0x85, sequence=9), Frame(kind=0xFF, sequence=9)):
        with pytest.raises(Failed, match="something else"):
            requests.accepted(asked, other)


def test_what_replies_hold() -> None:
    row = b"a".ljust(16, b"\0") + struct.pack("<BBQQ", 2, 1, 256 << 20, 3) + b"triple fault".ljust(80, b"\0")
    (partition,) = requests.partitions(b"\x01" + row)
    assert (partition.name, partition.state, partition.launches) == ("a", State.PARKED, 3)
    assert (partition.memory, partition.reason) == (256 << 20, "triple fault")
    (core,) = requests.statistics(b"\x01" + struct.pack("<6Q", 1, 2, 3, 4, 5, 6))
    assert (core.exits, core.refused) == (1, 6)
    assert requests.measurement(bytes(32) + struct.pack("<QB", 4, 0)).attested is False
    assert requests.hello(struct.pack("<BBQ", 1, 8, 2_000_000)).clock_khz == 2_000_000
    assert requests.console(struct.pack("<Q", 5) + b"hello").text == b"hello"


@settings(deadline=None)  # a busy machine is no failure
@given(payload=st.binary(max_size=400))
def test_whatever_is_replied_ends_in_a_value_or_a_failure(payload: bytes) -> None:
    for decode in (
        requests.hello,
        requests.partitions,
        requests.statistics,
        requests.console,
        requests.measurement,
    ):
        try:
            decode(payload)
        except Failed as failure:
            assert "micro-hypervisor" in str(failure)
