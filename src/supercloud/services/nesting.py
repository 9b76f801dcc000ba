"""Blankets inside blankets, as the store has them: whether one may be in another, and what is in which.

A nested blanket's row has its parent and, as its provider, the domain that both are in: placement, drains and
quotas see it there like any. It is no machine of that domain's, so that its provider neither sees it, nor is
asked anything about it.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from supercloud.model.errors import Conflict, NotFound, Refused
from supercloud.model.levels import Level, stays_alone
from supercloud.model.names import Id
from supercloud.model.nesting import Limit, Size, check_depth, check_room
from supercloud.model.placement import Confidentiality
from supercloud.model.states import AT_REST
from supercloud.ports.agent import BlanketReport
from supercloud.ports.machines import Inside
from supercloud.ports.platform import Declaration, Flavour
from supercloud.services.declarations import declaration
from supercloud.services.guests import find_around, is_within
from supercloud.services.parts import Parts
from supercloud.services.refs import caller_of
from supercloud.services.requests import Ref
from supercloud.services.store.tables import LOCKED, Blanket, Cloud, Instance, Operation, Provider
from supercloud.wire.codec import from_json

#: Take no memory.


def limit_of(provider: Provider) -> Limit:
    declared = declaration(provider)
    return Limit(platform=provider.name, levels=declared.nested_levels, reason=declared.nested_reason)


def as_platform(parent: Blanket, provider: Provider) -> Declaration:
    """What a blanket is as a platform. Whoever has the parent reads what is in it, whatever is below."""
    declared = declaration(provider)
    limit = limit_of(provider)
    return Declaration(
        kind="blanket",
        accelerator=declared.accelerator,
        nesting=True,
        flavours=frozenset({Flavour.KVM}),
        confidentiality=Confidentiality.PROCEDURAL,
        abilities=frozenset(),
        reason=f"inside a blanket, on {declared.accelerator}",
        nested_levels=limit.left(parent.depth + 1),
        nested_reason=limit.reason,
    )


# ---------------------------------------------------------------- asking for one


async def find_parent(
    session: AsyncSession, parts: Parts, ref: Ref, cloud: Cloud
) -> tuple[Blanket, Provider]:
    """The blanket that one of `cloud` is to be in. It and its cloud are locked: what is in it is counted.

    Raises:
        NotFound; Conflict: it is not there to ask.
        Refused: it can have none in it.
    """
    found = await find_around(session, ref, cloud)
    foreign = not await is_within(session, cloud.id, found.cloud)
    # Of two that are not one within the other, in one order: each may be about to ask the other.
    for one in sorted({found.cloud, cloud.id}) if foreign else (found.cloud,):
        if await session.get(Cloud, one, with_for_update=LOCKED, populate_existing=True) is None:
            raise NotFound("its cloud was removed")
    await session.refresh(found, with_for_update=LOCKED)
    if not parts.agents.may_answer(found):
        raise Conflict(
            f"blanket {found.name} is {found.state}, not connected",
            hint=f"supercloud blanket show {found.name} says why",
        )
    if await _being_removed(session, found.id):
        raise Conflict(f"blanket {found.name} is being removed")
    provider = await session.get_one(Provider, found.provider)
    await session.refresh(provider, with_for_update={"read": True})  # it begins no drain meanwhile
    check_depth(found.name, found.depth, limit_of(provider))
    if found.tools:
        raise Refused(
            f"no blanket can be in {found.name}: tools were let in to it, which would reach its machine",
            hint="choose another one, or add one: supercloud blanket add",
        )
    report = None if found.report is None else from_json(BlanketReport, found.report)
    if report is None or not report.nests:
        why = "it has not reported yet" if report is None else report.nests_not
        raise Refused(f"no blanket can be in {found.name}: {why}")
    return found, provider


async def check_new(session: AsyncSession, parent: Blanket, asked: Size) -> None:
    """Whether it has room for one more.

    Raises:
        Refused: somebody there stays alone.
        Exhausted.
    """
    here = select(Instance).where(Instance.blanket == parent.id).order_by(Instance.name)
    for one in await session.scalars(here):
        if stays_alone(Level(one.level)):
            caller = caller_of(session)
            known = caller is None or one.cloud in caller.clouds
            which = f"instance {one.name}, which is {one.level}," if known else "an instance"
            raise Refused(f"{which} stays alone in blanket {parent.name}")
    inside = await session.scalars(select(Blanket).where(Blanket.parent == parent.id))
    beside = select(func.coalesce(func.sum(Instance.memory_mib), 0)).where(
        Instance.blanket == parent.id, Instance.state.not_in(AT_REST)
    )
    taken = [_size(row) for row in inside]
    taken.append(Size(memory_mib=int(await session.scalar(beside) or 0)))
    check_room(parent.name, _size(parent), taken, asked)


def _size(row: Blanket) -> Size:
    wanted = row.wanted
    return Size(vcpus=wanted["vcpus"], memory_mib=wanted["memory_mib"], disk_bytes=wanted["disk_bytes"])


async def _being_removed(session: AsyncSession, blanket: Id) -> bool:
    query = select(Operation.id).where(
        Operation.object == blanket, Operation.kind == "blanket.remove", Operation.ended_at.is_(None)
    )
    return await session.scalar(query.limit(1)) is not None


# ---------------------------------------------------------------- what is in which


async def inside_of(session: AsyncSession, blanket: Id) -> list[Blanket]:
    """All that are in it, at whatever depth, the innermost first."""
    found: list[Blanket] = []
    around = [blanket]
    while around:
        rows = await session.scalars(select(Blanket).where(Blanket.parent.in_(around)).order_by(Blanket.id))
        level = list(rows)
        found = level + found
        around = [row.id for row in level]
    return found


async def memory_taken(session: AsyncSession, blankets: Sequence[Id]) -> dict[Id, int]:
    """By the machines in each of these, in MiB."""
    taken = dict.fromkeys(blankets, 0)
    rows = await session.scalars(select(Blanket).where(Blanket.parent.in_(list(blankets))))
    for row in rows:
        taken[row.parent or ""] += row.wanted["memory_mib"]
    return taken


# ---------------------------------------------------------------- its driver


async def inside(session: AsyncSession, parts: Parts, parent: Blanket) -> Inside:
    """What the driver of a blanket's machines has to know of it."""
    provider = await session.get_one(Provider, parent.provider)
    below = parts.drivers(provider.id, provider.kind, provider.options)
    return Inside(
        declaration=as_platform(parent, provider),
        inner=tuple(parent.inner_endpoints or ()),
        endpoint=below.blanket_endpoint,
    )
