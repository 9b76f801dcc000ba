"""What the levels of an instance, its networks and its volumes demand of where it is, and what decides there
whether they get it: rows as `model.levels` has them.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from supercloud.model import levels
from supercloud.model.levels import Demand, Fact, Facts, Level, Thing
from supercloud.ports.agent import BlanketReport
from supercloud.ports.platform import Declaration, Flavour
from supercloud.services.declarations import declaration, declaration_of
from supercloud.services.store.tables import Blanket, Instance, Network, NicRow, Provider, Volume
from supercloud.wire.codec import from_json


def own_demand(row: Instance, level: Level | None = None) -> Demand:
    """Of an instance itself, at its level, or at another one."""
    return Demand(
        thing=Thing.INSTANCE,
        name=row.name,
        level=level or Level(row.level),
        own=levels.own_facts(hold=row.hold),
    )


def network_demands(rows: Sequence[Network]) -> tuple[Demand, ...]:
    return tuple(Demand(thing=Thing.NETWORK, name=row.name, level=Level(row.level)) for row in rows)


def volume_demand(row: Volume, level: Level | None = None) -> Demand:
    return Demand(thing=Thing.VOLUME, name=row.name, level=level or Level(row.level))


async def demands_of(session: AsyncSession, row: Instance) -> tuple[Demand, ...]:
    """All that hold for an instance. The volume that it boots from has its level."""
    networks = select(Network).join(NicRow, NicRow.network == Network.id).where(NicRow.instance == row.id)
    volumes = select(Volume).where(Volume.instance == row.id, Volume.position > 0)
    return (
        own_demand(row),
        *network_demands((await session.scalars(networks.order_by(NicRow.position))).all()),
        *(volume_demand(one) for one in await session.scalars(volumes.order_by(Volume.position))),
    )


def facts_of(row: Blanket, provider: Provider, report: BlanketReport | None = None) -> Facts:
    """Of a blanket, by its own last report, or by one that it gave just now."""
    if report is None and row.report is not None:
        report = from_json(BlanketReport, row.report)
    declared = declaration_of(row, provider)
    flavour = Flavour(row.wanted["flavour"]) if report is None else report.flavour
    shell = levels.PRESENT if row.wanted.get("debug_shell", False) else levels.ABSENT
    known = {} if report is None else {Fact.FILTER: _presence(report.closes_networks)}
    own = {Fact.SHELL: shell, Fact.TOOLS: _presence(row.tools)}
    return {**_platform(declared), Fact.FLAVOUR: flavour.value, **own, **known}


def facts_of_new(provider: Provider) -> Facts:
    """Of the best blanket that could be added there: of the first flavour, with this version's agent."""
    declared = declaration(provider)
    flavours = [one for one in Flavour if one in declared.flavours]
    own = {Fact.SHELL: levels.ABSENT, Fact.TOOLS: levels.ABSENT, Fact.FILTER: levels.PRESENT}
    found = {**_platform(declared), **own}
    return {**found, Fact.FLAVOUR: flavours[0].value} if flavours else found


def _platform(declared: Declaration) -> Facts:
    return {
        Fact.CONFIDENTIALITY: declared.confidentiality.value,
        Fact.ACCELERATOR: declared.accelerator,
    }


def _presence(there: bool) -> str:
    return levels.PRESENT if there else levels.ABSENT
