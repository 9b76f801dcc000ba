"""ports.tools.Tools over libvirt: the user's own tools, let in by polkit's rules, and what they made.

To root, which we are, polkit denies nothing; their connection is another user's (tools_connection).
"""

from __future__ import annotations

import asyncio
import re
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path
from typing import Final, Protocol

from supercloud.blanket.commands import run
from supercloud.blanket.domain_xml import instance_of
from supercloud.blanket.foreign_xml import Described, ForeignDisk, described
from supercloud.blanket.libvirt.connection import Connection, Handle, bindings
from supercloud.blanket.libvirt.hypervisor import run_state
from supercloud.blanket.libvirt.tools_connection import connected
from supercloud.blanket.machines.domain import machine_of
from supercloud.model.errors import Conflict, Failed, NotFound, OutcomeUnknown, Unavailable
from supercloud.model.names import Id
from supercloud.ports.agent import RunState, VolumeReport
from supercloud.ports.hypervisor import Watch
from supercloud.ports.tools import FOREIGN_VMS, ForeignVm, ToolsConnection

_OPEN: Final = Path("/usr/lib/supercloud/open-to-tools")
_OPENED: Final = Path("/run/supercloud/open-to-tools")
_BACK_S, _LOOK_EVERY_S = 60.0, 0.5
_UNPRINTABLE: Final = re.compile(r"[\x00-\x1f\x7f/]")


class Capture(Protocol):
    """blanket.volumes.LuksVolumes.capture."""

    async def __call__(
        self, path: Path, form: str, *, volume: Id, into: Id, into_key: bytes, watch: Watch
    ) -> VolumeReport: ...


class LibvirtTools:
    """Domains of ours are not seen here, whatever is asked."""

    def __init__(self, connection: Connection, capture: Capture) -> None:
        self._connection = connection
        self._capture = capture
        self._opening = asyncio.Lock()

    def there(self) -> bool:
        return _OPEN.exists()

    def let_in(self) -> bool:
        return _OPENED.exists()

    async def open(self) -> None:
        """libvirtd starts anew, once; instances run on."""
        async with self._opening:
            await run(str(_OPEN))
            await self._answers()

    async def _answers(self) -> None:
        async with asyncio.timeout(_BACK_S):
            while True:
                with suppress(Unavailable, OutcomeUnknown):
                    await self._connection.call(lambda handle: handle.getLibVersion())
                    return
                await asyncio.sleep(_LOOK_EVERY_S)  # that libvirtd is back has no event

    def connection(self) -> AbstractAsyncContextManager[ToolsConnection]:
        return connected()

    async def list(self) -> list[ForeignVm]:
        def look(handle: Handle) -> list[ForeignVm]:
            found = [one for one in handle.listAllDomains() if not _is_ours(one.name())]
            vms = [_vm(one) for one in found[:FOREIGN_VMS]]
            return [one for one in vms if one is not None]

        return await self._connection.call(look)

    async def take(self, vm: Id, *, volume: Id, into: Id, into_key: bytes, watch: Watch) -> VolumeReport:
        def find(handle: Handle) -> tuple[Path, str]:
            found = _get(handle, vm)
            seen = _described(found)
            if seen.obstacle or seen.disk is None:
                raise Conflict(f"{found.name()} cannot be adopted: {seen.obstacle}")
            return Path(_path(handle, seen.disk)), seen.disk.form

        path, form = await self._connection.call(find)
        return await self._capture(path, form, volume=volume, into=into, into_key=into_key, watch=watch)

    async def forget(self, vm: Id) -> None:
        def undefine(handle: Handle) -> None:
            with suppress(NotFound):
                found = _get(handle, vm)
                if found.isActive():
                    raise Conflict(f"{found.name()} runs")
                found.undefine()

        await self._connection.call(undefine)


def _get(handle: Handle, vm: Id) -> Handle:
    libvirt = bindings()
    try:
        found = handle.lookupByUUIDString(vm)
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
            raise
        found = None
    if found is None or _is_ours(found.name()):
        raise NotFound(f"there is no foreign VM {vm} here")
    return found


def _is_ours(name: str) -> bool:
    """An instance, or the machine of a blanket inside this one."""
    return instance_of(name) is not None or machine_of(name) is not None


def _vm(found: Handle) -> ForeignVm | None:
    """None: it went while we looked."""
    libvirt = bindings()
    try:
        seen = _described(found)
        size_bytes = _size_bytes(found, seen)
        return ForeignVm(
            id=found.UUIDString(),
            name=_UNPRINTABLE.sub("?", found.name())[:255],
            state=run_state(found),
            vcpus=max(seen.vcpus, 1),
            memory_mib=seen.memory_mib,
            disk_bytes=size_bytes or 0,
            obstacle=(seen.obstacle or ("" if size_bytes else "its disk cannot be read"))[:1000],
        )
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
            raise
        return None


def _described(found: Handle) -> Described:
    """With what its description alone does not tell."""
    seen = described(found.XMLDesc())
    more = []
    if run_state(found) is not RunState.DEFINED:
        more.append("it is not shut off")
    if found.hasManagedSaveImage():
        more.append("its memory is saved: start it, and shut it down")
    if found.snapshotNum():
        more.append("it has snapshots")
    obstacle = "; ".join([*more, *([seen.obstacle] if seen.obstacle else [])])
    return Described(vcpus=seen.vcpus, memory_mib=seen.memory_mib, disk=seen.disk, obstacle=obstacle)


def _size_bytes(found: Handle, seen: Described) -> int | None:
    if seen.disk is None:
        return None
    try:
        capacity: int = found.blockInfo(seen.disk.target)[0]
    except bindings().libvirtError:
        return None
    return capacity


def _path(handle: Handle, disk: ForeignDisk) -> str:
    if disk.path is not None:
        return disk.path
    try:
        path: str = handle.storagePoolLookupByName(disk.pool).storageVolLookupByName(disk.volume).path()
    except bindings().libvirtError as error:
        raise Failed(f"its disk is not found: {error}") from error
    return path
