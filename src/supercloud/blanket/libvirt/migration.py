"""`MigratingHypervisor` over libvirt: peer to peer, disks copied along, the target left paused.

The transfer belongs to libvirtd: it goes on when this program ends, and the next one adopts it by asking.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

from supercloud.blanket import seed
from supercloud.blanket.domain_xml import Sources
from supercloud.blanket.libvirt.connection import Connection, Handle, bindings
from supercloud.blanket.libvirt.ending import ending
from supercloud.blanket.libvirt.hypervisor import find, get, job, state_of
from supercloud.blanket.libvirt.jobs import JobEvents
from supercloud.blanket.places import Places
from supercloud.model.errors import OutcomeUnknown, SupercloudError
from supercloud.model.names import Id
from supercloud.ports.agent import InstanceSpec, Progress, RunState
from supercloud.ports.hypervisor import DomainEvent, Route, TransferStatus

#: What a guest may miss while its last pages travel. QEMU's default of 300 took 550 ms on a slow mesh.
_MAX_DOWNTIME_MS: Final = 150
#: Transfers at once; each blocks a thread of its own for as long as it takes.
_AT_ONCE: Final = 16


@dataclass(slots=True, kw_only=True)
class _Outgoing:
    task: asyncio.Task[None] | None = None
    failed: str | None = None
    sent: bool = False
    ended: bool = False
    progress: Progress = field(default_factory=Progress)


class Migrating:
    """Sends instances to other blankets. Mixed into `LibvirtHypervisor`."""

    def __init__(
        self,
        connection: Connection,
        *,
        sources: Sources,
        places: Places,
        jobs: JobEvents,
        tell: Callable[[DomainEvent], None],
    ) -> None:
        """`tell`: of what libvirt has no event for, or a late one."""
        self._connection = connection
        self._sources = sources
        self._places = places
        self._tell = tell
        self._senders = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="transfer")
        self._outgoing: dict[Id, _Outgoing] = {}
        jobs.tell(self._job_over)

    async def receive(self, spec: InstanceSpec, user_data: bytes | None) -> None:
        """Make what an incoming copy needs besides its volumes and ports: its seed."""
        seed.place(spec, user_data, self._places.seed(spec.id))

    async def send(self, instance: Id, spec: InstanceSpec, route: Route) -> None:
        """Start and return. Being sent already: fine.

        The domain's own XML serves the target as it is: every blanket names a volume's copy, its secret and
        its base image alike.

        Raises:
            NotFound: no such instance here.
        """
        outgoing = self._outgoing.get(instance)
        if outgoing is not None and outgoing.task is not None and not outgoing.task.done():
            return
        if await self._connection.call(lambda handle: _is_sending(get(handle, instance))):
            return
        outgoing = self._outgoing[instance] = _Outgoing()
        outgoing.task = asyncio.create_task(self._transfer(instance, outgoing, route))

    async def _transfer(self, instance: Id, outgoing: _Outgoing, route: Route) -> None:
        def migrate(handle: Handle) -> None:
            libvirt = bindings()
            found = get(handle, instance)
            # Set each time: an instance that arrived here keeps what its source had set.
            found.migrateSetMaxDowntime(_MAX_DOWNTIME_MS)
            found.migrateToURI3(
                f"qemu+unix:///system?socket={route.libvirt}", _parameters(route), _flags(libvirt)
            )

        monitor = self._places.monitor(instance, "agent")
        async with ending(
            instance,
            monitor,
            sent=lambda sent: self._sent(instance, outgoing, sent),
            ended=lambda: self._ended(instance, outgoing),
        ):
            try:
                await self._connection.call(migrate, executor=self._senders)
            except OutcomeUnknown:  # libvirt says it alike of its own connection and of that to the target
                outgoing.failed = "libvirtd went away here, or was not reached at the target"
            except SupercloudError as error:
                outgoing.failed = error.message
        with contextlib.suppress(SupercloudError):  # it is looked up again anyway
            state = await self._connection.call(lambda handle: state_of(handle, instance))
            self._tell(DomainEvent(instance=instance, state=state, detail="its transfer is over"))

    def _sent(self, instance: Id, outgoing: _Outgoing, sent: bool) -> None:
        if sent and not outgoing.sent:
            self._tell(DomainEvent(instance=instance, state=RunState.PAUSED, detail="it has been sent"))
        outgoing.sent = sent

    def _ended(self, instance: Id, outgoing: _Outgoing) -> None:
        outgoing.ended = True
        self._tell(DomainEvent(instance=instance, state=RunState.ABSENT, detail="its process ended"))

    async def transfer(self, instance: Id) -> TransferStatus:
        """How far a transfer is. One that an earlier life of this program began is found at libvirtd.

        `over` with neither failure nor process is what success looks like from the source.
        """
        outgoing = self._outgoing.get(instance) or _Outgoing()
        here = outgoing.task is not None and not outgoing.task.done()
        if here and (outgoing.ended or outgoing.sent):  # libvirt has other things to do than to answer now
            return TransferStatus(
                over=False, sent=outgoing.sent, ended=outgoing.ended, progress=outgoing.progress
            )

        def look(handle: Handle) -> tuple[bool, bool, Progress | None]:
            libvirt = bindings()
            found = find(handle, instance)
            if found is None:
                return False, False, None
            try:
                return True, _is_sending(found), _progress(job(found) or {})
            except libvirt.libvirtError as error:
                if here and error.get_error_code() == libvirt.VIR_ERR_OPERATION_INVALID:
                    return True, False, None  # libvirt ends its process at this very moment
                if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
                    raise
                return False, False, None

        alive, sending, progress = await self._connection.call(look)
        if here or sending:
            outgoing.progress = progress or outgoing.progress
            return TransferStatus(over=False, progress=outgoing.progress)
        failed = outgoing.failed if alive else None
        if alive and failed is None:
            failed = "no transfer is under way any more"
        return TransferStatus(over=True, failed=failed, progress=outgoing.progress)

    async def cancel(self, instance: Id) -> None:
        """Ask libvirt to end the transfer; look at `transfer` for what came of it. None: fine."""

        def abort(handle: Handle) -> None:
            libvirt = bindings()
            found = find(handle, instance)
            if found is None:
                return
            try:
                found.abortJob()
            except libvirt.libvirtError as error:
                if error.get_error_code() not in (
                    libvirt.VIR_ERR_OPERATION_INVALID,
                    libvirt.VIR_ERR_NO_DOMAIN,
                ):
                    raise

        await self._connection.call(abort)

    def _job_over(self, instance: Id, stats: dict[str, Any]) -> None:
        """The only place where a source learns the downtime: its domain is gone when the job has ended."""
        progress = _progress(stats, over=True)
        if (outgoing := self._outgoing.get(instance)) is not None and progress is not None:
            outgoing.progress = progress


def _flags(libvirt: Any) -> int:
    return int(
        libvirt.VIR_MIGRATE_PEER2PEER
        | libvirt.VIR_MIGRATE_LIVE
        | libvirt.VIR_MIGRATE_PAUSED
        # Only what the instance wrote itself travels: base images were placed beforehand.
        | libvirt.VIR_MIGRATE_NON_SHARED_INC
        | libvirt.VIR_MIGRATE_AUTO_CONVERGE
        | libvirt.VIR_MIGRATE_ABORT_ON_ERROR
    )


def _parameters(route: Route) -> dict[str, str]:
    libvirt = bindings()
    return {
        libvirt.VIR_MIGRATE_PARAM_LISTEN_ADDRESS: route.address,
        libvirt.VIR_MIGRATE_PARAM_URI: f"tcp://{route.address}:{route.memory_port}",
        libvirt.VIR_MIGRATE_PARAM_DISKS_URI: f"tcp://{route.address}:{route.disk_port}",
    }


def _is_sending(found: Handle) -> bool:
    libvirt = bindings()
    stats = job(found) or {}
    return bool(
        stats.get("type", libvirt.VIR_DOMAIN_JOB_NONE) != libvirt.VIR_DOMAIN_JOB_NONE
        and stats.get("operation") == libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT
    )


def _progress(stats: dict[str, Any], *, over: bool = False) -> Progress | None:
    """libvirt's job statistics: memory and disks together, bytes; None if it says nothing.

    Before the job is over its downtime is what QEMU expects, which nobody has had.
    """
    if "data_total" not in stats:
        return None
    downtime = stats.get("downtime") if over else None
    return Progress(
        total_bytes=int(stats["data_total"]),
        done_bytes=int(stats.get("data_processed", 0)),
        downtime_ms=float(downtime) if downtime is not None else None,
    )
