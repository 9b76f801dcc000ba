"""Findings: kept, and read by who has a cloud that they concern, or whom such a cloud trusts with them.

Whoever has one (a provider's delivery today, an agent's report to come) hands it to `record`, which says whom
it concerns, keeps it once and drops the oldest of its domain when there are too many.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from sqlalchemy import ColumnElement, delete, func, insert, select
from sqlalchemy.ext.asyncio import AsyncSession

from supercloud.model.errors import NotFound
from supercloud.model.findings import Finding, Layer, ObjectKind, Severity, Source
from supercloud.model.names import Id, Name
from supercloud.model.trust import TrustKind
from supercloud.services import relations
from supercloud.services.northbound import LAST
from supercloud.services.pages import Page, Part
from supercloud.services.parts import Parts
from supercloud.services.refs import caller_of, find_cloud, find_provider, within
from supercloud.services.requests import Ref
from supercloud.services.security_views import FindingView
from supercloud.services.store.security import FindingCloud, FindingRow
from supercloud.services.store.tables import Blanket, Cloud, Instance, Provider

_log = structlog.get_logger(__name__)
#: Of one domain and one source. A flood of somebody's pushes out its own only.
KEPT = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """Who says it, by which id of its own, and in which words: an OCSF event."""

    source: Source
    uid: str
    event: Mapping[str, Any]


async def record(session: AsyncSession, finding: Finding, said: Said) -> FindingRow:
    """Keep one that is not there yet. The domain's row is locked, by whoever knows that it is not."""
    clouds = await _concerned(session, finding)
    row = FindingRow(
        id=finding.id,
        domain=finding.domain,
        source=said.source,
        uid=said.uid,
        cloud=finding.cloud,
        clouds=clouds,
        layer=finding.layer,
        object_kind=finding.object.kind,
        object=finding.object.id,
        severity=finding.severity.rank,
        title=finding.title,
        rule=finding.rule,
        at=finding.at,
        received_at=finding.received_at,
        event=dict(said.event),
    )
    session.add(row)
    await session.flush()
    if clouds:
        await session.execute(insert(FindingCloud), [{"cloud": one, "finding": finding.id} for one in clouds])
    return row


async def drop_oldest(session: AsyncSession, domain: Id, source: Source) -> int:
    """What is beyond the bound; how many. Each is told as removed."""
    of = (FindingRow.domain == domain, FindingRow.source == source.value)
    many = await session.scalar(select(func.count()).select_from(FindingRow).where(*of)) or 0
    if many <= KEPT:
        return 0
    oldest = (
        select(FindingRow.id).where(*of).order_by(FindingRow.received_at, FindingRow.id).limit(many - KEPT)
    )
    gone = list(await session.scalars(oldest))
    await session.execute(delete(FindingRow).where(FindingRow.id.in_(gone)))
    _log.warning("findings.dropped", domain=domain, source=source.value, many=len(gone), kept=KEPT)
    return len(gone)


class Findings:
    """The part of Northbound about findings."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def findings(  # each is a filter
        self,
        *,
        cloud: Ref | None = None,
        domain: Ref | None = None,
        layer: Layer | None = None,
        severity: Severity | None = None,
        since: float | None = None,
        page: Page = LAST,
    ) -> Part[FindingView]:
        async with self._parts.store.read() as session:
            readable = await _readable(session)
            wanted = readable if cloud is None else await _one_of(session, readable, cloud)
            query = select(FindingRow).where(_concerning(wanted))
            if domain is not None:
                query = query.where(FindingRow.domain == (await find_provider(session, domain)).id)
            if layer is not None:
                query = query.where(FindingRow.layer == layer.value)
            if severity is not None:
                query = query.where(FindingRow.severity >= severity.rank)
            if since is not None:
                query = query.where(FindingRow.received_at >= since)
            query = page.of(query, FindingRow.received_at, FindingRow.id, newest=True)
            rows = (await session.scalars(query)).all()
            show = await _Shown.of(session, rows, readable)
        return page.part(rows, lambda row: (row.received_at, row.id), show.view)

    async def finding(self, finding: Id) -> FindingView:
        async with self._parts.store.read() as session:
            readable = await _readable(session)
            row = await _find(session, finding, readable)
            return (await _Shown.of(session, [row], readable)).view(row)

    async def finding_event(self, finding: Id) -> dict[str, Any]:
        """The OCSF event, as it came."""
        async with self._parts.store.read() as session:
            return (await _find(session, finding, await _readable(session))).event


# ---------------------------------------------------------------- inside

#: Clouds whose findings are read, by id; None: of all.
_Clouds = dict[Id, Name] | None


async def _concerned(session: AsyncSession, finding: Finding) -> list[Id]:
    if finding.cloud is not None:
        return [finding.cloud]
    found = select(Blanket.cloud).where(Blanket.provider == finding.domain).distinct()
    return list(await session.scalars(found.order_by(Blanket.cloud)))


async def _readable(session: AsyncSession) -> _Clouds:
    """The caller's own, and those that trust one of these with their findings."""
    caller = caller_of(session)
    if caller is None:
        return None
    shown = await relations.granting(session, caller.clouds, TrustKind.SEE_FINDINGS)
    every = {*caller.clouds, *(one.origin for one in shown)}
    rows = await session.execute(select(Cloud.id, Cloud.name).where(Cloud.id.in_(every)))
    return dict(rows.all())


async def _one_of(session: AsyncSession, readable: _Clouds, ref: Ref) -> _Clouds:
    """The caller's own by its id or name, another's that trusts it likewise.

    Raises:
        NotFound; Conflict where a name means several.
    """
    try:
        own = await find_cloud(session, ref)
    except NotFound:
        others = [one for one, name in (readable or {}).items() if ref in {one, name}]
        if len(others) != 1:
            raise
        return {others[0]: (readable or {})[others[0]]}
    return {own.id: own.name}


def _concerning(clouds: _Clouds) -> ColumnElement[bool]:
    if clouds is None:
        return FindingRow.id.is_not(None)
    return FindingRow.id.in_(select(FindingCloud.finding).where(FindingCloud.cloud.in_(clouds)))


async def _find(session: AsyncSession, finding: Id, readable: _Clouds) -> FindingRow:
    row = await session.scalar(select(FindingRow).where(FindingRow.id == finding, _concerning(readable)))
    if row is None:
        raise NotFound(f"there is no finding {finding}", hint="supercloud finding ls shows which there are")
    return row


class _Shown:
    """What is looked up for the rows of one answer."""

    def __init__(self, domains: Mapping[Id, Name], names: Mapping[Id, Name], clouds: _Clouds) -> None:
        self._domains = domains
        self._names = names
        self._clouds = clouds

    @classmethod
    async def of(cls, session: AsyncSession, rows: Sequence[FindingRow], clouds: _Clouds) -> _Shown:
        domains = await session.execute(
            select(Provider.id, Provider.name).where(Provider.id.in_({row.domain for row in rows}))
        )
        return cls(dict(domains.all()), await _named_objects(session, rows), clouds)

    def view(self, row: FindingRow) -> FindingView:
        clouds = [one for one in row.clouds if self._clouds is None or one in self._clouds]
        return FindingView(
            id=row.id,
            layer=Layer(row.layer),
            source=Source(row.source),
            domain=self._domains[row.domain],
            domain_id=row.domain,
            object_kind=ObjectKind(row.object_kind),
            object=row.object,
            object_name=self._names.get(row.object),
            clouds=tuple(one if self._clouds is None else self._clouds[one] for one in clouds),
            cloud_ids=tuple(clouds),
            severity=Severity.ranked(row.severity),
            title=row.title,
            rule=row.rule,
            at=row.at,
            received_at=row.received_at,
            evidence=tuple(row.event.get("evidences") or ()),
        )


async def _named_objects(session: AsyncSession, rows: Sequence[FindingRow]) -> dict[Id, Name]:
    """What the caller calls what it has. Of what another one lets it see, it knows the ids."""
    ids: defaultdict[ObjectKind, set[Id]] = defaultdict(set)
    for row in rows:
        ids[ObjectKind(row.object_kind)].add(row.object)
    found: dict[Id, Name] = {}
    for kind, table in ((ObjectKind.MACHINE, Blanket), (ObjectKind.INSTANCE, Instance)):
        if ids[kind]:
            own = select(table.id, table.name).where(table.id.in_(ids[kind]), within(session, table.cloud))
            found |= dict((await session.execute(own)).all())
    return found
