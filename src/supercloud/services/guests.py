"""Blankets inside those of another cloud, which a trust relation of kind place or migrate-to lets be there.

A guest is its own cloud's blanket in everything: mesh, keys, instances, quota. Around it is another's cloud,
which gives it memory and disk, and whose owner can read what is in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from sqlalchemy import select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from supercloud.model.errors import NotFound, Refused
from supercloud.model.names import Id
from supercloud.model.trust import TrustKind
from supercloud.services.refs import find_blanket, within
from supercloud.services.relations import lending
from supercloud.services.requests import Ref
from supercloud.services.store.tables import Blanket, Cloud, Trust

#: What may happen in a guest.
Let = frozenset[TrustKind]
_NOTHING: Let = frozenset()
_ENDED = "the cloud around it lets nothing be there any more"
_ONLY_MOVES = "the cloud around it lets running instances move there, and nothing begin"
_HINT = "supercloud trust ls shows what is let; instances that are there move away: supercloud vm migrate"


async def is_within(session: AsyncSession, cloud: Id, of: Id) -> bool:
    """Whether a cloud is this one, or in it however deep."""
    at = await session.get(Cloud, cloud)
    while at is not None and at.id != of:
        at = None if at.parent is None else await session.get(Cloud, at.parent)
    return at is not None


async def check_within(session: AsyncSession, cloud: Cloud, parent: Blanket) -> None:
    """Whether a cloud may have a blanket in this one now.

    Raises:
        Refused: it is neither of that cloud nor within it, and nothing lets it; or not any more.
    """
    if not await is_within(session, cloud.id, parent.cloud) and not await _lent(session, cloud.id, parent.id):
        raise Refused(
            f"blanket {parent.name} is of another cloud, which {cloud.name} is not within",
            hint="a cloud, those within it, and those it trusts with `place` have blankets in its blankets",
        )
    await check_standing(session, parent)


async def check_standing(session: AsyncSession, row: Blanket) -> None:
    """Whether a blanket may go on to begin something, as far as others' clouds around it matter.

    Raises:
        Refused: it is in one that lets it no more.
    """
    if await standing(session, row) == _NOTHING:
        raise Refused(f"blanket {row.name} is inside another cloud's: {_ENDED}", hint=_HINT)


async def check_coming(session: AsyncSession, blanket: Id) -> None:
    """Whether data may come to a blanket: asked again when they do, since that may be long after the order.

    Raises:
        Refused.
    """
    row = await session.get(Blanket, blanket)
    if row is not None:
        await check_standing(session, row)


async def check_tools(session: AsyncSession, row: Blanket) -> None:
    """
    Raises:
        Refused: tools would begin there what no relation is asked about.
    """
    if await standing(session, row) is not None:
        raise Refused(
            f"blanket {row.name} is inside another cloud's, where no tools are let in",
            hint="connect to another blanket",
        )


async def closed(session: AsyncSession, rows: Iterable[Blanket], *, arriving: bool) -> Mapping[Id, str]:
    """Of these, the guests where an instance may not be, with why. `arriving`: it comes there running, or is
    there already; else it would begin there."""
    found = dict[Id, str]()
    for row in rows:
        let = None if row.parent is None else await standing(session, row)
        if let == _NOTHING:
            found[row.id] = _ENDED
        elif let is not None and TrustKind.PLACE not in let and not arriving:
            found[row.id] = _ONLY_MOVES
    return found


async def standing(session: AsyncSession, row: Blanket) -> Let | None:
    """What every cloud around it lets that is not its own, nor one around its own. None: there is none."""
    let: Let | None = None
    at = row
    while at.parent is not None:
        around = await session.get_one(Blanket, at.parent)
        if not await is_within(session, at.cloud, around.cloud):
            here = await _lent(session, at.cloud, around.id)
            let = here if let is None else let & here
        at = around
    return let


async def _lent(session: AsyncSession, cloud: Id, blanket: Id) -> Let:
    """Who may begin things may let them arrive."""
    kinds = {TrustKind(one.kind) for one in await lending(session, cloud, blanket)}
    return frozenset(kinds | {TrustKind.MIGRATE_TO}) if TrustKind.PLACE in kinds else frozenset(kinds)


# ---------------------------------------------------------------- finding


async def find_around(session: AsyncSession, ref: Ref, cloud: Cloud) -> Blanket:
    """A blanket that another is to be in: one's own, or by its id one that `cloud` is let be in.

    Raises:
        NotFound, Conflict.
    """
    try:
        return await find_blanket(session, ref, None)
    except NotFound:
        if not await lending(session, cloud.id, ref):
            raise
        return await session.get_one(Blanket, ref)


async def find_evicted(session: AsyncSession, ref: Ref) -> Blanket:
    """Another cloud's blanket by its id, which is inside one of the caller's and may be there no more.

    Raises:
        NotFound: there is none.
        Refused: it may be there still.
    """
    around = select(Blanket.id).where(within(session, Blanket.cloud)).scalar_subquery()
    row = await session.scalar(select(Blanket).where(Blanket.id == ref, Blanket.parent.in_(around)))
    if row is None:
        raise NotFound(f"there is no blanket {ref}", hint="supercloud blanket ls shows which there are")
    if await standing(session, row):
        raise Refused(
            f"blanket {row.id} is another cloud's, which is trusted to have it there",
            hint="supercloud trust ls; once that is revoked, the blanket can be removed",
        )
    return row


async def guests_of(session: AsyncSession, relations: Sequence[Trust]) -> Mapping[Id, tuple[Id, ...]]:
    """For each of these relations the trusted cloud's blankets that are in the blanket it is about."""
    about = {(one.blanket, one.to) for one in relations if one.blanket is not None}
    if not about:
        return {}
    inside = select(Blanket.id, Blanket.parent, Blanket.cloud).where(
        tuple_(Blanket.parent, Blanket.cloud).in_(about)
    )
    rows = (await session.execute(inside.order_by(Blanket.id))).all()
    return {
        one.id: tuple(blanket for blanket, parent, cloud in rows if (parent, cloud) == (one.blanket, one.to))
        for one in relations
    }
