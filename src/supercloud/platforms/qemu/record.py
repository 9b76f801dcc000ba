"""What is known of a machine on disk: `machine.json` in its directory, replaced whole or not at all."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from supercloud.model.errors import Failed
from supercloud.model.names import Digest, Id, MemoryMib, Name, Port, SizeBytes, Vcpus
from supercloud.platforms.qemu.command import BIRTH
from supercloud.platforms.values import first_problem
from supercloud.ports.platform import BlanketMachine

_FILE = "machine.json"
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a machine was asked to be; its first-boot data is kept apart."""

    id: Id
    name: Name
    image: Digest
    vcpus: Vcpus
    memory_mib: MemoryMib
    disk_bytes: SizeBytes

    def same_as(self, spec: BlanketMachine) -> bool:
        """Whether `spec` asks for this machine. First-boot data counts on the first boot only."""
        ours = (self.id, self.name, self.image, self.vcpus, self.memory_mib, self.disk_bytes)
        return ours == (spec.id, spec.name, spec.image, spec.vcpus, spec.memory_mib, spec.disk_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record(Asked):
    """One machine: what was asked for, its port, and which process runs it (None: none, or not noted yet)."""

    #: UDP port on the host's loopback; stays the same over restarts so that peers find the blanket again.
    port: Port
    #: How many ports after that one lead to blankets inside this one; a machine of before has none.
    inner: int = 0
    pid: int | None = None
    #: Set from before a process is started until it ended in order: where no pid is noted, look for one.
    started: bool = False

    @property
    def ports(self) -> range:
        return range(self.port, self.port + 1 + self.inner)


_RECORD: TypeAdapter[Record] = TypeAdapter(Record)


def read(directory: Path) -> Record | None:
    """As `load`, of a blanket's machine."""
    return load(directory, _RECORD)


def write(directory: Path, record: Record) -> None:
    """As `keep`, of a blanket's machine."""
    keep(directory, _RECORD, record)


def load(directory: Path, kind: TypeAdapter[T]) -> T | None:
    """The record in a machine's directory; None where there is none.

    Raises:
        Failed: there is one, but it makes no sense.
    """
    try:
        return kind.validate_json((directory / _FILE).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValidationError as error:
        raise Failed(f"{directory / _FILE} is damaged: {first_problem(error)}") from error


def keep(directory: Path, kind: TypeAdapter[T], record: T) -> None:
    """Replace the record; after a power cut it is the old or the new one."""
    write_private(directory / _FILE, kind.dump_json(record, indent=1))


def write_private(path: Path, data: bytes) -> None:
    """A file that only this user can read."""
    scratch = path.with_name(f".{path.name}.new")
    with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(path)


def birth_of(directory: Path) -> bytes:
    """The first-boot data, empty if there is none."""
    try:
        return (directory / BIRTH).read_bytes()
    except FileNotFoundError:
        return b""
