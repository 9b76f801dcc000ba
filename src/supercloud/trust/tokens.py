"""Tokens: Biscuits that say who may ask for what, bound to the key of whoever may use them.

    authority block, by the control plane's token key     principal(id), role(…)…, holder(key), issuer(key),
                                                          a check of the time
    a block by anybody, offline                           checks: less than before
    a block by the holder (third-party)                   holder(next key), and checks

The holder of a token is the key that the last such block names, and no other key can use the token. A
block that hands on is bound by Biscuit to the blocks before it, so it fits no other token.

Any but the first block holds checks of three forms, of permission, cloud and time, and nothing else. Biscuit
would take any Datalog there, which could confer nothing, but could take minutes: the library looks at its
limits only between one round of a rule's joins and the next, and a control plane would stand still meanwhile.

Every block has a revocation id, and a token counts only while none of its ids is revoked, so that with a
token all that descends from it is revoked.

Pure: no time, no randomness beyond the signatures', nothing read or written.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

import biscuit_auth as biscuit

from supercloud.model.errors import Denied, InvalidInput, Unauthenticated
from supercloud.model.names import Id, PublicKey
from supercloud.model.permissions import ALLOWED_BY, Permission, Role, with_implied
from supercloud.trust.keys import IdentityKey

#: Greatest text of a token: some twenty blocks.
TOKEN_CHARS = 8192
#: So often a token may be handed on, and so many blocks it may have in all.
HANDS, BLOCKS = 8, 24
#: The library's own limit, 1 ms by the wall clock, is passed by who does not get the processor for so long.
#: What blocks may hold bounds the work, so that this has to bound nothing.
_TIME = timedelta(minutes=1)
_STRINGS = r'\{"[a-z0-9:-]*"(, "[a-z0-9:-]*")*\}'
#: The checks that a block may hold, as the library prints them.
_CHECK = "|".join((
    rf"permission\(\$p\), {_STRINGS}\.contains\(\$p\)",
    rf"cloud\(\$i, \$n\), {_STRINGS}\.contains\(\$i\) or cloud\(\$i, \$n\), {_STRINGS}\.contains\(\$n\)",
    r"time\(\$t\), \$t <= [0-9TZ:-]{20}",
))  # fmt: skip
_FIRST = re.compile(
    r'principal\("(?P<principal>[^"\\]{1,64})"\);\n'
    r'holder\("(?P<holder>ed25519/[0-9a-f]{64})"\);\n'
    r'issuer\("ed25519/[0-9a-f]{64}"\);\n'
    r'(?P<roles>(role\("[a-z-]+"\);\n)*)'
    rf"(check if ({_CHECK});\n)+"
)
_ROLE = re.compile(r'role\("([a-z-]+)"\)')
_BLOCK = re.compile(rf'(holder\("(?P<holder>ed25519/[0-9a-f]{{64}})"\);\n)?(check if ({_CHECK});\n)*')
_ISSUER = re.compile(r'^issuer\("(ed25519/[0-9a-f]{64})"\);$', re.MULTILINE)
_TIMES = re.compile(r"^check if time\(\$t\), \$t <= ([0-9TZ:-]{20});$", re.MULTILINE)
_KEY = re.compile("ed25519/[0-9a-f]{64}")
_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
#: The library's errors have no common base.
_WRONG = (
    biscuit.BiscuitValidationError,
    biscuit.BiscuitSerializationError,
    biscuit.BiscuitBlockError,
    biscuit.DataLogError,
    ValueError,
    OverflowError,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What is left of a token. None: as much as before. Clouds are named by id or by name."""

    only: frozenset[Permission] | None = None
    clouds: frozenset[str] | None = None
    until: float | None = None  # seconds since the epoch

    @property
    def none(self) -> bool:
        return self == Bounds()


@dataclass(frozen=True, slots=True)
class CloudAsked:
    """The cloud that a request is about."""

    id: Id
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """One that the control plane's key signed and whose handings on are in order."""

    principal: Id
    roles: frozenset[Role]
    minted_for: PublicKey
    holder: PublicKey
    until: float  # seconds since the epoch: the earliest of what its blocks say
    revocation_ids: tuple[str, ...]  # of its blocks, the authority's first
    blocks: tuple[str, ...] = field(repr=False)  # as Datalog, for people
    _biscuit: biscuit.Biscuit = field(repr=False, compare=False)

    @property
    def undivided(self) -> bool:
        """As it was minted: neither attenuated nor handed on."""
        return len(self.revocation_ids) == 1

    def check(self, permission: Permission, *, at: float, cloud: CloudAsked | None = None) -> None:
        """Whether it allows this now. That its holder asks is for `trust.proof` to see.

        Raises:
            Denied: it does not.
        """
        if not self.roles & ALLOWED_BY[permission]:
            roles = " and ".join(sorted(self.roles))
            raise Denied(f"{permission} is not for principals of role {roles or 'none'}")
        try:
            _authorizer(permission, at, cloud).build(self._biscuit).authorize()
        except biscuit.AuthorizationError as error:
            raise Denied(f"the token does not allow {permission} here") from error
        except _WRONG as error:
            raise Denied(f"the token does not allow {permission}: its checks fail") from error


def is_key(text: str) -> bool:
    """Whether it is a public key in the form in which tokens name holders."""
    return _KEY.fullmatch(text) is not None


def mint(
    root: IdentityKey,
    *,
    principal: Id,
    roles: Iterable[Role],
    holder: PublicKey,
    until: float,
    bounds: Bounds = Bounds(),
) -> str:
    """A fresh token. With `bounds` it is born attenuated."""
    builder = biscuit.BiscuitBuilder(
        "principal({principal}); holder({holder}); issuer({issuer}); check if time($t), $t <= {until};",
        {"principal": principal, "holder": holder, "issuer": root.name, "until": _time(until)},
    )
    for role in sorted(set(roles)):
        builder.add_fact(biscuit.Fact("role({role})", {"role": str(role)}))
    made = builder.build(_secret(root))
    return (made if bounds.none else made.append(_block(bounds))).to_base64()


def attenuate(text: str, bounds: Bounds) -> str:
    """The token with less. Needs nothing but the token.

    Raises:
        InvalidInput: not a token, or nothing to leave out.
    """
    if bounds.none:
        raise InvalidInput("nothing is to be left out", hint="--only, --cloud or --until")
    return _grown(_loaded(text).append(_block(bounds)))


def hand_on(text: str, key: IdentityKey, to: PublicKey, bounds: Bounds = Bounds()) -> str:
    """The token for another holder; `key` is the present one's.

    Raises:
        InvalidInput: not a token.
        Denied: it is not this key's to hand on, or was handed on often enough.
    """
    token = peek(text)
    if token.holder != key.name:
        raise Denied(f"the token is held by {token.holder}, not by this key")
    loaded = _loaded(text)
    block = _block(bounds, "holder({to});", {"to": to})
    signed = loaded.third_party_request().create_block(_secret(key), block)
    grown = _grown(loaded.append_third_party(biscuit.PublicKey(key.name), signed))
    if _hands(_loaded(grown)) > HANDS:
        raise Denied(f"a token is handed on at most {HANDS} times")
    return grown


def read(text: str, root: PublicKey) -> Token:
    """A token of the control plane whose token key is `root`. Its time is looked at by `Token.check`.

    Raises:
        Unauthenticated: another root's, altered, handed on by who was not its holder, or too long.
    """
    if len(text) > TOKEN_CHARS:
        raise Unauthenticated(f"a token of more than {TOKEN_CHARS} characters")
    try:
        return _token(biscuit.Biscuit.from_base64(text, _root(root)))
    except _WRONG as error:
        raise Unauthenticated("not a token of this control plane, or altered") from error


def peek(text: str) -> Token:
    """A token as it describes itself, for who has it: whose it is in truth, only the control plane can say.

    Raises:
        InvalidInput: not a token.
    """
    try:
        return _token(_loaded(text))
    except Unauthenticated as error:
        raise InvalidInput(error.message) from error


# ---------------------------------------------------------------- inside


def _loaded(text: str) -> biscuit.Biscuit:
    """Under the root that it names itself."""
    if len(text) > TOKEN_CHARS:
        raise InvalidInput(f"a token of more than {TOKEN_CHARS} characters")
    try:
        issuer = _ISSUER.search(biscuit.UnverifiedBiscuit.from_base64(text).block_source(0))
        if issuer is None:
            raise InvalidInput("not a token of supercloud's")
        return biscuit.Biscuit.from_base64(text, biscuit.PublicKey(issuer[1]))
    except _WRONG as error:
        raise InvalidInput("not a token, or altered") from error


def _token(loaded: biscuit.Biscuit) -> Token:
    if loaded.block_count() > BLOCKS or _hands(loaded) > HANDS:
        raise Unauthenticated("the token was attenuated or handed on too often")
    blocks = tuple(loaded.block_source(number) for number in range(loaded.block_count()))
    holders = [_named_by(block) for block in blocks[1:]]  # before anything of theirs is computed
    first = _FIRST.fullmatch(blocks[0])
    if first is None:
        raise Unauthenticated("the token names no principal")
    known = {str(role) for role in Role}
    roles = set(_ROLE.findall(first["roles"])) & known
    return Token(
        principal=first["principal"],
        roles=frozenset(Role(role) for role in roles),
        minted_for=first["holder"],
        holder=_last_holder(loaded, holders, first["holder"]),
        until=_earliest(blocks),
        revocation_ids=tuple(loaded.revocation_ids),
        blocks=blocks,
        _biscuit=loaded,
    )


def _earliest(blocks: Iterable[str]) -> float:
    """When the time of a token is over."""
    times = [datetime.fromisoformat(found[1]) for block in blocks for found in _TIMES.finditer(block)]
    return min(times, default=datetime.fromtimestamp(0, UTC)).timestamp()


@lru_cache(maxsize=8)
def _root(key: PublicKey) -> biscuit.PublicKey:
    return biscuit.PublicKey(key)


def _named_by(block: str) -> PublicKey | None:
    """Whom a block that is not the first names as the next holder.

    Raises:
        Unauthenticated: it holds something that no block may.
    """
    found = _BLOCK.fullmatch(block)
    if found is None:
        raise Unauthenticated("a block of the token holds what no block may")
    named: PublicKey | None = found["holder"]
    return named


def _last_holder(loaded: biscuit.Biscuit, named: Iterable[PublicKey | None], holder: PublicKey) -> PublicKey:
    """
    Raises:
        Unauthenticated: somebody else than its holder handed it on.
    """
    for number, following in enumerate(named, 1):
        signer = loaded.block_external_key(number)
        if (signer is None) != (following is None) or (signer is not None and str(signer) != holder):
            raise Unauthenticated("the token was handed on by who did not hold it")
        holder = following or holder
    return holder


def _hands(loaded: biscuit.Biscuit) -> int:
    return sum(loaded.block_external_key(number) is not None for number in range(1, loaded.block_count()))


def _grown(made: biscuit.Biscuit) -> str:
    text: str = made.to_base64()
    if len(text) > TOKEN_CHARS or made.block_count() > BLOCKS:
        raise InvalidInput("the token would be too long", hint="begin from one with fewer blocks")
    return text


def _block(bounds: Bounds, source: str = "", values: dict[str, str] | None = None) -> biscuit.BlockBuilder:
    block = biscuit.BlockBuilder(source, values or {})
    if bounds.only is not None:
        only = {str(one) for one in with_implied(bounds.only)}
        block.add_check(biscuit.Check("check if permission($p), {only}.contains($p)", {"only": only}))
    if bounds.clouds is not None:
        ids = {one for one in bounds.clouds if _ID.fullmatch(one)}
        names = set(bounds.clouds) - ids
        check = "check if cloud($i, $n), {ids}.contains($i) or cloud($i, $n), {names}.contains($n)"
        block.add_check(biscuit.Check(check, {"ids": ids or {""}, "names": names or {""}}))
    if bounds.until is not None:
        block.add_check(biscuit.Check("check if time($t), $t <= {until}", {"until": _time(bounds.until)}))
    return block


def _authorizer(permission: Permission, at: float, cloud: CloudAsked | None) -> biscuit.AuthorizerBuilder:
    source = "time({at}); permission({permission}); allow if principal($p);"
    values: dict[str, object] = {"at": _time(at), "permission": str(permission)}
    if cloud is not None:
        source += "cloud({id}, {name});"
        values |= {"id": cloud.id, "name": cloud.name}
    return _limited(biscuit.AuthorizerBuilder(source, values))


def _limited(builder: Any) -> biscuit.AuthorizerBuilder:
    """With time enough. The library's stubs know nothing of limits."""
    builder.set_limits(_limits())
    made: biscuit.AuthorizerBuilder = builder
    return made


@lru_cache(maxsize=1)
def _limits() -> Any:
    builder: Any = biscuit.AuthorizerBuilder("")
    limits = builder.limits()
    limits.max_time = _TIME
    return limits


def _secret(key: IdentityKey) -> biscuit.PrivateKey:
    return biscuit.PrivateKey(f"ed25519-private/{key.private.private_bytes_raw().hex()}")


def _time(at: float) -> datetime:
    """Whole seconds, as Biscuit has them.

    Raises:
        InvalidInput: no such time.
    """
    try:
        return datetime.fromtimestamp(int(at), UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise InvalidInput("there is no such time") from error
