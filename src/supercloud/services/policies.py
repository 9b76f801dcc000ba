"""Policies: versions that are kept, for a cloud's blankets, for one of them alone, and for the cloud itself.

A blanket goes by its own, if it has one, else by its cloud's. What is set reaches the blankets that are
connected at once, and each other one as it connects; taking one away is a version as well, so that it too
can be rolled back.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from pydantic import ValidationError
from sqlalchemy import ColumnElement, and_, delete, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from supercloud.model.errors import Conflict, InvalidInput
from supercloud.model.names import new_id
from supercloud.ports.loop import LoopPolicy
from supercloud.security.policy import PolicyFile
from supercloud.security.rules import Rules
from supercloud.security.terms import RuleSet
from supercloud.services import policy_rows
from supercloud.services.parts import Parts
from supercloud.services.policy_views import (
    CloudPolicyView,
    PolicyAtView,
    PolicyView,
    RollBack,
    SetPolicy,
    VersionView,
)
from supercloud.services.refs import called, caller_of, find_blanket, find_cloud
from supercloud.services.requests import Ref
from supercloud.services.store.security import AppliedPolicy, PolicyRow
from supercloud.services.store.tables import LOCKED, Blanket, Cloud
from supercloud.services.store.time import wall
from supercloud.wire.codec import from_json

#: Versions of one place.
KEPT = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class _At:
    """Where a policy is set."""

    cloud: Cloud
    blanket: Blanket | None = None
    horizontal: bool = False

    @property
    def rows(self) -> ColumnElement[bool]:
        blanket = None if self.blanket is None else self.blanket.id
        return and_(
            PolicyRow.cloud == self.cloud.id,
            PolicyRow.blanket.is_(None) if blanket is None else PolicyRow.blanket == blanket,
            PolicyRow.horizontal.is_(self.horizontal),
        )


class Policies:
    """The part of Northbound about policies."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    # ------------------------------------------------------------ of a cloud

    async def cloud_policy(self, cloud: Ref, *, horizontal: bool = False) -> CloudPolicyView:
        async with self._parts.store.read() as session:
            return await _shown(session, _At(cloud=await find_cloud(session, cloud), horizontal=horizontal))

    async def set_cloud_policy(
        self, cloud: Ref, request: SetPolicy, *, horizontal: bool = False
    ) -> CloudPolicyView:
        """
        Raises:
            InvalidInput: it is no policy, or those are no rules.
        """
        if horizontal and request.rules is not None:
            raise InvalidInput(
                "a horizontal policy has no rules of its own: it is about what blankets' rules found",
                hint="set rules for the cloud's blankets",
            )
        said = _checked(request)
        async with self._parts.store.write() as session:
            at = await _locked(session, _At(cloud=await find_cloud(session, cloud), horizontal=horizontal))
            await _add(session, at, said, dry_run=request.dry_run)
        return await self._told(at)

    async def clear_cloud_policy(self, cloud: Ref, *, horizontal: bool = False) -> CloudPolicyView:
        async with self._parts.store.write() as session:
            at = await _locked(session, _At(cloud=await find_cloud(session, cloud), horizontal=horizontal))
            await _add(session, at, None, dry_run=False)
        return await self._told(at)

    async def cloud_policy_versions(self, cloud: Ref, *, horizontal: bool = False) -> list[VersionView]:
        async with self._parts.store.read() as session:
            at = _At(cloud=await find_cloud(session, cloud), horizontal=horizontal)
            return await _versions(session, at)

    async def roll_back_cloud_policy(
        self, cloud: Ref, request: RollBack, *, horizontal: bool = False
    ) -> CloudPolicyView:
        """
        Raises:
            Conflict: there is no such version.
        """
        async with self._parts.store.write() as session:
            at = await _locked(session, _At(cloud=await find_cloud(session, cloud), horizontal=horizontal))
            await _again(session, at, request)
        return await self._told(at)

    # ------------------------------------------------------------ of one blanket

    async def policy(self, blanket: Ref, *, cloud: Ref | None = None) -> PolicyView:
        async with self._parts.store.read() as session:
            row = await find_blanket(session, blanket, cloud)
        return _view(row, await self._parts.agents.agent(row.id).loop.policy(), waits=False)

    async def set_policy(self, blanket: Ref, request: SetPolicy, *, cloud: Ref | None = None) -> PolicyView:
        """
        Raises:
            InvalidInput: it is no policy, or those are no rules.
        """
        said = _checked(request)
        async with self._parts.store.write() as session:
            at = await _of_blanket(session, blanket, cloud)
            await _add(session, at, said, dry_run=request.dry_run)
        return await self._told_one(at)

    async def clear_policy(self, blanket: Ref, *, cloud: Ref | None = None) -> PolicyView:
        async with self._parts.store.write() as session:
            at = await _of_blanket(session, blanket, cloud)
            await _add(session, at, None, dry_run=False)
        return await self._told_one(at)

    async def policy_versions(self, blanket: Ref, *, cloud: Ref | None = None) -> list[VersionView]:
        async with self._parts.store.read() as session:
            row = await find_blanket(session, blanket, cloud)
            return await _versions(session, _At(cloud=await session.get_one(Cloud, row.cloud), blanket=row))

    async def roll_back_policy(
        self, blanket: Ref, request: RollBack, *, cloud: Ref | None = None
    ) -> PolicyView:
        """
        Raises:
            Conflict: there is no such version.
        """
        async with self._parts.store.write() as session:
            at = await _of_blanket(session, blanket, cloud)
            await _again(session, at, request)
        return await self._told_one(at)

    # ------------------------------------------------------------ inside

    async def _told(self, at: _At) -> CloudPolicyView:
        if not at.horizontal:
            await self._parts.policies.spread(at.cloud.id)
        async with self._parts.store.read() as session:
            return await _shown(session, at)

    async def _told_one(self, at: _At) -> PolicyView:
        assert at.blanket is not None  # noqa: S101 - asked by the callers
        await self._parts.policies.spread(at.cloud.id, at.blanket.id)
        async with self._parts.store.read() as session:
            wanted = (await policy_rows.wanted(session, [at.blanket])).get(at.blanket.id)
            applied = await session.get(AppliedPolicy, at.blanket.id)
        assert wanted is not None  # noqa: S101 - one was added
        if applied is not None and applied.policy == wanted.id and applied.problem:
            raise Conflict(f"blanket {at.blanket.name} does not take it: {applied.problem}")
        waits = applied is None or applied.policy != wanted.id
        return _view(at.blanket, policy_rows.said(wanted), waits=waits)


async def _of_blanket(session: AsyncSession, ref: Ref, cloud: Ref | None) -> _At:
    row = await find_blanket(session, ref, cloud)
    return await _locked(session, _At(cloud=await session.get_one(Cloud, row.cloud), blanket=row))


async def _locked(session: AsyncSession, at: _At) -> _At:
    """Versions are counted under their cloud's lock."""
    await session.get_one(Cloud, at.cloud.id, with_for_update=LOCKED, populate_existing=True)
    return at


async def _add(session: AsyncSession, at: _At, said: LoopPolicy | None, *, dry_run: bool) -> None:
    newest = await session.scalar(select(func.max(PolicyRow.number)).where(at.rows)) or 0
    session.add(
        PolicyRow(
            id=new_id(),
            cloud=at.cloud.id,
            blanket=None if at.blanket is None else at.blanket.id,
            horizontal=at.horizontal,
            number=newest + 1,
            policy=None if said is None else said.policy,
            rules=None if said is None else said.rules,
            dry_run=dry_run,
            by=called(caller_of(session)),
            at=await wall(session),
        )
    )
    await session.flush()
    await session.execute(delete(PolicyRow).where(at.rows, PolicyRow.number <= newest + 1 - KEPT))


async def _again(session: AsyncSession, at: _At, request: RollBack) -> None:
    row = await session.scalar(select(PolicyRow).where(at.rows, PolicyRow.number == request.version))
    if row is None:
        raise Conflict(
            f"there is no version {request.version}, or it is kept no longer",
            hint="supercloud policy history shows which there are",
        )
    said = None if row.policy is None else LoopPolicy(policy=row.policy, rules=row.rules)
    dry_run = row.dry_run if request.dry_run is None else request.dry_run
    await _add(session, at, said, dry_run=dry_run)


async def _newest(session: AsyncSession, at: _At) -> PolicyRow | None:
    query = select(PolicyRow).where(at.rows).order_by(PolicyRow.number.desc()).limit(1)
    found: PolicyRow | None = await session.scalar(query)
    return found


# ---------------------------------------------------------------- what is said and shown


def _checked(request: SetPolicy) -> LoopPolicy:
    try:
        PolicyFile.model_validate_json(request.policy)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "policy"
        raise InvalidInput(
            f"policy: {where}: {first['msg']}", hint="`supercloud policy test` says where"
        ) from error
    if request.rules is not None:
        try:
            Rules(from_json(RuleSet, json.loads(request.rules)))
        except (ValueError, RecursionError) as error:
            raise InvalidInput("the rules are no JSON") from error
    return LoopPolicy(policy=request.policy, rules=request.rules)


def _view(row: Blanket, said: LoopPolicy, *, waits: bool) -> PolicyView:
    return PolicyView(
        blanket=row.name,
        cloud_id=row.cloud,
        policy=json.loads(said.policy),
        rules=_counted(said.rules),
        yara=_has_yara(said.rules),
        waits=waits,
    )


def _counted(rules: str | None) -> int | None:
    if rules is None:
        return None
    found = from_json(RuleSet, json.loads(rules))
    return len(found.rules) + len(found.correlations)


def _has_yara(rules: str | None) -> bool:
    return rules is not None and bool(from_json(RuleSet, json.loads(rules)).yara)


async def _versions(session: AsyncSession, at: _At) -> list[VersionView]:
    rows = await session.scalars(select(PolicyRow).where(at.rows).order_by(PolicyRow.number.desc()))
    return [
        VersionView(
            version=row.number,
            set_at=row.at,
            by=row.by,
            policies=None if row.policy is None else len(json.loads(row.policy).get("policies", {})),
            rules=_counted(row.rules),
            yara=_has_yara(row.rules),
            dry_run=row.dry_run,
        )
        for row in rows
    ]


async def _shown(session: AsyncSession, at: _At) -> CloudPolicyView:
    row = await _newest(session, at)
    return CloudPolicyView(
        cloud=at.cloud.name,
        cloud_id=at.cloud.id,
        horizontal=at.horizontal,
        version=0 if row is None else row.number,
        policy=None if row is None or row.policy is None else json.loads(row.policy),
        rules=None if row is None else _counted(row.rules),
        yara=row is not None and _has_yara(row.rules),
        dry_run=row is not None and row.dry_run,
        set_at=None if row is None else row.at,
        by=None if row is None else row.by,
        blankets=() if at.horizontal else await _at_blankets(session, at.cloud),
    )


async def _at_blankets(session: AsyncSession, cloud: Cloud) -> tuple[PolicyAtView, ...]:
    rows = (
        await session.scalars(select(Blanket).where(Blanket.cloud == cloud.id).order_by(Blanket.name))
    ).all()
    wanted = await policy_rows.wanted(session, rows)
    ids = [row.id for row in rows]
    applied = {
        one.blanket: one
        for one in await session.scalars(select(AppliedPolicy).where(AppliedPolicy.blanket.in_(ids)))
    }
    found = []
    for row in rows:
        version, has = wanted.get(row.id), applied.get(row.id)
        if version is None:
            continue
        there = has is not None and has.policy == version.id
        found.append(
            PolicyAtView(
                blanket=row.name,
                blanket_id=row.id,
                own=version.blanket is not None and version.policy is not None,
                version=version.number,
                waits=not there,
                problem=has.problem if has is not None and there else "",
            )
        )
    return tuple(found)
