"""One system for all tests on real VMs: what `supercloud demo` leaves up, in a home of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from supercloud.cli.demo.scenario import ENDING
from supercloud.client import Client, Place

PROGRAM = Path(sys.executable).with_name("supercloud")
#: The demo takes 8 minutes on an idle machine that emulates everything; a busy one takes three times that.
DEMO_S = 2400.0
#: What the demo calls its things.
CLOUD, SERVER, CLIENT, BLANKETS = "demo", "server", "client", ("n1", "s1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Estate:
    """Two domains, a blanket in each, two instances; and what the demo that made them reported."""

    place: Place
    report: dict[str, Any]
    said: str  # what the demo told people

    def client(self) -> Client:
        return Client(self.place.access())

    def run(self, *arguments: str, timeout_s: float = 300.0) -> subprocess.CompletedProcess[str]:
        """The command line, as its user runs it."""
        return subprocess.run(
            [PROGRAM, *arguments],
            check=False,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=timeout_s,
            env=self.environment(),
        )

    def environment(self) -> dict[str, str]:
        return {**os.environ, "SUPERCLOUD_HOME": str(self.place.home)}


@pytest.fixture(scope="session")
def estate() -> Iterator[Estate]:
    """With $SUPERCLOUD_HOME set: what is up there, used and left. That is for trying one test by hand."""
    if given := os.environ.get("SUPERCLOUD_HOME"):
        yield Estate(place=Place(Path(given)), report={}, said="")
        return
    home = Path(tempfile.mkdtemp(prefix="sc-"))  # short: a socket's path has at most 107 bytes
    empty = Estate(place=Place(home), report={}, said="")
    try:
        done = empty.run("demo", "-o", "json", timeout_s=DEMO_S)
        if not done.stdout:
            pytest.fail(f"the demo ended with {done.returncode}:\n{done.stderr[-4000:]}\n{_logs(home)}")
        yield Estate(place=Place(home), report=json.loads(done.stdout), said=done.stderr)
    finally:
        ended = [empty.run(*command.split()) for command in ENDING]
        shutil.rmtree(home)
    assert [one.stderr for one in ended if one.returncode] == [], "what the demo says ends it does"


def _logs(home: Path) -> str:
    return "\n".join(
        f"--- {path.name}\n" + "\n".join(path.read_text(errors="replace").splitlines()[-20:])
        for path in sorted(home.glob("*.log"))
    )
