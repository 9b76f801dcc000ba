"""The directory of a micro-hypervisor's machine: its record, its files, and the disks of its partitions."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import TypeAdapter

from supercloud.model.errors import Exhausted
from supercloud.model.names import Digest, Id, Port, PublicKey
from supercloud.platforms.microhypervisor import command, tpm
from supercloud.platforms.qemu import record
from supercloud.platforms.qemu.home import Directory, kill
from supercloud.platforms.qemu.process import Process
from supercloud.ports.platform import BlanketFiles


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken(record.Asked):
    """A partition that is a blanket's."""

    partition: int
    #: Where its console begins, among all that the partition has written since the machine's start. None:
    #: where it will be at the blanket's first start, since what is before is somebody else's.
    console: int | None = None
    #: Whose consent each of its launches is to need; one of before that was thought of has nobody.
    tenant: PublicKey | None = None

    @property
    def at(self) -> str:
        return command.name(self.partition)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """The machine: who has which partition, and what runs it (as in the `qemu` platform's record)."""

    taken: tuple[Taken, ...] = ()
    image: Digest | None = None  # what it was started with, for all its partitions
    port: Port | None = None  # the first of its ports on the loopback
    pid: int | None = None
    started: bool = False

    def of(self, machine: Id) -> Taken | None:
        return next((one for one in self.taken if one.id == machine), None)

    def having(self, changed: Taken) -> Record:
        return replace(self, taken=(*self.without(changed.id).taken, changed))

    def fresh(self) -> Record:
        """About to be started: what partitions write is counted anew."""
        taken = tuple(replace(one, console=0) for one in self.taken)
        return replace(self, pid=None, started=True, taken=taken)

    def without(self, machine: Id) -> Record:
        return replace(self, taken=tuple(one for one in self.taken if one.id != machine))


_RECORD: TypeAdapter[Record] = TypeAdapter(Record)


@dataclass(frozen=True, slots=True)
class Home(Directory):
    """It is there from the first blanket on (0700)."""

    def record(self) -> Record:
        return record.load(self.path, _RECORD) or Record()

    def write(self, changed: Record) -> Record:
        record.keep(self.path, _RECORD, changed)
        return changed

    def running(self, known: Record) -> Process | None:
        """The machine's QEMU, if it runs. The caller closes it."""
        if not known.started:
            return None
        found = self.find(known.pid)
        if found is not None and known.pid is None:
            self.write(replace(known, pid=found.pid))
        return found

    async def end(self, known: Record) -> Record:
        """Kill its QEMU, if one runs, and note that none does. Raises Failed if it does not die."""
        running = self.running(known)
        if running is not None:
            with running:
                await kill(running)
        await tpm.ended(self.path)
        return self.write(replace(known, pid=None, started=False))

    def prepare(self, layout: str, image: Path, files: BlanketFiles) -> None:
        """What the machine starts with."""
        record.write_private(self.path / command.LAYOUT, layout.encode())
        links = {command.IMAGE: image, command.KERNEL: files.kernel, command.INITRD: files.initrd}
        for name, target in links.items():
            (self.path / name).unlink(missing_ok=True)
            (self.path / name).symlink_to(target.resolve())

    def prepare_disks(self, partition: int, disk_bytes: int) -> None:
        """A partition's own, sparse, where they are not there yet."""
        sizes = {"data": disk_bytes, "bundle": command.BUNDLE_BYTES, "birth": command.BIRTH_BYTES}
        for disk, size in sizes.items():
            descriptor = os.open(self.disk(partition, disk), os.O_WRONLY | os.O_CREAT, 0o600)
            try:
                os.ftruncate(descriptor, size)
            finally:
                os.close(descriptor)

    def disk(self, partition: int, disk: str) -> Path:
        return self.path / command.node(partition, disk)

    def write_birth(self, partition: int, birth: bytes) -> None:
        """It is for a partition that stands still; an agent reads it at its first start."""
        _overwrite(self.disk(partition, "birth"), birth, command.BIRTH_BYTES)

    def write_bundle(self, partition: int, bundle: Path) -> None:
        """Today's code, for a partition that stands still: no start boots an old one.

        Raises:
            Exhausted: it is larger than its disk.
        """
        content = bundle.read_bytes()
        if len(content) > command.BUNDLE_BYTES:
            raise Exhausted(f"the bundle has {len(content)} bytes, and its disk {command.BUNDLE_BYTES}")
        _overwrite(self.disk(partition, "bundle"), content, command.BUNDLE_BYTES)

    def blank(self, partition: int) -> None:
        """Its data disk, of a machine that does not run."""
        disk = self.disk(partition, "data")
        if disk.exists():
            _overwrite(disk, b"", disk.stat().st_size)

    def last_words(self) -> str:
        """Of QEMU, or, where it had none, of the micro-hypervisor."""
        said = super(Home, self).last_words()
        log = self.console_tail(4096).decode(errors="replace").strip().splitlines()
        return f"{said}; {log[-1]}" if log else said


def _overwrite(path: Path, content: bytes, size: int) -> None:
    """In place: a QEMU that has the file open sees it. Of what was there before nothing is left."""
    with path.open("r+b") as file:
        file.truncate(0)
        file.write(content)
        file.truncate(size)
        file.flush()
        os.fsync(file.fileno())
