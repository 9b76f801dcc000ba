"""The works of `group.move` and `provider.drain`: several migrations at once, each an operation of its own.

Which instances are to leave which blankets is settled in the first step. The second one is a loop over what
is written down: what was begun for an instance is found by its parent, what was not is begun, and whether an
instance has arrived is looked up. So it may run again after a kill, and begins nothing twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import structlog
from sqlalchemy import ColumnElement, or_, select

from supercloud.model.errors import Failed, NotFound, Refused, SupercloudError
from supercloud.model.names import Id, Name
from supercloud.model.placement import Choice, nowhere
from supercloud.model.states import AT_REST, InstanceState, OperationState
from supercloud.ports.durable import Saga
from supercloud.services import placing
from supercloud.services.fates import End, Fate, result_of
from supercloud.services.instances import begin_migration
from supercloud.services.operations import Intent
from supercloud.services.parts import Parts
from supercloud.services.preflight import check_migration
from supercloud.services.store.tables import Blanket, Instance
from supercloud.services.views import OperationView

_log = structlog.get_logger(__name__)
#: Migrations at a time: each has the memory of an instance on its way through the same few links.
AT_ONCE = 4
_LOOK_S = 30.0
_TOLD = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Errand:
    """Which instances leave which blankets, or come `to` others, if that is said."""

    instances: tuple[Id, ...]
    away: tuple[Id, ...] = ()
    to: tuple[Id, ...] = ()

    def is_done(self, blanket: Id | None) -> bool:
        """Whether an instance that is there need not move any more."""
        return blanket is not None and (blanket in self.to if self.to else blanket not in self.away)


@dataclass(frozen=True, slots=True)
class MoveOperations:
    parts: Parts

    async def group(self, saga: Saga, intent: Intent) -> dict[str, Any]:
        """
        Raises:
            Failed: some stayed; it says which and why, as the result does.
        """
        errand = await saga.step("choose", lambda: self._of_group(intent), Errand)
        fates = await self._carry_out(saga, errand)
        if left := [one for one in fates if one.end in {End.STAYED, End.LOST}]:
            told = "; ".join(
                f"{one.name} in {one.is_in or 'no blanket'} ({_why(one)})" for one in left[:_TOLD]
            )
            more = f"; and {len(left) - _TOLD} more" if len(left) > _TOLD else ""
            raise Failed(
                f"{len(left)} of {len(fates)} instances did not move as they are: {told}{more}",
                hint=f"supercloud operation show {saga.operation} has all of them",
            )
        return result_of(fates)

    async def drain(self, saga: Saga, intent: Intent) -> dict[str, Any]:
        """
        Raises:
            Failed: some stayed; the result says which and why, to whom they belong.
        """
        errand = await saga.step("choose", lambda: self._of_provider(intent["provider"]), Errand)
        fates = await self._carry_out(saga, errand)
        if left := [one for one in fates if one.end is End.STAYED]:
            raise Failed(
                f"{len(left)} of {len(fates)} instances stay there",
                hint=f"supercloud operation show {saga.operation} has those of your clouds",
            )
        return result_of(fates)

    async def leave(self, saga: Saga, intent: Intent) -> dict[str, Any]:
        """Because a horizontal loop decided it.

        Raises:
            Failed: some stayed; the result says which and why.
        """
        errand = await saga.step("choose", lambda: self._leaving(intent), Errand)
        fates = await self._carry_out(saga, errand)
        if left := [one for one in fates if one.end is End.STAYED]:
            raise Failed(
                f"{len(left)} of {len(fates)} instances stay there: "
                + "; ".join(f"{one.name} ({_why(one)})" for one in left[:_TOLD]),
                hint=f"supercloud operation show {saga.operation} has all of them",
            )
        return result_of(fates)

    # ------------------------------------------------------------ what is to move

    async def _of_group(self, intent: Intent) -> Errand:
        rows = await self._instances(Instance.cloud == intent["cloud"], Instance.group == intent["group"])
        return Errand(
            instances=tuple(row.id for row in rows),
            away=tuple(sorted({row.blanket for row in rows if row.blanket is not None})),
            to=tuple(intent["to"]),
        )

    async def _of_provider(self, provider: Id) -> Errand:
        async with self.parts.store.read() as session:
            there = select(Blanket.id).where(Blanket.provider == provider).order_by(Blanket.id)
            blankets = tuple(await session.scalars(there))
            coming = await placing.bound_for(session, None)
        to_be = [instance for instance, at in coming.items() if at & set(blankets)]
        rows = await self._instances(or_(Instance.blanket.in_(blankets), Instance.id.in_(to_be)))
        return Errand(instances=tuple(row.id for row in rows), away=blankets)

    async def _leaving(self, intent: Intent) -> Errand:
        """What runs there, and what is on its way there: what is at rest goes when it is started."""
        blanket, named = intent["blanket"], intent["instances"]
        async with self.parts.store.read() as session:
            coming = await placing.bound_for(session, None)
        to_be = [instance for instance, at in coming.items() if blanket in at]
        here = or_(Instance.blanket == blanket, Instance.id.in_(to_be))
        rows = await self._instances(here if named is None else Instance.id.in_(named))
        moving = tuple(row.id for row in rows if row.state not in AT_REST or row.id in to_be)
        return Errand(instances=moving, away=tuple(intent["away"]))

    async def _instances(self, *where: ColumnElement[bool]) -> list[Instance]:
        async with self.parts.store.read() as session:
            rows = await session.scalars(select(Instance).where(*where).order_by(Instance.name, Instance.id))
            return list(rows)

    # ------------------------------------------------------------ moving

    async def _carry_out(self, saga: Saga, errand: Errand) -> tuple[Fate, ...]:
        run = _Run(self.parts, saga, errand)
        return await saga.step("move", run.all, tuple[Fate, ...])


class _Run:
    """One run of the second step."""

    def __init__(self, parts: Parts, saga: Saga, errand: Errand) -> None:
        self._parts = parts
        self._saga = saga
        self._errand = errand
        self._bound = asyncio.Semaphore(AT_ONCE)
        self._turn = asyncio.Lock()  # each chooses among what those before it have left
        self._given_up = False
        self._fates: dict[Id, Fate] = {}

    async def all(self) -> tuple[Fate, ...]:
        watching = asyncio.create_task(self._watch())
        try:
            await self._tell()
            begun = await self._parts.operations.parts_of(self._saga.operation)
            # First what runs already, which would else run beyond the bound.
            order = sorted(self._errand.instances, key=lambda one: one not in begun)
            async with asyncio.TaskGroup() as group:
                for instance in order:
                    group.create_task(self._one(instance, begun.get(instance)))
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
        return self._in_order()

    def _in_order(self) -> tuple[Fate, ...]:
        return tuple(self._fates[one] for one in self._errand.instances if one in self._fates)

    async def _tell(self) -> None:
        fates, every = self._in_order(), len(self._errand.instances)
        await self._parts.operations.note(self._saga.operation, result_of(fates))
        share = len(fates) / every if every else 1.0
        await self._saga.progress(f"{len(fates)} of {every} instances looked after", done=share)

    async def _watch(self) -> None:
        """Until somebody wants it given up: then what has begun is, too, and nothing else begins."""
        operations = self._parts.operations
        view = await operations.view(self._saga.operation)
        while view.state is not OperationState.CANCELLING:
            view = await operations.view(self._saga.operation, wait_s=_LOOK_S)
        self._given_up = True
        for part in (await operations.parts_of(self._saga.operation)).values():
            await self._cancel(part)

    async def _cancel(self, part: Id) -> None:
        with suppress(SupercloudError):  # it may have ended this moment
            await self._parts.operations.cancel(part)

    async def _one(self, instance: Id, begun: Id | None) -> None:
        async with self._bound:
            if begun is None:
                await self._free(instance)
            found = await self._found(instance)
            if found is None:
                return  # removed before anything was known of it
            row, was_in = found
            end, why = End.STAYED, ""
            try:
                if begun is None and not self._errand.is_done(row.blanket):
                    async with self._turn:
                        begun = await self._begin(row)
                if begun is not None:
                    ended = await self._ended(begun)
                    end, why = _end_of(ended)
                else:
                    end = End.THERE
            except SupercloudError as error:
                why = error.message
            now = await self._found(instance)
            self._fates[instance] = Fate(
                instance=instance,
                name=row.name,
                cloud=row.cloud,
                end=end if now is not None else End.GONE,
                was_in=was_in,
                is_in=None if now is None else now[1],
                why=why,
                operation=begun,
            )
            await self._tell()

    async def _free(self, instance: Id) -> None:
        """Wait for what is under way with it: it may be on its way to where it is to leave."""
        while not self._given_up and (other := await self._parts.operations.open_under(instance)):
            await self._parts.operations.view(other, wait_s=_LOOK_S)

    async def _found(self, instance: Id) -> tuple[Instance, Name | None] | None:
        """The instance, and the name of the blanket that it is in."""
        async with self._parts.store.read() as session:
            row = await session.get(Instance, instance)
            if row is None:
                return None
            blanket = None if row.blanket is None else await session.get(Blanket, row.blanket)
        return row, None if blanket is None else blanket.name

    async def _begin(self, row: Instance) -> Id:
        """A migration to the best blanket that takes it.

        Raises:
            Refused: it was given up, or no blanket takes it; saying for each why.
            Conflict: something else is under way with it.
        """
        if row.state != InstanceState.RUNNING:
            raise Refused(f"it is {row.state}, and only a running one moves live")
        refused: dict[Name, str] = {}
        for choice in await self._choices(row, refused):
            if self._given_up:
                raise Refused("it was given up before it began")
            try:
                async with self._parts.store.read() as session:
                    target = await session.get(Blanket, choice.blanket)
                if target is None:
                    raise NotFound("it was removed")
                await check_migration(self._parts, row, target)
                begun = await begin_migration(
                    self._parts, row.id, target.id, parent=self._saga.operation, reason=choice.reason
                )
            except (Refused, NotFound) as error:
                refused[choice.name] = error.message
                continue
            await self._parts.operations.started(begun)
            if self._given_up:
                await self._cancel(begun)
            return begun
        raise nowhere(row.name, refused)

    async def _choices(self, row: Instance, refused: dict[Name, str]) -> Iterable[Choice]:
        async with self._parts.store.read() as session:
            around = await placing.look(
                session, self._parts, row.cloud, but=row.id, held=False, arriving=True
            )
            subject = await placing.subject_of(session, row)
        among = self._errand.to or [one for one in around.sites if one not in self._errand.away]
        found, not_these = around.ranked(subject, among)
        refused.update(not_these)
        return found

    async def _ended(self, part: Id) -> OperationView:
        view = await self._parts.operations.view(part)
        while view.ended_at is None:
            view = await self._parts.operations.view(part, wait_s=_LOOK_S)
        return view


def _end_of(view: OperationView) -> tuple[End, str]:
    if view.state is not OperationState.SUCCEEDED:
        return End.STAYED, (view.error or {}).get("message", str(view.state))
    if (view.result or {}).get("memory_lost"):
        return End.LOST, "it booted from its disk"
    return End.MOVED, ""


def _why(fate: Fate) -> str:
    return fate.why or str(fate.end)
