"""Evidence as a file: only its owner opens it, and nothing in it can be changed, moved, cut off or put in."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supercloud.agent import taker
from supercloud.agent.taker import Part, elf, parts_of
from supercloud.model.errors import Denied, InvalidInput, SupercloudError
from supercloud.model.memory import Span
from supercloud.model.names import GIB, MIB, new_id
from supercloud.trust import evidence
from supercloud.trust.evidence import (
    Header,
    Opening,
    Sealing,
    Trailer,
    fresh_key,
    header_of,
    known_and_rest,
    known_first,
    open_key,
    trailer,
    trailer_of,
)
from supercloud.trust.keys import IdentityKey, SealingKey

pytestmark = pytest.mark.unit
BLANKET, CLOUD, ONE = new_id(), new_id(), new_id()
OWNER, IDENTITY = SealingKey.new(), IdentityKey.new()
CHUNK = 64


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "CHUNK_BYTES", CHUNK)


def sealed(pieces: Iterable[bytes], *, identity: IdentityKey = IDENTITY, whole: bool = True) -> bytes:
    out = io.BytesIO()
    key, to_owner = fresh_key(OWNER.public, cloud=CLOUD, blanket=BLANKET, evidence=ONE)
    header = Header(
        evidence=ONE,
        incident=new_id(),
        instance=new_id(),
        blanket=BLANKET,
        cloud=CLOUD,
        at=1.0,
        memory_bytes=5,
        key=to_owner,
    )
    sealing = Sealing(header, key, out.write)
    for piece in pieces:
        sealing.write(piece)
    out.write(trailer(sealing.end(), whole=whole, blanket=BLANKET, evidence=ONE, identity=identity))
    return out.getvalue()


def opened(file: bytes, *, owner: SealingKey = OWNER, public: str | None = IDENTITY.public) -> bytes:
    opening = Opening(io.BytesIO(file))
    of = opening.header
    key = open_key(of.key, key=owner, cloud=of.cloud, blanket=of.blanket, evidence=of.evidence)
    clear = b"".join(opening.clear(key))
    opening.end(public)
    return clear


def frames(file: bytes) -> tuple[bytes, list[bytes], bytes]:
    """What is before the frames, each of them, and what is after."""
    at = file.index(b"\n", len(evidence.MAGIC)) + 1
    begun, found, last = file[:at], [], False
    while not last:
        length = int.from_bytes(file[at : at + 4], "big")
        last, length = bool(length >> 31), length & (1 << 31) - 1
        found.append(file[at : at + 4 + length])
        at += 4 + length
    return begun, found, file[at:]


@given(pieces=st.lists(st.binary(max_size=3 * CHUNK), max_size=6))
@settings(max_examples=60, deadline=None)
def test_what_was_sealed_is_opened_however_it_came(pieces: list[bytes]) -> None:
    file, clear = sealed(pieces), b"".join(pieces)
    assert opened(file) == clear
    _, parts, _ = frames(file)
    assert len(parts) == max(1, -(-len(clear) // CHUNK)), "as many frames as there have to be"
    for piece in pieces:
        assert len(piece) < 16 or piece not in b"".join(parts)


def test_it_says_what_it_is_of_before_it_is_opened() -> None:
    file = io.BytesIO(sealed([b"x" * 1000], whole=False))
    assert (header_of(file).evidence, trailer_of(file).whole) == (ONE, False)


def test_nobody_but_its_owner_opens_it() -> None:
    with pytest.raises(Denied):
        opened(sealed([b"secret"]), owner=SealingKey.new())


def test_a_key_opens_nothing_that_it_was_not_sealed_for() -> None:
    key, to_owner = fresh_key(OWNER.public, cloud=CLOUD, blanket=BLANKET, evidence=ONE)
    assert open_key(to_owner, key=OWNER, cloud=CLOUD, blanket=BLANKET, evidence=ONE) == key
    of = {"cloud": CLOUD, "blanket": BLANKET, "evidence": ONE}
    for name in of:
        with pytest.raises(Denied):
            open_key(to_owner, key=OWNER, **(of | {name: new_id()}))


def test_what_another_made_in_a_blankets_name_is_told() -> None:
    """Anybody can seal to an owner, the control plane too."""
    forged = sealed([b"planted"], identity=IdentityKey.new())
    with pytest.raises(Denied, match="has not made"):
        opened(forged)
    assert opened(forged, public=None) == b"planted", "of a blanket that nobody knows any more, it is said so"


def test_no_frame_is_left_out_moved_repeated_or_put_at_the_end() -> None:
    begun, parts, end = frames(sealed([bytes(range(64)) * 4]))
    assert len(parts) == 4
    swapped = [parts[1], parts[0], *parts[2:]]
    twice, more = [parts[0], *parts], [*parts, parts[3]]
    for changed in (parts[:3], parts[1:], [*parts[:2], parts[3]], swapped, twice, more):
        with pytest.raises(SupercloudError):
            opened(begun + b"".join(changed) + end)
    unmarked = bytes([parts[3][0] & 0x7F]) + parts[3][1:]
    with pytest.raises(SupercloudError):
        opened(begun + b"".join(parts[:3]) + unmarked + end)
    marked = bytes([parts[2][0] | 0x80]) + parts[2][1:]
    with pytest.raises(SupercloudError):
        opened(begun + b"".join(parts[:2]) + marked + end)


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_no_byte_of_it_can_be_changed_and_none_be_missing(data: st.DataObject) -> None:
    """But for what says the same: that the trailer is JSON leaves room for spaces."""
    file = sealed([b"known" * 40])
    at = data.draw(st.integers(0, len(file) - 1))
    if data.draw(st.booleans()):
        changed = file[:at]
    else:
        changed = file[:at] + bytes([file[at] ^ data.draw(st.integers(1, 255))]) + file[at + 1 :]
    try:
        assert opened(changed) == b"known" * 40
    except SupercloudError:
        return
    assert at > len(file) - 200, "the same, although what it was made of is not"


@given(file=st.binary(max_size=300))
@settings(max_examples=100, deadline=None)
def test_what_is_no_evidence_is_refused(file: bytes) -> None:
    for said in (file, evidence.MAGIC + file, evidence.MAGIC + b"{}\n" + file):
        with pytest.raises(InvalidInput):
            opened(said)


def test_what_was_known_goes_first() -> None:
    said = known_first({"incident": "x" * 100})
    known, rest = known_and_rest(iter([said[:3], said[3:50], said[50:] + b"mem", b"ory"]))
    assert (known, b"".join(rest)) == (b'{"incident": "' + b"x" * 100 + b'"}', b"memory")
    for cut in (b"", said[:20], b"\xff" * 8):
        with pytest.raises(InvalidInput):
            known_and_rest(iter([cut]))
    with pytest.raises(InvalidInput, match="more was known"):
        known_first("x" * evidence.KNOWN_BYTES)


def test_the_trailer_is_of_this_file_and_says_what_it_said() -> None:
    one, other = sealed([b"one"]), sealed([b"other"])
    begun, parts, _ = frames(one)
    with pytest.raises(Denied):
        opened(begun + b"".join(parts) + frames(other)[2])
    torn = sealed([b"one"], whole=False)
    with pytest.raises(Denied):
        opened(torn.replace(b'"whole": false', b'"whole": true'))
    assert Opening(io.BytesIO(one)).header == header_of(io.BytesIO(one))
    assert isinstance(trailer_of(io.BytesIO(one)), Trailer)


# ---------------------------------------------------------------- memory as an ELF core

LOW, HIGH = Span(address=0, offset=0, length=2 * GIB), Span(address=4 * GIB, offset=2 * GIB, length=GIB)


def test_what_was_written_is_copied_where_the_machine_has_it() -> None:
    found = parts_of([LOW, HIGH], [(0, MIB), (4 * MIB, 5 * MIB), (2 * GIB - MIB, 2 * GIB + MIB)])
    assert found == [
        Part(0, 0, MIB),
        Part(4 * MIB, 4 * MIB, MIB),
        Part(2 * GIB - MIB, 2 * GIB - MIB, MIB),
        Part(4 * GIB, 2 * GIB, MIB),  # behind the addresses of PCI, though the file goes on
    ]


def test_parts_near_each_other_are_one_and_never_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parts_of([LOW], [(0, 4096), (MIB, MIB + 4096)]) == [Part(0, 0, MIB + 4096)]
    monkeypatch.setattr(taker, "PARTS", 8)
    scattered = [(at, at + 4096) for at in range(0, 2 * GIB, 4 * MIB)]
    assert len(parts_of([LOW], scattered)) <= 8


def test_an_elf_core_says_where_its_segments_are() -> None:
    parts = [Part(0, 0, 8), Part(4 * GIB, 2 * GIB, 16)]
    made = elf(parts)
    assert made[:4] == b"\x7fELF" and struct.unpack_from("<HH", made, 16) == (4, 62)
    programs = [struct.unpack_from("<IIQQQQQQ", made, 64 + 56 * number) for number in range(2)]
    assert [(one[0], one[2], one[4], one[5]) for one in programs] == [
        (1, len(made), 0, 8),
        (1, len(made) + 8, 4 * GIB, 16),
    ]
