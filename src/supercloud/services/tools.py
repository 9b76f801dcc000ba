"""The user's own libvirt tools: letting them in to a blanket, their connections, and what they made there.

Whoever has such a connection is as good as root in that blanket. So a blanket that tools were let in to is
marked, for ever, before its agent opens: levels from `baseline` on keep away from it, and so do blankets that
would be inside it.
"""

from __future__ import annotations

from functools import partial

from sqlalchemy import and_, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from supercloud.model import levels
from supercloud.model.errors import Conflict, InvalidInput, NotFound, Refused
from supercloud.model.levels import Demand
from supercloud.model.names import Nonce
from supercloud.ports.agent import BlanketReport
from supercloud.ports.tools import ConnectTools, ForeignVm, HandedNumber, OpenHanded
from supercloud.services import guests, nesting, placing
from supercloud.services.demands import demands_of, volume_demand
from supercloud.services.northbound import Stream
from supercloud.services.parts import Parts
from supercloud.services.refs import find_blanket, own_cloud
from supercloud.services.requests import Ref
from supercloud.services.store.tables import Blanket, Cloud, Instance, Volume, VolumeCopy
from supercloud.services.views import ForeignVmsView, ForeignVmView
from supercloud.wire.codec import from_json


class ToolsAccess:
    """The part of Northbound about tools."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def let_tools_in(self, ref: Ref, *, cloud: Ref | None = None) -> None:
        """
        Raises:
            Refused: something there has a level that excludes it; a blanket is inside it; it is inside
                another cloud's; it has no place for tools.
            Conflict: its agent is not connected.
        """
        async with self._parts.store.write() as session:
            found = await find_blanket(session, ref, cloud)
            await own_cloud(session, found.cloud)  # nothing comes there until this is decided
            row = await session.get(Blanket, found.id, populate_existing=True)
            if row is None:
                raise NotFound(f"blanket {found.name} was removed")
            await self._check(session, row)
            row.tools = True
        await self._parts.agents.agent(row.id).tools.open()

    async def tools_stream(
        self,
        ref: Ref,
        *,
        cloud: Ref | None = None,
        connection: Nonce | None = None,
        handed: HandedNumber | None = None,
    ) -> Stream:
        """
        Raises: as `let_tools_in`; Conflict where nobody let tools in; NotFound where nothing was handed over.
        """
        if connection is None and handed is not None:
            raise InvalidInput("what was handed over, was so in a connection: name it")
        async with self._parts.store.read() as session:
            row = await find_blanket(session, ref, cloud)
            if not row.tools:
                raise Conflict(
                    f"no tools were let in to blanket {row.name}",
                    hint=f"supercloud blanket connect {row.name}",
                )
            await self._check(session, row)
        if connection is None or handed is None:
            return await self._parts.streams.ask(
                row.id,
                lambda agent, name: agent.tools.connect(ConnectTools(stream=name, connection=connection)),
            )
        asked = partial(OpenHanded, connection=connection, number=handed)
        return await self._parts.streams.ask(
            row.id, lambda agent, name: agent.tools.open_handed(asked(stream=name))
        )

    async def foreign_vms(self, ref: Ref, *, cloud: Ref | None = None) -> ForeignVmsView:
        """Asked of the blanket itself, where tools were let in.

        Raises: as `made_in`.
        """
        async with self._parts.store.read() as session:
            row = await find_blanket(session, ref, cloud)
            owner = await session.get_one(Cloud, row.cloud)
        found = await made_in(self._parts, row) if row.tools else []
        shown = tuple(_shown(one) for one in sorted(found, key=lambda one: one.name))
        return ForeignVmsView(blanket=row.name, cloud=owner.name, tools=row.tools, vms=shown)

    async def _check(self, session: AsyncSession, row: Blanket) -> None:
        _check_place(self._parts, row)
        await guests.check_tools(session, row)
        if await nesting.inside_of(session, row.id):
            raise Refused(
                f"blankets are inside blanket {row.name}, and tools there would reach their machines",
                hint="connect to another blanket, or to one of those inside",
            )
        for demand in await _demands_at(session, row):
            if levels.has(demand.level, demand.thing, levels.NO_TOOLS):
                raise Refused(
                    f"{demand.of} is {demand.level} and in blanket {row.name}, so it takes no tools",
                    hint="connect to another blanket, or migrate it first",
                )


async def made_in(parts: Parts, row: Blanket) -> list[ForeignVm]:
    """What tools made there, by its agent's word.

    Raises:
        Conflict: its agent is not connected.
        Refused: it has no place for tools.
        Unavailable: it went just now.
    """
    _check_place(parts, row)
    return await parts.agents.agent(row.id).tools.list()


def _check_place(parts: Parts, row: Blanket) -> None:
    if not parts.agents.may_answer(row):
        raise Conflict(
            f"blanket {row.name} is {row.state}, not connected",
            hint=f"supercloud blanket show {row.name} says why",
        )
    if row.report is None or not from_json(BlanketReport, row.report).takes_tools:
        raise Refused(
            f"blanket {row.name} has no place for tools: its agent or its image is of before",
            hint="add a new blanket: supercloud blanket add",
        )


async def _demands_at(session: AsyncSession, row: Blanket) -> list[Demand]:
    """Of every instance that is there or on its way there, and of volumes there that no instance has."""
    bound = await placing.bound_for(session, row.cloud)
    coming = [instance for instance, to in bound.items() if row.id in to]
    there = select(Instance).where(or_(Instance.blanket == row.id, Instance.id.in_(coming)))
    demands = [
        one for each in (await session.scalars(there)).all() for one in await demands_of(session, each)
    ]
    kept = and_(VolumeCopy.volume == Volume.id, VolumeCopy.current.is_(True))
    loose = (
        select(Volume)
        .outerjoin(VolumeCopy, kept)
        .where(Volume.instance.is_(None), or_(VolumeCopy.blanket == row.id, Volume.wanted_on == row.id))
    )
    return [*demands, *(volume_demand(one) for one in await session.scalars(loose))]


def _shown(vm: ForeignVm) -> ForeignVmView:
    return ForeignVmView(
        id=vm.id,
        name=vm.name,
        state=vm.state,
        vcpus=vm.vcpus,
        memory_mib=vm.memory_mib,
        disk_bytes=vm.disk_bytes,
        adoptable=not vm.obstacle,
        obstacle=vm.obstacle,
    )
