"""Watching both sides of a migration until what is seen adds up to an outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from supercloud.model.errors import SupercloudError, Unavailable
from supercloud.model.migration import Outcome, Source, Target, settle
from supercloud.model.names import Id
from supercloud.ports.agent import OperationRef, SourceReport
from supercloud.ports.durable import Saga
from supercloud.services.sagas.world import World

#: A side that does not answer is asked again after this; one that answers keeps us waiting itself.
_AGAIN_S = 1.0
_log = structlog.get_logger(__name__)
#: A complete target changes no more unless it dies, so it need not be asked as long as the source runs.
_COMPLETE_AGAIN_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What was seen when it added up. `source_gone`: the source's agent itself said that its process ended
    or is parked. `guarded`: something is in force about it there, or nobody could say."""

    outcome: Outcome
    source_gone: bool
    reason: str
    guarded: bool = True


class _Watch:
    def __init__(self, saga: Saga, world: World, ref: OperationRef, source: Id, target: Id) -> None:
        self._saga = saga
        self._world = world
        self._ref = ref
        self._at_source = source
        self._at_target = target
        self.source = Source.UNKNOWN
        self.target = Target.UNKNOWN
        self.source_gone = False
        self.transfer_over = False
        self.reason = ""
        self.guarded = True
        #: The target has had a process: it was seen, or something arrived at it.
        self._target_was_there = False
        #: It has none any more, so what is still being sent goes nowhere.
        self.lost_for_good = False

    async def ask_source(self) -> None:
        try:
            report = await self._world.agent(self._at_source).migration.source_status(self._ref)
        except SupercloudError as error:
            self._note_silence("source", error)
            await self._source_silent()
        else:
            await self.take(report)

    async def take(self, report: SourceReport) -> None:
        if report.source is Source.PARKED and self.source is not Source.PARKED:
            _log.info("migration.source_parked", operation=self._ref.operation)
        self._source_is(report.source)
        self.source_gone = report.source in (Source.GONE, Source.PARKED)
        self.transfer_over = report.transfer_over
        self.reason = report.reason or self.reason
        self.guarded = report.guarded
        progress = report.progress
        self._target_was_there = self._target_was_there or progress.done_bytes > 0
        if progress.total_bytes and report.source is Source.ALIVE:  # else its guest stands still meanwhile
            await self._saga.progress("transfer", done=min(1.0, progress.done_bytes / progress.total_bytes))

    async def _source_silent(self) -> None:
        """Its right, once over by more than the margin, is as good as its end. What is parked stays so until
        this migration is decided, whether or not it can be heard."""
        standing = await self._world.rights.standing(self._ref.instance)
        self.source_gone = self.source is Source.PARKED
        if standing.free_in_s == 0:
            self.source_gone = False
            self._source_is(Source.GONE)
            self.transfer_over = True
            self.reason = "the source did not answer until its right was over"
        elif self.source is not Source.PARKED:
            self.source = Source.UNKNOWN
        await asyncio.sleep(_AGAIN_S)

    def _source_is(self, source: Source) -> None:
        """Of a copy that was not complete before the source ended, its end says that it may be by now."""
        if source is Source.GONE and self.source is not Source.GONE:
            _log.info("migration.source_gone", operation=self._ref.operation)
            if self.target is not Target.COMPLETE:
                self.target = Target.UNKNOWN
        self.source = source

    async def ask_target(self) -> None:
        if self.target is Target.COMPLETE:
            await asyncio.sleep(_COMPLETE_AGAIN_S)
        after_the_end, was_there = self.source is Source.GONE, self._target_was_there
        try:
            report = await self._world.agent(self._at_target).migration.target_status(self._ref)
        except SupercloudError as error:
            self._note_silence("target", error)
            self.target = Target.UNKNOWN
            await asyncio.sleep(_AGAIN_S)
        else:
            stale = self.source is Source.GONE and not after_the_end
            self.target = Target.UNKNOWN if stale and report.target is not Target.COMPLETE else report.target
            if report.target in (Target.INCOMING, Target.COMPLETE):
                self._target_was_there = True
            if report.target is Target.COMPLETE:
                _log.info("migration.target_complete", operation=self._ref.operation)
            if self.target is Target.LOST:
                self.lost_for_good = was_there
                self.reason = self.reason or f"the target's copy is gone: {report.reason}"
                await asyncio.sleep(_AGAIN_S)  # a loss is no event to wait for

    def _note_silence(self, side: str, error: SupercloudError) -> None:
        """A side that cannot say how it is, for whatever reason, is as unknown as one that is away."""
        if not isinstance(error, Unavailable):
            _log.warning(
                "migration.side_unknown", operation=self._ref.operation, side=side, why=error.message
            )

    async def give_up(self) -> None:
        """Ask the source to end the transfer. What came of it is in its report."""
        try:
            await self.take(await self._world.agent(self._at_source).migration.cancel(self._ref))
        except SupercloudError:
            self.source = Source.UNKNOWN


async def settled(
    saga: Saga, world: World, ref: OperationRef, *, source: Id, target: Id, reason: str
) -> Sight:
    """Both sides, asked until `model.migration.settle` says anything but wait.

    `reason`: why the transfer is to be given up from the start, if it is.
    """
    watch = _Watch(saga, world, ref, source, target)
    asking: dict[asyncio.Task[None], Callable[[], Awaitable[None]]] = {}

    def ask(side: Callable[[], Awaitable[None]]) -> None:
        asking[asyncio.ensure_future(side())] = side

    gave_up = False
    ask(watch.ask_source)
    ask(watch.ask_target)
    try:
        while True:
            done, _ = await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
            sides = [asking.pop(task) for task in done]
            for task in done:
                task.result()
            outcome = settle(watch.source, watch.target, transfer_over=watch.transfer_over)
            # A hypervisor may send for a quarter of an hour to a machine that began anew and keeps silent.
            # What is complete goes on, whoever changed his mind in the last moment.
            if (
                outcome is not Outcome.COMMIT
                and not gave_up
                and (reason or watch.lost_for_good or await world.cancel_asked(ref.operation))
            ):
                gave_up = True
                await watch.give_up()
                watch.reason = reason or watch.reason or "cancelled"
                outcome = settle(watch.source, watch.target, transfer_over=watch.transfer_over)
            if outcome is not Outcome.WAIT:
                return Sight(
                    outcome=outcome,
                    source_gone=watch.source_gone,
                    reason=watch.reason,
                    guarded=watch.guarded,
                )
            for side in sides:
                ask(side)
    finally:
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
