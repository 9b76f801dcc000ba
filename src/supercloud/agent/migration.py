"""This blanket's half of a migration. Status calls wait for the hypervisor's word, not for a clock."""

from __future__ import annotations

import asyncio
from typing import Protocol

import structlog

from supercloud.agent.changes import Changes
from supercloud.agent.guard import Guards
from supercloud.agent.instances import GONE, Arrivals, Instances
from supercloud.agent.journal import Journal, Side, Transfer
from supercloud.agent.opener import Opener
from supercloud.keeper.link import Grant, KeeperPort, RightReport
from supercloud.model.errors import Conflict, Failed, NotFound, Refused, Unavailable
from supercloud.model.migration import Source, Target
from supercloud.model.names import Id, Ipv4
from supercloud.ports.agent import (
    InstanceRef,
    InstanceReport,
    InstanceSpec,
    Landing,
    OperationRef,
    Progress,
    ReceiveInstance,
    RunState,
    SendInstance,
    SourceReport,
    StartInstance,
    TargetReport,
)
from supercloud.ports.hypervisor import (
    Hypervisor,
    MigratingHypervisor,
    Overlay,
    Route,
    TransferStatus,
)
from supercloud.ports.loop import Guard
from supercloud.wire.codec import prepare

MESH_ADDRESS = "mesh-address"  # the note in the journal that the overlay leaves
_POLL_S = 10.0
_CANCEL_S = 15.0
#: How long the hypervisor may take to end by itself what it has sent.
_RETIRE_S = 20.0
_log = structlog.get_logger(__name__)


class Forwards(Protocol):
    """Leads one hypervisor to the other through the mesh for one operation. Repeats are harmless."""

    async def land(self, operation: Id, *, address: Ipv4, source: Ipv4, expires_s: float) -> Landing: ...

    async def depart(self, operation: Id, *, landing: Landing, expires_s: float) -> Route: ...

    async def close(self, operation: Id) -> None: ...


class Sender(Hypervisor, MigratingHypervisor, Protocol):
    """What a migration needs of the hypervisor."""


class Migration:
    """ports.agent.MigrationAgent."""

    def __init__(
        self,
        *,
        hypervisor: Sender,
        overlay: Overlay,
        forwards: Forwards,
        keeper: KeeperPort,
        journal: Journal,
        changes: Changes,
        arrivals: Arrivals,
        instances: Instances,
        opener: Opener,
        guards: Guards | None,
    ) -> None:
        """`guards`: of the blanket's loop; None: it has none."""
        self._hypervisor = hypervisor
        self._overlay = overlay
        self._forwards = forwards
        self._keeper = keeper
        self._journal = journal
        self._changes = changes
        self._arrivals = arrivals
        self._instances = instances
        self._opener = opener
        self._guards = guards
        self._granted: dict[Id, tuple[Ipv4, Landing]] = {}
        self._told: dict[Id, SourceReport | TargetReport] = {}
        self._begun: set[Id] = set()  # of those that the journal has so

    # ------------------------------------------------------------ target

    async def receive(self, request: ReceiveInstance) -> Landing:
        """See the port. The port of the instance is made now, so that resuming has nothing to make; before
        that, what is in force about it where it comes from is in force here."""
        address = await self._journal.read(MESH_ADDRESS)
        if address is None:
            raise Unavailable("this blanket has no mesh yet")
        spec = request.spec
        user_data = self._opener.user_data(spec, request.user_data, request.user_data_key)
        if await self._holds(spec.id) and await self._hypervisor.state(spec.id) not in GONE:
            raise Conflict(f"instance {spec.id} runs in this blanket")
        await self._journal.open_transfer(request.operation, spec.id, Side.TARGET)
        await self._journal.remember(spec)
        if request.guard:
            await self._guard(spec, request.guard)
        await self._instances.plug(spec)
        await self._hypervisor.receive(spec, user_data)
        landing = await self._forwards.land(
            request.operation,
            address=address,
            source=request.source_address,
            expires_s=request.expires_s,
        )
        self._granted[request.operation] = (request.source_address, landing)
        await self._admit(request.operation, request.expires_s)
        prepare(StartInstance, InstanceReport, Grant, RightReport)  # of the resume, for which a guest waits
        return landing

    async def _guard(self, spec: InstanceSpec, guard: Guard) -> None:
        """
        Raises:
            Refused: nothing here could hold it.
        """
        if self._guards is None:
            raise Refused("this blanket has no loop, which would hold what is in force about it")
        self._instances.expect(spec)
        await self._guards.take_over(guard)

    async def _admit(self, operation: Id, seconds: float) -> None:
        """Open this operation's ports to its source alone; the kernel closes them in time by itself."""
        if (granted := self._granted.get(operation)) is None:
            return
        source, landing = granted
        ports = (landing.libvirt_port, landing.memory_port, landing.disk_port)
        await self._overlay.grant_tcp(source, ports, seconds)

    async def target_status(self, request: OperationRef) -> TargetReport:
        """See the port. A copy is complete before this says so, and this remembers since when."""
        before = self._told.get(request.operation)
        incoming = isinstance(before, TargetReport) and before.target is Target.INCOMING
        report = await self._changes.until(
            request.instance,
            lambda: self._target(request.instance, incoming=incoming),
            lambda seen: seen != before or seen.target is Target.COMPLETE,
            seconds=_POLL_S,
        )
        if report.target is Target.COMPLETE:
            self._arrivals.complete(request.operation)
        self._told[request.operation] = report
        return report

    async def _target(self, instance: Id, *, incoming: bool) -> TargetReport:
        """`incoming`: it was last time. Then its hypervisor's word that it is complete is enough: a look is
        two questions to libvirt, and its guest stands still meanwhile."""
        if self._arrivals.came(instance) and incoming:
            return TargetReport(target=Target.COMPLETE)
        state = await self._hypervisor.state(instance)
        match state:
            case RunState.INCOMING:
                return TargetReport(target=Target.INCOMING)
            case RunState.PAUSED | RunState.RUNNING:
                return TargetReport(target=Target.COMPLETE)
            case RunState.ABSENT | RunState.DEFINED:
                return TargetReport(target=Target.LOST, reason="it has no process here")

    # ------------------------------------------------------------ source

    async def send(self, request: SendInstance) -> SourceReport:
        """See the port."""
        reference = OperationRef(operation=request.operation, instance=request.instance)
        transfer = await self._journal.open_transfer(request.operation, request.instance, Side.SOURCE)
        if not transfer.begun:
            await self._begin(request)
        report = await self._source(reference)
        self._told[request.operation] = _without_progress(report)
        return report

    async def _begin(self, request: SendInstance) -> None:
        instance = request.instance
        if await self._hypervisor.state(instance) in GONE:
            raise NotFound(f"instance {instance} has no process in this blanket")
        spec = await self._journal.spec(instance)
        if spec is None:
            raise NotFound(f"instance {instance} is not known in this blanket")
        route = await self._forwards.depart(
            request.operation, landing=request.landing, expires_s=request.expires_s
        )
        # Written down first: after a crash in between, the transfer reads as over and is aborted, whereas
        # the other order could send twice.
        await self._journal.begun(request.operation)
        await self._hypervisor.send(instance, spec, route)

    async def source_status(self, request: OperationRef) -> SourceReport:
        """See the port. Progress alone is worth an answer now and then."""
        before = self._told.get(request.operation)
        progressing = isinstance(before, SourceReport) and not before.transfer_over
        report = await self._changes.until(
            request.instance,
            lambda: self._source(request),
            lambda seen: seen.transfer_over or _without_progress(seen) != before,
            seconds=self._changes.pause_s if progressing else _POLL_S,
        )
        self._told[request.operation] = _without_progress(report)
        return report

    async def _source(self, request: OperationRef) -> SourceReport:
        # First: of what has been sent, what is in force is then what it moves with.
        status = await self._transfer(request)
        source, guarded = await asyncio.gather(
            self._process(request.instance, status), self._guarded(request.instance)
        )
        return SourceReport(
            source=source,
            transfer_over=status.over,
            progress=status.progress,
            reason=status.failed or "",
            guarded=guarded,
        )

    async def _guarded(self, instance: Id) -> bool:
        """Whoever cannot say is asked."""
        if self._guards is None:
            return False
        try:
            return await self._guards.guarded(instance)
        except Unavailable:
            return True

    async def _process(self, instance: Id, status: TransferStatus) -> Source:
        if status.ended:
            return Source.GONE
        if status.sent and await self._keeper.park(InstanceRef(instance=instance)):
            return Source.PARKED
        # The state is read after the transfer's: a process seen alive now was alive when it was over.
        if await self._gone(instance, under_way=not status.over):
            return Source.GONE
        parked = status.over and await self._keeper.park(InstanceRef(instance=instance))
        return Source.PARKED if parked else Source.ALIVE

    async def _gone(self, instance: Id, *, under_way: bool) -> bool:
        """While it is ended by the hypervisor, that refuses to say how it is; a moment later it is gone."""
        try:
            return await self._hypervisor.state(instance) in GONE
        except Conflict:
            if not under_way:
                raise
            return False

    async def _transfer(self, request: OperationRef) -> TransferStatus:
        if request.operation not in self._begun:
            transfer = await self._find(request.operation)
            if transfer is None or not transfer.begun:
                return TransferStatus(over=True, failed="it was never begun")
            self._begun.add(request.operation)
        try:
            return await self._hypervisor.transfer(request.instance)
        except NotFound:
            return TransferStatus(over=True)

    async def cancel(self, request: OperationRef) -> SourceReport:
        """See the port. A hypervisor that waits for a target that is gone lets go once it is cut off."""
        for end in (self._end_transfer, self._cut):
            try:
                async with asyncio.timeout(_CANCEL_S):
                    await end(request)
                    self._changes.changed(request.instance)  # it is looked at, even if it was about to leave
                    report = await self._changes.until(
                        request.instance,
                        lambda: self._source(request),
                        lambda seen: seen.transfer_over,
                        seconds=_CANCEL_S,
                    )
            except (TimeoutError, Unavailable, Failed) as error:
                _log.warning("agent.transfer_does_not_end", operation=request.operation, reason=str(error))
            else:
                if report.transfer_over:
                    return report
        return await self._source(request)

    async def _end_transfer(self, request: OperationRef) -> None:
        if await self._hypervisor.state(request.instance) in GONE:
            return
        if not (await self._transfer(request)).over:
            await self._hypervisor.cancel(request.instance)

    async def _cut(self, request: OperationRef) -> None:
        await self._forwards.close(request.operation)

    async def retire(self, request: OperationRef) -> SourceReport:
        """See the port. What may run here is not retired, whoever asks."""
        held = (await self._keeper.report()).held
        if any(right.may_run for right in held if right.instance == request.instance):
            raise Conflict(f"instance {request.instance} may run in this blanket")
        report = await self._changes.until(
            request.instance,
            lambda: self._source(request),
            lambda seen: seen.source is Source.GONE and seen.transfer_over,
            seconds=_RETIRE_S,
        )
        if await self._hypervisor.state(request.instance) not in GONE:
            _log.warning("agent.sent_copy_not_ended", operation=request.operation)
            await self._hypervisor.destroy(request.instance)
            report = await self._source(request)
        return report

    # ------------------------------------------------------------ both

    def reconnected(self) -> None:
        """Whoever asks now may not have heard the last answers: the next ones come at once."""
        self._told.clear()

    async def release(self, request: OperationRef) -> None:
        """See the port. What holds a right here is left alone, whatever the operation was."""
        await self._forwards.close(request.operation)
        await self._admit(request.operation, 0)
        transfer = await self._find(request.operation)
        if transfer is not None:
            await self._clean(transfer)
            await self._journal.close_transfer(request.operation)
        if self._guards is not None:
            await self._guards.over(request.operation)
        self._arrivals.forget(request.operation)
        self._told.pop(request.operation, None)
        self._begun.discard(request.operation)
        self._granted.pop(request.operation, None)

    async def _find(self, operation: Id) -> Transfer | None:
        found = [transfer for transfer in await self._journal.transfers() if transfer.operation == operation]
        return found[0] if found else None

    async def _clean(self, transfer: Transfer) -> None:
        instance = transfer.instance
        if transfer.side is Side.TARGET:
            if await self._holds(instance):
                return  # committed: it runs here, or its end is settled like any other
            await self._hypervisor.destroy(instance)
        elif await self._hypervisor.state(instance) not in GONE:
            return  # aborted: it goes on here
        if self._guards is not None:
            await self._guards.left(instance)
        await self._overlay.unplug(instance)
        await self._keeper.forget(InstanceRef(instance=instance))
        await self._journal.forget(instance)

    async def _holds(self, instance: Id) -> bool:
        return any(right.instance == instance for right in (await self._keeper.report()).held)


def _without_progress(report: SourceReport) -> SourceReport:
    return SourceReport(
        source=report.source,
        transfer_over=report.transfer_over,
        progress=Progress(),
        reason=report.reason,
        guarded=report.guarded,
    )
