"""The programs that `supercloud up` starts are ended, also those whose parent has not looked yet."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from supercloud.cli.daemons import Daemon

pytestmark = pytest.mark.unit
#: A module of Python's that does what it is told.
_RUN = ("timeit", "-n1", "-r1")


def test_a_child_that_is_a_zombie_after_its_end_has_ended(tmp_path: Path) -> None:
    """Ours, since this process started it and does not wait for it."""
    daemon = Daemon("one", tmp_path, [*_RUN, "import time; time.sleep(60)"])
    daemon.start(lambda: True, timeout_s=10)
    running = daemon.process()
    assert running is not None
    assert daemon.stop(timeout_s=10)
    assert not psutil.pid_exists(running.pid) or running.status() == psutil.STATUS_ZOMBIE
    assert daemon.process() is None and not daemon.stop()


def test_what_does_not_end_when_it_is_asked_is_ended(tmp_path: Path) -> None:
    there = f"pathlib.Path({str(tmp_path / 'there')!r}).touch()"
    deaf = "import pathlib, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    daemon = Daemon("deaf", tmp_path, [*_RUN, f"{deaf}; {there}; time.sleep(60)"])
    daemon.start((tmp_path / "there").exists, timeout_s=30)
    running = daemon.process()
    assert running is not None and daemon.stop(timeout_s=0.3)
    assert not psutil.pid_exists(running.pid) or running.status() == psutil.STATUS_ZOMBIE
