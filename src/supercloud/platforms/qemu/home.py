"""A machine's directory: everything that a machine is when no QEMU runs, and who runs it when one does."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from supercloud.model.errors import Exhausted, Failed
from supercloud.platforms.qemu import process, record
from supercloud.platforms.qemu.command import (
    BINARY,
    BIRTH,
    CONSOLE,
    CONSOLE_LOG,
    DATA_DISK,
    QEMU_LOG,
)
from supercloud.platforms.qemu.monitor import reachable
from supercloud.platforms.qemu.record import Record

_KILL_S = 20.0
_LOG_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Directory:
    """Where a QEMU runs: its process, its sockets, and what it wrote."""

    path: Path
    binary: str = BINARY

    def find(self, pid: int | None) -> process.Process | None:
        """The QEMU that runs here. The caller closes it.

        Args:
            pid: None if we were killed between starting it and noting its pid: then it is looked for.
        """
        found = process.search(self.binary, self.path) if pid is None else pid
        return None if found is None else process.Process.find(found, self.binary, self.path)

    @contextmanager
    def listener(self, name: str) -> Iterator[int]:
        """A listening socket for QEMU to inherit. Made here, so that there is no moment without a listener:
        a client connects at once and is answered when QEMU is up, or disconnected when QEMU ends."""
        (self.path / name).unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as listener, reachable(self.path) as short:
            listener.bind(str(short / name))
            listener.listen(8)
            yield listener.fileno()

    def last_words(self) -> str:
        """The last line that QEMU wrote to its log."""
        try:
            lines = (self.path / QEMU_LOG).read_text(errors="replace").strip().splitlines()
        except OSError:
            lines = []
        return lines[-1] if lines else "QEMU said nothing"

    def console_tail(self, size_bytes: int) -> bytes:
        """The end of what the machine wrote to its console."""
        try:
            with (self.path / CONSOLE_LOG).open("rb") as log:
                log.seek(max(0, log.seek(0, 2) - size_bytes))
                return log.read()
        except FileNotFoundError:
            return b""

    def bound_log(self) -> None:
        """Keep a blanket that talks a lot from filling the disk: the older half goes to a second file."""
        log = self.path / CONSOLE_LOG
        try:
            if log.stat().st_size > _LOG_BYTES:
                log.with_suffix(".log.1").write_bytes(self.console_tail(_LOG_BYTES))
                # QEMU appends (O_APPEND), so what it writes next begins at the new end.
                log.open("wb").close()
        except FileNotFoundError:
            pass


@dataclass(frozen=True, slots=True)
class Home(Directory):
    """The directory of one machine (0700). It counts as made once `machine.json` is in it."""

    def record(self) -> Record | None:
        return record.read(self.path)

    def write(self, changed: Record) -> None:
        record.write(self.path, changed)

    def prepare(self) -> None:
        """An empty directory; what an interrupted creation left is removed."""
        shutil.rmtree(self.path, ignore_errors=True)
        self.path.mkdir(mode=0o700, parents=True)

    def write_birth(self, birth: bytes) -> None:
        if birth:
            record.write_private(self.path / BIRTH, birth)

    def birth(self) -> bytes:
        return record.birth_of(self.path)

    async def make_disk(self, size_bytes: int) -> None:
        """The sparse data disk.

        Raises:
            Failed: qemu-img said no.
        """
        argv = [
            "qemu-img",
            "create",
            "-q",
            "-f",
            "qcow2",
            "-o",
            "lazy_refcounts=on",
            DATA_DISK,
            str(size_bytes),
        ]
        child = await asyncio.create_subprocess_exec(
            *argv,
            cwd=self.path,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            said, _ = await child.communicate()
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()
        if child.returncode != 0:
            text = said.decode(errors="replace").strip()
            kind = Exhausted if "No space left" in text else Failed
            raise kind(f"qemu-img: {text or 'failed'}")
        (self.path / DATA_DISK).chmod(0o600)

    def process(self, known: Record) -> process.Process | None:
        """The QEMU of this machine, if one runs. The caller closes it."""
        if not known.started:
            return None
        running = self.find(known.pid)
        if running is not None and known.pid is None:
            self.write(replace(known, pid=running.pid))
        return running

    async def end(self, known: Record) -> Record:
        """Kill its QEMU, if one runs, and note that none does.

        Raises:
            Failed: it does not die.
        """
        running = self.process(known)
        if running is not None:
            with running:
                await kill(running)
        return self.ended(known)

    def ended(self, known: Record) -> Record:
        """Note that no QEMU runs it."""
        changed = replace(known, pid=None, started=False)
        self.write(changed)
        return changed

    async def erase(self) -> None:
        """End the machine and delete all of it. Raises Failed if either cannot be done."""
        known = self.record()
        if known is not None:
            await self.end(known)
        try:
            await asyncio.to_thread(shutil.rmtree, self.path)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise Failed(f"cannot delete {self.path}: {error}") from error

    def console_ports(self) -> None:
        """What QEMU opens as its console's two ends. Its output goes nowhere: the log has it."""
        keys, screen = self.path / f"{CONSOLE}.in", self.path / f"{CONSOLE}.out"
        if not keys.exists():
            os.mkfifo(keys, 0o600)
        if not screen.is_symlink():
            screen.symlink_to(os.devnull)


async def kill(running: process.Process) -> None:
    """End a QEMU at once.

    Raises:
        Failed: it does not die.
    """
    running.kill()
    if not await running.wait(_KILL_S):
        raise Failed(f"QEMU {running.pid} does not die")
