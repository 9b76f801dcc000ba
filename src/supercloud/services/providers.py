"""Domains and their platforms."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from supercloud.model.domains import Capacity, Rented, Window, WindowState
from supercloud.model.errors import Conflict, NotFound
from supercloud.model.levels import given
from supercloud.model.names import Id, new_id
from supercloud.model.orders import Reaction
from supercloud.model.placement import Price
from supercloud.ports.platform import Declaration, Platform
from supercloud.services import nesting
from supercloud.services.declarations import declaration
from supercloud.services.demands import facts_of_new
from supercloud.services.pages import EVERYTHING, Page, Part
from supercloud.services.parts import Parts
from supercloud.services.refs import counted, find_provider
from supercloud.services.requests import AddProvider, ProviderTerms, Ref
from supercloud.services.store.tables import Blanket, Maintenance, Provider
from supercloud.services.views import MaintenanceView, ProviderView
from supercloud.wire.codec import from_json, to_json


class Providers:
    """The part of Northbound about providers."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def add_provider(self, request: AddProvider) -> ProviderView:
        """What the platform declares is asked now: a provider that cannot run a blanket is not added."""
        identity = new_id()
        declared = await self._parts.drivers(identity, request.kind, request.options).declare()
        row = Provider(
            id=identity,
            name=request.name,
            kind=request.kind,
            options=dict(request.options),
            declaration=to_json(Declaration, declared),
            owner=None,  # as all that operators add
            accepted=True,
            location=request.location,
            price=kept(request.price),
            created_at=time.time(),
        )
        async with self._parts.store.write() as session:
            if await session.scalar(select(Provider.id).where(Provider.name == request.name)):
                raise Conflict(
                    f"there is a provider {request.name} already",
                    hint=f"supercloud provider show {request.name}, or another name",
                )
            session.add(row)
        return _view(row, 0, ())

    async def providers(self, *, page: Page = EVERYTHING) -> Part[ProviderView]:
        async with self._parts.store.read() as session:
            every = select(Blanket.provider, func.count()).where(counted(session, Blanket.cloud))
            blankets = dict((await session.execute(every.group_by(Blanket.provider))).all())
            query = page.of(select(Provider).where(*page.picks(Provider.name)), Provider.name)
            rows = (await session.scalars(query)).all()
            windows = await _windows_of(session, [row.id for row in rows])
        return page.part(
            rows, lambda row: (row.name,), lambda row: _view(row, blankets.get(row.id, 0), windows[row.id])
        )

    async def provider(self, ref: Ref) -> ProviderView:
        async with self._parts.store.read() as session:
            row = await find_provider(session, ref)
            count = await session.scalar(
                select(func.count()).where(Blanket.provider == row.id, counted(session, Blanket.cloud))
            )
            return _view(row, count or 0, (await _windows_of(session, [row.id]))[row.id])

    async def set_provider(self, ref: Ref, terms: ProviderTerms) -> ProviderView:
        """It holds for what is placed from now on; nothing moves because of it."""
        async with self._parts.store.write() as session:
            row = await find_provider(session, ref)
            row.location, row.price = terms.location, kept(terms.price)
        return await self.provider(row.id)

    async def accept_provider(self, ref: Ref) -> ProviderView:
        """Let one that its provider has registered run blankets. What its platform declares is asked now,
        and again if it was accepted before.

        Raises: what the driver says.
        """
        async with self._parts.store.read() as session:
            row = await find_provider(session, ref)
        declared = await self._parts.drivers(row.id, row.kind, row.options).declare()
        async with self._parts.store.write() as session:
            row = await find_provider(session, row.id)
            row.accepted, row.declaration = True, to_json(Declaration, declared)
        return await self.provider(row.id)

    async def undrain_provider(self, ref: Ref) -> ProviderView:
        """A drain that is under way is given up."""
        async with self._parts.store.write() as session:
            row = await find_provider(session, ref)
            row.draining_since = None
        await self._parts.operations.cancel_all("provider.drain", row.id)
        return await self.provider(row.id)

    async def remove_provider(self, ref: Ref) -> None:
        async with self._parts.store.write() as session:
            row = await find_provider(session, ref)
            blanket = await session.scalar(select(Blanket.name).where(Blanket.provider == row.id).limit(1))
            if blanket is not None:
                raise Conflict(f"blanket {blanket} runs there", hint=f"supercloud blanket rm {blanket}")
            await session.delete(row)


async def platform_of(parts: Parts, blanket: Blanket) -> Platform:
    """The driver of what runs a blanket's machine: its provider's, or that of the blanket it is in.

    Raises:
        NotFound: no such provider or blanket; no blanket images to give.
    """
    async with parts.store.read() as session:
        if blanket.parent is not None:
            return await _nested(session, parts, blanket.parent)
        row = await session.get(Provider, blanket.provider)
    if row is None:
        raise NotFound(f"there is no provider {blanket.provider}")
    return parts.drivers(row.id, row.kind, row.options)


async def _nested(session: AsyncSession, parts: Parts, parent: Id) -> Platform:
    around = await session.get(Blanket, parent)
    if around is None:
        raise NotFound(f"there is no blanket {parent}")
    if parts.settings.blanket_files is None:
        raise NotFound("this control plane has no blanket images to give")
    known = await nesting.inside(session, parts, around)
    return parts.nested(known, parts.agents.agent(parent).machines, parts.settings.blanket_files.image)


def capacity_of(row: Provider) -> Capacity:
    return Capacity() if row.capacity is None else from_json(Capacity, row.capacity)


def taken_by(row: Provider) -> tuple[Reaction, ...]:
    """The orders that a domain takes."""
    return tuple(Reaction(one) for one in row.takes or ())


async def rented_of(session: AsyncSession, providers: Sequence[Id]) -> dict[Id, Rented]:
    """Of each, by all clouds. What is inside a rented machine is not rented besides."""
    found = dict.fromkeys(providers, Rented())
    rows = select(Blanket.provider, Blanket.wanted).where(
        Blanket.provider.in_(providers), Blanket.parent.is_(None)
    )
    for provider, wanted in await session.execute(rows):
        before = found[provider]
        found[provider] = Rented(
            machines=before.machines + 1,
            vcpus=before.vcpus + wanted["vcpus"],
            memory_mib=before.memory_mib + wanted["memory_mib"],
        )
    return found


def price_of(row: Provider) -> Price | None:
    return None if row.price is None else from_json(Price, row.price)


def kept(price: Price | None) -> dict[str, Any] | None:
    return None if price is None else to_json(Price, price)


async def _windows_of(session: AsyncSession, providers: Sequence[Id]) -> defaultdict[Id, list[Maintenance]]:
    """Those that are not over."""
    query = select(Maintenance).where(Maintenance.provider.in_(providers))
    query = query.where(Maintenance.state != WindowState.OVER.value).order_by(Maintenance.begins_at)
    found: defaultdict[Id, list[Maintenance]] = defaultdict(list)
    for row in await session.scalars(query):
        found[row.provider].append(row)
    return found


def window_of(row: Maintenance) -> Window:
    return Window(begins_at=row.begins_at, ends_at=row.ends_at, drain_ahead_s=row.drain_ahead_s)


def _view(row: Provider, blankets: int, windows: Sequence[Maintenance]) -> ProviderView:
    declared = declaration(row)
    return ProviderView(
        id=row.id,
        name=row.name,
        kind=row.kind,
        options=dict(row.options),
        accelerator=declared.accelerator,
        nesting=declared.nesting,
        nested_levels=declared.nested_levels,
        nested_reason=declared.nested_reason,
        confidentiality=declared.confidentiality,
        abilities=tuple(sorted(declared.abilities)),
        reason=declared.reason,
        blankets=blankets,
        location=row.location,
        price=price_of(row),
        draining=row.draining_since is not None,
        accepted=row.accepted,
        gives=given(facts_of_new(row)),
        takes=taken_by(row),
        maintenance=tuple(
            MaintenanceView(
                closes_at=window_of(one).closes_at,
                begins_at=one.begins_at,
                ends_at=one.ends_at,
                drains=one.drain_ahead_s is not None,
                reason=one.reason,
            )
            for one in windows
        ),
    )
