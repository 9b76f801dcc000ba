"""Whether an instance can be migrated, said before anything starts."""

from __future__ import annotations

import asyncio

from supercloud.model import levels
from supercloud.model.errors import Refused, Unavailable
from supercloud.model.levels import Fact
from supercloud.model.names import Id
from supercloud.model.placement import Confidentiality
from supercloud.model.states import InstanceState
from supercloud.ports.agent import BlanketReport
from supercloud.services.declarations import declaration_of
from supercloud.services.demands import demands_of, facts_of
from supercloud.services.parts import Parts
from supercloud.services.sagas.world import InstanceFacts
from supercloud.services.store.tables import Blanket, Cloud, Instance, Provider
from supercloud.services.world import facts

#: What a blanket needs for itself beyond its instances.
MEMORY_SPARE_MIB = 64


async def check_migration(parts: Parts, row: Instance, target: Blanket) -> None:
    """
    Raises:
        Refused: with the reason.
    """
    if row.state != InstanceState.RUNNING or row.blanket is None:
        raise Refused(
            f"instance {row.name} is {row.state}: only a running one can be migrated live",
            hint=f"supercloud vm start {row.name}",
        )
    if row.blanket == target.id:
        raise Refused(f"instance {row.name} is in blanket {target.name} already")
    if not parts.agents.may_answer(target):
        raise Refused(
            f"blanket {target.name} is {target.state}, not connected",
            hint=f"supercloud blanket show {target.name} says why",
        )
    if not parts.agents.is_expected(row.blanket):
        raise Refused(
            "the blanket that it runs in is not connected",
            hint="supercloud status shows how long its right lasts",
        )
    if target.parent is not None and target.endpoint is None:
        await _check_heard(parts, row.blanket, target)
    standing = await parts.rights.standing(row.id)
    if standing.record.holder != row.blanket:
        raise Refused("the blanket that it runs in does not hold its right now")
    async with parts.store.read() as session:
        instance = await facts(session, row.id)
        source = await session.get_one(Blanket, row.blanket)
        cloud = await session.get_one(Cloud, row.cloud)
        owners = [await session.get_one(Provider, one.provider) for one in (source, target)]
        demands = await demands_of(session, row)
    enforced = [
        declaration_of(*one).confidentiality is Confidentiality.ENFORCED
        for one in zip((source, target), owners, strict=True)
    ]
    if enforced == [True, False]:
        raise Refused(f"the platform of {target.name} does not enforce confidentiality, its present one does")
    try:
        here, there = await asyncio.gather(*(parts.agents.agent(one.id).report() for one in (source, target)))
    except Unavailable as error:
        raise Refused(f"a blanket does not answer: {error.message}") from error
    # Who else is there, is decided with the cloud's row locked: services.placing.
    place = {**facts_of(target, owners[1], there), Fact.COMPANY: levels.ABSENT}
    if no := levels.objection(demands, place):
        raise Refused(
            f"instance {row.name} may not be in blanket {target.name}: {no}",
            hint=f"supercloud level explain vm {row.name} shows what each blanket can give",
        )
    _compare(instance, cloud, target, here, there)


async def _check_heard(parts: Parts, here: Id, target: Blanket) -> None:
    """A nested blanket that nothing is forwarded to dials the others: of two, neither hears the other."""
    async with parts.store.read() as session:
        source = await session.get_one(Blanket, here)
    if source.parent is not None and source.endpoint is None:
        raise Refused(
            f"blankets {source.name} and {target.name} are both inside others and dial out only, so that "
            "neither reaches the other",
            hint="migrate to one that is reached from outside",
        )


def _compare(
    instance: InstanceFacts, cloud: Cloud, target: Blanket, here: BlanketReport, there: BlanketReport
) -> None:
    spec = instance.spec
    if here.flavour != there.flavour:
        raise Refused(f"flavours differ: {here.flavour} here, {there.flavour} in {target.name}")
    if there.cpu_models and cloud.cpu_model not in there.cpu_models:
        raise Refused(f"blanket {target.name} cannot give the cloud's CPU model {cloud.cpu_model}")
    if there.memory_free_mib < spec.memory_mib + MEMORY_SPARE_MIB:
        raise Refused(
            f"blanket {target.name} has {there.memory_free_mib} MiB free, "
            f"instance {spec.name} needs {spec.memory_mib + MEMORY_SPARE_MIB}",
            hint="stop or move what runs there, or add a blanket with more --memory",
        )
    unplaced = sum(disk.image_bytes for disk in instance.disks)
    if there.disk_free_bytes < unplaced:
        raise Refused(
            f"blanket {target.name} has no room for the base images of {spec.name}",
            hint="remove volumes there, or add a blanket with a larger --disk",
        )
