"""ports.machines.MachinesAgent: blankets inside this one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from pathlib import Path
from typing import Final

from supercloud.agent.images import ImageFetcher, file_digest
from supercloud.agent.report import memory_mib
from supercloud.model.errors import Exhausted, Refused
from supercloud.ports.agent import PlaceImage
from supercloud.ports.hypervisor import Machines
from supercloud.ports.machines import (
    MachineFile,
    MachineImage,
    MachineRef,
    MachineReport,
    MakeMachine,
    StopMachine,
)

#: What this blanket booted from itself (platforms/qemu/command.py, blanket/machines/domain.py).
_OWN_DISKS: Final = (Path("/dev/vda"), Path("/dev/vdb"))
_AT_ONCE: Final = 1 << 20


class AgentMachines:
    """Over the driver; what it cannot run is refused before anything is fetched."""

    def __init__(
        self, *, machines: Machines, images: ImageFetcher, own: tuple[Path, ...] = _OWN_DISKS
    ) -> None:
        self._machines = machines
        self._images = images
        self._own = own
        self._copying = asyncio.Lock()

    async def why_not(self) -> str:
        return await self._machines.why_not()

    async def place(self, request: MachineImage) -> None:
        if why := await self._machines.why_not():
            raise Refused(f"no blanket can be in this one: {why}")
        for file in (request.kernel, request.initrd, request.root, request.bundle):
            path = self._machines.file(file.digest)
            async with self._copying:
                await asyncio.to_thread(_copy_own, self._own, file, path)
            await self._images.place(PlaceImage(digest=file.digest, size_bytes=file.size_bytes), path)
            path.chmod(0o644)  # nothing of an image is secret, and every QEMU reads it

    async def create(self, request: MakeMachine) -> MachineReport:
        if not any(one.machine == request.machine for one in await self._machines.list()):
            _require_memory(request.memory_mib)
        return await self._machines.create(request)

    async def start(self, request: MachineRef) -> MachineReport:
        return await self._machines.start(request.machine)

    async def stop(self, request: StopMachine) -> MachineReport:
        return await self._machines.stop(request.machine, force=request.force)

    async def destroy(self, request: MachineRef) -> None:
        await self._machines.destroy(request.machine)

    async def inspect(self, request: MachineRef) -> MachineReport:
        return await self._machines.inspect(request.machine)

    async def list(self) -> list[MachineReport]:
        return await self._machines.list()


def _require_memory(wanted_mib: int) -> None:
    """
    Raises:
        Exhausted.
    """
    _, free_mib = memory_mib()
    if free_mib < wanted_mib:
        raise Exhausted(
            f"not enough memory: {wanted_mib} MiB wanted, {free_mib} MiB available in the blanket around it",
            hint="ask for a smaller one",
        )


def _copy_own(disks: tuple[Path, ...], file: MachineFile, path: Path) -> None:
    """One inside is mostly of the image that this one is of: what is here by that digest need not travel."""
    if path.exists():
        return
    scratch = path.with_name(path.name + ".own")
    for disk in disks:
        with contextlib.suppress(OSError):  # then it is fetched, and whoever does that says what is wrong
            if _size(disk) != file.size_bytes or file_digest(disk) != file.digest:
                continue
            with disk.open("rb") as source, scratch.open("wb") as copy:
                shutil.copyfileobj(source, copy, _AT_ONCE)
                os.fsync(copy.fileno())
            scratch.replace(path)
            return
    scratch.unlink(missing_ok=True)


def _size(disk: Path) -> int:
    """A block device's too, of which `stat` says nothing."""
    with disk.open("rb") as opened:
        return opened.seek(0, os.SEEK_END)
