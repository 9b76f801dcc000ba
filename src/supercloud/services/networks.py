"""Networks of a cloud, and the addresses in them."""

from __future__ import annotations

import ipaddress
import secrets
import time

from sqlalchemy import func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from supercloud.model.errors import Conflict, Exhausted
from supercloud.model.levels import Level
from supercloud.model.names import Id, Ipv4, Mac, new_id
from supercloud.services import mesh, passages, trust
from supercloud.services.pages import EVERYTHING, Page, Part
from supercloud.services.parts import Parts
from supercloud.services.refs import find_cloud, find_network, own_cloud, within
from supercloud.services.requests import CreateNetwork, Ref
from supercloud.services.rules import check_network
from supercloud.services.store.tables import Cloud, Instance, Network, NicRow, Trust
from supercloud.services.views import NetworkLink, NetworkView

_VNIS = range(4096, 1 << 24)


class Networks:
    """The part of Northbound about networks."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def create_network(self, request: CreateNetwork) -> NetworkView:
        cidr = check_network(request.cidr)
        async with self._parts.store.write() as session:
            cloud = await own_cloud(session, request.cloud)
            for name, other in await session.execute(
                select(Network.name, Network.cidr).where(Network.cloud == cloud.id)
            ):
                if name == request.name:
                    raise Conflict(
                        f"cloud {cloud.name} has a network {name} already",
                        hint=f"supercloud network show {name}, or another name",
                    )
                if cidr.overlaps(ipaddress.ip_network(other)):
                    raise Conflict(f"{cidr} overlaps with {other} of network {name}", hint="another --cidr")
            await passages.check_range(session, cloud.id, str(cidr))
            row = Network(
                id=new_id(),
                cloud=cloud.id,
                name=request.name,
                vni=await _free_vni(session),
                cidr=str(cidr),
                gateway=str(next(cidr.hosts())),
                level=request.level or Level.OPEN,
                created_at=time.time(),
            )
            session.add(row)
            await mesh.changed(session, cloud.id)
        await self._parts.meshes.spread(cloud.id)
        return _view(row, cloud.name, 0)

    async def networks(self, *, cloud: Ref | None = None, page: Page = EVERYTHING) -> Part[NetworkView]:
        used = select(func.count()).where(NicRow.network == Network.id).correlate(Network).scalar_subquery()
        query = select(Network, Cloud.name, used).join(Cloud, Cloud.id == Network.cloud)
        query = page.of(query.where(*page.picks(Network.name)), Network.cloud, Network.name)
        async with self._parts.store.read() as session:
            query = query.where(within(session, Network.cloud))
            if cloud is not None:
                query = query.where(Network.cloud == (await find_cloud(session, cloud)).id)
            rows = (await session.execute(query)).all()
        return page.part(rows, lambda row: (row[0].cloud, row[0].name), lambda row: _view(*row))

    async def network(self, ref: Ref, *, cloud: Ref | None = None) -> NetworkView:
        async with self._parts.store.read() as session:
            row = await find_network(session, ref, cloud)
            owner = await session.get_one(Cloud, row.cloud)
            used = await session.scalar(select(func.count()).where(NicRow.network == row.id))
            return _view(row, owner.name, used or 0, await _links(session, row))

    async def remove_network(self, ref: Ref, *, cloud: Ref | None = None) -> None:
        async with self._parts.store.write() as session:
            row = await find_network(session, ref, cloud)
            user = await session.scalar(
                select(Instance.name)
                .join(NicRow, NicRow.instance == Instance.id)
                .where(NicRow.network == row.id)
                .limit(1)
            )
            if user is not None:
                raise Conflict(f"instance {user} is on network {row.name}", hint=f"supercloud vm rm {user}")
            about = or_(Trust.network == row.id, Trust.to_network == row.id)
            await trust.forget(session, self._parts.keys, about)
            await session.delete(row)
            await mesh.changed(session, row.cloud)
        await self._parts.meshes.spread(row.cloud)


async def plug(session: AsyncSession, network: Network, instance: Id, position: int) -> NicRow:
    """An address for an instance, which it keeps for its life.

    Raises:
        Exhausted: the network is full.
    """
    taken = set(await session.scalars(select(NicRow.ip).where(NicRow.network == network.id)))
    nic = NicRow(
        instance=instance,
        network=network.id,
        cloud=network.cloud,
        position=position,
        mac=_new_mac(),
        ip=_free_ip(network, taken),
    )
    session.add(nic)
    await session.flush()
    return nic


def _free_ip(network: Network, taken: set[str]) -> Ipv4:
    for host in ipaddress.IPv4Network(network.cidr).hosts():
        ip = str(host)
        if ip != network.gateway and ip not in taken:
            return ip
    raise Exhausted(
        f"network {network.name} ({network.cidr}) has no free address",
        hint="remove instances in it, or use a larger network",
    )


def _new_mac() -> Mac:
    """Locally administered, unicast; 40 random bits, and the table refuses a second one of its kind."""
    return ":".join(["52", *(f"{byte:02x}" for byte in secrets.token_bytes(5))])


async def _free_vni(session: AsyncSession) -> int:
    """Unique over all clouds, so that a packet that strayed would still find no taker. Random, since clouds
    that choose at the same moment do not see each other's choice; the table refuses the same one twice."""
    taken = set(await session.scalars(select(Network.vni)))
    if len(taken) > len(_VNIS) // 2:
        raise Exhausted("no VXLAN network identifier is left")
    while (vni := secrets.choice(_VNIS)) in taken:
        pass
    return vni


async def _links(session: AsyncSession, row: Network) -> tuple[NetworkLink, ...]:
    """The other clouds' networks that it is connected with."""
    found = []
    which = or_(Trust.network == row.id, Trust.to_network == row.id)
    for one in await passages.links(session, which):
        other = one.other(row.cloud)
        found.append(
            NetworkLink(
                relation=one.trust.id,
                cloud=(await session.get_one(Cloud, other.cloud)).name,
                network=other.name,
                cidr=other.cidr,
                inward=one.reached.cloud == row.cloud,
                expires_at=one.trust.expires_at,
                closed=one.closed,
            )
        )
    return tuple(found)


def _view(row: Network, cloud: str, instances: int, links: tuple[NetworkLink, ...] = ()) -> NetworkView:
    return NetworkView(
        id=row.id,
        name=row.name,
        cloud=cloud,
        cloud_id=row.cloud,
        cidr=row.cidr,
        gateway=row.gateway,
        vni=row.vni,
        instances=instances,
        level=Level(row.level),
        links=links,
    )
