"""Programs that have windows, where nobody looks: an X server without a screen, and what they say."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def display() -> Iterator[str]:
    """What $DISPLAY is there."""
    heard, told = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(told), "-screen", "0", "1024x768x24", "-nolisten", "tcp"],
        pass_fds=[told], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(told)
    try:
        with os.fdopen(heard) as number:
            said = number.readline().strip()
        assert said, "it ended"
        yield f":{said}"
    finally:
        server.terminate()
        server.wait(60)


def says(*command: str, until: tuple[str, ...], at: str, home: Path, within_s: float) -> str:
    """What it writes, until it wrote all of that; then it is ended. Nothing of its user's is read or kept."""
    environment = {
        **{name: value for name, value in os.environ.items() if name != "DBUS_SESSION_BUS_ADDRESS"},
        **{"DISPLAY": at, "HOME": str(home), "XDG_CACHE_HOME": str(home), "XDG_CONFIG_HOME": str(home)},
        **{"NO_AT_BRIDGE": "1", "GSETTINGS_BACKEND": "memory", "GDK_BACKEND": "x11", "LC_ALL": "C.UTF-8"},
    }
    program = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=environment, start_new_session=True,
    )  # fmt: skip
    assert program.stdout is not None
    said, deadline = b"", time.monotonic() + within_s
    try:
        while not all(one.encode() in said for one in until):
            left_s = deadline - time.monotonic()
            more = b""
            if left_s > 0 and select.select([program.stdout], [], [], left_s)[0]:
                more = os.read(program.stdout.fileno(), 64 << 10)
            assert more, f"it did not say {until}: {said.decode(errors='replace')[-4000:]}"
            said += more
    finally:
        os.killpg(program.pid, signal.SIGKILL)
        program.wait()
        program.stdout.close()
    return said.decode(errors="replace")
