"""`supercloud bench authz`: tokens verified and authorized, beside the bare library doing the same."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import biscuit_auth as biscuit

from supercloud.cli.bench.statistics import median
from supercloud.cli.output import Bar
from supercloud.model.names import PublicKey, new_id
from supercloud.model.permissions import Permission, Role
from supercloud.services.directory import Known, Snapshot
from supercloud.services.doorkeeper import Bearer, Doorkeeper, Presented, caller
from supercloud.services.northbound import Northbound
from supercloud.trust import proof, tokens
from supercloud.trust.keys import IdentityKey
from supercloud.trust.tokens import Bounds, CloudAsked

RATIO_AIM = 0.5
_TOKENS = 200
_ROUNDS = 9
_LASTS_S = 3600.0
_CLOUD = CloudAsked(new_id(), "bench")
_CHANNEL = proof.channel_of(b"bench")


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthzResult:
    """`per_s` and `limit_per_s`: tokens that nobody saw before, half of them attenuated to one cloud, from
    text to a decision. `requests_per_s`: whole requests, whose proof is verified as well and counted once, of
    tokens that came before.
    """

    tokens: int
    per_s: float
    limit_per_s: float
    requests_per_s: float

    def public(self) -> dict[str, Any]:
        """With the ratio to the limit."""
        rounded = {name: round(value) for name, value in asdict(self).items()}
        return {**rounded, "ratio": round(self.per_s / self.limit_per_s, 3)}


def measure(bar: Bar, *, rounds: int = _ROUNDS) -> AuthzResult:
    """One token after another, ours and the library's turn by turn, so that both meet the same machine. Rates
    are of the median time: what somebody else's work interrupted does not count."""
    bar("minting tokens", None)
    root, holder, principal = IdentityKey.new(), IdentityKey.new(), new_id()
    texts = [_token(root, holder.name, principal, attenuated=number % 2 == 1) for number in range(_TOKENS)]
    known = Known(holder.name, frozenset({Role.OWNER}), (_CLOUD,))
    key = biscuit.PublicKey(root.name)
    ours: list[float] = []
    bare: list[float] = []
    for number in range(rounds):
        bar("measuring", number / rounds)
        for text in texts:
            ours.append(_timed(lambda: _decide(text, root.name, known)))  # noqa: B023 - called at once
            bare.append(_timed(lambda: _bare(text, key)))  # noqa: B023
    snapshot = Snapshot({principal: known}, frozenset())
    whole = asyncio.run(_requests(texts, root.name, holder, snapshot))
    return AuthzResult(
        tokens=_TOKENS,
        per_s=1 / median(ours),
        limit_per_s=1 / median(bare),
        requests_per_s=1 / median(whole),
    )


def _token(root: IdentityKey, holder: PublicKey, principal: str, *, attenuated: bool) -> str:
    until = time.time() + _LASTS_S
    text = tokens.mint(root, principal=principal, roles=[Role.OWNER], holder=holder, until=until)
    bounds = Bounds(
        only=frozenset({Permission.VM_READ}), clouds=frozenset({_CLOUD.name}), until=until - _LASTS_S / 2
    )
    return tokens.attenuate(text, bounds) if attenuated else text


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _decide(text: str, root: PublicKey, known: Known) -> None:
    """As for a request whose token is new here."""
    caller(Bearer(tokens.read(text, root), known), Permission.VM_READ, at=time.time())


def _bare(text: str, root: biscuit.PublicKey) -> None:
    """What the library's own documentation does, with the time that it needs."""
    builder: Any = biscuit.AuthorizerBuilder(
        "time({now}); permission({permission}); cloud({id}, {name}); allow if principal($p);",
        {"now": datetime.now(UTC), "permission": "vm:read", "id": _CLOUD.id, "name": _CLOUD.name},
    )
    limits = builder.limits()
    limits.max_time = timedelta(seconds=1)
    builder.set_limits(limits)
    builder.build(biscuit.Biscuit.from_base64(text, root)).authorize()


async def _requests(
    texts: Sequence[str], root: PublicKey, holder: IdentityKey, snapshot: Snapshot
) -> list[float]:
    """Seconds that each took."""

    async def look() -> Snapshot:
        return snapshot

    door = Doorkeeper(
        look,
        root=root,
        channels=lambda: frozenset({_CHANNEL}),
        on_behalf_of=lambda found: cast(Northbound, found),  # of which nothing is asked
    )
    for presented in [_presented(text, holder) for text in texts]:
        await door.authenticate(presented)  # now their tokens are known
    taken = []
    for presented in [_presented(text, holder) for text in texts]:
        began = time.perf_counter()
        door.admit(await door.authenticate(presented), Permission.VM_READ)
        taken.append(time.perf_counter() - began)
    return taken


def _presented(text: str, holder: IdentityKey) -> Presented:
    covered = proof.Signed(
        method="GET",
        path="/v1/instances/web",
        query="",
        token=text,
        channel=_CHANNEL,
        digest=proof.digest_of(b""),
    )
    headers = proof.prove(holder, covered, at=time.time())
    return Presented(
        covered=covered, signature_input=headers["Signature-Input"], signature=headers["Signature"]
    )
