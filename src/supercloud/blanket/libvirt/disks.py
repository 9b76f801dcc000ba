"""`DiskHypervisor` over libvirt: disks of a running instance."""

from __future__ import annotations

import asyncio
import xml.etree.ElementTree as ET
from typing import Final

from supercloud.blanket.domain_xml import Sources, disk_target, free_target
from supercloud.blanket.domain_xml import disk as disk_xml
from supercloud.blanket.libvirt.connection import Connection, Handle, bindings
from supercloud.blanket.libvirt.hypervisor import get
from supercloud.model.errors import NotFound, Unavailable
from supercloud.model.names import Id
from supercloud.ports.agent import Disk

#: How long a guest may take to let go of a disk; it may refuse for ever (no driver, device in use).
_UNPLUG_S: Final = 30.0


class Disks:
    """Attaches, detaches and grows. Mixed into `LibvirtHypervisor`."""

    def __init__(self, connection: Connection, *, sources: Sources, cache: str) -> None:
        self._connection = connection
        self._sources = sources
        self._cache = cache
        self._unplugged: dict[Id, asyncio.Event] = {}
        connection.on_open(self._hear_of_unplugs)

    async def attach(self, instance: Id, disk: Disk) -> None:
        """Attached already: fine."""
        source = self._sources(disk.volume)

        def plug(handle: Handle) -> None:
            found = get(handle, instance)
            now = found.XMLDesc()
            if disk_target(now, disk.volume) is not None:
                return
            element = disk_xml(disk, source, free_target(now), cache=self._cache)
            found.attachDeviceFlags(ET.tostring(element, encoding="unicode"), _live())

        await self._connection.call(plug)

    async def detach(self, instance: Id, disk: Disk) -> None:
        """Returns when the guest has let go. Not attached: fine.

        Raises:
            Unavailable: the guest keeps it.
        """
        gone = self._unplugged.setdefault(instance, asyncio.Event())
        gone.clear()

        def unplug(handle: Handle) -> bool:
            libvirt = bindings()
            found = get(handle, instance)
            element = _attached(found.XMLDesc(), disk.volume)
            if element is None:
                return False
            try:
                found.detachDeviceFlags(ET.tostring(element, encoding="unicode"), _live())
            except libvirt.libvirtError as error:
                if error.get_error_code() == libvirt.VIR_ERR_DEVICE_MISSING:
                    return False
                raise
            return True

        if not await self._connection.call(unplug):
            return
        try:
            async with asyncio.timeout(_UNPLUG_S):
                while await self._target(instance, disk.volume) is not None:
                    await gone.wait()
                    gone.clear()
        except TimeoutError as late:
            raise Unavailable(
                f"the guest has not let go of volume {disk.volume}", hint="unmount it in the guest"
            ) from late

    async def resize(self, instance: Id, disk: Disk) -> None:
        """Grow to `disk.size_bytes`; the guest sees it at once.

        Raises:
            NotFound: it is not attached.
        """
        if (target := await self._target(instance, disk.volume)) is None:
            raise NotFound(f"volume {disk.volume} is not attached to instance {instance}")
        device = target

        def grow(handle: Handle) -> None:
            flag = bindings().VIR_DOMAIN_BLOCK_RESIZE_BYTES
            get(handle, instance).blockResize(device, disk.size_bytes, flag)

        await self._connection.call(grow)

    async def _target(self, instance: Id, volume: Id) -> str | None:
        return await self._connection.call(
            lambda handle: disk_target(get(handle, instance).XMLDesc(), volume)
        )

    def _hear_of_unplugs(self, handle: Handle) -> None:
        libvirt = bindings()
        handle.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED, self._removed, None)

    def _removed(self, _handle: Handle, found: Handle, _alias: str, _opaque: object) -> None:
        instance = found.name().removeprefix("sc-")

        def note() -> None:
            if (event := self._unplugged.get(instance)) is not None:
                event.set()

        self._connection.loop.call_soon_threadsafe(note)


def _live() -> int:
    return int(bindings().VIR_DOMAIN_AFFECT_LIVE)


def _attached(xml: str, volume: Id) -> ET.Element | None:
    target = disk_target(xml, volume)
    if target is None:
        return None
    return ET.fromstring(xml).find(f"devices/disk/target[@dev='{target}']/..")  # noqa: S314
