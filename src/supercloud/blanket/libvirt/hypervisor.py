"""`Hypervisor` over libvirt: transient domains, so nothing starts by itself and nothing stale is left."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final
from xml.etree.ElementTree import ParseError

import structlog

from supercloud.blanket import seed
from supercloud.blanket.domain_xml import (
    Sources,
    domain,
    domain_name,
    instance_of,
    spec_of,
    usable_models,
)
from supercloud.blanket.libvirt.connection import Connection, Handle, bindings
from supercloud.blanket.places import MONITORS, Places
from supercloud.model.errors import Conflict, Failed, NotFound
from supercloud.model.names import Id
from supercloud.ports.agent import InstanceSpec, RunState
from supercloud.ports.hypervisor import DomainEvent
from supercloud.ports.platform import Flavour

#: Events that one slow consumer may leave unread before it is told to look at everything again.
_UNREAD: Final = 1024
_log = structlog.get_logger(__name__)


class Lifecycle:
    """The instances of this blanket. Domains of other makers are not seen and not touched."""

    def __init__(
        self,
        connection: Connection,
        *,
        sources: Sources,
        places: Places,
        cache: str = "none",
        kvm: Path = Path("/dev/kvm"),
    ) -> None:
        self._connection = connection
        self._sources = sources
        self._places = places
        self._cache = cache
        self._kvm = kvm
        self._flavour: Flavour | None = None
        self._listeners: set[asyncio.Queue[DomainEvent]] = set()
        self._seen: set[Id] = set()
        connection.on_lifecycle(self._lifecycle)
        connection.on_open(self._listen)

    async def cpu_models(self) -> tuple[str, ...]:
        """Named CPU models that instances of this blanket can have, newest baseline or not, sorted."""
        flavour = await self.flavour()
        kind = "kvm" if flavour is Flavour.KVM else "qemu"
        xml = await self._connection.call(
            lambda handle: handle.getDomainCapabilities(None, "x86_64", "q35", kind)
        )
        return usable_models(xml)

    async def flavour(self) -> Flavour:
        """`kvm` if libvirt's QEMU can use this blanket's /dev/kvm, else `tcg`."""
        if self._flavour is None:
            able = self._kvm.exists() and await self._connection.call(_offers_kvm)
            self._flavour = Flavour.KVM if able else Flavour.TCG
        return self._flavour

    async def start(self, spec: InstanceSpec, user_data: bytes | None, *, paused: bool = False) -> None:
        """Boot from its own disk, or be about to once it is resumed. So already: fine.

        Raises:
            Conflict: it is paused or is being received; resuming is another decision than starting.
        """
        flavour = await self.flavour()
        xml = domain(spec, sources=self._sources, places=self._places, flavour=flavour, cache=self._cache)

        def create(handle: Handle) -> None:
            libvirt = bindings()
            if find(handle, spec.id) is None:
                seed.place(spec, user_data, self._places.seed(spec.id))
                try:
                    handle.createXML(xml, libvirt.VIR_DOMAIN_START_PAUSED if paused else 0)
                except libvirt.libvirtError as error:
                    if error.get_error_code() != libvirt.VIR_ERR_DOM_EXIST:
                        raise
                else:
                    return
            fine = {RunState.RUNNING, RunState.PAUSED} if paused else {RunState.RUNNING}
            if (state := run_state(get(handle, spec.id))) not in fine:
                raise Conflict(f"instance {spec.id} exists and is {state}")

        await self._connection.call(create)

    async def pause(self, instance: Id) -> None:
        """Stop its CPUs. Paused already: fine."""
        await self._connection.call(lambda handle: get(handle, instance).suspend())

    async def resume(self, instance: Id) -> None:
        """Let its CPUs go on. Running already: fine."""

        def go_on(handle: Handle) -> None:
            libvirt = bindings()
            found = get(handle, instance)
            try:
                found.resume()  # looked at only if it fails: a guest that has moved waits for this
            except libvirt.libvirtError:
                if found.state()[0] != libvirt.VIR_DOMAIN_RUNNING:
                    raise

        await self._connection.call(go_on)

    async def shutdown(self, instance: Id) -> None:
        await self._connection.call(
            lambda handle: get(handle, instance).shutdownFlags(bindings().VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN)
        )

    async def reboot(self, instance: Id) -> None:
        """Reset its virtual machine: works whatever the guest does."""
        await self._connection.call(lambda handle: get(handle, instance).reset())

    async def destroy(self, instance: Id) -> None:
        """End its process and forget its seed, log and sockets. Returns when the process has ended."""

        def end(handle: Handle) -> None:
            libvirt = bindings()
            found = find(handle, instance)
            if found is None:
                return
            try:
                found.destroy()
            except libvirt.libvirtError as error:
                if error.get_error_code() not in (
                    libvirt.VIR_ERR_NO_DOMAIN,
                    libvirt.VIR_ERR_OPERATION_INVALID,
                ):
                    raise
                if find(handle, instance) is not None:
                    raise

        await self._connection.call(end)
        for client in MONITORS:
            _remove(self._places.monitor(instance, client))
        _remove(self._places.seed(instance))

    async def state(self, instance: Id) -> RunState:
        return await self._connection.call(lambda handle: state_of(handle, instance))

    async def list(self) -> dict[Id, RunState]:
        def look(handle: Handle) -> dict[Id, RunState]:
            found = [(instance_of(one.name()), one) for one in handle.listAllDomains()]
            states = {instance: run_state(one) for instance, one in found if instance is not None}
            return {instance: state for instance, state in states.items() if state is not RunState.ABSENT}

        return await self._connection.call(look)

    async def spec(self, instance: Id) -> InstanceSpec:
        """What the instance was made from, as it stands in its domain.

        Raises:
            NotFound, Failed: no such instance; not made by us.
        """
        xml = await self._connection.call(lambda handle: get(handle, instance).XMLDesc())
        try:
            return spec_of(xml)
        except ParseError as broken:
            raise Failed("libvirt's description cannot be read") from broken

    async def events(self) -> AsyncIterator[DomainEvent]:
        """From now on. After libvirtd was away each instance is reported as it is then."""
        queue: asyncio.Queue[DomainEvent] = asyncio.Queue(_UNREAD)
        self._listeners.add(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self._listeners.discard(queue)

    # ---- libvirt's side: these run in libvirt's event thread or a worker

    def _listen(self, handle: Handle) -> None:
        present: set[Id] = set()
        for one in handle.listAllDomains():
            instance = instance_of(one.name())
            if instance is not None and (state := run_state(one)) is not RunState.ABSENT:
                present.add(instance)
                self._post(DomainEvent(instance=instance, state=state, detail="seen"))
        for instance in self._seen - present:
            self._post(DomainEvent(instance=instance, state=RunState.ABSENT, detail="gone"))

    def _lifecycle(self, name: str, event: int, detail: int) -> None:
        told = _EVENTS.get(event)
        instance = instance_of(name)
        if told is None or instance is None:
            return
        state, word = told
        libvirt = bindings()
        if event == libvirt.VIR_DOMAIN_EVENT_STARTED and detail == libvirt.VIR_DOMAIN_EVENT_STARTED_MIGRATED:
            state = RunState.INCOMING
        migrated = (event, detail) in {
            (libvirt.VIR_DOMAIN_EVENT_STARTED, libvirt.VIR_DOMAIN_EVENT_STARTED_MIGRATED),
            (libvirt.VIR_DOMAIN_EVENT_STOPPED, libvirt.VIR_DOMAIN_EVENT_STOPPED_MIGRATED),
            (libvirt.VIR_DOMAIN_EVENT_SUSPENDED, libvirt.VIR_DOMAIN_EVENT_SUSPENDED_MIGRATED),
            (libvirt.VIR_DOMAIN_EVENT_RESUMED, libvirt.VIR_DOMAIN_EVENT_RESUMED_MIGRATED),
        }
        text = f"{word}: migrated" if migrated else word
        leaving = migrated and event == libvirt.VIR_DOMAIN_EVENT_SUSPENDED
        paused = (event, detail) == (
            libvirt.VIR_DOMAIN_EVENT_SUSPENDED,
            libvirt.VIR_DOMAIN_EVENT_SUSPENDED_PAUSED,
        )
        self._post(DomainEvent(instance=instance, state=state, detail=text, leaving=leaving, paused=paused))

    def _post(self, event: DomainEvent) -> None:
        with contextlib.suppress(RuntimeError):  # the program is ending, nobody listens
            self._connection.loop.call_soon_threadsafe(self.deliver, event)

    def deliver(self, event: DomainEvent) -> None:
        """On the event loop: tell whoever listens."""
        if event.state is RunState.ABSENT:
            self._seen.discard(event.instance)
        else:
            self._seen.add(event.instance)
        for queue in self._listeners:
            if queue.full():
                queue.get_nowait()  # the oldest; states are looked up, an event only says when
            queue.put_nowait(event)


#: VIR_DOMAIN_EVENT_STARTED, SUSPENDED, RESUMED, STOPPED, CRASHED: numbers fixed by libvirt's ABI.
_EVENTS: Final = {
    2: (RunState.RUNNING, "started"),
    3: (RunState.PAUSED, "suspended"),
    4: (RunState.RUNNING, "resumed"),
    5: (RunState.ABSENT, "stopped"),
    8: (RunState.PAUSED, "crashed"),
}


def run_state(found: Handle) -> RunState:
    """A domain's state. A domain that ended while we looked is absent."""
    libvirt = bindings()
    try:
        state, reason = found.state()
        if state in (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_BLOCKED, libvirt.VIR_DOMAIN_SHUTDOWN):
            return RunState.RUNNING
        if state in (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PMSUSPENDED):
            if reason == libvirt.VIR_DOMAIN_PAUSED_STARTING_UP:
                return RunState.INCOMING  # nothing has arrived yet, or it has not booted yet
            if reason == libvirt.VIR_DOMAIN_PAUSED_MIGRATION and is_receiving(found):
                return RunState.INCOMING
            return RunState.PAUSED
        return RunState.DEFINED if found.isPersistent() else RunState.ABSENT
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
            raise
        return RunState.ABSENT


def is_receiving(found: Handle) -> bool:
    """Whether a domain paused "for migration" is the target: a source is so too while it hands over."""
    return job(found) is None


def job(found: Handle) -> dict[str, Any] | None:
    """A domain's job statistics; None where it is the target of a migration, which libvirt has none for."""
    libvirt = bindings()
    try:
        return dict(found.jobStats())
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_OPERATION_UNSUPPORTED:
            raise
        return None


def _offers_kvm(handle: Handle) -> bool:
    libvirt = bindings()
    try:
        handle.getDomainCapabilities(None, "x86_64", "q35", "kvm")
    except libvirt.libvirtError:
        return False
    return True


def state_of(handle: Handle, instance: Id) -> RunState:
    """An instance that libvirt does not know is absent."""
    found = find(handle, instance)
    return RunState.ABSENT if found is None else run_state(found)


def find(handle: Handle, instance: Id) -> Handle | None:
    libvirt = bindings()
    try:
        return handle.lookupByName(domain_name(instance))
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
            raise
        return None


def get(handle: Handle, instance: Id) -> Handle:
    found = find(handle, instance)
    if found is None:
        raise NotFound(f"no instance {instance} here")
    return found


def _remove(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
