"""Where libvirt hands over descriptors, in whatever parts its bytes come."""

from __future__ import annotations

import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supercloud.cli.libvirt_messages import Messages

pytestmark = pytest.mark.unit
_CALL, _REPLY, _REPLY_WITH_DESCRIPTORS = 0, 1, 5


def message(kind: int, payload: bytes) -> bytes:
    """As virnetprotocol.x has it: procedure 359 of the program of domains."""
    return struct.pack(">IIIiiIi", 28 + len(payload), 0x20008086, 1, 359, kind, 7, 0) + payload


def handing_over(many: int, payload: bytes = b"") -> bytes:
    return message(_REPLY_WITH_DESCRIPTORS, struct.pack(">I", many) + payload)


def passed_on(parts: list[bytes]) -> tuple[bytes, list[int]]:
    """Everything, and where the bytes are that a descriptor goes with."""
    messages, whole, marks = Messages(), b"", []
    for part in parts:
        for piece, marked in messages.pieces(part):
            if marked:
                assert len(piece) == 1
                marks.append(len(whole))
            whole += piece
    return whole, marks


def cut(data: bytes, at: list[int]) -> list[bytes]:
    bounds = [0, *sorted(one % (len(data) + 1) for one in at), len(data)]
    return [data[start:end] for start, end in pairwise(bounds)]


@given(
    said=st.lists(st.tuples(st.integers(0, 3), st.binary(max_size=60)), max_size=6),
    at=st.lists(st.integers(0, 1000), max_size=8),
)
def test_each_descriptor_is_found_in_whatever_parts_it_comes(
    said: list[tuple[int, bytes]], at: list[int]
) -> None:
    whole, expected = b"", []
    for many, payload in said:
        whole += message(_REPLY, payload) + handing_over(many, payload)
        expected += [len(whole) + number for number in range(many)]
        whole += b"\0" * many
    assert passed_on(cut(whole, at)) == (whole, expected)


@given(data=st.binary(max_size=400), at=st.lists(st.integers(0, 400), max_size=4))
def test_whatever_comes_is_passed_on_but_for_the_start_of_a_message(data: bytes, at: list[int]) -> None:
    whole, _ = passed_on(cut(data, at))
    assert data.startswith(whole) and len(data) - len(whole) < 32


def test_what_only_looks_like_it_marks_nothing() -> None:
    """A call, a payload with such a message in it, too many descriptors, a length that none has."""
    looks = handing_over(1) + b"\0"
    for said in (
        message(_CALL, struct.pack(">I", 1)) + message(_REPLY, b""),
        message(_REPLY, looks),
        handing_over(33) + b"\0" * 33,
        b"\0\0\0\x05" + looks,
        b"\xff\xff\xff\xff" + looks,
    ):
        assert passed_on([said]) == (said, [])
    assert passed_on([message(_REPLY, b""), looks]) == (message(_REPLY, b"") + looks, [28 + 32])
