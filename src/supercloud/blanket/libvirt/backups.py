"""Backups of disks that a running instance has open: its own QEMU copies them as they are at one moment."""

from __future__ import annotations

import asyncio
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any, Final

from supercloud.blanket.domain_xml import disk_target
from supercloud.blanket.libvirt.connection import Connection, Handle, bindings
from supercloud.blanket.libvirt.hypervisor import find, get, job
from supercloud.blanket.libvirt.jobs import JobEvents
from supercloud.model.errors import Failed, NotFound
from supercloud.model.names import Id
from supercloud.ports.hypervisor import Watch

#: How often to look how far it is; that it is over comes as an event.
_LOOK_S: Final = 2.0
_GIVE_UP_S: Final = 60.0


class LiveBackups:
    """One at a time for each instance. Mixed into `LibvirtHypervisor`."""

    def __init__(self, connection: Connection, *, jobs: JobEvents) -> None:
        self._connection = connection
        self._over: dict[Id, asyncio.Future[str]] = {}
        jobs.tell(self._backed_up)

    async def back_up(self, instance: Id, volume: Id, into: Path, secret: Id, watch: Watch) -> None:
        """See ports.hypervisor.DiskHypervisor.

        Raises:
            NotFound: it is not attached.
            Failed: with libvirt's words; or the instance ended meanwhile.
        """
        await self._give_up(instance)  # what an earlier life of this program began writes to a lost file
        over = self._expected(instance)
        try:
            await self._connection.call(lambda handle: _begin(get(handle, instance), volume, into, secret))
            await asyncio.wait({over}, timeout=_LOOK_S)
            while not over.done() and (share := await self._share(instance)) is not None:
                watch(share)
                await asyncio.wait({over}, timeout=_LOOK_S)
            # A job that is not there any more has ended, which is being told; or the instance ended with it.
            await asyncio.wait({over}, timeout=_LOOK_S)
            if not over.done():
                raise Failed(f"the backup of {volume} ended unheard")
            if failed := over.result():
                raise Failed(f"libvirt could not back up {volume}: {failed}")
        except BaseException:  # cancelled, too: whoever gives it up removes the file that is written to
            await asyncio.shield(self._give_up(instance))
            raise
        finally:
            self._over.pop(instance, None)

    def _expected(self, instance: Id) -> asyncio.Future[str]:
        """Will be told why the instance's next job failed, or nothing."""
        over = self._over[instance] = asyncio.get_running_loop().create_future()
        return over

    async def _share(self, instance: Id) -> float | None:
        """Of a backup that is under way."""
        stats = await self._connection.call(lambda handle: job(get(handle, instance)) or {})
        if not _is_backup(stats):
            return None
        return min(1.0, int(stats.get("disk_processed", 0)) / max(1, int(stats.get("disk_total", 0))))

    async def _give_up(self, instance: Id) -> None:
        """None under way: fine. Returns once nothing is written any more.

        Raises:
            Failed: libvirt does not say that it has ended.
        """

        def abort(handle: Handle) -> bool:
            found = find(handle, instance)
            if found is None or not _is_backup(job(found) or {}):
                return False
            found.abortJob()
            return True

        over = self._expected(instance)
        if await self._connection.call(abort):
            await asyncio.wait({over}, timeout=_GIVE_UP_S)
            if not over.done():
                raise Failed(f"a backup of a disk of instance {instance} does not end")

    def _backed_up(self, instance: Id, stats: dict[str, Any]) -> None:
        if stats.get("operation") != bindings().VIR_DOMAIN_JOB_OPERATION_BACKUP:
            return
        if (over := self._over.get(instance)) is not None and not over.done():
            over.set_result("" if stats.get("success") else str(stats.get("errmsg") or "it was given up"))


def _begin(found: Handle, volume: Id, into: Path, secret: Id) -> None:
    target = disk_target(found.XMLDesc(), volume)
    if target is None:
        raise NotFound(f"volume {volume} is not attached to it")
    found.backupBegin(
        backup_xml(target, into, secret), None, bindings().VIR_DOMAIN_BACKUP_BEGIN_REUSE_EXTERNAL
    )


def backup_xml(target: str, into: Path, secret: Id) -> str:
    """What libvirt is to do: https://libvirt.org/formatbackup.html. Disks that are not named take no part."""
    root = ET.Element("domainbackup", mode="push")
    disk = ET.SubElement(ET.SubElement(root, "disks"), "disk", name=target, backup="yes", type="file")
    ET.SubElement(disk, "driver", type="qcow2")
    file = ET.SubElement(disk, "target", file=str(into))
    encryption = ET.SubElement(file, "encryption", format="luks")
    ET.SubElement(encryption, "secret", type="passphrase", uuid=secret)
    return ET.tostring(root, encoding="unicode")


def _is_backup(stats: dict[str, Any]) -> bool:
    libvirt = bindings()
    return bool(
        stats.get("type", libvirt.VIR_DOMAIN_JOB_NONE) != libvirt.VIR_DOMAIN_JOB_NONE
        and stats.get("operation") == libvirt.VIR_DOMAIN_JOB_OPERATION_BACKUP
    )
