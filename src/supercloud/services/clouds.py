"""Self-service clouds."""

from __future__ import annotations

import time

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from supercloud.model.errors import Conflict
from supercloud.model.names import Name, new_id
from supercloud.model.right import RightTerms
from supercloud.services import wanted
from supercloud.services.northbound import CloudView, CreateCloud, OperationView, Ref, WantedCloud
from supercloud.services.pages import EVERYTHING, Page, Part
from supercloud.services.parts import Parts
from supercloud.services.refs import find_cloud, owned, owner_of, within
from supercloud.services.store.tables import Blanket, Cloud, Instance, Network, Principal, Volume

RENEW_EVERY_S = 10.0


class Clouds:
    """The part of Northbound about clouds."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def create_cloud(self, request: CreateCloud) -> CloudView:
        terms = RightTerms(
            length_s=request.right_length_s,
            margin_s=request.right_margin_s,
            grace_s=request.right_grace_s,
            renew_every_s=RENEW_EVERY_S,
        )
        terms.check()
        row = Cloud(
            id=new_id(),
            name=request.name,
            cpu_model=request.cpu_model or self._parts.settings.cpu_model,
            length_s=terms.length_s,
            margin_s=terms.margin_s,
            grace_s=terms.grace_s,
            mesh_generation=1,
            created_at=time.time(),
        )
        async with self._parts.store.write() as session:
            same = select(Cloud.id).where(Cloud.name == request.name, owned(session, Cloud.owner))
            if await session.scalar(same):
                raise Conflict(f"there is a cloud {request.name} already")
            row.owner = owner_of(session)
            session.add(row)
            owner = await _owner(session, row)
        self._parts.directory.changed()
        return _view(row, owner, 0, 0)

    async def clouds(self, *, page: Page = EVERYTHING) -> Part[CloudView]:
        blankets, instances = (
            select(func.count()).where(table.cloud == Cloud.id).correlate(Cloud).scalar_subquery()
            for table in (Blanket, Instance)
        )
        async with self._parts.store.read() as session:
            query = (
                select(Cloud, Principal.name, blankets, instances)
                .outerjoin(Principal, Principal.id == Cloud.owner)
                .where(within(session, Cloud.id), *page.picks(Cloud.name))
            )
            rows = (await session.execute(page.of(query, Cloud.name, Cloud.id))).all()
        return page.part(rows, lambda row: (row[0].name, row[0].id), lambda row: _view(*row))

    async def cloud(self, ref: Ref) -> CloudView:
        async with self._parts.store.read() as session:
            row = await find_cloud(session, ref)
            blankets = await session.scalar(select(func.count()).where(Blanket.cloud == row.id))
            instances = await session.scalar(select(func.count()).where(Instance.cloud == row.id))
            return _view(row, await _owner(session, row), blankets or 0, instances or 0)

    async def wanted_cloud(self, ref: Ref) -> WantedCloud:
        async with self._parts.store.read() as session:
            return await wanted.of(session, await find_cloud(session, ref))

    async def remove_cloud(self, ref: Ref) -> None:
        """
        Raises:
            Conflict: it still has something in it.
        """
        async with self._parts.store.write() as session:
            row = await find_cloud(session, ref)
            for table, command in (
                (Instance, "vm"),
                (Volume, "volume"),
                (Network, "network"),
                (Blanket, "blanket"),
            ):
                name = await session.scalar(select(table.name).where(table.cloud == row.id).limit(1))
                if name is not None:
                    raise Conflict(
                        f"{table.__name__.lower()} {name} is in cloud {row.name}",
                        hint=f"supercloud {command} rm {name} --cloud {row.name}",
                    )
            await session.delete(row)
        self._parts.directory.changed()

    async def rotate_keys(self, cloud: Ref) -> OperationView:
        operations = self._parts.operations
        async with self._parts.store.write() as session:
            row = await find_cloud(session, cloud)
            operation = await operations.record(
                session,
                "cloud.rotate-keys",
                object_id=row.id,
                name=row.name,
                cloud=row.id,
                intent={"cloud": row.id},
            )
        return await operations.started(operation)


async def _owner(session: AsyncSession, row: Cloud) -> Name | None:
    return None if row.owner is None else (await session.get_one(Principal, row.owner)).name


def _view(row: Cloud, owner: Name | None, blankets: int, instances: int) -> CloudView:
    return CloudView(
        id=row.id,
        name=row.name,
        owner=owner,
        cpu_model=row.cpu_model,
        right_length_s=row.length_s,
        right_margin_s=row.margin_s,
        right_grace_s=row.grace_s,
        blankets=blankets,
        instances=instances,
    )
