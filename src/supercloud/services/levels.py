"""Security levels of instances, networks and volumes: changing and explaining them.

A change is made with the cloud's row locked, as every decision on where an instance goes: whoever decides
after it keeps to it, and what was decided before it is seen by it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from supercloud.model import levels
from supercloud.model.errors import Conflict, NotFound, Refused
from supercloud.model.levels import Demand, Fact, Facts, Level, Thing
from supercloud.model.names import Id
from supercloud.model.placement import Site, Subject, facts_of, of_levels
from supercloud.services import mesh, placing
from supercloud.services.declarations import declaration
from supercloud.services.demands import facts_of_new, own_demand, volume_demand
from supercloud.services.level_views import (
    LevelChange,
    LevelView,
    MustMove,
    PlaceView,
    RuleView,
    RulingView,
    SetLevel,
)
from supercloud.services.parts import Parts
from supercloud.services.refs import find_instance, find_network, find_volume, own_cloud
from supercloud.services.requests import Ref
from supercloud.services.store.tables import (
    Blanket,
    Cloud,
    Instance,
    Network,
    NicRow,
    Operation,
    Provider,
    Volume,
    VolumeCopy,
)

#: So many blankets, and so many providers besides, are explained at once.
_PLACES = 100
_Row = Instance | Network | Volume
_Find = Callable[[AsyncSession, Ref, Ref | None], Awaitable[_Row]]
_FINDERS: Mapping[Thing, _Find] = {
    Thing.INSTANCE: find_instance,
    Thing.NETWORK: find_network,
    Thing.VOLUME: find_volume,
}


@dataclass(frozen=True, slots=True)
class _Where:
    """Of what is explained: what is demanded, and the blankets that it is in."""

    demands: tuple[Demand, ...]
    blankets: frozenset[Id]
    subject: Subject | None = None  # of an instance


class Levels:
    """The part of Northbound about security levels."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def set_level(
        self, thing: Thing, ref: Ref, request: SetLevel, *, cloud: Ref | None = None
    ) -> LevelChange:
        """
        Raises:
            Refused: it is lower, and that was not said.
            InvalidInput: the instance holds on without a control plane, which the level excludes.
            Conflict: an instance boots from the volume, which has its level; or it is being attached.
        """
        async with self._parts.store.write() as session:
            found = await _FINDERS[thing](session, ref, cloud)
            await own_cloud(session, found.cloud)
            row: _Row | None = await session.get(type(found), found.id, populate_existing=True)
            if row is None:
                raise NotFound(f"{thing} {found.name} was removed")
            was, level = Level(row.level), request.level
            await _check_may_change(session, row, level)
            if not level.means(was) and not request.lower:
                raise Refused(
                    f"{thing} {row.name} is {was}, which is higher than {level}",
                    hint="--lower says that it is to be lowered",
                )
            await _apply(session, row, level)
            if anew := thing is Thing.NETWORK and was is not level:
                await mesh.changed(session, row.cloud)
        if anew:
            await self._parts.meshes.spread(row.cloud)
        async with self._parts.store.read() as session:
            must_move = await self._must_move(session, row)
        return LevelChange(thing=thing, id=row.id, name=row.name, was=was, level=level, must_move=must_move)

    async def explain_level(
        self, thing: Thing, ref: Ref, *, level: Level | None = None, cloud: Ref | None = None
    ) -> LevelView:
        async with self._parts.store.read() as session:
            row: _Row = await _FINDERS[thing](session, ref, cloud)
            owner = await session.get_one(Cloud, row.cloud)
            asked = level or Level(row.level)
            where = await _where(session, row, asked)
            but = row.id if thing is Thing.INSTANCE else None
            around = await placing.look(session, self._parts, row.cloud, but=but, held=False)
            places, left_out = await _places(session, around, where)
        rules = (
            RuleView(rule=rule.name, says=rule.says, since=rule.since, of=demand.of)
            for demand in where.demands
            for rule in levels.rules_of(demand.level, demand.thing)
        )
        return LevelView(
            thing=thing,
            id=row.id,
            name=row.name,
            cloud=owner.name,
            now=Level(row.level),
            level=asked,
            rules=tuple(rules),
            places=places,
            left_out=left_out,
        )

    async def _must_move(self, session: AsyncSession, row: _Row) -> tuple[MustMove, ...]:
        """Each instance that this concerns, where it is and where it is about to be; or the volume itself."""
        around = await placing.look(session, self._parts, row.cloud, held=False)
        bound = await placing.bound_for(session, row.cloud)
        found = []
        for one in await _concerned(session, row):
            subject = await placing.subject_of(session, one)
            others = [other for other in around.neighbours if other.name != one.name]
            at = {one.blanket, *bound[one.id]}
            for site in [site for site in around.sites.values() if site.id in at]:
                if no := of_levels(subject, site, others):
                    found.append(MustMove(thing=Thing.INSTANCE, name=one.name, blanket=site.name, why=no))
        home = await _home(session, row) if isinstance(row, Volume) and row.instance is None else None
        if isinstance(row, Volume) and home is not None:
            site = around.sites[home]
            if no := levels.objection((volume_demand(row),), site.facts):
                found.append(MustMove(thing=Thing.VOLUME, name=row.name, blanket=site.name, why=no))
        return tuple(found)


async def _check_may_change(session: AsyncSession, row: _Row, level: Level) -> None:
    """
    Raises: as `Levels.set_level`, but for a lower one.
    """
    if isinstance(row, Instance):
        levels.check_own(own_demand(row, level))
    elif isinstance(row, Volume) and row.instance is None:
        coming = select(Operation.id).where(Operation.object == row.id, Operation.ended_at.is_(None))
        if (other := await session.scalar(coming.limit(1))) is not None:
            raise Conflict(f"something is under way with volume {row.name}", hint=f"operation {other}")
    elif isinstance(row, Volume) and row.position == 0:
        name = await session.scalar(select(Instance.name).where(Instance.id == row.instance))
        raise Conflict(
            f"instance {name} boots from volume {row.name}, which has its level",
            hint=f"supercloud vm set-level {name}",
        )


async def _apply(session: AsyncSession, row: _Row, level: Level) -> None:
    row.level = level
    if isinstance(row, Instance):
        boots = select(Volume).where(Volume.instance == row.id, Volume.position == 0)
        for volume in await session.scalars(boots):
            volume.level = level


async def _concerned(session: AsyncSession, row: _Row) -> Sequence[Instance]:
    query = select(Instance).order_by(Instance.name)
    if isinstance(row, Instance):
        return [row]
    if isinstance(row, Volume):
        return (await session.scalars(query.where(Instance.id == row.instance))).all()
    on_it = query.join(NicRow, NicRow.instance == Instance.id).where(NicRow.network == row.id)
    return (await session.scalars(on_it)).all()


async def _home(session: AsyncSession, volume: Volume) -> Id | None:
    there: Id | None = await session.scalar(
        select(VolumeCopy.blanket).where(VolumeCopy.volume == volume.id, VolumeCopy.current.is_(True))
    )
    return there or volume.wanted_on


# ---------------------------------------------------------------- explaining


async def _where(session: AsyncSession, row: _Row, level: Level) -> _Where:
    if isinstance(row, Instance):
        subject = await placing.subject_of(session, row)
        _, *others = subject.demands
        subject = replace(subject, demands=(own_demand(row, level), *others))
        return _Where(subject.demands, _known(row.blanket), subject)
    if isinstance(row, Network):
        at = [one.blanket for one in await _concerned(session, row)]
        demand = Demand(thing=Thing.NETWORK, name=row.name, level=level)
    else:
        at = [await _home(session, row)]
        demand = volume_demand(row, level)
    return _Where((demand,), _known(*at))


def _known(*blankets: Id | None) -> frozenset[Id]:
    return frozenset(one for one in blankets if one is not None)


async def _places(
    session: AsyncSession, around: placing.Surroundings, where: _Where
) -> tuple[tuple[PlaceView, ...], int]:
    """Blankets by name, those where it is first; then providers without a blanket of the cloud."""
    sites = sorted(around.sites.values(), key=lambda one: (one.id not in where.blankets, one.name))
    used = select(Blanket.provider).where(Blanket.id.in_(around.sites))
    providers = await session.scalars(select(Provider).where(Provider.id.in_(used)))
    kinds = {row.name: declaration(row).kind for row in providers}
    others = select(Provider).where(Provider.id.not_in(used))
    without = (await session.scalars(others.order_by(Provider.name).limit(_PLACES))).all()
    count = await session.scalar(select(func.count()).select_from(others.subquery())) or 0
    found = [_of_blanket(site, around, where, kinds[site.domain]) for site in sites[:_PLACES]]
    found += [_of_provider(row, where) for row in without]
    return tuple(found), len(sites) + count - len(found)


def _of_blanket(site: Site, around: placing.Surroundings, where: _Where, kind: str) -> PlaceView:
    near = [one for one in around.neighbours if site.id in one.blankets]
    facts = facts_of(site, near)
    if where.subject is None:
        why = levels.objection(where.demands, facts)
    else:
        why = of_levels(where.subject, site, near)
    return PlaceView(
        blanket=site.name,
        provider=site.domain,
        kind=kind,
        here=site.id in where.blankets,
        allowed=why is None,
        why=why or "",
        rules=_rulings(where.demands, facts),
    )


def _of_provider(row: Provider, where: _Where) -> PlaceView:
    facts = {**facts_of_new(row), Fact.COMPANY: levels.ABSENT}
    why = levels.objection(where.demands, facts)
    return PlaceView(
        blanket=None,
        provider=row.name,
        kind=declaration(row).kind,
        here=False,
        allowed=why is None,
        why=why or "",
        rules=_rulings(where.demands, facts),
    )


def _rulings(demands: Sequence[Demand], facts: Facts) -> tuple[RulingView, ...]:
    return tuple(
        RulingView(rule=one.rule.name, of=demand.of, held=one.held, by=one.by, why=one.why)
        for demand in demands
        for one in levels.rulings(demand, facts)
    )
