"""A machine's directory on the data disk: everything that it is when no QEMU runs it."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from supercloud.model.errors import Exhausted, Failed
from supercloud.model.names import Id
from supercloud.ports.machines import MakeMachine

_RECORD, _BIRTH, _DISK = "machine.json", "birth", "data.qcow2"
#: Two bytes of an address have room for these, at every depth.
_MOST: Final = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What was asked for, without its birth data, and its place among the machines here."""

    wanted: MakeMachine
    slot: int

    def same_as(self, wanted: MakeMachine) -> bool:
        """Whether it asks for this machine. Its bundle may be newer: the agent has its own by now."""
        bundle = self.wanted.image.bundle
        return self.wanted == replace(wanted, birth="", image=replace(wanted.image, bundle=bundle))


_RECORDS: Final = TypeAdapter(Record)


@dataclass(frozen=True, slots=True)
class Home:
    """It counts as made once its record is in it."""

    path: Path

    @property
    def machine(self) -> Id:
        return self.path.name

    @property
    def disk(self) -> Path:
        return self.path / _DISK

    @property
    def birth(self) -> Path:
        """For QEMU to hand over; what is secret in it counts once. On the disk, since a machine that starts
        again reads who it is and whom it dials."""
        return self.path / _BIRTH

    def record(self) -> Record | None:
        """
        Raises:
            Failed: there is one, but it makes no sense.
        """
        try:
            return _RECORDS.validate_json((self.path / _RECORD).read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ValidationError as error:
            raise Failed(f"the record of machine {self.machine} is damaged") from error

    def prepare(self) -> None:
        """Empty; what an interrupted creation left is removed. QEMU's user may pass through."""
        shutil.rmtree(self.path, ignore_errors=True)
        self.path.mkdir(parents=True)
        self.path.chmod(0o711)

    def write(self, record: Record) -> None:
        _write(self.path / _RECORD, _RECORDS.dump_json(record))

    def write_birth(self, birth: bytes) -> None:
        if birth:
            _write(self.birth, birth)

    def erase(self) -> None:
        try:
            shutil.rmtree(self.path)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise Failed(f"cannot delete {self.path}: {error.strerror}") from error


class Homes:
    """All of them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def make(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._folder.chmod(0o711)

    def home(self, machine: Id) -> Home:
        return Home(self._folder / machine)

    def records(self) -> Iterator[Record]:
        """Of all that can be read: one that is damaged can still be destroyed, and holds nothing else up."""
        for path in sorted(self._folder.iterdir()):
            with contextlib.suppress(Failed):
                if (record := Home(path).record()) is not None:
                    yield record

    def free_slot(self) -> int:
        """
        Raises:
            Exhausted.
        """
        taken = {record.slot for record in self.records()}
        for slot in range(_MOST):
            if slot not in taken:
                return slot
        raise Exhausted(f"this blanket has {_MOST} machines, which is all that it can have")


def _write(path: Path, data: bytes) -> None:
    """Replaced whole or not at all, for root's eyes until libvirt gives it to its QEMU."""
    scratch = path.with_name(f".{path.name}.new")
    try:
        with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise Exhausted(f"the blanket's disk takes no more: {error.strerror}") from error
    scratch.replace(path)
