"""What a trust relation is to be about, as the granting cloud may name it, and whether it may be granted."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import true
from sqlalchemy.ext.asyncio import AsyncSession

from supercloud.model.errors import Conflict, InvalidInput, NotFound, Refused
from supercloud.model.names import Id
from supercloud.model.trust import TrustKind
from supercloud.services import passages, relations
from supercloud.services.guests import is_within
from supercloud.services.refs import find_blanket, find_network, named
from supercloud.services.requests import GrantTrust, NetworkRef, Ref
from supercloud.services.sharing import is_own, shared_with, usable_image
from supercloud.services.store.tables import LOCKED, Blanket, Cloud, Network, Trust


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """`own`: the granting cloud has it by itself; else it may pass on what `by` let it have. `anyhow`: why
    the trusted cloud needs no relation for it. `columns`: of the relation's row."""

    id: Id
    name: str
    own: bool
    by: Sequence[Trust]
    anyhow: str | None
    columns: Mapping[str, Id]


async def subject(session: AsyncSession, request: GrantTrust, cloud: Cloud, to: Cloud) -> Subject:
    """The granting cloud is locked when it is found, and every other one that it concerns.

    Raises:
        InvalidInput: what the kind is not about is named, or what it is about is not.
        NotFound, Conflict: an image, or a network.
        Refused: it may not be granted at all.
    """
    asked = {name for name in _NAMED if getattr(request, name)}
    wanted, optional, find = _KINDS[request.kind]
    if not wanted <= asked <= wanted | optional:
        words = _in_words(wanted) or "no image, network, blanket or reactions"
        raise InvalidInput(f"{request.kind} takes {words}, and nothing else of what it could be about")
    return await find(session, request, cloud, to)


def _in_words(names: frozenset[str]) -> str:
    return " and ".join(name.replace("_", "-") for name in sorted(names))


async def _image(session: AsyncSession, request: GrantTrust, cloud: Cloud, to: Cloud) -> Subject:
    assert request.image is not None  # noqa: S101 - asked
    await _lock(session, cloud.id)
    image = await usable_image(session, cloud, request.image)
    return Subject(
        id=image.id,
        name=f"image {request.image}",
        own=await is_own(session, cloud.id, image),
        by=[row for row, _ in await shared_with(session, cloud.id, image=image.id)],
        anyhow="it is its own" if await is_own(session, to.id, image) else None,
        columns={"image": image.id},
    )


async def _network(session: AsyncSession, request: GrantTrust, cloud: Cloud, to: Cloud) -> Subject:
    assert request.network is not None and request.to_network is not None  # noqa: S101 - asked
    found, by = await _reachable(session, cloud, request.network)
    begins = await _of(session, to, request.to_network)
    await _lock(session, cloud.id, to.id, found.cloud)
    for network in (found, begins):
        if await session.get(Network, network.id, populate_existing=True) is None:
            raise NotFound(f"network {network.name} was removed")
        if passages.closed(network):
            raise Refused(
                f"network {network.name} is {network.level}, so that it has no way out",
                hint="connect another one, or lower its level",
            )
    if to.id not in {found.cloud, cloud.id}:
        owner = await session.get_one(Cloud, found.cloud)
        await passages.check_foreign(session, to.id, found, f"cloud {to.name}")
        await passages.check_foreign(session, owner.id, begins, f"cloud {owner.name}")
    return Subject(
        id=found.id,
        name=f"network {request.network}",
        own=found.cloud == cloud.id,
        by=by,
        anyhow="it is its own" if found.cloud == to.id else None,
        columns={"network": found.id, "to_network": begins.id},
    )


async def _cloud(session: AsyncSession, request: GrantTrust, cloud: Cloud, to: Cloud) -> Subject:
    """The granting cloud itself, or one by its id that lets it the same."""
    await _lock(session, cloud.id)
    of = cloud.id if request.of in {None, cloud.id, cloud.name} else str(request.of)
    own = of == cloud.id
    let = () if own else await relations.granting(session, (cloud.id,), request.kind, origin=of)
    wide = [one for one in let if set(request.reactions) <= set(one.reactions or ())]
    return Subject(
        id=of,
        name=f"{request.kind} of cloud {cloud.name if own else of}",
        own=own,
        by=wide or let,
        anyhow="it is its own" if to.id == of and not own else None,
        columns={},
    )


async def _blanket(session: AsyncSession, request: GrantTrust, cloud: Cloud, to: Cloud) -> Subject:
    """One of the granting cloud's own, or by its id one that it may have blankets in itself."""
    assert request.blanket is not None  # noqa: S101 - asked
    try:
        found, by = await find_blanket(session, request.blanket, cloud.id), list[Trust]()
    except NotFound:
        by = list(await relations.lending(session, cloud.id, request.blanket, request.kind))
        if not by:
            raise
        found = await session.get_one(Blanket, request.blanket)
    await _lock(session, cloud.id, found.cloud)
    if await session.get(Blanket, found.id, populate_existing=True) is None:
        raise NotFound(f"blanket {found.name} was removed")
    own = found.cloud == cloud.id
    within = await is_within(session, to.id, found.cloud)
    return Subject(
        id=found.id,
        name=f"blanket {request.blanket}",
        own=own,
        by=by,
        anyhow="it is of its own cloud, or of one around it" if within else None,
        columns={"blanket": found.id},
    )


_Find = Callable[[AsyncSession, GrantTrust, Cloud, Cloud], Awaitable[Subject]]
_NONE: frozenset[str] = frozenset()
#: Of a request, what a kind can be told that it is about.
_NAMED = ("image", "network", "to_network", "of", "reactions", "blanket")
#: What each kind has to be told that it is about, and what it may be.
_KINDS: Mapping[TrustKind, tuple[frozenset[str], frozenset[str], _Find]] = {
    TrustKind.SHARE_IMAGE: (frozenset({"image"}), _NONE, _image),
    TrustKind.CONNECT: (frozenset({"network", "to_network"}), _NONE, _network),
    TrustKind.SEE_FINDINGS: (_NONE, frozenset({"of"}), _cloud),
    TrustKind.ORDER_REACTIONS: (frozenset({"reactions"}), frozenset({"of"}), _cloud),
    TrustKind.PLACE: (frozenset({"blanket"}), _NONE, _blanket),
    TrustKind.MIGRATE_TO: (frozenset({"blanket"}), _NONE, _blanket),
}


async def _reachable(session: AsyncSession, cloud: Cloud, ref: NetworkRef) -> tuple[Network, Sequence[Trust]]:
    """A network of the cloud's own, or one that it may reach, named with the cloud that lets it or by its id;
    and the relations by which it may."""
    by, slash, name = ref.partition("/")
    if not slash:
        try:
            return await find_network(session, ref, cloud.id), ()
        except NotFound:
            meant = Network.id == ref
    else:
        meant = Network.name == name
    which = passages.by_which(cloud.id, meant, named(Cloud, by) if slash else true())
    let = await passages.links(session, *which)
    networks = {link.reached.id: link.reached for link in let}
    if not networks:
        raise NotFound(
            f"there is no network {ref} in cloud {cloud.name}, nor does another cloud let it reach one",
            hint="supercloud network ls; supercloud trust ls",
        )
    if len(networks) > 1:
        raise Conflict(f"several clouds have a network {ref}", hint="name it by its id")
    return next(iter(networks.values())), [link.trust for link in let]


async def _of(session: AsyncSession, to: Cloud, ref: Ref) -> Network:
    """A network of the trusted cloud: one's own by its name, another's by its id, which its owner gave."""
    try:
        return await find_network(session, ref, to.id)
    except NotFound:
        found = await session.get(Network, ref)
        if found is None or found.cloud != to.id:
            raise NotFound(
                f"there is no network {ref} in cloud {to.name}",
                hint="name another's network by its id: supercloud network show",
            ) from None
        return found


async def _lock(session: AsyncSession, *clouds: Id) -> None:
    """In one order, so that two who grant each other something do not wait for each other."""
    for cloud in sorted(set(clouds)):
        if await session.get(Cloud, cloud, with_for_update=LOCKED, populate_existing=True) is None:
            raise NotFound("one of these clouds was removed")
