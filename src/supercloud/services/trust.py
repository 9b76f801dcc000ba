"""Trust relations: granted, passed on, listed, revoked. What asks for them: services.sharing, .passages,
.findings, .orders and .guests.

Whoever changes anything that descends from a relation holds the row locked in which the descent begins (its
`root`), so that what is passed on while it is revoked is either seen and revoked too, or refused.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, delete, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from supercloud.model.errors import NotFound, OutcomeUnknown, Refused, SupercloudError
from supercloud.model.names import Id, new_id
from supercloud.model.orders import Reaction
from supercloud.model.trust import (
    Relation,
    TrustKind,
    TrustState,
    Wish,
    descending,
    grant,
    to_pass_on,
)
from supercloud.ports.keystore import KeyStore
from supercloud.services import guests, loop_orders, orders, passages
from supercloud.services.pages import EVERYTHING, Page, Part
from supercloud.services.parts import Parts
from supercloud.services.refs import find_cloud, within
from supercloud.services.requests import GrantTrust, Ref
from supercloud.services.store.tables import LOCKED, Blanket, Cloud, Image, Network, Trust
from supercloud.services.store.time import wall
from supercloud.services.subjects import Subject, subject
from supercloud.services.views import Range, TrustView

#: That one has ended is shown for so long.
KEPT_S = 30 * 86400.0


class Trusts:
    """The part of Northbound about trust relations."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def grant_trust(self, request: GrantTrust) -> TrustView:
        """
        Raises:
            NotFound: a cloud, an image or a network, for the caller.
            Refused: more than it has, or what the other one has already.
            Conflict: networks whose addresses overlap.
            InvalidInput, Exhausted: see model.trust.grant.
        """
        async with self._parts.store.write() as session:
            cloud = await find_cloud(session, request.cloud)
            to = await _anybodys(session, request.to)
            about = await subject(session, request, cloud, to)
            now = await wall(session)
            await session.execute(delete(Trust).where(_over(now - KEPT_S)))
            parent = None if about.own else await _to_pass_on(session, cloud, about, now)
            wish = Wish(
                kind=request.kind,
                cloud=cloud.id,
                to=to.id,
                thing=about.id,
                lasts_s=request.lasts_s,
                delegable=request.delegable,
                reactions=frozenset(request.reactions),
            )
            made = grant(
                wish,
                new_id(),
                parent=None if parent is None else _relation(parent),
                now=now,
                active=await _active_from(session, cloud.id, now),
            )
            if about.anyhow:
                raise Refused(f"cloud {to.name} can use {about.name} anyhow: {about.anyhow}")
            session.add(_row(made, parent, now, about.columns))
            await session.flush()
            shown = await _shown(session, made.id, now)
            ends = await _connected(session, [made.id])
        await self._parts.meshes.tell(*_clouds(ends))
        return shown

    async def trusts(
        self, *, cloud: Ref | None = None, kind: TrustKind | None = None, page: Page = EVERYTHING
    ) -> Part[TrustView]:
        async with self._parts.store.read() as session:
            now = await wall(session)
            query = _query().where(_visible(session))
            if cloud is not None:
                query = query.where(_concerns((await find_cloud(session, cloud)).id))
            if kind is not None:
                query = query.where(Trust.kind == kind)
            if page.state is not None:
                query = query.where(_is(TrustState(page.state), now))
            rows = (await session.execute(page.of(query, Trust.created_at, Trust.id))).all()
            there = await guests.guests_of(session, [row[0] for row in rows])
        return page.part(
            rows, lambda row: (row[0].created_at, row[0].id), lambda row: _view((*row,), now, there)
        )

    async def trust(self, relation: Id) -> TrustView:
        async with self._parts.store.read() as session:
            return await _shown(session, relation, await wall(session))

    async def revoke_trust(self, relation: Id) -> TrustView:
        """
        Raises:
            OutcomeUnknown: it is revoked, and the key store does not know yet, or a blanket.
        """
        async with self._parts.store.write() as session:
            await _shown(session, relation, 0.0)  # whether the caller sees it
            now = await wall(session)
            tree = await _locked(session, relation)
            ended = {relation, *descending([relation], [_relation(row) for row in tree])}
            for row in tree:
                if row.id in ended and row.revoked_at is None:
                    row.revoked_at = now
            await session.flush()
            await orders.withdraw(session, ended, now)
            await loop_orders.withdraw(session, ended, now)
            shown = await _shown(session, relation, now)
            ends = await _connected(session, ended)
        if ends:
            await self._cut(relation, ends)
        self._parts.horizontal.changed()
        if shown.needs_approval:
            try:
                await self._parts.keys.withdraw_image_key(share=relation)
            except SupercloudError as error:
                raise OutcomeUnknown(
                    f"it is revoked, but the key store was not told: {error.message}",
                    hint=f"supercloud trust revoke {relation}",
                ) from error
        return shown

    async def _cut(self, relation: Id, ends: Sequence[tuple[Network, Network]]) -> None:
        """Have the blankets of both clouds drop what was let. Those of the network that was to be reached do
        it whatever the others do."""
        untold = await self._parts.meshes.tell(*_clouds(ends))
        async with self._parts.store.read() as session:
            late = set[Id]()
            for reached, _ in ends:
                carrying = await passages.carriers(session, reached.id)
                gone = set(carrying) - self._parts.agents.connected
                late |= gone | set(carrying).intersection(untold[reached.cloud])
        if late:
            raise OutcomeUnknown(
                f"it is revoked, but {len(late)} of the blankets whose instances were to be reached could "
                "not be told: connections go on there until they can, or until it would have ended by itself",
                hint=f"supercloud trust revoke {relation}",
            )


async def forget(session: AsyncSession, keys: KeyStore, which: ColumnElement[bool]) -> None:
    """Remove relations, with all that descend from them: their cloud, image or network goes.

    Raises:
        Unavailable: the key store.
    """
    found = (await session.execute(select(Trust.id, Trust.root).where(which))).all()
    now = await wall(session)
    for root in sorted({one[1] for one in found}):
        tree = await _locked(session, root)
        of = [one[0] for one in found if one[1] == root]
        gone = {*of, *descending(of, [_relation(row) for row in tree])}
        await orders.withdraw(session, gone, now)
        await loop_orders.withdraw(session, gone, now)
        for row in sorted(tree, key=lambda row: row.depth, reverse=True):
            if row.id in gone:
                image = None if row.image is None else await session.get_one(Image, row.image)
                if image is not None and image.key_of is not None:
                    await keys.withdraw_image_key(share=row.id)
                await session.delete(row)
                await session.flush()  # before what it descends from


# ---------------------------------------------------------------- inside


async def _anybodys(session: AsyncSession, ref: Ref) -> Cloud:
    """One's own cloud, or one by its id, which who has it gave away.

    Raises:
        NotFound, Conflict.
    """
    try:
        return await find_cloud(session, ref)
    except NotFound:
        found = await session.get(Cloud, ref)
        if found is None:
            raise NotFound(
                f"there is no cloud {ref}", hint="name another's cloud by its id: supercloud cloud show"
            ) from None
        return found


async def _to_pass_on(session: AsyncSession, cloud: Cloud, about: Subject, now: float) -> Trust:
    """The relation that lets a cloud pass on what is not its own, locked.

    Raises:
        Refused: none does.
    """
    rows = {row.id: row for row in about.by}
    best = to_pass_on((_relation(row) for row in rows.values()), now=now)
    if best is None:
        raise Refused(
            f"{about.name} was not shared with cloud {cloud.name} to be passed on",
            hint="ask for a relation that was granted with --delegable",
        )
    for row in await _locked(session, rows[best.id].root):
        if row.id == best.id:
            return row
    raise Refused("the relation that it would be made from is gone")


async def _locked(session: AsyncSession, relation: Id) -> Sequence[Trust]:
    """All that descends from where this one does, as it is from now on."""
    root = await session.scalar(select(Trust.root).where(Trust.id == relation))
    if root is None:
        return ()
    await session.get(Trust, root, with_for_update=LOCKED, populate_existing=True)
    found = select(Trust).where(Trust.root == root).execution_options(populate_existing=True)
    return (await session.scalars(found)).all()


async def _active_from(session: AsyncSession, cloud: Id, now: float) -> int:
    query = select(func.count()).select_from(Trust).where(Trust.cloud == cloud, _active(now))
    return await session.scalar(query) or 0


def _active(now: float) -> ColumnElement[bool]:
    return and_(Trust.revoked_at.is_(None), Trust.expires_at > now)


def _over(before: float) -> ColumnElement[bool]:
    """Whether it had ended by then; what descends from it had, too."""
    return or_(Trust.revoked_at < before, Trust.expires_at < before)


def _is(state: TrustState, now: float) -> ColumnElement[bool]:
    """As model.trust.Relation.state."""
    if state is TrustState.REVOKED:
        return Trust.revoked_at.is_not(None)
    return _active(now) if state is TrustState.ACTIVE else ~_active(now) & Trust.revoked_at.is_(None)


def _visible(session: AsyncSession) -> ColumnElement[bool]:
    """To who has one of its ends, or the cloud where it began."""
    return or_(*(within(session, column) for column in (Trust.cloud, Trust.to, Trust.origin)))


def _concerns(cloud: Id) -> ColumnElement[bool]:
    return or_(Trust.cloud == cloud, Trust.to == cloud, Trust.origin == cloud)


def _query() -> Select[*tuple[Any, ...]]:
    by, to, origin = aliased(Cloud), aliased(Cloud), aliased(Cloud)
    reached, begins = aliased(Network), aliased(Network)
    return (
        select(Trust, by.name, to.name, origin.name, Image, reached, begins, Blanket)
        .join(by, by.id == Trust.cloud)
        .join(to, to.id == Trust.to)
        .join(origin, origin.id == Trust.origin)
        .outerjoin(Image, Image.id == Trust.image)
        .outerjoin(reached, reached.id == Trust.network)
        .outerjoin(begins, begins.id == Trust.to_network)
        .outerjoin(Blanket, Blanket.id == Trust.blanket)
    )


async def _connected(session: AsyncSession, relations: Collection[Id]) -> Sequence[tuple[Network, Network]]:
    """The networks that some of these let be reached, each with that from which."""
    reached, begins = aliased(Network), aliased(Network)
    query = (
        select(reached, begins)
        .join(Trust, Trust.network == reached.id)
        .join(begins, begins.id == Trust.to_network)
        .where(Trust.id.in_(relations))
    )
    return [(row[0], row[1]) for row in (await session.execute(query)).all()]


def _clouds(ends: Sequence[tuple[Network, Network]]) -> set[Id]:
    return {network.cloud for both in ends for network in both}


async def _shown(session: AsyncSession, relation: Id, now: float) -> TrustView:
    """
    Raises:
        NotFound.
    """
    found = (await session.execute(_query().where(Trust.id == relation, _visible(session)))).one_or_none()
    if found is None:
        raise NotFound(
            f"there is no trust relation {relation}", hint="supercloud trust ls shows which there are"
        )
    return _view((*found,), now, await guests.guests_of(session, [found[0]]))


def _relation(row: Trust) -> Relation:
    return Relation(
        id=row.id,
        kind=TrustKind(row.kind),
        cloud=row.cloud,
        to=row.to,
        thing=row.image or row.network or row.blanket or row.origin,
        parent=row.parent,
        depth=row.depth,
        delegable=row.delegable,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        reactions=frozenset(row.reactions or ()),
    )


def _row(made: Relation, parent: Trust | None, now: float, columns: Mapping[str, Id]) -> Trust:
    return Trust(
        id=made.id,
        kind=made.kind,
        cloud=made.cloud,
        to=made.to,
        **columns,
        reactions=sorted(made.reactions) or None,
        parent=made.parent,
        root=made.id if parent is None else parent.root,
        origin=made.cloud if parent is None else parent.origin,
        depth=made.depth,
        delegable=made.delegable,
        created_at=now,
        expires_at=made.expires_at,
    )


def _view(row: tuple[Any, ...], now: float, there: Mapping[Id, tuple[Id, ...]]) -> TrustView:
    """`there`: the blankets of trusted clouds, by relation."""
    relation, by, to, origin, image, reached, begins, around = row
    about = image or reached or around
    state = _relation(relation).state(now)
    lasts = reached is not None and state is TrustState.ACTIVE
    return TrustView(
        id=relation.id,
        kind=TrustKind(relation.kind),
        cloud=by,
        cloud_id=relation.cloud,
        to=to,
        to_id=relation.to,
        thing=origin if about is None else about.name,
        of_id=relation.origin if about is None else None,
        blanket=relation.blanket,
        guests=there.get(relation.id, ()),
        digest=None if image is None else image.digest,
        network=_range(reached),
        to_network=_range(begins),
        reactions=tuple(Reaction(one) for one in relation.reactions or ()),
        delegable=relation.delegable,
        parent=relation.parent,
        depth=relation.depth,
        state=state,
        closed=passages.Link(relation, begins, reached).closed if lasts else None,
        needs_approval=image is not None and image.key_of is not None,
        created_at=relation.created_at,
        expires_at=relation.expires_at,
        revoked_at=relation.revoked_at,
    )


def _range(network: Network | None) -> Range | None:
    return None if network is None else Range(id=network.id, name=network.name, cidr=network.cidr)
