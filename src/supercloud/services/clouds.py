"""Self-service clouds."""

from __future__ import annotations

import time

from sqlalchemy import func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from supercloud.model.errors import Conflict, Denied, InvalidInput, NotFound, Refused
from supercloud.model.names import Id, Name, new_id
from supercloud.model.quota import Amounts, Quota, Slice, check_quota, check_slice, taken
from supercloud.model.right import RightTerms
from supercloud.services import quotas, trust, wanted
from supercloud.services.governing import ROTATE
from supercloud.services.pages import EVERYTHING, Page, Part
from supercloud.services.parts import Parts
from supercloud.services.refs import find_cloud, own_cloud, owned, owner_of, within
from supercloud.services.requests import CreateCloud, Ref
from supercloud.services.store.tables import Blanket, Cloud, Instance, Network, Principal, Trust, Volume
from supercloud.services.views import CloudView, OperationView, WantedCloud

RENEW_EVERY_S = 10.0
_DEPTH = 8  # of clouds in clouds


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
            quota=quotas.kept(request.quota),
            created_at=time.time(),
        )
        async with self._parts.store.write() as session:
            parent = None
            if request.parent is not None:
                parent = await own_cloud(session, request.parent)
                row.parent = parent.id
                await _check_slice(session, parent, Slice(cloud=request.name, quota=request.quota))
            row.owner = await _owner_to_be(session, request)
            if row.owner == owner_of(session):
                same = select(Cloud.id).where(Cloud.name == request.name, owned(session, Cloud.owner))
            else:
                same = select(Cloud.id).where(Cloud.name == request.name, Cloud.owner == row.owner)
            if await session.scalar(same):
                raise Conflict(
                    f"there is a cloud {request.name} already",
                    hint=f"supercloud cloud show {request.name}, or another name",
                )
            session.add(row)
            shown = _view(row, await _owner(session, row), parent, Amounts(), (0, 0))
        self._parts.directory.changed()
        return shown

    async def clouds(self, *, page: Page = EVERYTHING) -> Part[CloudView]:
        blankets, instances = (
            select(func.count()).where(table.cloud == Cloud.id).correlate(Cloud).scalar_subquery()
            for table in (Blanket, Instance)
        )
        async with self._parts.store.read() as session:
            parents = aliased(Cloud)
            query = (
                select(Cloud, Principal.name, parents, blankets, instances)
                .outerjoin(Principal, Principal.id == Cloud.owner)
                .outerjoin(parents, (parents.id == Cloud.parent) & within(session, parents.id))
                .where(within(session, Cloud.id), *page.picks(Cloud.name))
            )
            rows = (await session.execute(page.of(query, Cloud.name, Cloud.id))).all()
            used = await quotas.taken_of_all(session, [row[0] for row in rows])
        return page.part(
            rows,
            lambda row: (row[0].name, row[0].id),
            lambda row: _view(row[0], row[1], row[2], used[row[0].id], (row[3], row[4])),
        )

    async def cloud(self, ref: Ref) -> CloudView:
        async with self._parts.store.read() as session:
            return await _shown(session, await find_cloud(session, ref))

    async def set_quota(self, ref: Ref, quota: Quota) -> CloudView:
        """
        Raises:
            Denied: it is in a cloud that is not the caller's, whose quota this is a slice of.
            OverQuota: it has more by now, or its parent has not so much left.
        """
        async with self._parts.store.write() as session:
            found = await find_cloud(session, ref)
            if found.parent is not None:
                if (parent := await _parent_of(session, found)) is None:
                    raise Denied(f"the quota of cloud {found.name} is a slice of that of the cloud it is in")
                parent = await own_cloud(session, parent.id)
                nested = Slice(cloud=found.name, quota=quota)
                await _check_slice(session, parent, nested, instead_of=found.id)
            row = await own_cloud(session, found.id)
            used, slices = await quotas.used_of(session, row.id), await quotas.slices_of(session, row.id)
            check_quota(row.name, quota, used, slices)
            row.quota = quotas.kept(quota)
            await session.flush()
            return await _shown(session, row)

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
            nested = await session.scalar(select(Cloud.name).where(Cloud.parent == row.id).limit(1))
            if nested is not None:
                raise Conflict(f"cloud {nested} is in cloud {row.name}", hint=f"supercloud cloud rm {nested}")
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
            ends = (Trust.cloud, Trust.to, Trust.origin)
            await trust.forget(session, self._parts.keys, or_(*(end == row.id for end in ends)))
            await session.delete(row)
        self._parts.directory.changed()

    async def rotate_keys(self, cloud: Ref) -> OperationView:
        operations = self._parts.operations
        async with self._parts.store.write() as session:
            row = await find_cloud(session, cloud)
            operation = await operations.record(
                session,
                ROTATE,
                object_id=row.id,
                name=row.name,
                cloud=row.id,
                intent={"cloud": row.id},
            )
        return await operations.started(operation)


async def _owner(session: AsyncSession, row: Cloud) -> Name | None:
    return None if row.owner is None else (await session.get_one(Principal, row.owner)).name


async def _owner_to_be(session: AsyncSession, request: CreateCloud) -> Id | None:
    """Whose a cloud becomes: another's only within one that is the caller's.

    Raises:
        InvalidInput, NotFound.
    """
    if request.owner is None:
        return owner_of(session)
    if request.parent is None:
        raise InvalidInput("only a cloud within another one is made for somebody else", hint="add --in")
    found: Id | None = await session.scalar(select(Principal.id).where(Principal.key == request.owner))
    if found is None:
        raise NotFound(f"no principal has the key {request.owner}", hint="supercloud key show tells it")
    return found


async def _check_slice(
    session: AsyncSession, parent: Cloud, nested: Slice, *, instead_of: Id | None = None
) -> None:
    """`parent` is locked. `instead_of`: the nested cloud, whose slice until now comes back.

    Raises:
        OverQuota; Refused: it would be too deep.
    """
    if instead_of is None and await _depth(session, parent) >= _DEPTH:
        raise Refused(f"cloud {parent.name} is {_DEPTH} deep in others already")
    slices = await quotas.slices_of(session, parent.id, but=instead_of)
    has = taken(await quotas.used_of(session, parent.id), slices)
    check_slice(parent.name, quotas.quota_of(parent), has, nested)


async def _depth(session: AsyncSession, row: Cloud) -> int:
    depth, at = 1, row.parent
    while at is not None:
        depth, at = depth + 1, await session.scalar(select(Cloud.parent).where(Cloud.id == at))
    return depth


async def _parent_of(session: AsyncSession, row: Cloud) -> Cloud | None:
    """The cloud that it is in, if that exists for the caller."""
    found: Cloud | None = await session.scalar(
        select(Cloud).where(Cloud.id == row.parent, within(session, Cloud.id))
    )
    return found


async def _shown(session: AsyncSession, row: Cloud) -> CloudView:
    blankets = await session.scalar(select(func.count()).where(Blanket.cloud == row.id))
    instances = await session.scalar(select(func.count()).where(Instance.cloud == row.id))
    owner, parent = await _owner(session, row), await _parent_of(session, row)
    used = await quotas.taken_of(session, row.id)
    return _view(row, owner, parent, used, (blankets or 0, instances or 0))


def _view(
    row: Cloud, owner: Name | None, parent: Cloud | None, used: Amounts, counts: tuple[int, int]
) -> CloudView:
    return CloudView(
        id=row.id,
        name=row.name,
        owner=owner,
        parent=None if parent is None else parent.name,
        cpu_model=row.cpu_model,
        right_length_s=row.length_s,
        right_margin_s=row.margin_s,
        right_grace_s=row.grace_s,
        blankets=counts[0],
        instances=counts[1],
        quota=quotas.quota_of(row),
        used=used,
    )
