"""The programs that `supercloud up` starts are ended, also those whose parent has not looked yet."""

from __future__ import annotations

import json
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


def test_it_is_found_again_after_the_clock_was_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon = Daemon("one", tmp_path, [*_RUN, "import time; time.sleep(60)"])
    daemon.start(lambda: True, timeout_s=10)
    try:
        booted = psutil.boot_time()
        monkeypatch.setattr("psutil._pslinux.boot_time", lambda: booted + 3600)
        running = daemon.process()
        assert running is not None and running.create_time() > booted + 3600
    finally:
        assert daemon.stop(timeout_s=10)


def test_a_pid_that_is_somebody_elses_by_now_is_not_ended(tmp_path: Path) -> None:
    other = Daemon("other", tmp_path, [*_RUN, "import time; time.sleep(60)"])
    other.start(lambda: True, timeout_s=10)
    try:
        running = other.process()
        assert running is not None
        daemon = Daemon("one", tmp_path, [*_RUN, "import time; time.sleep(61)"])
        command = [
            *json.loads((tmp_path / "other.pid").read_text())["command"][:-1],
            "import time; time.sleep(61)",
        ]
        (tmp_path / "one.pid").write_text(json.dumps({"pid": running.pid, "command": command}))
        assert daemon.process() is None and not daemon.stop()
        assert running.is_running()
    finally:
        assert other.stop(timeout_s=10)
