"""One process that outlives us: started detached, found by pid, program and directory, awaited by pidfd.

A pid may be somebody else's by the time it is used. A pidfd is opened first, and what the process runs and
where compared after: from then on whatever is signalled or awaited is that very process. Its creation time
would not do: the kernel counts it from the boot, and what it is on the wall moves when the clock is set.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import psutil

#: A program with none of our environment, which may hold secrets.
_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
#: Children of this process; kept until they are collected, lest they stay as zombies.
_children: dict[int, subprocess.Popen[bytes]] = {}


class Process:
    """A running process. Use as a context manager: it holds a file descriptor."""

    def __init__(self, pid: int, pidfd: int) -> None:
        self.pid = pid
        self._pidfd = pidfd

    @classmethod
    def find(cls, pid: int, binary: str, directory: Path) -> Process | None:
        """The process with this pid if it runs `binary` in the working directory `directory`; else None."""
        collect()
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            return None
        try:
            if _runs(psutil.Process(pid), binary, directory):
                return cls(pid, pidfd)
        except psutil.Error:
            pass
        os.close(pidfd)
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._pidfd)

    @property
    def suspended(self) -> bool:
        """Whether it was stopped by a signal (SIGSTOP)."""
        try:
            return bool(psutil.Process(self.pid).status() == psutil.STATUS_STOPPED)
        except psutil.Error:
            return False

    def kill(self) -> None:
        """End it now. Ended already: fine."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    async def wait(self, timeout_s: float | None) -> bool:
        """Whether it ended within `timeout_s` (None: it is waited for as long as it takes)."""
        if not select.select([self._pidfd], [], [], 0)[0]:
            loop = asyncio.get_running_loop()
            ended = asyncio.Event()
            loop.add_reader(self._pidfd, ended.set)
            try:
                await asyncio.wait_for(ended.wait(), timeout_s)
            except TimeoutError:
                return False
            finally:
                loop.remove_reader(self._pidfd)
        collect()
        return True


def spawn(argv: Sequence[str], *, directory: Path, log: Path, pass_fds: Sequence[int] = ()) -> int:
    """Start a program in a session of its own, so that it outlives us. Returns its pid.

    It takes a few milliseconds and is not asynchronous on purpose: no cancellation can come between the
    start of the process and the knowledge of its pid.
    """
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        child = subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=directory,
            env=_ENVIRONMENT,
            umask=0o077,
            pass_fds=pass_fds,
            start_new_session=True,
        )
    finally:
        os.close(output)
    _children[child.pid] = child
    return child.pid


def collect() -> None:
    """Take note of children that ended."""
    for pid, child in list(_children.items()):
        if child.poll() is not None:
            _children.pop(pid, None)


def search(binary: str, directory: Path) -> int | None:
    """Pid of a process that runs `binary` in the working directory `directory`."""
    collect()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if _runs(process, binary, directory):
                return process.pid
    return None


def _runs(process: psutil.Process, binary: str, directory: Path) -> bool:
    """Not a zombie, which has neither. Raises psutil.Error: it is gone, or somebody else's."""
    with process.oneshot():
        command = process.cmdline() or [""]
        return Path(command[0]).name == binary and process.cwd() == str(directory.resolve())
