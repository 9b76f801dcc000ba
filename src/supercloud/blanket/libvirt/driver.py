"""The whole hypervisor of a blanket, put together."""

from __future__ import annotations

from supercloud.blanket.domain_xml import Sources
from supercloud.blanket.libvirt.backups import LiveBackups
from supercloud.blanket.libvirt.connection import Connection
from supercloud.blanket.libvirt.console import Consoles
from supercloud.blanket.libvirt.disks import Disks
from supercloud.blanket.libvirt.hypervisor import Lifecycle
from supercloud.blanket.libvirt.jobs import JobEvents
from supercloud.blanket.libvirt.migration import Migrating
from supercloud.blanket.places import Places


class LibvirtHypervisor(Lifecycle, Migrating, Disks, LiveBackups, Consoles):
    """ports.hypervisor: Hypervisor, MigratingHypervisor, DiskHypervisor and Console over one connection.

    `sources` tells how each volume is opened; `cache` is QEMU's cache mode of volumes (`none` needs a file
    system with O_DIRECT, which a blanket's ext4 has).
    """

    def __init__(
        self, connection: Connection, *, sources: Sources, places: Places, cache: str = "none"
    ) -> None:
        Lifecycle.__init__(self, connection, sources=sources, places=places, cache=cache)
        jobs = JobEvents(connection)
        Migrating.__init__(self, connection, sources=sources, places=places, jobs=jobs, tell=self.deliver)
        Disks.__init__(self, connection, sources=sources, cache=cache)
        LiveBackups.__init__(self, connection, jobs=jobs)
        Consoles.__init__(self, connection)
