"""Volumes of this blanket. Sealed keys are opened here, for the driver's hands only, and kept nowhere."""

from __future__ import annotations

import asyncio
from functools import partial

from supercloud.agent.backups import Backups
from supercloud.agent.images import ImageFetcher, file_digest
from supercloud.agent.instances import GONE
from supercloud.agent.opener import Opener
from supercloud.model.errors import NotFound, Refused
from supercloud.model.names import Digest, Id
from supercloud.ports.agent import (
    AttachVolume,
    BackupReport,
    BackUpVolume,
    Disk,
    MadeImage,
    MakeVolume,
    OpenVolume,
    PlaceImage,
    ResizeVolume,
    RestoreVolume,
    SendCopy,
    SnapshotVolume,
    VolumeRef,
    VolumeReport,
)
from supercloud.ports.hypervisor import DiskHypervisor, Hypervisor, Volumes, Watch


class AgentVolumes:
    """ports.agent.VolumesAgent over the volume driver."""

    def __init__(
        self,
        *,
        volumes: Volumes,
        hypervisor: Hypervisor,
        disks: DiskHypervisor,
        images: ImageFetcher,
        backups: Backups,
        opener: Opener,
    ) -> None:
        self._volumes = volumes
        self._hypervisor = hypervisor
        self._disks = disks
        self._images = images
        self._backups = backups
        self._opener = opener

    async def place_image(self, request: PlaceImage) -> None:
        await self._images.place(request, self._volumes.image_path(request.digest))

    async def make(self, request: MakeVolume) -> VolumeReport:
        self._need_base(request.base)
        return await self._volumes.make(
            request.volume,
            request.copy,
            request.size_bytes,
            self._opener.volume(request.key, request.volume, request.copy),
            base=request.base,
            base_key=self._opener.base(request.base_key, request.base),
        )

    async def open(self, request: OpenVolume) -> None:
        self._need_base(request.base)
        await self._volumes.open(
            request.volume,
            request.copy,
            self._opener.volume(request.key, request.volume, request.copy),
            base=request.base,
            base_key=self._opener.base(request.base_key, request.base),
        )

    def _need_base(self, base: Digest | None) -> None:
        if base is not None and not self._volumes.image_path(base).exists():
            raise NotFound(f"base image {base} is not in this blanket", hint="place it first")

    async def remove(self, request: VolumeRef) -> None:
        await self._backups.drop(request.copy)
        await self._volumes.remove(request.volume, request.copy)

    async def resize(self, request: ResizeVolume) -> VolumeReport:
        if request.instance is None or await self._hypervisor.state(request.instance) in GONE:
            return await self._volumes.resize(request.volume, request.size_bytes)
        disk = Disk(volume=request.volume, size_bytes=request.size_bytes)
        await self._disks.resize(request.instance, disk)
        for report in await self._volumes.list():
            if report.volume == request.volume:
                return report
        raise NotFound(f"volume {request.volume} has no copy in this blanket")

    async def snapshot(self, request: SnapshotVolume) -> VolumeReport:
        """See the port. Not under a process that writes to it: that would break the file."""
        await self._need_closed(request.instance)
        return await self._volumes.snapshot(request.volume, request.snapshot)

    async def restore(self, request: RestoreVolume) -> VolumeReport:
        """See the port."""
        await self._need_closed(request.instance)
        self._need_base(request.base)
        return await self._volumes.restore(
            request.volume,
            request.copy,
            request.size_bytes,
            self._opener.volume(request.key, request.volume, request.copy),
            snapshot=request.snapshot,
            base=request.base,
        )

    async def back_up(self, request: BackUpVolume) -> BackupReport:
        """See the port. What a process writes to is read by that process, as of one moment."""
        self._need_base(request.base)
        return await self._backups.look(request.into, lambda watch: self._make_image(request, watch))

    async def _make_image(self, request: BackUpVolume, watch: Watch) -> MadeImage:
        volume, into = request.volume, request.into
        reading = None
        if (instance := request.instance) and await self._hypervisor.state(instance) not in GONE:
            reading = partial(self._disks.back_up, instance, volume)
        report = await self._volumes.back_up(
            volume,
            request.copy,
            self._opener.volume(request.key, volume, request.copy),
            base=request.base,
            base_key=self._opener.base(request.base_key, request.base),
            into=into,
            into_key=self._opener.volume(request.into_key, volume, into),
            watch=watch,
            reading=reading,
        )
        path = self._volumes.copy_path(volume, into)
        digest = await asyncio.to_thread(file_digest, path)
        return MadeImage(
            digest=digest,
            size_bytes=path.stat().st_size,
            virtual_bytes=report.size_bytes,
            signature=self._opener.vouched(volume, into, digest),
        )

    async def send(self, request: SendCopy) -> None:
        await self._backups.send(request, self._volumes.copy_path(request.volume, request.copy))

    async def _need_closed(self, instance: Id | None) -> None:
        if instance is not None and await self._hypervisor.state(instance) not in GONE:
            raise Refused(f"instance {instance} has the volume open", hint="stop the instance first")

    async def attach(self, request: AttachVolume) -> None:
        await self._disks.attach(request.instance, request.disk)

    async def detach(self, request: AttachVolume) -> None:
        await self._disks.detach(request.instance, request.disk)

    async def list(self) -> list[VolumeReport]:
        return await self._volumes.list()
