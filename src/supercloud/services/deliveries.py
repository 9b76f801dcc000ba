"""The part of Southbound about findings: a provider delivers them, about its domain and the machines there.

What an event says of whose it is counts for nothing: its domain is one of the caller's, its machine one of
that domain's, and its clouds are looked up. It is refused, or kept as it came, all of a delivery together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from supercloud.model.errors import InvalidInput, NotFound, SupercloudError, TooOften
from supercloud.model.findings import (
    Finding,
    Layer,
    Object,
    ObjectKind,
    Severity,
    Source,
    check_moment,
)
from supercloud.model.names import Id, new_id
from supercloud.model.ocsf import DetectionFinding
from supercloud.services.domains import find_domain
from supercloud.services.findings import Said, drop_oldest, record
from supercloud.services.northbound import LAST
from supercloud.services.pages import Page, Part
from supercloud.services.parts import Parts
from supercloud.services.refs import owned
from supercloud.services.requests import Ref
from supercloud.services.security_views import DeliveredView
from supercloud.services.store.security import FindingRow
from supercloud.services.store.tables import LOCKED, Blanket, Provider
from supercloud.services.store.time import wall

#: Events of one delivery.
BATCH = 100
#: New findings of one domain, in a minute; and of the domain as a whole, each of which concerns all who rent
#: there, in an hour.
PER_MINUTE, WIDE_PER_HOUR = 600, 120
_MINUTE_S, _HOUR_S = 60.0, 3600.0
_SOURCE = Source.PROVIDER


class Deliveries:
    """The part of Southbound about findings."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def deliver(
        self, events: Sequence[DetectionFinding], *, domain: Ref | None = None
    ) -> list[DeliveredView]:
        """What came before under the same `metadata.uid` is answered as it is. `domain`: of the caller's, if
        it has several.

        Raises:
            InvalidInput: an event is more than one may be, or of no time that may be.
            NotFound: there is no such machine in the domain.
            TooOften.
        """
        raw = [_raw(number, one) for number, one in enumerate(events)]
        async with self._parts.store.write() as session:
            found = await _the_domain(session, domain)
            row = await session.get_one(Provider, found.id, with_for_update=LOCKED, populate_existing=True)
            delivery = _Delivery(session, row, await wall(session))
            rows = [await delivery.take(number, event, raw[number]) for number, event in enumerate(events)]
            if delivery.new:
                await drop_oldest(session, row.id, _SOURCE)
        return [_view(one, row) for one in rows]

    async def delivered(self, *, domain: Ref | None = None, page: Page = LAST) -> Part[DeliveredView]:
        """The newest first."""
        async with self._parts.store.read() as session:
            query = (
                select(FindingRow, Provider)
                .join(Provider, Provider.id == FindingRow.domain)
                .where(owned(session, Provider.owner), FindingRow.source == _SOURCE.value)
            )
            if domain is not None:
                query = query.where(Provider.id == (await find_domain(session, domain)).id)
            query = page.of(query, FindingRow.received_at, FindingRow.id, newest=True)
            rows = (await session.execute(query)).all()
        return page.part(rows, lambda row: (row[0].received_at, row[0].id), lambda row: _view(*row))

    async def delivered_one(self, finding: Id) -> DeliveredView:
        async with self._parts.store.read() as session:
            query = (
                select(FindingRow, Provider)
                .join(Provider, Provider.id == FindingRow.domain)
                .where(
                    FindingRow.id == finding,
                    owned(session, Provider.owner),
                    FindingRow.source == _SOURCE.value,
                )
            )
            row = (await session.execute(query)).one_or_none()
        if row is None:
            raise NotFound(f"there is no finding {finding}", hint="supercloud domain findings")
        return _view(*row)


# ---------------------------------------------------------------- inside


class _Delivery:
    """One, into one domain whose row is locked."""

    def __init__(self, session: AsyncSession, domain: Provider, now: float) -> None:
        self._session = session
        self._domain = domain
        self._now = now
        self._left: tuple[int, int] | None = None  # of all, and of those about the domain as a whole
        self.new = 0

    async def take(self, number: int, event: DetectionFinding, raw: dict[str, Any]) -> FindingRow:
        known = await self._session.scalar(
            select(FindingRow).where(
                FindingRow.domain == self._domain.id,
                FindingRow.source == _SOURCE.value,
                FindingRow.uid == event.metadata.uid,
            )
        )
        if known is not None:
            return known
        try:
            check_moment(event.time / 1000, self._now)
            about = await self._about(event.machine)
            finding = Finding(
                id=new_id(),
                layer=Layer.L0,
                domain=self._domain.id,
                cloud=None if about is None else about.cloud,
                object=Object(kind=ObjectKind.DOMAIN, id=self._domain.id)
                if about is None
                else Object(kind=ObjectKind.MACHINE, id=about.id),
                severity=event.severity,
                title=event.title,
                rule=event.rule,
                at=event.time / 1000,
                received_at=self._now,
                evidence=tuple(event.evidences or ()),
            )
        except SupercloudError as error:
            raise type(error)(f"event {number}: {error.message}", hint=error.hint) from error
        await self._count(wide=about is None)
        self.new += 1
        return await record(self._session, finding, Said(source=_SOURCE, uid=event.metadata.uid, event=raw))

    async def _about(self, said: str | None) -> Blanket | None:
        """The machine; None: it is about the domain. Another domain's machine is no more there than one that
        there never was."""
        if said is None or said in {self._domain.id, self._domain.name}:
            return None
        machine = await self._session.scalar(
            select(Blanket).where(
                Blanket.id == said, Blanket.provider == self._domain.id, Blanket.parent.is_(None)
            )
        )
        if machine is None:
            raise NotFound(
                f"there is no machine {said} in domain {self._domain.name}",
                hint=f"supercloud domain machines {self._domain.name}",
            )
        return machine

    async def _count(self, *, wide: bool) -> None:
        """
        Raises:
            TooOften.
        """
        if self._left is None:
            of = (FindingRow.domain == self._domain.id, FindingRow.source == _SOURCE.value)
            every = select(func.count()).where(*of, FindingRow.received_at > self._now - _MINUTE_S)
            whole = select(func.count()).where(
                *of, FindingRow.received_at > self._now - _HOUR_S, FindingRow.cloud.is_(None)
            )
            self._left = (
                PER_MINUTE - (await self._session.scalar(every) or 0),
                WIDE_PER_HOUR - (await self._session.scalar(whole) or 0),
            )
        left, wides = self._left[0] - 1, self._left[1] - wide
        if left < 0:
            raise TooOften(
                f"{self._domain.name} delivered {PER_MINUTE} findings within a minute, which is all it may",
                hint="deliver the rest later; what is repeated under its uid does not count",
            )
        if wides < 0:
            raise TooOften(
                f"{self._domain.name} delivered {WIDE_PER_HOUR} findings about all of it within an hour",
                hint="that is all it may: name the machine that one is about",
            )
        self._left = (left, wides)


def _raw(number: int, event: DetectionFinding) -> dict[str, Any]:
    """
    Raises:
        InvalidInput: which of them, and what is wrong with it.
    """
    try:
        return event.as_it_came()
    except InvalidInput as error:
        raise InvalidInput(f"event {number}: {error.message}", hint=error.hint) from error


async def _the_domain(session: AsyncSession, ref: Ref | None) -> Provider:
    """
    Raises:
        NotFound.
        InvalidInput: the caller has none, or several, and did not say which.
    """
    if ref is not None:
        return await find_domain(session, ref)
    found = (await session.scalars(select(Provider).where(owned(session, Provider.owner)).limit(2))).all()
    if len(found) != 1:
        many = "several domains" if found else "no domain"
        raise InvalidInput(f"you have {many}", hint="say which with domain=NAME")
    return found[0]


def _view(row: FindingRow, domain: Provider) -> DeliveredView:
    return DeliveredView(
        id=row.id,
        uid=row.uid,
        domain=domain.name,
        domain_id=domain.id,
        machine=row.object if row.object_kind == ObjectKind.MACHINE else None,
        severity=Severity.ranked(row.severity),
        title=row.title,
        rule=row.rule,
        at=row.at,
        received_at=row.received_at,
    )
