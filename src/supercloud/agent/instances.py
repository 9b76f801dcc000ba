"""Instances of this blanket: nothing boots or goes on before the keeper holds its right."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable

import structlog

from supercloud.agent.changes import Changes
from supercloud.agent.guard import Guards
from supercloud.agent.journal import Journal
from supercloud.agent.opener import Opener
from supercloud.keeper.egress import tap_of
from supercloud.keeper.link import Grant, KeeperPort, RightReport
from supercloud.model.errors import Conflict, Failed, InvalidInput, Refused, SupercloudError
from supercloud.model.names import Epoch, Id
from supercloud.ports.agent import (
    NICS,
    InstanceRef,
    InstanceReport,
    InstanceSpec,
    RunState,
    StartInstance,
    StopInstance,
    StopMode,
)
from supercloud.ports.clock import Clock
from supercloud.ports.hypervisor import DomainEvent, Hypervisor, Overlay
from supercloud.ports.loop import Guard

GONE = frozenset({RunState.ABSENT, RunState.DEFINED})
_LONGEST_SHUTDOWN_S = 240.0
_log = structlog.get_logger(__name__)


class Arrivals:
    """Which incoming copies are complete by the hypervisor's word, and when each was first seen so, by this
    machine's clock: before any commit of it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._complete_at: dict[Id, float] = {}
        self._paused: set[Id] = set()

    def heard(self, event: DomainEvent) -> None:
        """Only the last word counts."""
        if event.paused:
            self._paused.add(event.instance)
        else:
            self._paused.discard(event.instance)

    def came(self, instance: Id) -> bool:
        """Whether what was being received was told to be complete just now. Said once: whoever asks again
        looks, since a process that ends while nobody can tell leaves no word."""
        told = instance in self._paused
        self._paused.discard(instance)
        return told

    def complete(self, operation: Id) -> None:
        self._complete_at.setdefault(operation, self._clock.now())

    def since(self, operation: Id | None) -> float | None:
        return None if operation is None else self._complete_at.get(operation)

    def forget(self, operation: Id) -> None:
        self._complete_at.pop(operation, None)


class Instances:
    """ports.agent.InstancesAgent over the hypervisor, the overlay and the keeper."""

    def __init__(
        self,
        *,
        hypervisor: Hypervisor,
        overlay: Overlay,
        keeper: KeeperPort,
        journal: Journal,
        changes: Changes,
        arrivals: Arrivals,
        opener: Opener,
        guards: Guards | None,
        still: Callable[[Id], bool] | None = None,
    ) -> None:
        """`guards`: of the blanket's loop; None: it has none. `still`: whether that has it stand still,
        whatever its right allows."""
        self._hypervisor = hypervisor
        self._overlay = overlay
        self._keeper = keeper
        self._journal = journal
        self._changes = changes
        self._arrivals = arrivals
        self._opener = opener
        self._guards = guards
        self._still = still
        #: About to have a process here.
        self.starting: set[Id] = set()
        self._locks: defaultdict[Id, asyncio.Lock] = defaultdict(asyncio.Lock)

    # ------------------------------------------------------------ ports.agent.InstancesAgent

    async def start(self, request: StartInstance) -> InstanceReport:
        """See the port. A right that the store does not confirm boots nothing."""
        spec = _fitting(request)
        user_data = self._opener.user_data(spec, request.user_data, request.user_data_key)
        async with self._locks[spec.id]:
            await self._journal.remember(spec)
            await self._end_older(spec.id, request.right.epoch)
            self.starting.add(spec.id)
            try:
                await self._guard(spec, request.guard)
                still = self._still is not None and self._still(spec.id)
                right = await self._keeper.grant(Grant(right=request.right))
                await self.plug(spec)
                await self._hypervisor.start(spec, user_data, paused=still)
            finally:
                self.starting.discard(spec.id)
            return await self._report(spec.id, right)

    async def _guard(self, spec: InstanceSpec, guard: Guard | None) -> None:
        """Before it has a port here.

        Raises:
            Refused: nothing here could hold what comes with it.
        """
        if self._guards is not None:
            self.expect(spec)
            await self._guards.stand(spec.id, guard)
        elif guard:
            raise Refused("this blanket has no loop, which would hold what is in force about it")

    async def resume(self, request: StartInstance) -> InstanceReport:
        """See the port. The keeper has the guest go on; the hypervisor then says whether it does."""
        spec = _fitting(request)
        async with self._locks[spec.id]:
            since_s = self._arrivals.since(request.operation)
            still = self._still is not None and self._still(spec.id)
            grant = Grant(right=request.right, counted_from_s=since_s, resume=not still)
            right = await self._keeper.grant(grant)
            if not still:
                await self._hypervisor.resume(spec.id)
            await self._journal.remember(spec)
            return await self._report(spec.id, right)

    async def stop(self, request: StopInstance) -> InstanceReport:
        """See the port."""
        instance = request.instance
        async with self._locks[instance]:
            state = await self._hypervisor.state(instance)
            if state is RunState.RUNNING and request.mode is StopMode.SHUTDOWN:
                await self._hypervisor.shutdown(instance)
                await self._changes.until(
                    instance,
                    lambda: self._hypervisor.state(instance),
                    lambda seen: seen in GONE,
                    seconds=min(max(request.timeout_s, 0.0), _LONGEST_SHUTDOWN_S),
                )
            await self._hypervisor.destroy(instance)
            state = await self._hypervisor.state(instance)
            if state not in GONE:
                raise Failed(f"instance {instance} did not end: it is {state}")
            await self._overlay.unplug(instance)
            await self._keeper.forget(InstanceRef(instance=instance))
            return InstanceReport(instance=instance, state=state)

    async def reboot(self, request: InstanceRef) -> InstanceReport:
        async with self._locks[request.instance]:
            await self._hypervisor.reboot(request.instance)
            return await self.inspect(request)

    async def remove(self, request: InstanceRef) -> None:
        async with self._locks[request.instance]:
            state = await self._hypervisor.state(request.instance)
            if state not in GONE:
                raise Conflict(f"instance {request.instance} is {state}", hint="stop it first")
            await self._hypervisor.destroy(request.instance)  # drops what is left of a definition
            await self._overlay.unplug(request.instance)
            await self._keeper.forget(request)
            await self._journal.forget(request.instance)

    async def inspect(self, request: InstanceRef) -> InstanceReport:
        rights = await self._rights()
        state = await self._hypervisor.state(request.instance)
        return _report(request.instance, state, rights.get(request.instance))

    async def list(self) -> list[InstanceReport]:
        """Whatever has a process, a right or a definition here, whoever knows of it."""
        rights = await self._rights()
        states = await self._hypervisor.list()
        known = set(states) | set(rights) | set(await self._journal.known())
        return [
            _report(instance, states.get(instance, RunState.ABSENT), rights.get(instance))
            for instance in sorted(known)
        ]

    async def _end_older(self, instance: Id, epoch: Epoch) -> None:
        """A process of an epoch that is over is not what is to start: paused, it would pass for that. It is
        left where a machine stood still until its instance was started anew."""
        held = (await self._rights()).get(instance)
        if (held is None or held.epoch < epoch) and await self._hypervisor.state(instance) not in GONE:
            _log.warning("agent.older_process_ended", instance=instance)
            await self._hypervisor.destroy(instance)

    # ------------------------------------------------------------ for the rest of the agent

    def expect(self, spec: InstanceSpec) -> None:
        """Its ports will be made."""
        self._overlay.expect(spec.id, [tap_of(spec.id, index) for index in range(len(spec.nics))])

    async def plug(self, spec: InstanceSpec) -> None:
        """Its port, before its process: only the keeper's permit lets traffic out of it."""
        if len(spec.nics) > NICS:
            raise InvalidInput(f"an instance has at most {NICS} ports")
        for index, nic in enumerate(spec.nics):
            await self._overlay.plug(spec.id, tap_of(spec.id, index), nic.network, nic.mac, nic.ip)

    async def heard(self, event: DomainEvent) -> None:
        """The hypervisor's own word. A process that ended by itself gives its right up."""
        self._arrivals.heard(event)
        if event.leaving:
            self._changes.rest(event.instance)
            return
        self._changes.changed(event.instance)
        if event.state in GONE and not self._locks[event.instance].locked():
            await self.settle(event.instance, event.detail)

    async def settle(self, instance: Id, reason: str) -> None:
        """If a right is held here for an instance whose process has ended, give it up.

        Not while a migration is open: there, that the source has ended is what the commit is made of.
        """
        async with self._locks[instance]:
            right = (await self._rights()).get(instance)
            if right is None or await self._hypervisor.state(instance) not in GONE:
                return
            if any(transfer.instance == instance for transfer in await self._journal.transfers()):
                return
            await self._journal.note(
                "instance.ended", {"instance": instance, "epoch": right.epoch, "reason": reason[:200]}
            )
            await self._journal.to_surrender(instance, right.epoch)
            await self._keeper.forget(InstanceRef(instance=instance))
            await self._overlay.unplug(instance)

    async def adopt(self) -> None:
        """Settle what ended while nobody listened. What runs without a right is the keeper's to pause."""
        for instance in await self._rights():
            try:
                await self.settle(instance, "found ended")
            except SupercloudError as error:
                _log.warning("agent.not_settled", instance=instance, error=error.message)

    async def _rights(self) -> dict[Id, RightReport]:
        return {right.instance: right for right in (await self._keeper.report()).held}

    async def _report(self, instance: Id, right: RightReport) -> InstanceReport:
        return _report(instance, await self._hypervisor.state(instance), right)


def _fitting(request: StartInstance) -> InstanceSpec:
    if request.right.instance != request.spec.id:
        raise Conflict(f"the right is for instance {request.right.instance}, not {request.spec.id}")
    return request.spec


def _report(instance: Id, state: RunState, right: RightReport | None) -> InstanceReport:
    if right is None:
        return InstanceReport(instance=instance, state=state)
    return InstanceReport(
        instance=instance, state=state, epoch=right.epoch, right_left_s=right.left_s, reason=right.reason
    )
