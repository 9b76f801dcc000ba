"""Who asks, and whether they may: a token, the proof of its holder's key, and what the token allows."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import lru_cache

from supercloud.model.errors import Denied, Unauthenticated
from supercloud.model.kinds import Kind
from supercloud.model.names import Id, PublicKey
from supercloud.model.permissions import APART, UNDIVIDED, Permission, Role
from supercloud.services.caller import Caller, Terms
from supercloud.services.directory import Known, Snapshot
from supercloud.services.moves import DRAIN
from supercloud.services.northbound import Northbound
from supercloud.services.store.changes import Change
from supercloud.trust import proof, tokens
from supercloud.trust.tokens import CloudAsked, Token

_REMEMBERED = 512


@dataclass(frozen=True, slots=True)
class Bearer:
    """Somebody who has proved to hold a token that counts. What it allows is not looked at yet."""

    token: Token
    known: Known


@dataclass(frozen=True, slots=True, kw_only=True)
class Presented:
    """A request's proof: what it covers, and the two headers of the signature."""

    covered: proof.Signed
    signature_input: str
    signature: str


class Doorkeeper:
    """`look` is a directory's. `channels`: what names the connections to this server now (`trust.proof`)."""

    def __init__(
        self,
        look: Callable[[], Awaitable[Snapshot]],
        *,
        root: PublicKey,
        channels: Callable[[], frozenset[str]],
        on_behalf_of: Callable[[Caller], Northbound],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._look = look
        self._channels = channels
        self._on_behalf_of = on_behalf_of
        self._now = now
        self._replays = proof.Replays()
        # A token's signatures and blocks stay as they are; everything that may change is looked at each time.
        self._read = lru_cache(maxsize=_REMEMBERED)(lambda text: tokens.read(text, root))

    async def authenticate(self, presented: Presented) -> Bearer:
        """
        Raises:
            Unauthenticated: the token or the proof does not count.
        """
        covered, now = presented.covered, self._now()
        token = self._read(covered.token)
        if covered.channel not in self._channels():
            raise Unauthenticated("the request was signed for another connection")
        _, nonce = proof.verify(
            covered, presented.signature_input, presented.signature, holder=token.holder, at=now
        )
        self._replays.take(token.holder, nonce, at=now)
        return Bearer(token, await self._standing(token))

    async def check(self, bearer: Bearer) -> Bearer:
        """Whether its token counts still: what is asked for may last. The same, as it stands now.

        Raises: Unauthenticated.
        """
        return Bearer(bearer.token, await self._standing(bearer.token))

    def sees(self, bearer: Bearer, change: Change) -> bool:
        """Whether the bearer may be told of it: if it may read the thing, or might until it was removed.

        Raises:
            Unauthenticated: its principal has lost a role.
        """
        return sees(bearer, change, at=self._now())

    def sees_of_domains(self, bearer: Bearer, change: Change) -> bool:
        """The same, of what a provider may be told: of its own domains, and of machines and drains there.

        Raises:
            Unauthenticated: its principal has lost a role.
        """
        return sees_of_domains(bearer, change, at=self._now())

    async def _standing(self, token: Token) -> Known:
        if self._now() > token.until:
            raise Unauthenticated("the token's time is over", hint="supercloud token mint")
        snapshot = await self._look()
        known = snapshot.principals.get(token.principal)
        if known is None or known.key != token.minted_for:
            raise Unauthenticated("the token's principal is gone, or has another key now")
        if not snapshot.revoked.isdisjoint(token.revocation_ids):
            raise Unauthenticated("the token is revoked", hint="supercloud token mint")
        return known

    def admit(self, bearer: Bearer, permission: Permission, terms: tuple[Terms, ...] = ()) -> Northbound:
        """What the bearer may ask for under this permission, as far as it sees, on its terms.

        Raises:
            Denied: it allows it nowhere.
            Unauthenticated: its principal has lost a role.
        """
        return self._on_behalf_of(replace(caller(bearer, permission, at=self._now()), terms=terms))


def caller(bearer: Bearer, permission: Permission, *, at: float) -> Caller:
    """
    Raises:
        Unauthenticated, Denied: as `Doorkeeper.admit`.
    """
    token, known = bearer.token, bearer.known
    if permission in UNDIVIDED and not token.undivided:
        raise Denied(f"{permission} needs a token that was neither attenuated nor handed on")
    if not token.roles <= known.roles:
        raise Unauthenticated("the token's principal has fewer roles by now", hint="supercloud token mint")
    return Caller(
        principal=token.principal,
        operator=Role.OPERATOR in token.roles,
        undivided=token.undivided,
        revocation_ids=token.revocation_ids,
        clouds=tuple(_clouds(token, known, permission, at)),
    )


#: What is needed to be told of a change of each kind.
READS = {
    Kind.CLOUD: Permission.CLOUD_READ,
    Kind.BLANKET: Permission.BLANKET_READ,
    Kind.NETWORK: Permission.NETWORK_READ,
    Kind.VOLUME: Permission.VOLUME_READ,
    Kind.INSTANCE: Permission.VM_READ,
    Kind.TRUST: Permission.TRUST_READ,
    Kind.FINDING: Permission.FINDING_READ,
    Kind.INCIDENT: Permission.INCIDENT_READ,
    Kind.POLICY: Permission.POLICY_READ,
    Kind.ORDER: Permission.ORDER_READ,
    Kind.ACT: Permission.ACT_READ,
    Kind.OPERATION: Permission.OPERATION_READ,
    Kind.REPORT: Permission.BLANKET_READ,
    Kind.IMAGE: Permission.IMAGE_READ,
    Kind.PROVIDER: Permission.PROVIDER_READ,
    Kind.MAINTENANCE: Permission.PROVIDER_READ,
    Kind.PRINCIPAL: Permission.PRINCIPAL_READ,
    Kind.TOKEN: Permission.TOKEN_READ,
}


def sees(bearer: Bearer, change: Change, *, at: float) -> bool:
    """By the rules of reads (`caller`, services.refs), but by whose the change says that the thing is: it, or
    the cloud that it was in, may be gone.

    Raises:
        Unauthenticated: as `Doorkeeper.admit`.
    """
    token, known = bearer.token, bearer.known
    if not token.roles <= known.roles:
        raise Unauthenticated("the token's principal has fewer roles by now", hint="supercloud token mint")
    if not _concerns(token, known, change):
        return _is_shown(token, known, change, at)
    permission = READS[change.kind]
    cloud = None
    if change.cloud is not None and permission not in APART and not token.undivided:
        cloud = CloudAsked(change.cloud, change.cloud_name or "")
    try:
        token.check(permission, at=at, cloud=cloud)
    except Denied:
        return False
    return True


def _concerns(token: Token, known: Known, change: Change) -> bool:
    """Whether it is its principal's to read."""
    operator = Role.OPERATOR in token.roles
    if change.kind in {Kind.PROVIDER, Kind.MAINTENANCE}:
        return True
    if change.kind in {Kind.PRINCIPAL, Kind.TOKEN}:
        return operator or change.owner == token.principal
    if change.kind is not Kind.IMAGE:
        if change.cloud is None:
            return False
        operator = Role.OPERATOR in known.roles
    return change.owner == token.principal or (change.owner is None and operator)


def _is_shown(token: Token, known: Known, change: Change, at: float) -> bool:
    """Whether it is a finding about another's cloud, which that one shows to a cloud of the principal's."""
    if change.kind is not Kind.FINDING or change.cloud is None:
        return False
    names = {cloud.id: cloud for cloud in known.clouds}
    for relation in known.shown.get(change.cloud, ()):
        if relation.until <= at:
            continue
        try:
            token.check(
                Permission.FINDING_READ, at=at, cloud=None if token.undivided else names.get(relation.to)
            )
        except Denied:
            continue
        return True
    return False


def sees_of_domains(bearer: Bearer, change: Change, *, at: float) -> bool:
    """By the rules of `services.domains`.

    Raises:
        Unauthenticated: as `Doorkeeper.admit`.
    """
    token, known = bearer.token, bearer.known
    if not token.roles <= known.roles:
        raise Unauthenticated("the token's principal has fewer roles by now", hint="supercloud token mint")
    domain = domain_of(change)
    if domain not in known.domains and (change.kind is not Kind.PROVIDER or change.owner != token.principal):
        return False
    try:
        token.check(Permission.DOMAIN_READ, at=at)
    except Denied:
        return False
    return True


def domain_of(change: Change) -> Id | None:
    """The domain that a change is about, if a provider is told of its kind."""
    data = change.data or {}
    if change.kind is Kind.PROVIDER:
        return change.id
    if change.kind in {Kind.BLANKET, Kind.MAINTENANCE}:
        return data.get("provider")
    if change.kind in {Kind.FINDING, Kind.ORDER, Kind.ACT}:
        return data.get("provider") if change.cloud is None else None  # told apart from the users
    if change.kind is Kind.OPERATION and data.get("kind") == DRAIN:
        return data.get("object")
    return None


def _clouds(token: Token, known: Known, permission: Permission, at: float) -> list[str]:
    """Where the token allows it, among its principal's clouds."""
    every = [cloud.id for cloud in known.clouds]
    if token.undivided or permission in APART or not every:
        token.check(permission, at=at)
        return every
    allowed: list[str] = []
    denied: Denied | None = None
    for cloud in known.clouds:
        if known.parents.get(cloud.id) in allowed:
            allowed.append(cloud.id)  # what a token allows in a cloud, it allows in those within it
            continue
        try:
            token.check(permission, at=at, cloud=cloud)
            allowed.append(cloud.id)
        except Denied as error:
            denied = error
    if denied is not None and not allowed:
        raise denied
    return allowed
