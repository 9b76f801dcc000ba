"""Tokens: what is left of one can only get less, and nobody but its holder can make it another's."""

from __future__ import annotations

import base64
import time
from dataclasses import dataclass

import biscuit_auth as biscuit
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from supercloud.model.errors import Denied, InvalidInput, Unauthenticated
from supercloud.model.names import new_id
from supercloud.model.permissions import (
    ALLOWED_BY,
    APART,
    UNDIVIDED,
    Permission,
    Role,
    allowed,
    with_implied,
)
from supercloud.trust import tokens
from supercloud.trust.keys import IdentityKey
from supercloud.trust.tokens import Bounds, CloudAsked, attenuate, hand_on, mint, peek, read

pytestmark = pytest.mark.unit
NOW = 1_900_000_000.0
ROOT, ALICE, BOB, MALLORY = (IdentityKey.new() for _ in range(4))
KEYS = {key.name: key for key in (ALICE, BOB, MALLORY)}
PRINCIPAL = new_id()
CLOUDS = [CloudAsked(new_id(), name) for name in ("mine", "other", "third")]
VM_READ = frozenset({Permission.VM_READ})
WHOLE = Bounds()


def alices(*roles: Role, bounds: Bounds = WHOLE, until: float = NOW + 1000) -> str:
    return mint(
        ROOT,
        principal=PRINCIPAL,
        roles=roles or [Role.OWNER],
        holder=ALICE.name,
        until=until,
        bounds=bounds,
    )


def allows(text: str, permission: Permission, cloud: CloudAsked | None = None, at: float = NOW) -> bool:
    try:
        read(text, ROOT.name).check(permission, at=at, cloud=cloud)
    except Denied:
        return False
    return True


def secret(key: IdentityKey) -> biscuit.PrivateKey:
    return biscuit.PrivateKey(f"ed25519-private/{key.private.private_bytes_raw().hex()}")


def loaded(text: str) -> biscuit.Biscuit:
    return biscuit.Biscuit.from_base64(text, biscuit.PublicKey(ROOT.name))


def signed_block(text: str, key: IdentityKey, source: str) -> str:
    """A third-party block of whoever's choice."""
    token = loaded(text)
    block = token.third_party_request().create_block(secret(key), biscuit.BlockBuilder(source))
    grown: str = token.append_third_party(biscuit.PublicKey(key.name), block).to_base64()
    return grown


# ---------------------------------------------------------------- what a fresh one says


def test_a_fresh_token_names_its_principal_roles_and_holder() -> None:
    every = alices(*Role)
    for token in (read(every, ROOT.name), peek(every)):
        assert (token.principal, token.roles) == (PRINCIPAL, set(Role))
        assert token.minted_for == token.holder == ALICE.name
        assert token.undivided and len(token.revocation_ids) == 1


@pytest.mark.parametrize("permission", Permission)
def test_a_role_allows_what_it_allows(permission: Permission) -> None:
    assert allows(alices(Role.OPERATOR), permission)
    not_owners = {Permission.PROVIDER_WRITE, Permission.PRINCIPAL_WRITE}
    not_owners |= {one for one in Permission if one.value.startswith("domain:")}
    assert allows(alices(Role.OWNER), permission) is (permission not in not_owners)
    assert Role.OPERATOR in ALLOWED_BY[permission]
    with pytest.raises(Denied, match="not for principals of role none"):
        nobody = mint(ROOT, principal=PRINCIPAL, roles=[], holder=ALICE.name, until=NOW + 9)
        read(nobody, ROOT.name).check(permission, at=NOW)


def test_what_could_widen_a_token_is_for_whole_ones_and_the_rest_is_for_some_cloud_or_apart() -> None:
    assert UNDIVIDED <= APART <= frozenset(Permission)
    assert {one.thing for one in APART} == {"cloud", "image", "provider", "domain", "principal", "token"}
    assert with_implied(frozenset({Permission.VM_RUN})) == {
        Permission.VM_RUN,
        Permission.VM_READ,
        Permission.OPERATION_READ,
    }


def test_a_token_says_when_its_time_is_over_and_allows_nothing_then() -> None:
    token = read(alices(until=NOW + 10), ROOT.name)
    assert token.until == NOW + 10
    token.check(Permission.VM_READ, at=NOW + 10)
    with pytest.raises(Denied):
        token.check(Permission.VM_READ, at=NOW + 11)
    short = read(hand_on(attenuate(alices(), Bounds(until=NOW + 5)), ALICE, BOB.name), ROOT.name)
    assert short.until == NOW + 5 and not allows(
        attenuate(alices(), Bounds(until=NOW - 1)), Permission.VM_READ
    )


# ---------------------------------------------------------------- less and less

bounds = st.builds(
    Bounds,
    only=st.none() | st.frozensets(st.sampled_from(Permission), min_size=1, max_size=4),
    clouds=st.none()
    | st.frozensets(
        st.sampled_from([part for cloud in CLOUDS for part in (cloud.id, cloud.name)]), min_size=1
    ),
    until=st.none() | st.integers(-20, 20).map(lambda seconds: NOW + seconds),
).filter(lambda one: not one.none)


@dataclass(frozen=True)
class Step:
    bounds: Bounds
    to: str | None  # the key it is handed to


steps = st.lists(
    st.builds(Step, bounds=bounds, to=st.none() | st.sampled_from(sorted(KEYS))), min_size=1, max_size=5
)


def left(chain: list[Step], permission: Permission, cloud: CloudAsked | None) -> bool:
    """What the chain is to leave, told without Datalog."""
    for step in chain:
        less = step.bounds
        if less.only is not None and permission not in with_implied(less.only):
            return False
        if less.clouds is not None and (cloud is None or not {cloud.id, cloud.name} & less.clouds):
            return False
        if less.until is not None and less.until < NOW:
            return False
    return True


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(chain=steps, permission=st.sampled_from(Permission), cloud=st.none() | st.sampled_from(CLOUDS))
def test_each_block_leaves_what_it_says_and_never_more(
    chain: list[Step], permission: Permission, cloud: CloudAsked | None
) -> None:
    text, holder, before = alices(Role.OPERATOR), ALICE.name, ()
    for number, step in enumerate(chain, 1):
        if step.to is None:
            text = attenuate(text, step.bounds)
        else:
            text, holder = hand_on(text, KEYS[holder], step.to, step.bounds), step.to
        token = read(text, ROOT.name)
        assert (token.holder, token.minted_for, token.principal) == (holder, ALICE.name, PRINCIPAL)
        ends = [one.bounds.until for one in chain[:number] if one.bounds.until is not None]
        assert token.until == min([NOW + 1000, *ends])
        assert token.revocation_ids[:-1] == (before or token.revocation_ids[:1]) and not token.undivided
        before = token.revocation_ids
        assert allows(text, permission, cloud) is left(chain[:number], permission, cloud)


def test_a_minted_token_can_be_bounded_from_its_birth() -> None:
    text = alices(bounds=Bounds(only=VM_READ))
    assert allows(text, Permission.VM_READ) and not allows(text, Permission.VM_RUN)
    assert not read(text, ROOT.name).undivided


@pytest.mark.parametrize("roles", [(Role.OWNER,), (Role.OPERATOR, Role.OWNER), (Role.PROVIDER,)])
@pytest.mark.parametrize("only", [None, VM_READ, frozenset({Permission.VM_RUN, Permission.TOKEN_MINT})])
@pytest.mark.parametrize("somewhere", [False, True])
def test_what_a_minted_token_allows_is_said_as_it_is(
    roles: tuple[Role, ...], only: frozenset[Permission] | None, somewhere: bool
) -> None:
    clouds = frozenset({CLOUDS[0].id}) if somewhere else None
    text = alices(*roles, bounds=Bounds(only=only, clouds=clouds))
    said = allowed(roles, only=only, everywhere=not somewhere)
    whole = read(text, ROOT.name).undivided
    for permission in Permission:
        cloud = None if permission in APART else CLOUDS[0]
        is_so = allows(text, permission, cloud) and (whole or permission not in UNDIVIDED)
        assert (permission in said) is is_so, permission


def test_nothing_to_leave_out_is_refused() -> None:
    with pytest.raises(InvalidInput, match="nothing"):
        attenuate(alices(), Bounds())
    with pytest.raises(InvalidInput):
        attenuate(alices(), Bounds(until=1e18))


@pytest.mark.parametrize(
    "source",
    [
        'role("operator")',
        'principal("somebody")',
        f'holder("{MALLORY.name}")',
        'permission("provider:write")',
        'role("operator") <- principal($p)',
        "time(2000-01-01T00:00:00Z)",
        'cloud("x", "mine")',
        "check if true",
        'check if permission($p), {"vm:read"}.contains($p) trusting previous',
        "check if permission($p), role($a), role($b), role($c)",
        'reject if permission("vm:read")',
        'check all permission($p), {"vm:read"}.contains($p)',
        'check if permission($p), {"vm:read\\"};"}.contains($p)',
    ],
    ids=range(13),  # the sources have random keys in them
)
def test_a_block_that_holds_anything_but_our_checks_is_refused(source: str) -> None:
    """Though it could widen nothing: that is Biscuit's own promise."""
    for start in (alices(), attenuate(alices(), Bounds(only=VM_READ, clouds=frozenset({"mine"})))):
        widened = loaded(start).append(biscuit.BlockBuilder(source)).to_base64()
        with pytest.raises(Unauthenticated, match=r"no block may|did not hold"):
            read(widened, ROOT.name)
        with pytest.raises(InvalidInput):
            peek(widened)


# ---------------------------------------------------------------- other people's


def test_another_roots_token_does_not_count() -> None:
    foreign = mint(MALLORY, principal=PRINCIPAL, roles=Role, holder=MALLORY.name, until=NOW + 9)
    assert peek(foreign).holder == MALLORY.name
    with pytest.raises(Unauthenticated):
        read(foreign, ROOT.name)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_an_altered_token_does_not_count(data: st.DataObject) -> None:
    text = attenuate(alices(), Bounds(only=VM_READ))
    place = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.sampled_from("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_="))
    altered = text[:place] + other + text[place + 1 :]
    try:
        token = read(altered, ROOT.name)
    except Unauthenticated:
        return
    assert token == read(text, ROOT.name), "bits of base64 that say nothing"


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda raw: raw.hex()))
def test_rubbish_is_refused_in_words(text: str) -> None:
    with pytest.raises(Unauthenticated):
        read(text, ROOT.name)
    with pytest.raises(InvalidInput):
        peek(text)


def fields(raw: bytes) -> list[tuple[int, bytes]]:
    """The numbered parts of a serialized token: 2 the authority block, 3 each other block, 4 the proof."""
    found, place = [], 0
    while place < len(raw):
        begin, number, length, shift = place, raw[place] >> 3, 0, 0
        assert raw[place] & 7 == 2, "parts with a length only"
        place += 1
        while True:
            length |= (raw[place] & 127) << shift
            shift, place = shift + 7, place + 1
            if raw[place - 1] < 128:
                break
        place += length
        found.append((number, raw[begin:place]))
    return found


@pytest.mark.parametrize("drop", [1, 2])
def test_a_block_cannot_be_taken_off(drop: int) -> None:
    less = hand_on(attenuate(alices(), Bounds(only=VM_READ)), ALICE, BOB.name)
    raw = base64.urlsafe_b64decode(less)
    parts = fields(raw)
    assert b"".join(part for _, part in parts) == raw and [number for number, _ in parts] == [2, 3, 3, 4]
    shorter = b"".join(part for _, part in [*parts[: 3 - drop], parts[-1]])
    with pytest.raises(Unauthenticated):
        read(base64.urlsafe_b64encode(shorter).decode(), ROOT.name)


def test_a_block_cannot_be_put_elsewhere() -> None:
    mine, another = loaded(alices()), loaded(alices())
    block = mine.third_party_request().create_block(
        secret(ALICE), biscuit.BlockBuilder(f'holder("{BOB.name}")')
    )
    with pytest.raises(
        (Unauthenticated, biscuit.BiscuitBuildError, biscuit.BiscuitValidationError, ValueError)
    ):
        moved = another.append_third_party(biscuit.PublicKey(ALICE.name), block)
        read(moved.to_base64(), ROOT.name)


# ---------------------------------------------------------------- handing on


def test_only_its_holder_hands_a_token_on() -> None:
    with pytest.raises(Denied, match="not by this key"):
        hand_on(alices(), MALLORY, MALLORY.name)
    bobs = hand_on(alices(), ALICE, BOB.name)
    assert read(bobs, ROOT.name).holder == BOB.name
    with pytest.raises(Denied):
        hand_on(bobs, ALICE, ALICE.name)
    for stolen in (alices(), bobs):
        taken = signed_block(stolen, MALLORY, f'holder("{MALLORY.name}")')
        with pytest.raises(Unauthenticated, match="did not hold"):
            read(taken, ROOT.name)


@pytest.mark.parametrize(
    "source",
    ["", "check if time($t)", f'holder("{BOB.name}"); holder("{MALLORY.name}")', 'holder("bob")'],
    ids=["nothing", "a check", "two keys", "no key"],
)
def test_handing_on_names_one_key(source: str) -> None:
    with pytest.raises(Unauthenticated, match=r"no block may|did not hold"):
        read(signed_block(alices(), ALICE, source), ROOT.name)


def test_a_token_is_handed_on_so_often_and_no_more() -> None:
    text = alices()
    for _ in range(tokens.HANDS):
        text = hand_on(text, ALICE, ALICE.name)
    assert read(text, ROOT.name).holder == ALICE.name
    with pytest.raises(Denied, match="at most"):
        hand_on(text, ALICE, BOB.name)
    over = signed_block(text, ALICE, f'holder("{BOB.name}")')
    with pytest.raises(Unauthenticated, match="too often"):
        read(over, ROOT.name)


def test_a_token_does_not_grow_without_end() -> None:
    text = alices()
    with pytest.raises(InvalidInput, match="too long"):
        for _ in range(100):
            text = attenuate(text, Bounds(only=VM_READ))
    assert len(text) <= tokens.TOKEN_CHARS
    with pytest.raises(Unauthenticated):
        read("A" * (tokens.TOKEN_CHARS + 1), ROOT.name)
    with pytest.raises(InvalidInput):
        peek("A" * (tokens.TOKEN_CHARS + 1))


def test_what_would_be_computed_for_ever_is_not_begun() -> None:
    source = "".join(f"a({number});" for number in range(60))
    source += "b($x, $y, $z, $w) <- a($x), a($y), a($z), a($w); check if b(1, 2, 3, 4)"
    heavy = loaded(alices()).append(biscuit.BlockBuilder(source)).to_base64()
    began = time.monotonic()
    with pytest.raises(Unauthenticated):
        read(heavy, ROOT.name)
    assert time.monotonic() - began < 5, "the library alone takes minutes"
