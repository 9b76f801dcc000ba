"""The keeper at work: reads clocks and QEMUs, asks the pure core, carries out what it says."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import structlog

from supercloud.keeper.journal import Journal
from supercloud.keeper.link import Grant, Happened, KeeperReport, Relay, RightReport
from supercloud.keeper.monitors import Monitors
from supercloud.keeper.rights import Action, Lost, Park, Pause, Permit, Resume, Rights, Snapshot, Stop
from supercloud.keeper.stops import Moment
from supercloud.model.errors import Failed, OutcomeUnknown, RightRefused, SupercloudError, Unavailable
from supercloud.model.names import Id, new_id
from supercloud.model.right import WATCHDOG_S
from supercloud.ports.agent import InstanceRef
from supercloud.ports.clock import HolderClock
from supercloud.ports.controller import RenewRights

_TICK_S = 1.0
#: What a QEMU does is an event; it is asked in case that one was missed. Where all is emulated a look takes
#: a twentieth of a second of processor, which a guest that stands still for its migration waits for.
_LOOK_S = 5.0
#: Ticks further apart say that this machine is starved: a third of the watchdog's time.
_LATE_S = WATCHDOG_S / 3
_GRANT_S = 20.0
_EVENTS_KEPT = 1000
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hands:
    """What the keeper acts with, besides the monitors. `feed` feeds the watchdog; `catch_up` sets the clock
    that blankets inside this one go by, after a stop."""

    permit: Callable[[Mapping[Id, float]], Awaitable[None]]
    feed: Callable[[], None]
    catch_up: Callable[[], None] = lambda: None


class Keeper:
    """link.KeeperPort, and the loop that enforces rights. Needs nobody: without the agent, rights expire."""

    def __init__(
        self,
        *,
        clock: HolderClock,
        journal: Journal,
        hands: Hands,
        rights: Callable[[Moment, Snapshot | None], Rights],
        monitors: Callable[[Callable[[], None]], Monitors],
    ) -> None:
        self._clock = clock
        self._journal = journal
        self._hands = hands
        self._wake = asyncio.Event()
        self._monitors = monitors(self._wake.set)
        self._rights = rights(self.moment(), self._restored())
        self._relay: Relay | None = None
        self._acting: dict[Id, asyncio.Task[None]] = {}
        self._beating: asyncio.Task[None] | None = None
        self._permitting: asyncio.Task[None] | None = None
        self._answered = asyncio.Condition()
        self._events: deque[Happened] = deque(maxlen=_EVENTS_KEPT)
        self._news = asyncio.Event()
        self._at_fault: dict[Id, str] = {}
        self._ticked_s = self.moment().boottime_s
        self._caught_up = 0

    def _restored(self) -> Snapshot | None:
        try:
            return self._journal.load()
        except Failed as error:
            # Nothing is believed then: what runs has no right, and is paused until rights are handed anew.
            _log.error("keeper.journal_unreadable", error=error.message)
            return None

    def moment(self) -> Moment:
        """All clocks, read so close together that being descheduled between cannot look like a stop."""
        while True:
            before = self._clock.instant()
            rtc_s = self._clock.rtc_s()
            if self._clock.now() - before.boottime_s < 0.5:
                return Moment(boot_id=before.boot_id, boottime_s=before.boottime_s, rtc_s=rtc_s)

    # ------------------------------------------------------------ link.KeeperPort

    async def grant(self, request: Grant) -> RightReport:
        """See link.KeeperPort."""
        instance = request.right.instance
        self._rights.grant(request.right, self.moment(), counted_from_s=request.counted_from_s)
        if request.resume:
            await self._resume_at_once(instance)
        await self._save()
        self._wake.set()
        try:
            async with asyncio.timeout(_GRANT_S), self._answered:
                while not self._rights.may_run(instance, self.moment()):
                    held = self._rights.held.get(instance)
                    if held is None or held.lost not in (None, Lost.MACHINE_STOPPED):
                        raise RightRefused(f"the right was not renewed: {self._rights.why_not(instance)}")
                    await self._answered.wait()
        except TimeoutError as error:
            raise Unavailable(
                "the right could not be renewed in time", hint="is the control plane reachable?"
            ) from error
        return self._report_of(instance, self.moment())

    async def _resume_at_once(self, instance: Id) -> None:
        """Before its right is on the disk: a keeper that ends in between pauses what it knows no right of."""
        monitor = self._monitors.monitor(instance)
        if monitor is not None and self._rights.may_run(instance, self.moment()):
            await monitor.resume()

    async def park(self, request: InstanceRef) -> bool:
        """See link.KeeperPort."""
        instance = request.instance
        held, monitor = self._rights.held.get(instance), self._monitors.monitor(instance)
        if monitor is None:
            return False
        if held is not None and held.parked and held.sent_s is not None and monitor.holds:
            return True  # what was written down before a restart holds nothing by itself
        if not await monitor.park():
            return False
        self._tick()  # that it was sent is noted, whether or not its monitor said so before
        if not self._rights.park(instance):
            return False
        await self._save()
        return True

    async def forget(self, request: InstanceRef) -> None:
        """See link.KeeperPort."""
        self._rights.forget(request.instance)
        await self._save()
        self._wake.set()

    async def report(self) -> KeeperReport:
        """See link.KeeperPort."""
        at = self.moment()
        held = tuple(self._report_of(instance, at) for instance in self._rights.held)
        return KeeperReport(held=held, epochs=dict(self._rights.epochs))

    def _report_of(self, instance: Id, at: Moment) -> RightReport:
        may_run = self._rights.may_run(instance, at)
        return RightReport(
            instance=instance,
            epoch=self._rights.held[instance].right.epoch,
            may_run=may_run,
            left_s=self._rights.left_s(instance, at),
            reason="" if may_run else self._rights.why_not(instance),
        )

    # ------------------------------------------------------------ the agent, as long as there is one

    async def serve(self, relay: Relay) -> None:
        """Use `relay` until cancelled; hand it what happened, oldest first."""
        self._relay = relay
        self._wake.set()
        try:
            while True:
                self._news.clear()
                try:
                    await self._hand_over(relay)
                except SupercloudError as error:
                    _log.warning("keeper.event_not_taken", error=error.message)
                    await asyncio.sleep(_TICK_S)
                else:
                    await self._news.wait()
        finally:
            if self._relay is relay:
                self._relay = None

    async def _hand_over(self, relay: Relay) -> None:
        while self._events:
            event = self._events[0]
            await relay.happened(event)
            if self._events and self._events[0] is event:  # not pushed out by newer ones meanwhile
                self._events.popleft()

    async def _beat(self, relay: Relay) -> None:
        """One heartbeat. What is not answered is asked again, as it was, at the next tick."""
        renewals = self._rights.due(self.moment())
        if not renewals:
            return
        try:
            await self._save()
            answers = (await relay.renew(RenewRights(renewals=renewals))).answers
        except OutcomeUnknown as error:
            _log.info("keeper.unanswered", rights=len(renewals), reason=error.message)
        except SupercloudError as error:
            _log.info("keeper.not_renewed", rights=len(renewals), reason=error.message)
        else:
            settled = self._rights.answered(renewals, answers, self.moment())
            await self._save()
            if settled:  # else ask again with the next tick, not at once
                self._wake.set()
        async with self._answered:
            self._answered.notify_all()

    def guards(self) -> bool:
        """Whether any instance has a process here, so that somebody must go on watching."""
        return bool(self._monitors.seen())

    def valid_s(self) -> float:
        """How long everything that executes here may still do so; 0 where something may not."""
        at, seen = self.moment(), self._monitors.seen()
        if not self._rights.may_feed(at, seen):
            return 0.0
        runs = (instance for instance, shows in seen.items() if self._rights.may_execute(instance, shows))
        return min((self._rights.left_s(instance, at) for instance in runs), default=0.0)

    # ------------------------------------------------------------ the loop

    async def run(self) -> None:
        """Until cancelled."""
        watching = asyncio.create_task(self._monitors.run())
        looking = asyncio.create_task(self._look_again())
        try:
            while True:
                self._wake.clear()
                self._tick()
                try:
                    async with asyncio.timeout(_TICK_S):
                        await self._wake.wait()
                except TimeoutError:
                    continue
        finally:
            tasks = [watching, looking, *self._acting.values()]
            tasks += [task for task in (self._beating, self._permitting) if task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._save()

    async def _look_again(self) -> None:
        while True:
            await self._monitors.look()
            await asyncio.sleep(_LOOK_S)

    def _tick(self) -> None:
        at = self.moment()
        permits: dict[Id, float] = {}
        for action in self._rights.tick(at, self._monitors.seen()):
            if isinstance(action, Permit):
                permits[action.instance] = action.seconds
            elif isinstance(action, Park):
                if (monitor := self._monitors.monitor(action.instance)) is not None:
                    monitor.hold()
            else:
                self._act(action)
        self._catch_up()
        self._permit(permits)
        if self._relay is not None and (self._beating is None or self._beating.done()):
            self._beating = asyncio.create_task(self._beat(self._relay))
        self._feed()

    def _catch_up(self) -> None:
        """At once, not after the pauses: the keepers of blankets inside this one see their stop by it."""
        if self._rights.stops == self._caught_up:
            return
        try:
            self._hands.catch_up()
        except (Failed, OSError) as error:
            _log.error("keeper.clock_stands_behind", error=str(error))
        else:
            self._caught_up = self._rights.stops

    def _feed(self) -> None:
        """What keeps this machine from being reset. Why it is not done is worth a line when that changes."""
        at, seen = self.moment(), self._monitors.seen()
        late_s, self._ticked_s = at.boottime_s - self._ticked_s, at.boottime_s
        if late_s > _LATE_S:
            _log.warning("keeper.late", seconds=round(late_s, 1))
        at_fault = self._rights.at_fault(at, seen)
        if not at_fault:
            self._hands.feed()
        elif at_fault != self._at_fault:
            _log.warning("keeper.watchdog_not_fed", instances=at_fault)
        self._at_fault = at_fault

    def _act(self, action: Action) -> None:
        """One act at a time for each instance; what is still needed afterwards comes again with a tick."""
        if (acting := self._acting.get(action.instance)) is not None and not acting.done():
            return
        task = asyncio.create_task(self._carry_out(action))
        self._acting[action.instance] = task
        task.add_done_callback(lambda _: self._acted(action.instance))

    def _acted(self, instance: Id) -> None:
        if (task := self._acting.get(instance)) is not None and task.done():
            del self._acting[instance]
        self._wake.set()

    async def _carry_out(self, action: Action) -> None:
        monitor = self._monitors.monitor(action.instance)
        if monitor is None:
            return
        try:
            if isinstance(action, Pause):
                killed = await monitor.pause()
                self._tell(
                    "instance.stopped" if killed else "instance.paused", action.instance, action.reason
                )
            elif isinstance(action, Stop):
                await monitor.kill()
                self._rights.stopped(action.instance)
                self._tell("instance.stopped", action.instance, action.reason)
            elif isinstance(action, Resume):
                await monitor.resume()
                self._tell("instance.resumed", action.instance, "right-renewed")
            await self._save()
        except SupercloudError as error:
            _log.error("keeper.act_failed", instance=action.instance, error=error.message)

    def _permit(self, permits: dict[Id, float]) -> None:
        if not permits:
            return
        before = self._permitting

        async def permit() -> None:
            if before is not None:
                await asyncio.gather(before, return_exceptions=True)  # in the order they were decided
            try:
                await self._hands.permit(permits)
            except (SupercloudError, OSError) as error:
                _log.warning("keeper.permit_failed", error=str(error))
                for instance in permits:
                    self._rights.unpermitted(instance)

        self._permitting = asyncio.create_task(permit())

    async def _save(self) -> None:
        await self._journal.save(self._rights.snapshot())

    def _tell(self, kind: str, instance: Id, reason: str) -> None:
        _log.warning("keeper." + kind, instance=instance, reason=reason)
        self._events.append(
            Happened(id=new_id(), kind=kind, at=time.time(), data={"instance": instance, "reason": reason})
        )
        self._news.set()
