"""Domains as their providers have them: services.southbound.Southbound over the store and the platforms.

Everything that is shown is put together here out of columns that hold no user's word: a provider's own ones,
and of blankets their id, size and state.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import ColumnElement, exists, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from supercloud.model.domains import Capacity, Rented, Window, WindowState
from supercloud.model.errors import Conflict, Exhausted, NotFound, SupercloudError
from supercloud.model.names import Id, Name, new_id
from supercloud.model.placement import Confidentiality
from supercloud.model.states import BlanketState, OperationState
from supercloud.ports.platform import Declaration, Machine, MachineState
from supercloud.services.declarations import declaration
from supercloud.services.feed import Place, Watch
from supercloud.services.maintenance import open_again
from supercloud.services.moves import DRAIN, record_drain
from supercloud.services.northbound import LAST
from supercloud.services.pages import EVERYTHING, Page, Part
from supercloud.services.parts import Parts
from supercloud.services.providers import capacity_of, kept, price_of, rented_of, taken_by, window_of
from supercloud.services.refs import owned, owner_of, the_one
from supercloud.services.requests import Ref
from supercloud.services.southbound import (
    DomainTerms,
    DomainView,
    DrainView,
    HealthView,
    MachineView,
    PlanWindow,
    RegisterDomain,
    WindowView,
)
from supercloud.services.store.tables import (
    LOCKED,
    Blanket,
    Instance,
    Maintenance,
    Operation,
    Provider,
    VolumeCopy,
)
from supercloud.wire.codec import to_json

NOT_ACCEPTED = "no operator has accepted it yet"
_WAIT_S = 30.0
#: Of one provider's principal, and windows of one domain that are not over.
_DOMAINS, _WINDOWS = 100, 64


class Domains:
    """services.southbound.Southbound."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    # ------------------------------------------------------------ domains

    async def register_domain(self, request: RegisterDomain) -> DomainView:
        """Its driver is not asked anything before an operator has accepted it: it runs on our machine.

        Raises:
            Conflict: there is one of that name.
            Exhausted: so many are enough.
        """
        async with self._parts.store.write() as session:
            if await session.scalar(select(Provider.id).where(Provider.name == request.name)):
                raise Conflict(
                    f"there is a domain {request.name} already",
                    hint=f"supercloud domain show {request.name}, or another name",
                )
            count = select(func.count()).select_from(Provider).where(owned(session, Provider.owner))
            if (await session.scalar(count) or 0) >= _DOMAINS:
                raise Exhausted(f"you have {_DOMAINS} domains, which is all that you can have")
            row = Provider(
                id=new_id(),
                name=request.name,
                kind=request.kind,
                options=dict(request.options),
                declaration=to_json(Declaration, _unknown(request.kind)),
                owner=owner_of(session),
                accepted=False,
                created_at=time.time(),
            )
            _set_terms(row, DomainTerms(
                location=request.location, price=request.price, capacity=request.capacity
            ))  # fmt: skip
            session.add(row)
        return _domain_view(row, Rented())

    async def domains(self, *, page: Page = EVERYTHING) -> Part[DomainView]:
        async with self._parts.store.read() as session:
            query = select(Provider).where(owned(session, Provider.owner), *page.picks(Provider.name))
            rows = (await session.scalars(page.of(query, Provider.name))).all()
            rented = await rented_of(session, [row.id for row in rows])
        return page.part(rows, lambda row: (row.name,), lambda row: _domain_view(row, rented[row.id]))

    async def domain(self, ref: Ref) -> DomainView:
        async with self._parts.store.read() as session:
            row = await find_domain(session, ref)
            return _domain_view(row, (await rented_of(session, [row.id]))[row.id])

    async def set_domain(self, ref: Ref, terms: DomainTerms) -> DomainView:
        """It holds for what comes from now on; nothing goes because of it."""
        async with self._parts.store.write() as session:
            row = await find_domain(session, ref)
            _set_terms(row, terms)
        return await self.domain(row.id)

    async def remove_domain(self, ref: Ref) -> None:
        """
        Raises:
            Conflict: somebody rents a machine there.
        """
        async with self._parts.store.write() as session:
            row = await find_domain(session, ref)
            count = (await rented_of(session, [row.id]))[row.id].machines
            if count:
                raise Conflict(
                    f"{count} machines are rented there", hint="drain it, and wait until they are given back"
                )
            await session.delete(row)

    async def drain_domain(self, ref: Ref) -> DrainView:
        operations = self._parts.operations
        async with self._parts.store.write() as session:
            row = await find_domain(session, ref)
            operation = await record_drain(session, operations, row)
            for window in await session.scalars(_closed_windows(row.id)):
                window.drains = False  # it stays closed after the window, since it was asked for
        await operations.started(operation)
        return await self.drain(operation)

    async def undrain_domain(self, ref: Ref) -> DomainView:
        """A drain that is under way is given up."""
        async with self._parts.store.write() as session:
            row = await find_domain(session, ref)
            row.draining_since = None
        await self._parts.operations.cancel_all(DRAIN, row.id)
        return await self.domain(row.id)

    # ------------------------------------------------------------ machines and health

    async def machines(self, ref: Ref, *, page: Page = EVERYTHING) -> Part[MachineView]:
        async with self._parts.store.read() as session:
            row = await find_domain(session, ref)
            query = select(Blanket, _is_used()).where(*_machines_of(row.id))
            if page.state is not None:
                query = query.where(Blanket.state == page.state)
            rows = (await session.execute(page.of(query, Blanket.id))).all()
        return page.part(
            rows, lambda found: (found[0].id,), lambda found: self._machine_view(row.name, *found)
        )

    async def health(self, ref: Ref) -> HealthView:
        async with self._parts.store.read() as session:
            row = await find_domain(session, ref)
            rented = set(await session.scalars(select(Blanket.id).where(*_machines_of(row.id))))
        found: Sequence[Machine] = ()
        why = "" if row.accepted else NOT_ACCEPTED
        if row.accepted:
            try:
                found = await self._parts.drivers(row.id, row.kind, row.options).list()
            except SupercloudError as error:
                why = error.message
        there = {one.id for one in found}
        return HealthView(
            id=row.id,
            domain=row.name,
            reachable=not why,
            why=why,
            running=_count(found, MachineState.RUNNING),
            stopped=_count(found, MachineState.STOPPED),
            frozen=_count(found, MachineState.FROZEN),
            unknown=len(there - rented),
            missing=0 if why else len(rented - there),
            connected=len(self._parts.agents.connected & rented),
        )

    def _machine_view(self, domain: Name, row: Blanket, in_use: bool) -> MachineView:
        return MachineView(
            id=row.id,
            domain=domain,
            state=BlanketState(row.state),
            connected=self._parts.agents.is_connected(row.id),
            vcpus=row.wanted["vcpus"],
            memory_mib=row.wanted["memory_mib"],
            disk_bytes=row.wanted["disk_bytes"],
            in_use=in_use,
            created_at=row.created_at,
        )

    # ------------------------------------------------------------ maintenance

    async def plan_window(self, request: PlanWindow) -> WindowView:
        """
        Raises:
            InvalidInput: it cannot be kept.
            Conflict: the domain has another one then.
        """
        wanted = Window(
            begins_at=request.begins_at, ends_at=request.ends_at, drain_ahead_s=request.drain_ahead_s
        )
        wanted.check(time.time())
        async with self._parts.store.write() as session:
            found = await find_domain(session, request.domain)
            domain = await session.get_one(Provider, found.id, with_for_update=LOCKED, populate_existing=True)
            others = (await session.scalars(_windows(domain.id))).all()
            if len(others) >= _WINDOWS:
                raise Exhausted(f"domain {domain.name} has {_WINDOWS} windows, which is all that it can have")
            if any(wanted.overlaps(window_of(other)) for other in others):
                raise Conflict(f"domain {domain.name} has another window then", hint="cancel that one first")
            row = Maintenance(
                id=new_id(),
                provider=domain.id,
                begins_at=wanted.begins_at,
                ends_at=wanted.ends_at,
                drain_ahead_s=wanted.drain_ahead_s,
                reason=request.reason,
                state=WindowState.PLANNED,
                drains=False,
                created_at=time.time(),
            )
            session.add(row)
        return _window_view(row, domain.name)

    async def windows(self, *, domain: Ref | None = None, page: Page = LAST) -> Part[WindowView]:
        async with self._parts.store.read() as session:
            query = select(Maintenance, Provider.name).join(Provider, Provider.id == Maintenance.provider)
            query = query.where(owned(session, Provider.owner))
            if page.state is not None:
                query = query.where(Maintenance.state == page.state)
            if domain is not None:
                query = query.where(Provider.id == (await find_domain(session, domain)).id)
            query = page.of(query, Maintenance.begins_at, Maintenance.id, newest=True)
            rows = (await session.execute(query)).all()
        return page.part(rows, lambda row: (row[0].begins_at, row[0].id), lambda row: _window_view(*row))

    async def window(self, window: Id) -> WindowView:
        async with self._parts.store.read() as session:
            return _window_view(*await _find_window(session, window))

    async def cancel_window(self, window: Id) -> None:
        async with self._parts.store.write() as session:
            row, _ = await _find_window(session, window)
            opened = await open_again(session, row)
            await session.delete(row)
        if opened:
            await self._parts.operations.cancel_all(DRAIN, row.provider)

    # ------------------------------------------------------------ drains

    async def drains(self, *, page: Page = LAST) -> Part[DrainView]:
        async with self._parts.store.read() as session:
            query = _drains(session)
            if page.state is not None:
                query = query.where(Operation.state == page.state)
            rows = (
                await session.execute(page.of(query, Operation.created_at, Operation.id, newest=True))
            ).all()
            used = await _in_use(session, [row[1].id for row in rows])
        return page.part(
            rows,
            lambda row: (row[0].created_at, row[0].id),
            lambda row: _drain_view(row[0], row[1], used[row[1].id]),
        )

    async def drain(self, drain: Id, *, wait_s: float = 0.0) -> DrainView:
        """With `wait_s`, answers when something of it changed, or after so long (at most 30 s)."""
        view = await self._drain(drain)
        if wait_s > 0 and view.ended_at is None:
            await self._parts.operations.view(drain, wait_s=min(wait_s, _WAIT_S))
            view = await self._drain(drain)
        return view

    async def cancel_drain(self, drain: Id) -> DrainView:
        await self._drain(drain)
        await self._parts.operations.cancel(drain)
        return await self._drain(drain)

    async def _drain(self, drain: Id) -> DrainView:
        async with self._parts.store.read() as session:
            found = (await session.execute(_drains(session).where(Operation.id == drain))).one_or_none()
            if found is None:
                raise NotFound(f"there is no drain {drain}", hint="supercloud domain ls")
            row, domain = found
            return _drain_view(row, domain, (await _in_use(session, [domain.id]))[domain.id])

    # ------------------------------------------------------------ changes

    async def watch(self, *, after: Place | None = None) -> Watch:
        caller = self._parts.store.caller
        return self._parts.feed.watch(caller.principal if caller else None, after)


async def find_domain(session: AsyncSession, ref: Ref) -> Provider:
    """
    Raises:
        NotFound: there is none, or it is another's.
    """
    named = or_(Provider.id == ref, Provider.name == ref)
    found = await session.scalars(select(Provider).where(named, owned(session, Provider.owner)).limit(2))
    return the_one(found.all(), "domain", ref)


def _unknown(kind: str) -> Declaration:
    """Of a platform that nobody has asked yet: it can run nothing."""
    return Declaration(
        kind=kind,
        accelerator="unknown",
        nesting=False,
        flavours=frozenset(),
        confidentiality=Confidentiality.PROCEDURAL,
        abilities=frozenset(),
        reason=NOT_ACCEPTED,
    )


def _set_terms(row: Provider, terms: DomainTerms) -> None:
    row.location, row.price = terms.location, kept(terms.price)
    row.capacity = None if terms.capacity == Capacity() else to_json(Capacity, terms.capacity)


def _domain_view(row: Provider, rented: Rented) -> DomainView:
    declared = declaration(row)
    return DomainView(
        id=row.id,
        name=row.name,
        kind=row.kind,
        options=dict(row.options),
        accepted=row.accepted,
        accelerator=declared.accelerator,
        nesting=declared.nesting,
        confidentiality=declared.confidentiality,
        abilities=tuple(sorted(declared.abilities)),
        reason=declared.reason,
        location=row.location,
        price=price_of(row),
        capacity=capacity_of(row),
        rented=rented,
        draining=row.draining_since is not None,
        takes=taken_by(row),
        created_at=row.created_at,
    )


def _machines_of(domain: Id) -> tuple[ColumnElement[bool], ...]:
    """What is inside a machine is its user's, and none of the domain's own."""
    return Blanket.provider == domain, Blanket.parent.is_(None)


def _is_used() -> ColumnElement[bool]:
    """Whether something is in a blanket: an instance, a volume's data, another blanket."""
    inner = aliased(Blanket)
    instance = exists().where(Instance.blanket == Blanket.id)
    inside = exists().where(inner.parent == Blanket.id)
    return or_(instance, inside, exists().where(VolumeCopy.blanket == Blanket.id, VolumeCopy.current))


async def _in_use(session: AsyncSession, domains: Iterable[Id]) -> defaultdict[Id, int]:
    theirs = (Blanket.provider.in_(list(domains)), Blanket.parent.is_(None))
    query = select(Blanket.provider, func.count()).where(*theirs, _is_used())
    rows = (await session.execute(query.group_by(Blanket.provider))).all()
    return defaultdict(int, dict(rows))


def _count(machines: Sequence[Machine], state: MachineState) -> int:
    return sum(one.state is state for one in machines)


def _drains(session: AsyncSession) -> Any:
    return (
        select(Operation, Provider)
        .join(Provider, Provider.id == Operation.object)
        .where(Operation.kind == DRAIN, owned(session, Provider.owner))
    )


def _drain_view(row: Operation, domain: Provider, in_use: int) -> DrainView:
    """Its phase, its result and its error's words are about users' instances."""
    failed = None if row.error is None else "not everything that runs there has left"
    return DrainView(
        id=row.id,
        domain=domain.name,
        domain_id=domain.id,
        state=OperationState(row.state),
        done=row.done,
        in_use=in_use,
        error=failed,
        created_at=row.created_at,
        ended_at=row.ended_at,
    )


def _windows(domain: Id) -> Any:
    return select(Maintenance).where(
        Maintenance.provider == domain, Maintenance.state != WindowState.OVER.value
    )


def _closed_windows(domain: Id) -> Any:
    return select(Maintenance).where(
        Maintenance.provider == domain, Maintenance.state == WindowState.CLOSED.value
    )


async def _find_window(session: AsyncSession, window: Id) -> tuple[Maintenance, Name]:
    query = select(Maintenance, Provider.name).join(Provider, Provider.id == Maintenance.provider)
    found = await session.execute(query.where(Maintenance.id == window, owned(session, Provider.owner)))
    row = found.one_or_none()
    if row is None:
        raise NotFound(f"there is no window {window}", hint="supercloud domain windows")
    return row[0], row[1]


def _window_view(row: Maintenance, domain: Name) -> WindowView:
    return WindowView(
        id=row.id,
        domain=domain,
        begins_at=row.begins_at,
        ends_at=row.ends_at,
        drain_ahead_s=row.drain_ahead_s,
        reason=row.reason,
        state=WindowState(row.state),
        created_at=row.created_at,
    )
