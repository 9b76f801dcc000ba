"""Join proofs, sealed keys and announcements: what was not said so, by that one, for that, is refused."""

import hashlib
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supercloud.model.errors import Denied, InvalidInput, NotFound
from supercloud.model.names import new_id
from supercloud.ports.agent import USER_DATA_BYTES, SealedKey, UserData
from supercloud.ports.keystore import JoinRequest
from supercloud.ports.overlay import Announcement, Peer
from supercloud.trust.announce import announce, verify_announcement, verify_peer
from supercloud.trust.authority import LIFETIME_S, Authority
from supercloud.trust.canonical import canonical
from supercloud.trust.certificates import Anchors
from supercloud.trust.files import read_private, write_private
from supercloud.trust.join import check_join, join_request
from supercloud.trust.keys import IdentityKey, SealingKey, from_text, to_text
from supercloud.trust.sealing import open_sealed, seal, volume_purpose
from supercloud.trust.userdata import check, decrypt, encrypt

pytestmark = pytest.mark.unit

field = st.text(max_size=20) | st.binary(max_size=20)


@given(st.lists(field, max_size=4), st.lists(field, max_size=4))
def test_different_fields_have_different_bytes(one: list[str | bytes], other: list[str | bytes]) -> None:
    def as_bytes(fields: list[str | bytes]) -> list[bytes]:
        return [part.encode() if isinstance(part, str) else part for part in fields]

    same = as_bytes(one) == as_bytes(other)
    assert (canonical("p", *one) == canonical("p", *other)) is same


def test_the_encoding_is_what_was_agreed() -> None:
    # A vector, written by hand: three parts, each after its length.
    assert canonical("p", "ab", 7) == bytes.fromhex("00000003 00000001 70 00000002 6162 00000001 37")


# ---------------------------------------------------------------- user data


@given(st.binary(max_size=200) | st.just(b"x" * USER_DATA_BYTES))
def test_user_data_opens_for_its_instance_and_key_only(clear: bytes) -> None:
    made, key = encrypt(clear, instance="web")
    assert decrypt(made, key, instance="web") == clear
    assert UserData(digest=made.digest, ciphertext=made.ciphertext) == made
    again, other = encrypt(clear, instance="web")
    assert (again.digest, again.ciphertext) != (made.digest, made.ciphertext) and other != key
    for data, with_key, instance in ((made, other, "web"), (made, key, "we"), (again, key, "web")):
        with pytest.raises(Denied, match=f"for instance {instance}"):
            decrypt(data, with_key, instance=instance)


def test_user_data_has_a_limit() -> None:
    with pytest.raises(InvalidInput, match="at most 65536 bytes, not 65537"):
        encrypt(b"x" * (USER_DATA_BYTES + 1), instance="web")


@given(st.integers(0, 27 + 12), st.integers(1, 255))
def test_changed_user_data_does_not_open(place: int, change: int) -> None:
    made, key = encrypt(b"swordfish...", instance="web")
    sealed = bytearray(from_text(made.ciphertext))
    sealed[place] ^= change
    with pytest.raises(InvalidInput, match="changed"):
        decrypt(replace(made, ciphertext=to_text(bytes(sealed))), key, instance="web")
    digest = f"sha256:{hashlib.sha256(sealed).hexdigest()}"  # whoever changes the one can change the other
    with pytest.raises(Denied):
        decrypt(UserData(digest=digest, ciphertext=to_text(bytes(sealed))), key, instance="web")


@given(st.text(max_size=60) | st.binary(max_size=60).map(to_text) | st.just(to_text(bytes(70_000))))
def test_no_text_breaks_the_check_of_user_data(text: str) -> None:
    with pytest.raises(InvalidInput):
        check(UserData(digest="sha256:" + "0" * 64, ciphertext=text))


# ---------------------------------------------------------------- join


def request() -> JoinRequest:
    return join_request(
        blanket=new_id(), secret="swordfish", identity=IdentityKey.new(), sealing=SealingKey.new()
    )


def test_an_invited_blanket_proves_it_without_the_secret() -> None:
    asked = request()
    check_join(asked, "swordfish")
    assert "swordfish" not in repr(asked)
    with pytest.raises(Denied):
        check_join(asked, "swordfisH")


@pytest.mark.parametrize(
    "change",
    [
        lambda r: replace(r, blanket=new_id()),
        lambda r: replace(r, csr_pem=IdentityKey.new().csr()),
        lambda r: replace(r, sealing_key=SealingKey.new().public),
        lambda r: replace(r, proof=""),
        lambda r: replace(r, proof=r.proof.upper()),
    ],
)
def test_nothing_of_a_join_request_can_be_exchanged(change: Callable[[JoinRequest], JoinRequest]) -> None:
    with pytest.raises(Denied):
        check_join(change(request()), "swordfish")


@given(st.text(max_size=80), st.text(max_size=80), st.text(max_size=80))
def test_no_join_request_breaks_the_check(csr: str, sealing: str, proof: str) -> None:
    with pytest.raises(Denied):
        check_join(JoinRequest(blanket=new_id(), csr_pem=csr, sealing_key=sealing, proof=proof), "secret")


# ---------------------------------------------------------------- sealing

BLANKET, PURPOSE = new_id(), volume_purpose(new_id(), new_id())
KEY = SealingKey.new()


def test_what_is_sealed_opens_for_its_blanket_and_purpose_only() -> None:
    sealed = seal(b"passphrase", to=KEY.public, blanket=BLANKET, purpose=PURPOSE)
    assert open_sealed(sealed, key=KEY, blanket=BLANKET, purpose=PURPOSE) == b"passphrase"
    for wrong in (
        {"key": KEY, "blanket": BLANKET, "purpose": volume_purpose(new_id(), new_id())},
        {"key": KEY, "blanket": new_id(), "purpose": PURPOSE},
        {"key": SealingKey.new(), "blanket": BLANKET, "purpose": PURPOSE},
    ):
        with pytest.raises(Denied):
            open_sealed(sealed, **wrong)  # type: ignore[arg-type]


def test_sealing_twice_looks_different() -> None:
    one, two = (seal(b"passphrase", to=KEY.public, blanket=BLANKET, purpose=PURPOSE) for _ in range(2))
    assert one.ciphertext != two.ciphertext


@given(st.binary(max_size=200))
def test_no_bytes_break_opening(data: bytes) -> None:
    for text in (to_text(data), data.decode("latin-1")):
        with pytest.raises((Denied, InvalidInput)):
            open_sealed(
                SealedKey(blanket=BLANKET, purpose=PURPOSE, ciphertext=text),
                key=KEY,
                blanket=BLANKET,
                purpose=PURPOSE,
            )


@given(st.integers(0, 2000), st.integers(1, 255))
def test_a_changed_sealed_key_does_not_open(place: int, change: int) -> None:
    sealed = seal(b"passphrase", to=KEY.public, blanket=BLANKET, purpose=PURPOSE)
    raw = bytearray(from_text(sealed.ciphertext))
    raw[place % len(raw)] ^= change
    with pytest.raises(Denied):
        open_sealed(
            replace(sealed, ciphertext=to_text(bytes(raw))), key=KEY, blanket=BLANKET, purpose=PURPOSE
        )


@pytest.mark.parametrize("to", [to_text(bytes(32)), to_text(b"\1" + bytes(31)), "AAAA", "", "é"])
def test_nothing_is_sealed_to_what_is_no_key(to: str) -> None:
    with pytest.raises(InvalidInput):
        seal(b"passphrase", to=to, blanket=BLANKET, purpose=PURPOSE)


# ---------------------------------------------------------------- announcements

NOW = time.time()
CLOUD = new_id()
AUTHORITY = Authority.new(at=NOW)
ANCHORS = Anchors(AUTHORITY.certificate_pem)
IDENTITY = IdentityKey.new()
WG, NEXT_WG, OTHER_WG = (SealingKey.new().public for _ in range(3))


def certificate(identity: IdentityKey, blanket: str, cloud: str = CLOUD) -> str:
    return AUTHORITY.blanket(
        identity.private.public_key(),
        cloud=cloud,
        blanket=blanket,
        sealing_key=KEY.public,
        at=NOW,
        lifetime_s=LIFETIME_S,
    )


def announced(**changes: object) -> Announcement:
    made = announce(
        identity=IDENTITY,
        certificate_pem=certificate(IDENTITY, BLANKET),
        blanket=BLANKET,
        key=WG,
        next_key=NEXT_WG,
        generation=4,
    )
    return replace(made, **changes)


def peer(announcement: Announcement | None, *keys: str) -> Peer:
    return Peer(
        blanket=BLANKET,
        address="100.64.0.2",
        endpoint=None,
        keys=keys,
        vxlan_port=4800,
        announcement=announcement,
    )


@pytest.mark.parametrize("keys", [(WG,), (NEXT_WG,), (WG, NEXT_WG)])
def test_a_peer_enters_with_the_keys_it_announced(keys: tuple[str, ...]) -> None:
    assert verify_peer(peer(announced(), *keys), anchors=ANCHORS, cloud=CLOUD, at=NOW) == 4


stranger = IdentityKey.new()


@pytest.mark.parametrize(
    "substituted",
    [
        peer(None, WG),
        peer(announced(), OTHER_WG),
        peer(announced(), WG, OTHER_WG),
        peer(announced()),
        peer(announced(key=OTHER_WG), OTHER_WG),
        peer(announced(next_key=None), WG),
        peer(announced(generation=5), WG),
        peer(announced(blanket=new_id()), WG),
        peer(announced(signature="AAAA"), WG),
        peer(announced(certificate_pem="not one"), WG),
        # Another blanket's good certificate, and a good one of this name but another key or cloud.
        peer(announced(certificate_pem=certificate(IDENTITY, new_id())), WG),
        peer(announced(certificate_pem=certificate(stranger, BLANKET)), WG),
        peer(announced(certificate_pem=certificate(IDENTITY, BLANKET, cloud=new_id())), WG),
    ],
)
def test_a_relay_cannot_put_in_other_keys(substituted: Peer) -> None:
    with pytest.raises(Denied):
        verify_peer(substituted, anchors=ANCHORS, cloud=CLOUD, at=NOW)


def test_an_announcement_lives_no_longer_than_its_certificate() -> None:
    with pytest.raises(Denied, match="expired"):
        verify_announcement(announced(), anchors=ANCHORS, cloud=CLOUD, at=NOW + LIFETIME_S + 1)


# ---------------------------------------------------------------- private files


def test_a_private_file_is_private_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "key"
    write_private(path, b"one")
    write_private(path, b"two")
    assert read_private(path) == b"two"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["key"]
    with pytest.raises(FileExistsError):
        write_private(path, b"three", replace=False)
    assert read_private(path) == b"two"
    path.chmod(0o644)
    with pytest.raises(Denied):
        read_private(path)
    with pytest.raises(NotFound):
        read_private(tmp_path / "absent")
