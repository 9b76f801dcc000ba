"""Each blanket's overlay as it should be, from the store, and telling the blankets of changes.

A mesh is always built from the rows of one cloud only. What else there is to another cloud comes of a trust
relation that lasts, and of nothing else (services.passages). Who holds an instance's right is where its MAC
and IP are accepted from.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any

import structlog
from sqlalchemy import func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from supercloud.model.errors import Exhausted, NotFound, SupercloudError
from supercloud.model.names import GENERATIONS, Id
from supercloud.model.states import BlanketState
from supercloud.ports.overlay import Abroad, Announcement, Location, Mesh, MeshReport, Network, Peer
from supercloud.services import passages
from supercloud.services.agents import Agents
from supercloud.services.store import tables
from supercloud.services.store.changes import UNSEEN
from supercloud.services.store.engine import Store
from supercloud.services.together import Rounds
from supercloud.wire.codec import from_json, to_json

_log = structlog.get_logger(__name__)
_FIRST_VXLAN_PORT, _LAST_VXLAN_PORT = 20_000, 59_999


async def changed(session: AsyncSession, cloud: Id) -> None:
    """In the transaction that changes what an overlay is built of."""
    await session.execute(
        update(tables.Cloud)
        .where(tables.Cloud.id == cloud)
        .values(mesh_generation=tables.Cloud.mesh_generation + 1)
        .execution_options(synchronize_session=False, **{UNSEEN: True})
    )


async def link(session: AsyncSession, blanket: tables.Blanket) -> None:
    """Give a new blanket a VXLAN port with each other blanket of its cloud.

    Raises:
        Exhausted: the cloud has no port left.
    """
    others = await session.scalars(
        select(tables.Blanket.id).where(
            tables.Blanket.cloud == blanket.cloud, tables.Blanket.id != blanket.id
        )
    )
    highest = await session.scalar(
        select(func.max(tables.PeerLink.port)).where(tables.PeerLink.cloud == blanket.cloud)
    )
    port = highest or _FIRST_VXLAN_PORT - 1
    for other in others:
        port += 1
        if port > _LAST_VXLAN_PORT:
            raise Exhausted("this cloud has no VXLAN port left for another pair of blankets")
        low, high = sorted((blanket.id, other))
        session.add(tables.PeerLink(low=low, high=high, cloud=blanket.cloud, port=port))


async def wanted(session: AsyncSession, blanket: Id) -> Mesh:
    """
    Raises:
        NotFound: no such blanket.
    """
    own = await session.get(tables.Blanket, blanket)
    if own is None:
        raise NotFound(f"there is no blanket {blanket}")
    cloud = await session.get_one(tables.Cloud, own.cloud, populate_existing=True)
    return Mesh(
        address=own.mesh_address,
        generation=cloud.mesh_generation,
        peers=await _peers(session, own),
        networks=await _networks(session, own.cloud),
        locations=tuple(await locations(session, own.cloud)),
        abroad=(await passages.abroad(session, own.cloud, own.id)).get(own.id, Abroad()),
        announced=from_json(Announcement, own.announcement).generation if own.announcement else 0,
    )


async def _peers(session: AsyncSession, own: tables.Blanket) -> tuple[Peer, ...]:
    links = await session.scalars(
        select(tables.PeerLink).where(or_(tables.PeerLink.low == own.id, tables.PeerLink.high == own.id))
    )
    ports = {one.high if one.low == own.id else one.low: one.port for one in links}
    rows = await session.scalars(
        select(tables.Blanket)
        .where(tables.Blanket.id.in_(ports), tables.Blanket.revoked.is_(False))
        .order_by(tables.Blanket.id)
    )
    return tuple(
        Peer(
            blanket=row.id,
            address=row.mesh_address,
            endpoint=row.endpoint,
            keys=tuple(row.keys),
            vxlan_port=ports[row.id],
            announcement=from_json(Announcement, row.announcement) if row.announcement else None,
        )
        for row in rows
        if row.keys and row.state != BlanketState.REMOVED
    )


async def _networks(session: AsyncSession, cloud: Id) -> tuple[Network, ...]:
    rows = await session.scalars(
        select(tables.Network).where(tables.Network.cloud == cloud).order_by(tables.Network.id)
    )
    return tuple(
        Network(
            id=row.id,
            name=row.name,
            vni=row.vni,
            cidr=row.cidr,
            gateway=row.gateway,
            outward=not passages.closed(row),
        )
        for row in rows
    )


async def locations(session: AsyncSession, cloud: Id, instance: Id | None = None) -> Sequence[Location]:
    """Of one instance, or of all in the cloud."""
    query = (
        select(tables.NicRow, tables.Instance.name, tables.Right.holder, tables.Right.epoch)
        .join(tables.Instance, tables.Instance.id == tables.NicRow.instance)
        .join(tables.Right, tables.Right.instance == tables.NicRow.instance)
        .where(tables.NicRow.cloud == cloud)
        .order_by(tables.NicRow.instance, tables.NicRow.position)
    )
    if instance is not None:
        query = query.where(tables.NicRow.instance == instance)
    return [
        Location(
            instance=nic.instance,
            name=name,
            network=nic.network,
            mac=nic.mac,
            ip=nic.ip,
            blanket=holder,
            epoch=epoch,
        )
        for nic, name, holder, epoch in (await session.execute(query)).all()
    ]


class Meshes:
    """Applies what is wanted to the blankets that are connected; the others get it when they connect."""

    def __init__(self, store: Store, agents: Agents) -> None:
        self._store = store
        self._agents = agents
        self._turns: dict[Id, asyncio.Lock] = {}
        #: What each blanket has of other clouds. Absent: not known, since it is being told, or nobody heard
        #: whether it took it.
        self._abroad: dict[Id, Abroad] = {}
        #: Blankets that were asked to take theirs, and of which nobody heard that they did.
        self._owed: set[Id] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        #: A blanket is not told all of it again for each of its peers, if these come together.
        self._rounds = Rounds(self._in_turn)

    async def close(self) -> None:
        await self._rounds.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def settle(self) -> None:
        """Begin again with those that are connected and did not take theirs, as one does not that is too busy
        to answer in time: else it would have none until it connects anew, and its peers would not know it.
        """
        owed, self._owed = self._owed, set()
        for blanket in owed:
            if self._agents.is_connected(blanket):  # whoever is not is greeted as it connects
                self._later(self.greet(blanket))

    async def spread(self, cloud: Id, *, patient: bool = False) -> tuple[Id, ...]:
        """Apply to every connected blanket of `cloud`; those that did not take it. Whom it concerns in other
        clouds is told as well, and not waited for: a cloud does not wait for another's blankets.

        `patient`: to those as well that were connected a moment ago, and are expected back; those that only
        their peers hear have not taken it. Then those of other clouds count, too.
        """
        missing, heard = await self._spread(cloud, patient=patient)
        if not patient:
            self._later(self._tell_neighbours(cloud))
            return missing
        for one in await self._neighbours(cloud):
            missing += await self.refresh(one, heard=heard)
        return missing

    async def _spread(self, cloud: Id, *, patient: bool) -> tuple[tuple[Id, ...], Collection[Id]]:
        """Those that did not take it, and whom those that did still hear."""
        there = self._agents.is_expected if patient else self._agents.is_connected
        blankets = await self._blankets(cloud)
        asked = [one for one in blankets if there(one)]
        results = await asyncio.gather(*(self._try(one) for one in asked))
        if any(report and report[1] for report in results):
            # Somebody's peers have to learn a key that it just reported.
            return await self._spread(cloud, patient=patient)
        took = {one for one, report in zip(asked, results, strict=True) if report}
        heard = {peer for report in results if report for peer in report[0].alive} if patient else set()
        missing = tuple(one for one in blankets if one not in took and (one in asked or one in heard))
        return missing, heard

    async def greet(self, blanket: Id) -> None:
        """A blanket connected: give it its overlay, and its key to the others."""
        taken = await self._try(blanket)
        if taken is not None and taken[1]:
            await self.spread(taken[2])

    async def refresh(self, cloud: Id, *, heard: Collection[Id] | None = None) -> tuple[Id, ...]:
        """Tell the blankets of `cloud` what changed for them in other clouds, if something did; those that
        did not take it, or are not connected. With `heard`, who is gone counts only if it is among them."""
        there = self._agents.is_connected if heard is None else self._agents.is_expected
        untold = await self._untold(cloud)
        asked = [one for one in untold if there(one)]
        if asked:
            async with self._store.write() as session:
                await changed(session, cloud)
        results = await asyncio.gather(*(self._try(one) for one in asked))
        took = {one for one, report in zip(asked, results, strict=True) if report}
        if any(report and report[1] for report in results):
            await self.spread(cloud)
        counted = untold if heard is None else [one for one in untold if one in asked or one in heard]
        return tuple(one for one in counted if one not in took)

    async def _untold(self, cloud: Id) -> tuple[Id, ...]:
        async with self._store.read() as session:
            abroad = await passages.abroad(session, cloud)
        return tuple(
            one
            for one in await self._blankets(cloud)
            if self._abroad.get(one) != _lasting(abroad.get(one, Abroad()))
        )

    async def _neighbours(self, cloud: Id) -> set[Id]:
        async with self._store.read() as session:
            return await passages.neighbours(session, cloud)

    async def _tell_neighbours(self, cloud: Id) -> None:
        await self.tell(*await self._neighbours(cloud))

    async def locate(self, instance: Id) -> None:
        """The fast path of a migration: where one instance is now, to all connected blankets of its cloud."""
        async with self._store.write() as session:
            row = await session.get(tables.Instance, instance)
            if row is None:
                return
            await changed(session, row.cloud)
        blankets = [one for one in await self._blankets(row.cloud) if self._agents.is_connected(one)]
        await asyncio.gather(*(self._locate(one, row.cloud, instance) for one in blankets))
        self._later(self._relocate(row.cloud))

    async def _relocate(self, cloud: Id) -> None:
        """Who has to do with other clouds changes with where instances are, on either side."""
        neighbours = await self._neighbours(cloud)
        if neighbours:
            await self.tell(cloud, *neighbours)

    async def tell(self, *clouds: Id) -> dict[Id, tuple[Id, ...]]:
        """Refresh each; those of each that were not told."""
        told = await asyncio.gather(*(self.refresh(one) for one in clouds))
        return dict(zip(clouds, told, strict=True))

    async def _locate(self, blanket: Id, cloud: Id, instance: Id) -> None:
        """In its turn: a whole mesh that was read before and arrived after would take the location away."""
        try:
            async with self._turn(blanket):
                async with self._store.read() as session:
                    found = await locations(session, cloud, instance)
                for location in found:
                    await self._agents.agent(blanket).overlay.locate(location)
        except SupercloudError as error:  # it gets the whole mesh when it is back
            _log.info("mesh.locate_failed", blanket=blanket, why=error.message)

    async def _try(self, blanket: Id) -> tuple[MeshReport, bool, Id] | None:
        try:
            return await self.apply(blanket)
        except SupercloudError as error:
            self._owed.add(blanket)
            _log.warning("mesh.apply_failed", blanket=blanket, why=error.message)
            return None

    async def apply(self, blanket: Id) -> tuple[MeshReport, bool, Id]:
        """Tell it all that was so when this was called; its report, whether its keys are news to its peers,
        and its cloud.

        Raises: what the agent answers; Unavailable.
        """
        return await self._rounds(blanket)

    async def _in_turn(self, blanket: Id) -> tuple[MeshReport, bool, Id]:
        async with self._turn(blanket):
            mesh, report, known = await self._apply(blanket)
            if mesh.generation < report.generation < GENERATIONS:  # it takes nothing older than what it has
                await self._overtake(blanket, report.generation)
                mesh, report, known = await self._apply(blanket)
            self._abroad[blanket] = _lasting(mesh.abroad)
            self._owed.discard(blanket)
            if known.says(report):  # as nearly always: nothing to write
                return report, False, known.cloud
            return report, *await self.heard(blanket, report)

    async def _apply(self, blanket: Id) -> tuple[Mesh, MeshReport, _Known]:
        # Before it is read: what is revoked from now on has to be told after this.
        self._abroad.pop(blanket, None)
        async with self._store.read() as session:
            mesh = await wanted(session, blanket)
            row = await session.get_one(tables.Blanket, blanket)  # which `wanted` has read
            known = _Known(row.cloud, tuple(row.keys), row.announcement)
        return mesh, await self._agents.agent(blanket).overlay.apply(mesh), known

    async def _overtake(self, blanket: Id, generation: int) -> None:
        """A store that was restored from before goes on after what a blanket has heard meanwhile."""
        async with self._store.write() as session:
            row = await session.get(tables.Blanket, blanket)
            if row is None:
                raise NotFound(f"there is no blanket {blanket}")
            _log.warning("mesh.overtaken", blanket=blanket, cloud=row.cloud, generation=generation)
            await session.execute(
                update(tables.Cloud)
                .where(tables.Cloud.id == row.cloud, tables.Cloud.mesh_generation < generation)
                .values(mesh_generation=generation + 1)
                .execution_options(synchronize_session=False, **{UNSEEN: True})
            )

    async def heard(self, blanket: Id, report: MeshReport) -> tuple[bool, Id]:
        """Remember the keys that a blanket reports; whether they are new, and its cloud."""
        keys, said = _keys(report), _announced(report)
        async with self._store.write() as session:
            row = await session.get(tables.Blanket, blanket, with_for_update=tables.LOCKED)
            if row is None:
                raise NotFound(f"there is no blanket {blanket}")
            new = row.keys != keys or row.announcement != said
            if new:
                row.keys, row.announcement = keys, said
                await changed(session, row.cloud)
            return new, row.cloud

    def later(self, *clouds: Id) -> None:
        """Refresh each, in a while."""

        async def told() -> None:
            await self.tell(*clouds)

        self._later(told())

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        async def logged() -> None:
            try:
                await work
            except SupercloudError as error:  # who comes back is told, and so is whoever changes next
                _log.warning("mesh.not_told", why=error.message)

        task = asyncio.create_task(logged())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _turn(self, blanket: Id) -> asyncio.Lock:
        return self._turns.setdefault(blanket, asyncio.Lock())

    async def _blankets(self, cloud: Id) -> list[Id]:
        async with self._store.read() as session:
            return list(
                await session.scalars(
                    select(tables.Blanket.id).where(
                        tables.Blanket.cloud == cloud, tables.Blanket.revoked.is_(False)
                    )
                )
            )


@dataclass(frozen=True, slots=True)
class _Known:
    """What was known of a blanket as its mesh was read."""

    cloud: Id
    keys: tuple[str, ...]
    announcement: dict[str, Any] | None

    def says(self, report: MeshReport) -> bool:
        """Whether it reports just that."""
        return list(self.keys) == _keys(report) and self.announcement == _announced(report)


def _keys(report: MeshReport) -> list[str]:
    return [report.key] + ([report.next_key] if report.next_key else [])


def _announced(report: MeshReport) -> dict[str, Any] | None:
    return to_json(Announcement, report.announcement) if report.announcement else None


def _lasting(abroad: Abroad) -> Abroad:
    """Without how long it still lasts, which is another time each time."""
    return replace(abroad, passages=tuple(replace(one, left_s=0.0) for one in abroad.passages))
