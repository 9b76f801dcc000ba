"""Proofs of possession: of this key, for this request, on this connection, now, once."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supercloud.model.errors import Unauthenticated, Unavailable
from supercloud.trust import proof
from supercloud.trust.keys import IdentityKey
from supercloud.trust.proof import WINDOW_S, Replays, Signed, channel_of, digest_of, prove, verify

pytestmark = pytest.mark.unit
NOW = 1_900_000_000.0
KEY, OTHER = IdentityKey.new(), IdentityKey.new()
REQUEST = Signed(
    method="POST",
    path="/v1/clouds",
    query="cloud=c",
    token="abc",
    channel=channel_of(b"certificate"),
    digest=digest_of(b"{}"),
)


def checked(request: Signed, headers: dict[str, str], *, holder: str = KEY.name, at: float = NOW) -> str:
    _, nonce = verify(request, headers["Signature-Input"], headers["Signature"], holder=holder, at=at)
    return nonce


def test_what_was_signed_is_as_rfc_9421_writes_it() -> None:
    headers = prove(KEY, REQUEST, at=NOW)
    parameters = headers["Signature-Input"].removeprefix("proof=")
    assert proof._base(REQUEST, parameters).decode() == (
        '"@method": POST\n'
        '"@path": /v1/clouds\n'
        '"@query": ?cloud=c\n'
        '"authorization": Biscuit abc\n'
        f'"supercloud-channel": {REQUEST.channel}\n'
        '"content-digest": sha-256=:RBNvo1WzZ4oRRq0W9+hknpT7T8If536DEMBg9hyq/4o=:\n'
        f'"@signature-params": {parameters}'
    )
    assert headers["Content-Digest"] == REQUEST.digest and headers["Authorization"] == "Biscuit abc"
    assert checked(REQUEST, headers) in parameters


@pytest.mark.parametrize(
    "other",
    [
        replace(REQUEST, method="DELETE"),
        replace(REQUEST, path="/v1/clouds/"),
        replace(REQUEST, query=""),
        replace(REQUEST, token="abd"),
        replace(REQUEST, channel=channel_of(b"another")),
        replace(REQUEST, digest=digest_of(b"{ }")),
        replace(REQUEST, digest=None),
    ],
)
def test_a_proof_is_for_one_request_only(other: Signed) -> None:
    headers = prove(KEY, REQUEST, at=NOW)
    with pytest.raises(Unauthenticated):
        checked(other, headers)


def test_a_proof_is_of_one_key_only() -> None:
    with pytest.raises(Unauthenticated, match="not signed by the holder"):
        checked(REQUEST, prove(KEY, REQUEST, at=NOW), holder=OTHER.name)


@pytest.mark.parametrize("off", [-WINDOW_S - 2, WINDOW_S + 2, -1e6, 1e6])
def test_a_proof_of_another_time_does_not_count(off: float) -> None:
    with pytest.raises(Unauthenticated, match="was signed") as refused:
        checked(REQUEST, prove(KEY, REQUEST, at=NOW + off))
    assert refused.value.hint is not None
    checked(REQUEST, prove(KEY, REQUEST, at=NOW + (WINDOW_S - 2 if off > 0 else 2 - WINDOW_S)))


@settings(max_examples=200)
@given(st.text(max_size=80), st.text(max_size=100))
def test_rubbish_is_refused_in_words(stated: str, signature: str) -> None:
    headers = prove(KEY, REQUEST, at=NOW)
    for changed in (
        {**headers, "Signature-Input": stated},
        {**headers, "Signature": signature},
        {**headers, "Signature-Input": headers["Signature-Input"] + stated + " "},
        {**headers, "Signature": headers["Signature"] + signature + " "},
    ):
        with pytest.raises(Unauthenticated):
            checked(REQUEST, changed)


def test_fewer_components_do_not_count() -> None:
    """A proof that leaves out the body, or anything, is no proof."""
    unsigned = prove(KEY, replace(REQUEST, digest=None), at=NOW)
    with pytest.raises(Unauthenticated, match="form"):
        checked(REQUEST, unsigned)


def test_a_nonce_counts_once() -> None:
    replays = Replays()
    replays.take(KEY.name, "n1", at=NOW)
    with pytest.raises(Unauthenticated, match="came before"):
        replays.take(KEY.name, "n1", at=NOW + 1)
    replays.take(OTHER.name, "n1", at=NOW + 1)
    replays.take(KEY.name, "n2", at=NOW + 1)


@settings(max_examples=200)
@given(st.lists(st.floats(0, 40, allow_nan=False), min_size=1, max_size=40), st.data())
def test_no_nonce_is_forgotten_while_its_proof_counts(gaps: list[float], data: st.DataObject) -> None:
    replays, at, taken = Replays(), NOW, []
    for number, gap in enumerate(gaps):
        at += gap
        replays.take(KEY.name, str(number), at=at)
        taken.append((number, at))
    at += data.draw(st.floats(0, 2 * WINDOW_S, allow_nan=False))
    for number, when in taken:
        if at - when <= 2 * WINDOW_S:  # signed up to a window ahead of us, it counts as long as this
            with pytest.raises(Unauthenticated):
                replays.take(KEY.name, str(number), at=at)


def test_nonces_are_forgotten_in_the_end_and_bounded_until_then() -> None:
    replays = Replays(keep=100)
    for number in range(100):
        replays.take(KEY.name, str(number), at=NOW)
    with pytest.raises(Unavailable):
        replays.take(KEY.name, "more", at=NOW + 1)
    replays.take(KEY.name, "more", at=NOW + 62)
    replays.take(KEY.name, "1", at=NOW + 200)
    assert len(replays._new) + len(replays._old) == 1
