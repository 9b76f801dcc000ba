"""Blankets: asking for them, showing them, starting and stopping their machines."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from sqlalchemy import Select, and_, func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from supercloud.model.domains import Rented
from supercloud.model.errors import Conflict, Exhausted, InvalidInput, NotFound, Refused
from supercloud.model.levels import given
from supercloud.model.names import Id, Ipv4, Name, new_id
from supercloud.model.nesting import Size
from supercloud.model.states import BlanketState
from supercloud.ports.agent import BlanketReport
from supercloud.ports.platform import Ability, ConsolePlatform, Declaration
from supercloud.services import guests, mesh, nesting, quotas
from supercloud.services.declarations import declaration, declaration_of
from supercloud.services.demands import facts_of
from supercloud.services.northbound import LAST, Stream
from supercloud.services.pages import EVERYTHING, Page, Part
from supercloud.services.parts import Parts
from supercloud.services.providers import capacity_of, platform_of, rented_of
from supercloud.services.refs import caller_of, find_blanket, find_cloud, find_provider, own_cloud, within
from supercloud.services.requests import AddBlanket, Ref
from supercloud.services.store.tables import (
    LOCKED,
    Blanket,
    Cloud,
    EventRow,
    Instance,
    Operation,
    Provider,
    Right,
    Volume,
    VolumeCopy,
)
from supercloud.services.views import BlanketView, OperationView, ReportView
from supercloud.wire.codec import from_json

_MESH = ipaddress.IPv4Network("100.64.0.0/10")


class Blankets:
    """The part of Northbound about blankets."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def add_blanket(self, request: AddBlanket) -> OperationView:
        """
        Raises:
            InvalidInput: neither a provider nor a parent is said, or both.
            Refused, Exhausted: it cannot be there.
        """
        wanted = {
            "flavour": request.flavour.value,
            "vcpus": request.vcpus,
            "memory_mib": request.memory_mib,
            "disk_bytes": request.disk_bytes,
            "debug_shell": request.debug_shell,
        }
        async with self._parts.store.write() as session:
            named = await find_cloud(session, request.cloud)
            provider, parent = await _where(session, self._parts, request, named)
            cloud = await own_cloud(session, named.id)
            known = await session.scalar(
                select(Blanket).where(Blanket.cloud == cloud.id, Blanket.name == request.name)
            )
            if known is None:
                if parent is None:
                    await _check_rent(session, provider, request)
                else:
                    await _check_inside(session, cloud, provider, parent, request)
                if provider.draining_since is not None:
                    raise Refused(f"provider {provider.name} is being drained", hint="choose another one")
                await quotas.check_blanket(session, cloud, provider.id)
                known = await _insert(session, cloud, provider, parent, request.name, wanted)
            elif not await _being_added(session, known, provider, parent, wanted):
                raise Conflict(
                    f"cloud {cloud.name} has a blanket {request.name} already",
                    hint=f"supercloud blanket show {request.name}, or another name",
                )
            operation = await self._operation(session, known, "blanket.add", {"blanket": known.id})
        return await self._parts.operations.started(operation)

    async def blankets(self, *, cloud: Ref | None = None, page: Page = EVERYTHING) -> Part[BlanketView]:
        async with self._parts.store.read() as session:
            picked = page.picks(Blanket.name, Blanket.state)
            query = _shown(session).where(within(session, Blanket.cloud), *picked)
            if cloud is not None:
                query = query.where(Blanket.cloud == (await find_cloud(session, cloud)).id)
            rows = (await session.execute(page.of(query, Blanket.cloud, Blanket.name))).all()
        return page.part(rows, lambda row: (row[0].cloud, row[0].name), lambda row: self._blanket_view(*row))

    async def reports(
        self, *, cloud: Ref | None = None, blanket: Ref | None = None, page: Page = LAST
    ) -> Part[ReportView]:
        async with self._parts.store.read() as session:
            query = (
                select(EventRow, Blanket.name, Cloud.name)
                .join(Blanket, Blanket.id == EventRow.blanket)
                .join(Cloud, Cloud.id == EventRow.cloud)
                .where(within(session, EventRow.cloud), *page.picks(EventRow.kind))
            )
            if cloud is not None:
                query = query.where(EventRow.cloud == (await find_cloud(session, cloud)).id)
            if blanket is not None:
                query = query.where(EventRow.blanket == (await find_blanket(session, blanket, cloud)).id)
            query = page.of(query, EventRow.received_at, EventRow.id, newest=True)
            rows = (await session.execute(query)).all()
        return page.part(rows, lambda row: (row[0].received_at, row[0].id), lambda row: _report_view(*row))

    async def blanket(self, ref: Ref, *, cloud: Ref | None = None) -> BlanketView:
        async with self._parts.store.read() as session:
            row = await find_blanket(session, ref, cloud)
            found = await session.execute(_shown(session).where(Blanket.id == row.id))
            return self._blanket_view(*found.one())

    async def remove_blanket(
        self, ref: Ref, *, cloud: Ref | None = None, force: bool = False
    ) -> OperationView:
        """With `force`, the instances in it end, and every volume that is in it is lost with it; and so it is
        with the blankets inside it, the innermost first.

        Another cloud's that is inside one of the caller's, and may be there no more, is removed by its id,
        by force only.

        Raises:
            Conflict: there are some.
            Refused: it is another cloud's, which may have it there.
        """
        async with self._parts.store.write() as session:
            row, seen_by = await _removable(session, ref, cloud)
            if seen_by != row.cloud and not force:
                raise Conflict(
                    f"blanket {row.id} is another cloud's, and what is in it is lost with it",
                    hint="--force removes it all the same",
                )
            await session.refresh(row, with_for_update=LOCKED)  # none comes to be in it meanwhile
            inside = await nesting.inside_of(session, row.id)
            if inside and not force:
                raise Conflict(
                    f"{_named(session, inside)} inside blanket {row.name}",
                    hint="remove what is inside first; --force takes all of it along",
                )
            user = await session.scalar(select(Instance.name).where(Instance.blanket == row.id).limit(1))
            if user is not None and not force:
                raise Conflict(
                    f"instance {user} is in blanket {row.name}",
                    hint=f"migrate or remove it: supercloud vm rm {user}",
                )
            kept = await session.scalar(_only_there(row.id).limit(1))
            if kept is not None and not force:
                raise Conflict(
                    f"the data of volume {kept} is in blanket {row.name}",
                    hint=f"back it up (supercloud volume backup {kept}), remove it, or lose it with --force",
                )
            operation = await self._parts.operations.record(
                session,
                "blanket.remove",
                object_id=row.id,
                name=row.name if seen_by == row.cloud else row.id,
                cloud=seen_by,
                intent={"blanket": row.id},
            )
        return await self._parts.operations.started(operation)

    async def start_blanket(self, ref: Ref, *, cloud: Ref | None = None) -> OperationView:
        """
        Raises:
            Conflict: it is revoked, or never came to be.
            Refused: it is inside another cloud's, which lets it no more.
        """
        async with self._parts.store.write() as session:
            row = await find_blanket(session, ref, cloud)
            if row.revoked:
                raise Conflict(
                    f"blanket {row.name} is {row.state} and is not let in any more: {row.reason}",
                    hint=f"supercloud blanket rm {row.name} --force, and add a new one",
                )
            await guests.check_standing(session, row)
            operation = await self._operation(session, row, "blanket.start", {"blanket": row.id})
        return await self._parts.operations.started(operation)

    async def stop_blanket(self, ref: Ref, *, cloud: Ref | None = None, force: bool = False) -> OperationView:
        """With `force`, the instances in it end, and the machine is not asked but its power is cut; that of
        the blankets inside it, too.

        Raises:
            Conflict: it may run an instance, or a blanket inside it runs.
        """
        async with self._parts.store.write() as session:
            row = await find_blanket(session, ref, cloud)
            inside = await nesting.inside_of(session, row.id)
            runs = [one for one in inside if self._parts.agents.is_connected(one.id)]
            if runs and not force:
                raise Conflict(
                    f"{_named(session, runs)} inside blanket {row.name}, and still there",
                    hint="stop what is inside first; --force ends all of it",
                )
            held = select(Instance.name).join(Right, Right.instance == Instance.id)
            user = await session.scalar(held.where(Right.holder == row.id).limit(1))
            if user is not None and not force:
                raise Conflict(
                    f"instance {user} runs in blanket {row.name}",
                    hint=f"supercloud vm stop {user}, or migrate it, or --force",
                )
            intent = {"blanket": row.id, "force": force}
            operation = await self._operation(session, row, "blanket.stop", intent)
        return await self._parts.operations.started(operation)

    async def _operation(self, session: AsyncSession, row: Blanket, kind: str, intent: dict[str, Any]) -> Id:
        return await self._parts.operations.record(
            session, kind, object_id=row.id, name=row.name, cloud=row.cloud, intent=intent
        )

    async def blanket_console(self, ref: Ref, *, cloud: Ref | None = None) -> Stream:
        async with self._parts.store.read() as session:
            row = await find_blanket(session, ref, cloud)
        platform = await platform_of(self._parts, row)
        declared = await platform.declare()
        if Ability.CONSOLE not in declared.abilities or not isinstance(platform, ConsolePlatform):
            raise Refused(f"platform {declared.kind} has no console")
        return _Console(platform, row.id, await platform.console(row.id))

    def _blanket_view(
        self, row: Blanket, cloud: str, provider: Provider, instances: int, parent: Name | None
    ) -> BlanketView:
        report = from_json(BlanketReport, row.report) if row.report else None
        return BlanketView(
            id=row.id,
            name=row.name,
            cloud=cloud,
            cloud_id=row.cloud,
            provider=provider.name,
            parent=parent,
            depth=row.depth,
            deeper=nesting.limit_of(provider).left(row.depth),
            state=BlanketState(row.state),
            flavour=report.flavour if report else None,
            connected=self._parts.agents.is_connected(row.id),
            agent_version=report.agent_version if report else None,
            mesh_address=row.mesh_address,
            confidentiality=declaration_of(row, provider).confidentiality,
            instances=instances,
            gives=given(facts_of(row, provider, report)),
            reason=row.reason,
            tools=row.tools,
            quarantined_by=row.quarantined_by,
        )


def _shown(session: AsyncSession) -> Select[Blanket, str, Provider, int, Name | None]:
    """Who has a nested cloud need not know what is around it."""
    count = select(func.count()).where(Instance.blanket == Blanket.id).correlate(Blanket).scalar_subquery()
    around = aliased(Blanket)
    return (
        select(Blanket, Cloud.name, Provider, count, around.name)
        .join(Cloud, Cloud.id == Blanket.cloud)
        .join(Provider, Provider.id == Blanket.provider)
        .outerjoin(around, and_(around.id == Blanket.parent, within(session, around.cloud)))
    )


def _report_view(row: EventRow, blanket: str, cloud: str) -> ReportView:
    return ReportView(
        id=row.id,
        kind=row.kind,
        blanket=blanket,
        cloud=cloud,
        at=row.at,
        received_at=row.received_at,
        data=row.data,
    )


async def _where(
    session: AsyncSession, parts: Parts, request: AddBlanket, cloud: Cloud
) -> tuple[Provider, Blanket | None]:
    """The domain that it is to be in, and the blanket, if it is to be in one."""
    if (request.provider is None) == (request.parent is None):
        raise InvalidInput(
            "a blanket is on a provider's platform or in another blanket", hint="say --provider, or --in"
        )
    if request.provider is not None:
        return await find_provider(session, request.provider), None
    parent, provider = await nesting.find_parent(session, parts, request.parent or "", cloud)
    return provider, parent


async def _removable(session: AsyncSession, ref: Ref, cloud: Ref | None) -> tuple[Blanket, Id]:
    """One's own, or another cloud's that is inside one's own; and the cloud that sees what becomes of it."""
    try:
        row = await find_blanket(session, ref, cloud)
    except NotFound:
        row = await guests.find_evicted(session, ref)
        return row, (await session.get_one(Blanket, row.parent)).cloud
    return row, row.cloud


async def _check_rent(session: AsyncSession, provider: Provider, request: AddBlanket) -> None:
    """Whether a machine can be rented there. Its provider is locked: of its capacity, none is given twice."""
    _check_flavour(f"provider {provider.name}", declaration(provider), request)
    await session.refresh(provider, with_for_update=LOCKED)
    more = Rented(machines=1, vcpus=request.vcpus, memory_mib=request.memory_mib)
    capacity_of(provider).check((await rented_of(session, [provider.id]))[provider.id], more)


async def _check_inside(
    session: AsyncSession, cloud: Cloud, provider: Provider, parent: Blanket, request: AddBlanket
) -> None:
    await guests.check_within(session, cloud, parent)
    _check_flavour(f"blanket {parent.name}", nesting.as_platform(parent, provider), request)
    size = Size(vcpus=request.vcpus, memory_mib=request.memory_mib, disk_bytes=request.disk_bytes)
    await nesting.check_new(session, parent, size)


def _check_flavour(where: str, declared: Declaration, request: AddBlanket) -> None:
    if request.flavour not in declared.flavours:
        can = ", ".join(sorted(declared.flavours)) or "none"
        raise Refused(
            f"{where} cannot run a blanket of flavour {request.flavour}: {declared.reason}",
            hint=f"its flavours: {can}",
        )


def _named(session: AsyncSession, inside: Sequence[Blanket]) -> str:
    """Blankets of clouds that the caller does not reach have no names here."""
    caller = caller_of(session)
    known = [row.name for row in inside if caller is None or row.cloud in caller.clouds]
    if known and len(known) == len(inside) == 1:
        return f"blanket {known[0]} is"
    return f"{len(inside)} blankets ({', '.join(known)}) are" if known else f"{len(inside)} blankets are"


async def _insert(  # noqa: PLR0917 - the row's parts
    session: AsyncSession,
    cloud: Cloud,
    provider: Provider,
    parent: Blanket | None,
    name: str,
    wanted: dict[str, Any],
) -> Blanket:
    row = Blanket(
        id=new_id(),
        cloud=cloud.id,
        provider=provider.id,
        parent=None if parent is None else parent.id,
        depth=0 if parent is None else parent.depth + 1,
        name=name,
        state=BlanketState.CREATED,
        wanted=wanted,
        mesh_address=await _free_address(session, cloud.id),
        keys=[],
        revoked=False,
        reason="",
        created_at=time.time(),
    )
    session.add(row)
    await session.flush()
    await mesh.link(session, row)
    return row


async def _being_added(
    session: AsyncSession,
    known: Blanket,
    provider: Provider,
    parent: Blanket | None,
    wanted: dict[str, Any],
) -> bool:
    """Whether the same request is under way, so that this one joins it."""
    open_one = await session.scalar(
        select(Operation.id).where(
            Operation.object == known.id, Operation.kind == "blanket.add", Operation.ended_at.is_(None)
        )
    )
    same = (known.provider, known.parent, known.wanted)
    return open_one is not None and same == (provider.id, None if parent is None else parent.id, wanted)


async def _free_address(session: AsyncSession, cloud: Id) -> Ipv4:
    taken = set(await session.scalars(select(Blanket.mesh_address).where(Blanket.cloud == cloud)))
    for host in _MESH.hosts():
        if str(host) not in taken:
            return str(host)
    raise Exhausted("this cloud's mesh has no free address")


class _Console:
    """northbound.Stream over a platform's console."""

    def __init__(self, platform: ConsolePlatform, machine: Id, output: AsyncIterator[bytes]) -> None:
        self._platform = platform
        self._machine = machine
        self._output = output

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._output

    async def write(self, data: bytes) -> None:
        await self._platform.console_write(self._machine, data)

    async def close(self) -> None:
        close = getattr(self._output, "aclose", None)  # a generator has it
        if close is not None:
            await close()


def _only_there(blanket: Id) -> Select[Name]:
    """The names of volumes that belong to no instance and whose data is in this blanket."""
    held = select(Volume.name).join(VolumeCopy, VolumeCopy.volume == Volume.id)
    return held.where(VolumeCopy.blanket == blanket, VolumeCopy.current, Volume.instance.is_(None))
