"""Which blanket an instance comes to: what the store knows, as `model.placement` decides by it.

It is decided with the cloud's row locked, together with the operation that brings the instance there. An
instance that an open operation is to bring somewhere counts there already, so that of many who ask at once
none overlooks another.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from supercloud.model.errors import NotFound, Refused
from supercloud.model.levels import Level
from supercloud.model.names import Id, Name
from supercloud.model.placement import (
    ANYWHERE,
    Choice,
    Neighbour,
    Placement,
    Site,
    Subject,
    choose,
    objection,
    of_levels,
    ranked,
)
from supercloud.model.states import AT_REST
from supercloud.services import guests
from supercloud.services.declarations import declaration_of
from supercloud.services.demands import demands_of, facts_of
from supercloud.services.nesting import memory_taken
from supercloud.services.parts import Parts
from supercloud.services.preflight import MEMORY_SPARE_MIB
from supercloud.services.providers import price_of
from supercloud.services.store.tables import Blanket, Instance, Operation, Provider
from supercloud.wire.codec import from_json, to_json

#: What brings an instance somewhere, and where its intent says so.
_BRINGING = {"instance.run": "blanket", "instance.start": "blanket", "instance.migrate": "target"}
_CLOSED = "domain {} is being drained"


#: Of an instance, as far as others look at it. Columns, not objects: there may be a thousand.
_NEIGHBOURS = select(
    Instance.id,
    Instance.name,
    Instance.group,
    Instance.placement,
    Instance.level,
    Instance.blanket,
    Instance.state,
    Instance.memory_mib,
)


def placement_of(row: Any) -> Placement:
    """Of a row with that column."""
    return ANYWHERE if row.placement is None else from_json(Placement, row.placement)


def kept(placement: Placement) -> dict[str, Any] | None:
    """As its column has it."""
    return None if placement == ANYWHERE else to_json(Placement, placement)


async def subject_of(session: AsyncSession, row: Instance) -> Subject:
    return Subject(
        name=row.name,
        vcpus=row.vcpus,
        memory_mib=row.memory_mib,
        placement=placement_of(row),
        group=row.group,
        demands=await demands_of(session, row),
    )


@dataclass(frozen=True, slots=True)
class Surroundings:
    """A cloud as one instance of it finds it."""

    sites: dict[Id, Site]
    neighbours: tuple[Neighbour, ...]

    def choose(self, subject: Subject) -> Choice:
        """
        Raises:
            Refused: no blanket fits, saying for each why.
        """
        return choose(subject, self.sites.values(), self.neighbours)

    def ranked(self, subject: Subject, among: Collection[Id]) -> tuple[list[Choice], dict[Name, str]]:
        sites = [site for site in self.sites.values() if site.id in among]
        return ranked(subject, sites, self.neighbours)

    def asked_for(self, subject: Subject, blanket: Id, *, new: bool = True) -> Choice:
        """The blanket that was named. One that is not `new` there may be where nothing new comes.

        Raises:
            Refused: it may not be there.
        """
        site = self.sites[blanket]
        drained = site.closed == _CLOSED.format(site.domain)
        why = site.closed if new or not drained else ""
        if why:
            raise Refused(f"blanket {site.name} takes no instance: {why}")
        if no := objection(subject, site, self.neighbours):
            place = f"supercloud vm place {subject.name} changes where it may be"
            explain = f"supercloud level explain vm {subject.name} shows what each blanket can give"
            raise Refused(
                f"instance {subject.name} may not be in blanket {site.name}: {no}",
                hint=explain if no == of_levels(subject, site, self.neighbours) else place,
            )
        return Choice(blanket=site.id, name=site.name, reason="asked for")


async def look(
    session: AsyncSession,
    parts: Parts,
    cloud: Id,
    *,
    but: Id | None = None,
    held: bool = True,
    arriving: bool = False,
) -> Surroundings:
    """What instance `but`, which is not its own neighbour, finds in its cloud.

    `held`: no provider begins to be drained until the transaction ends, so that a drain finds what comes.
    `arriving`: it comes running, or is where it is already; else it is to begin.
    """
    bound = await bound_for(session, cloud)
    rows = [row for row in await session.execute(_NEIGHBOURS.where(Instance.cloud == cloud)) if row.id != but]
    owners = select(Provider).where(Provider.id.in_(select(Blanket.provider).where(Blanket.cloud == cloud)))
    owners = owners.order_by(Provider.id).execution_options(populate_existing=True)
    found = await session.scalars(owners.with_for_update(read=True) if held else owners)
    providers = {row.id: row for row in found}
    found_here = await session.scalars(select(Blanket).where(Blanket.cloud == cloud))
    blankets = {row.id: row for row in found_here}
    load: Counter[Id] = Counter()
    memory: Counter[Id] = Counter()
    neighbours = []
    for row in rows:
        at = {one for one in (row.blanket, *bound[row.id]) if one in blankets}
        load.update(at)
        needing = at if row.state not in AT_REST else bound[row.id]
        memory.update(dict.fromkeys(needing, row.memory_mib))
        neighbours.append(
            Neighbour(
                name=row.name,
                group=row.group,
                placement=placement_of(row),
                level=Level(row.level),
                blankets=frozenset(at),
                domains=frozenset(providers[blankets[one].provider].name for one in at),
            )
        )
    inside = await memory_taken(session, tuple(blankets))
    shut = await guests.closed(session, blankets.values(), arriving=arriving)
    sites = {
        row.id: _site(
            row,
            providers[row.provider],
            load[row.id],
            (memory[row.id], inside[row.id]),
            closed=shut.get(row.id) or _closed(parts, row, providers[row.provider]),
            connected=parts.agents.is_connected(row.id),
        )
        for row in blankets.values()
    }
    return Surroundings(sites, tuple(neighbours))


async def bound_for(session: AsyncSession, cloud: Id | None) -> defaultdict[Id, set[Id]]:
    """Where open operations are to bring instances; `cloud` None: of all clouds."""
    query = select(Operation.object, Operation.kind, Operation.intent).where(
        Operation.ended_at.is_(None), Operation.kind.in_(_BRINGING)
    )
    if cloud is not None:
        query = query.where(Operation.cloud == cloud)
    found: defaultdict[Id, set[Id]] = defaultdict(set)
    for instance, kind, intent in await session.execute(query):
        found[instance].add(intent[_BRINGING[kind]])
    return found


def _site(
    row: Blanket,
    provider: Provider,
    instances: int,
    used_mib: tuple[int, int],
    *,
    closed: str,
    connected: bool,
) -> Site:
    """`used_mib`: by its instances, and by the blankets inside it."""
    return Site(
        id=row.id,
        name=row.name,
        domain=provider.name,
        location=provider.location,
        price=price_of(provider),
        confidentiality=declaration_of(row, provider).confidentiality,
        facts=facts_of(row, provider),
        closed=closed,
        connected=connected,
        free_mib=None if row.report is None else row.report["memory_mib"] - MEMORY_SPARE_MIB - sum(used_mib),
        instances=instances,
        holds_blankets=used_mib[1] > 0,
    )


def _closed(parts: Parts, row: Blanket, provider: Provider) -> str:
    if not parts.agents.may_answer(row):
        return f"it is {row.state}, not connected"
    if row.quarantined_by is not None:
        return f"it is in quarantine by reaction {row.quarantined_by}"
    return _CLOSED.format(provider.name) if provider.draining_since is not None else ""


async def check_domains(session: AsyncSession, placement: Placement) -> None:
    """That what a placement names is there: a domain that is denied and misspelt would not be denied.

    Raises:
        NotFound.
    """
    wanted = {*placement.domains, *placement.not_domains}
    if not wanted:
        return
    there = set(await session.scalars(select(Provider.name).where(Provider.name.in_(wanted))))
    if missing := sorted(wanted - there):
        raise NotFound(
            f"there is no provider {missing[0]}", hint="supercloud provider ls shows which there are"
        )
