"""The programs that `supercloud up` starts on this machine: detached, found again, ended by pid.

A pid alone may belong to somebody else by now, so a record holds the process's creation time as well.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from supercloud.model.errors import Failed

_LOG_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class _Record:
    pid: int
    created_at: float


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
            record = _Record(**json.loads(self._record.read_text()))
            process = psutil.Process(record.pid)
            same = abs(process.create_time() - record.created_at) < 1
        except (OSError, ValueError, TypeError, psutil.Error):
            return None
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None

    def start(self, ready: Callable[[], bool], *, timeout_s: float) -> bool:
        """Start it unless it runs; return once `ready()`. Whether it had to be started.

        Raises:
            Failed: it ended, or was not ready in time; the last line of its log says why.
        """
        running = self.process()
        if running is None:
            child = self._spawn()
            running = psutil.Process(child.pid)
            self._record.write_text(json.dumps(asdict(_Record(child.pid, running.create_time()))))
        else:
            child = None
        deadline = time.monotonic() + timeout_s
        while not ready():
            ended = child.poll() is not None if child else not running.is_running()
            if ended or time.monotonic() > deadline:
                why = "ended" if ended else f"was not ready in {timeout_s:.0f} s"
                raise Failed(f"{self.name} {why}: {self._last_line()}", hint=f"its log is {self.log}")
            time.sleep(0.05)  # readiness of another process has no event that we could wait on
        return child is not None

    def stop(self, *, timeout_s: float = 20) -> bool:
        """Ask it to end, insist after `timeout_s`. Whether there was anything to end."""
        process = self.process()
        if process is None:
            self._record.unlink(missing_ok=True)
            return False
        process.terminate()
        try:
            process.wait(timeout_s)
        except psutil.TimeoutExpired:
            process.kill()
            process.wait(timeout_s)
        self._record.unlink(missing_ok=True)
        return True

    def _spawn(self) -> subprocess.Popen[bytes]:
        if self.log.exists() and self.log.stat().st_size > _LOG_BYTES:
            self.log.replace(self.log.with_suffix(".log.1"))
        with os.fdopen(os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "wb") as log:
            return subprocess.Popen(
                self._argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/"
            )

    def _last_line(self) -> str:
        try:
            lines = self.log.read_text(errors="replace").strip().splitlines()
        except OSError:
            lines = []
        return lines[-1] if lines else "it said nothing"
