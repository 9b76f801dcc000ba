"""The programs that `supercloud up` starts on this machine: detached, found again, ended by pid.

A pid alone may belong to somebody else by now, so a record holds the command as well. The time of creation
would not do: it moves when the clock is set.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from supercloud.model.errors import Failed

_LOOK_EVERY_S = 0.1
#: glibc gives each thread its own heap, up to eight for each processor, and rarely gives one back. Threads
#: here wait for files and databases; with two heaps a control plane of 150 instances has 9 MB less resident.
_ARENAS = "2"


class Daemon:
    """One detached program: `state/NAME.pid` says which process it is, `state/NAME.log` what it said."""

    def __init__(self, name: str, state: Path, argv: Sequence[str]) -> None:
        self.name = name
        self.log = state / f"{name}.log"
        self._record = state / f"{name}.pid"
        self._argv = [sys.executable, "-m", *argv]

    def process(self) -> psutil.Process | None:
        """The running process, or None."""
        try:
            record = json.loads(self._record.read_text())
            process = psutil.Process(record["pid"])
            same = process.cmdline() == record["command"]  # a zombie has none
        except (OSError, ValueError, TypeError, KeyError, psutil.Error):
            return None
        return process if same else None

    def start(
        self, ready: Callable[[], bool], *, timeout_s: float, waiting: Callable[[], None] = lambda: None
    ) -> bool:
        """Start it unless it runs; return once `ready()`. Whether it had to be started.

        `waiting` is told now and then. The end of the process is noticed at once.

        Raises:
            Failed: it ended, or was not ready in time; the last line of its log says why.
        """
        running = self.process()
        if running is None:
            child = self._spawn()
            running = psutil.Process(child.pid)
            self._record.write_text(json.dumps({"pid": child.pid, "command": self._argv}))
        else:
            child = None
        deadline = time.monotonic() + timeout_s
        with _watched(running.pid) as ended:
            while not ready():
                waiting()
                # Readiness of another process is no event; looking for it costs it the processor.
                if ended(_LOOK_EVERY_S):
                    raise self._failed("ended")
                if time.monotonic() > deadline:
                    raise self._failed(f"was not ready in {timeout_s:.0f} s")
        return child is not None

    def stop(self, *, timeout_s: float = 20) -> bool:
        """Ask it to end, insist after `timeout_s`. Whether there was anything to end.

        It has ended also while whoever started it has not looked yet, and it is a zombie until then.

        Raises:
            Failed: not even that ended it.
        """
        process = self.process()
        if process is None:
            self._record.unlink(missing_ok=True)
            return False
        with _watched(process.pid) as ended, suppress(psutil.NoSuchProcess):
            process.terminate()
            if not ended(timeout_s):
                process.kill()
                if not ended(timeout_s):
                    raise self._failed("does not end")
        self._record.unlink(missing_ok=True)
        return True

    def _failed(self, what: str) -> Failed:
        return Failed(f"{self.name} {what}: {self._last_line()}", hint=f"its log is {self.log}")

    def _spawn(self) -> subprocess.Popen[bytes]:
        with os.fdopen(os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "wb") as log:
            return subprocess.Popen(
                self._argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd="/",
                env={"MALLOC_ARENA_MAX": _ARENAS, **os.environ},
            )

    def _last_line(self) -> str:
        try:
            lines = self.log.read_text(errors="replace").strip().splitlines()
        except OSError:
            lines = []
        return lines[-1] if lines else "it said nothing"


@contextmanager
def _watched(pid: int) -> Iterator[Callable[[float], bool]]:
    """Wait for so many seconds, or until the process ends; whether it has."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        yield lambda _: True
        return
    try:
        yield lambda seconds: bool(select.select([descriptor], [], [], seconds)[0])
    finally:
        os.close(descriptor)
