"""What of other clouds the blankets of a cloud have to do with: what live trust relations of kind `connect`
make of the rows of both.

A blanket is told of another cloud what it needs to carry a relation's packets, and only if an instance of the
connected network is in it: where the other network's instances are, by their addresses, and those blankets'
keys. No name, no MAC, nothing of another network.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, and_, or_, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from supercloud.model import levels
from supercloud.model.errors import Conflict
from supercloud.model.levels import Level, Thing
from supercloud.model.names import Cidr, Id
from supercloud.model.states import JOINED, BlanketState
from supercloud.model.trust import TrustKind
from supercloud.ports.overlay import Abroad, Announcement, Foreigner, ForeignPeer, Passage
from supercloud.services.store.tables import Blanket, Cloud, Network, NicRow, Right, Trust
from supercloud.services.store.time import wall
from supercloud.wire.codec import from_json

_Networks = ipaddress.IPv4Network


@dataclass(frozen=True, slots=True)
class Link:
    """One relation, with its networks: `begins` may begin connections to `reached`."""

    trust: Trust
    begins: Network
    reached: Network

    def own(self, cloud: Id) -> Network:
        return self.reached if self.reached.cloud == cloud else self.begins

    def other(self, cloud: Id) -> Network:
        return self.begins if self.reached.cloud == cloud else self.reached

    @property
    def closed(self) -> str | None:
        """Why it lets nothing through although it lasts."""
        for network in (self.begins, self.reached):
            if closed(network):
                return f"network {network.name} is {network.level}"
        return None


def closed(network: Network) -> bool:
    """Whether its level has no way out of it."""
    return levels.has(Level(network.level), Thing.NETWORK, levels.NO_WAY_OUT)


async def links(session: AsyncSession, *which: ColumnElement[bool]) -> Sequence[Link]:
    """Those that last, of these."""
    begins, reached = aliased(Network), aliased(Network)
    query = (
        select(Trust, begins, reached)
        .join(begins, begins.id == Trust.to_network)
        .join(reached, reached.id == Trust.network)
        .where(Trust.kind == TrustKind.CONNECT, Trust.revoked_at.is_(None), *which)
        .order_by(Trust.id)
    )
    rows = (await session.execute(query)).all()
    if not rows:  # as a rule; the clock is then nobody's business
        return ()
    now = await wall(session)
    return [Link(*row) for row in rows if row[0].expires_at > now]


def by_which(
    cloud: Id, network: ColumnElement[bool], of: ColumnElement[bool]
) -> tuple[ColumnElement[bool], ...]:
    """Which let a cloud reach a network; `of`: what the cloud that grants it is."""
    meant = select(Network.id).where(network).scalar_subquery()
    granted = select(Cloud.id).where(of).scalar_subquery()
    return Trust.to == cloud, Trust.network.in_(meant), Trust.cloud.in_(granted)


def of_cloud(cloud: Id) -> ColumnElement[bool]:
    """Of which one network is in it."""
    own = select(Network.id).where(Network.cloud == cloud).scalar_subquery()
    return or_(Trust.network.in_(own), Trust.to_network.in_(own))


async def neighbours(session: AsyncSession, cloud: Id) -> set[Id]:
    """The clouds that it is connected with."""
    return {one.other(cloud).cloud for one in await links(session, of_cloud(cloud))}


async def abroad(session: AsyncSession, cloud: Id, blanket: Id | None = None) -> Mapping[Id, Abroad]:
    """For each blanket of a cloud that has to do with others, or for one of them; not for any other."""
    found = [one for one in await links(session, of_cloud(cloud)) if one.closed is None]
    here = await _carried(session, {one.own(cloud).id for one in found}, blanket)
    if not here:
        return {}
    now = await wall(session)
    instances = await _instances(session, {one.other(cloud).id for one in found})
    peers = await _peers(session, {one.blanket for one in instances})
    told = dict[Id, Abroad]()
    for holder, networks in here.items():
        own = [one for one in found if one.own(cloud).id in networks]
        others = {one.other(cloud).id for one in own}
        seen = tuple(one for one in instances if one.network in others)
        holders = {one.blanket for one in seen}
        told[holder] = Abroad(
            peers=tuple(peer for peer in peers if peer.blanket in holders),
            instances=seen,
            passages=tuple(_passage(one, cloud, now) for one in own),
        )
    return told


async def _carried(
    session: AsyncSession, networks: Collection[Id], blanket: Id | None
) -> Mapping[Id, set[Id]]:
    """Which of these networks each blanket, or one, has instances of."""
    if not networks:
        return {}
    query = (
        select(Right.holder, NicRow.network)
        .join(NicRow, NicRow.instance == Right.instance)
        .where(NicRow.network.in_(networks), Right.holder.is_not(None))
        .distinct()
    )
    if blanket is not None:
        query = query.where(Right.holder == blanket)
    found = dict[Id, set[Id]]()
    for holder, network in (await session.execute(query)).all():
        if holder is not None:
            found.setdefault(holder, set()).add(network)
    return found


def _passage(link: Link, cloud: Id, now: float) -> Passage:
    return Passage(
        relation=link.trust.id,
        network=link.own(cloud).id,
        other=link.other(cloud).id,
        cidr=link.other(cloud).cidr,
        inward=link.reached.cloud == cloud,
        left_s=link.trust.expires_at - now,
    )


async def _instances(session: AsyncSession, networks: Collection[Id]) -> tuple[Foreigner, ...]:
    query = (
        select(NicRow, Right.holder, Right.epoch)
        .join(Right, Right.instance == NicRow.instance)
        .where(NicRow.network.in_(networks), Right.holder.is_not(None))
        .order_by(NicRow.network, NicRow.instance)
    )
    return tuple(
        Foreigner(instance=nic.instance, network=nic.network, ip=nic.ip, blanket=holder, epoch=epoch)
        for nic, holder, epoch in (await session.execute(query)).all()
        if holder is not None
    )


async def _peers(session: AsyncSession, blankets: Collection[Id]) -> tuple[ForeignPeer, ...]:
    query = (
        select(Blanket)
        .where(
            Blanket.id.in_(blankets), and_(Blanket.revoked.is_(False), Blanket.state != BlanketState.REMOVED)
        )
        .order_by(Blanket.id)
    )
    return tuple(
        ForeignPeer(
            blanket=row.id,
            cloud=row.cloud,
            endpoint=row.endpoint,
            keys=tuple(row.keys),
            announcement=from_json(Announcement, row.announcement) if row.announcement else None,
        )
        for row in await session.scalars(query)
        if row.keys
    )


async def carriers(session: AsyncSession, network: Id) -> Sequence[Id]:
    """The blankets that have instances of this network, as far as they run."""
    query = (
        select(Blanket.id)
        .join(Right, Right.holder == Blanket.id)
        .join(NicRow, NicRow.instance == Right.instance)
        .where(NicRow.network == network, Blanket.state.in_(JOINED), Blanket.revoked.is_(False))
        .distinct()
    )
    return (await session.scalars(query)).all()


# ---------------------------------------------------------------- addresses that have to differ


async def check_range(session: AsyncSession, cloud: Id, cidr: Cidr) -> None:
    """Whether a network of this cloud's own may have these addresses, as far as other clouds' matter.

    Raises:
        Conflict: they are those of a network that is connected with one of this cloud.
    """
    for link in await links(session, of_cloud(cloud)):
        other = link.other(cloud)
        if _Networks(cidr).overlaps(_Networks(other.cidr)):
            raise Conflict(
                f"{cidr} overlaps with {other.cidr} of another cloud, which is connected with network "
                f"{link.own(cloud).name}",
                hint=f"choose other addresses, or supercloud trust revoke {link.trust.id}",
            )


async def check_foreign(session: AsyncSession, cloud: Id, network: Network, whose: str) -> None:
    """Whether another cloud's network may be connected with one of `cloud`, which a packet could else mean.

    Raises:
        Conflict: it has addresses of a network there, or of one that is connected there already.
    """
    own = await session.scalars(select(Network.cidr).where(Network.cloud == cloud))
    others = [one.other(cloud) for one in await links(session, of_cloud(cloud))]
    taken = {*own, *(other.cidr for other in others if other.id != network.id)}
    if any(_Networks(network.cidr).overlaps(_Networks(one)) for one in taken):
        raise Conflict(
            f"{network.cidr} of network {network.name} overlaps with a network that {whose} has, or is "
            "connected with, so that nobody could tell which of them an address means",
            hint="connect a network of other addresses",
        )
