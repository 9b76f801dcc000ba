"""One system for all tests on real VMs: what `supercloud demo` leaves up, in a home of its own."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
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

    def do(self, *arguments: str, timeout_s: float = 400.0) -> str:
        """A command that has to succeed: what it wrote."""
        done = self.run(*arguments, timeout_s=timeout_s)
        assert done.returncode == 0, f"{' '.join(arguments)}: {done.stderr[-2000:]}"
        return done.stdout

    def show(self, kind: str, name: str, *more: str) -> dict[str, Any]:
        shown: dict[str, Any] = json.loads(self.do(kind, "show", name, *more, "-o", "json"))
        return shown

    def environment(self) -> dict[str, str]:
        return {**os.environ, "SUPERCLOUD_HOME": str(self.place.home)}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is done on the demo's system comes last, so that its VMs are in nobody's way before; and the very
    last is what breaks it (the fixture `system` of the faults)."""

    def late(item: pytest.Item) -> int:
        return sum(name in ("estate", "system") for name in getattr(item, "fixturenames", ()))

    items.sort(key=late)


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
            pytest.fail(f"the demo ended with {done.returncode}:\n{done.stderr[-3000:]}\n{evidence(home)}")
        yield Estate(place=Place(home), report=json.loads(done.stdout), said=done.stderr)
    finally:
        ended = [empty.run(*command.split()) for command in ENDING]
        refused = [one.stderr for one in ended if one.returncode]
        if not refused:  # else its machines run, and nobody could end them without it
            shutil.rmtree(home)
    assert refused == [], f"what the demo says ends it does; it is in {home}"


def evidence(home: Path) -> str:
    """What is worth knowing of a demo that failed where nobody can look at it; the best comes last."""
    parts = {path.name: _tail(path, 12) for path in sorted(home.glob("*.log"))}
    parts |= {f"console of {path.parent.name[:8]}": _tail(path, 10) for path in home.rglob("console.log")}
    parts["events"] = "\n".join(_events(home / "controlplane" / "supercloud.db"))
    parts["demo-failed.json"] = _tail(home / "demo-failed.json", 1)
    return "\n".join(f"--- {name}\n{text}" for name, text in parts.items())


def _tail(path: Path, lines: int) -> str:
    if not path.exists():
        return ""
    return "\n".join(line[:6000] for line in path.read_text(errors="replace").splitlines()[-lines:])


def _events(database: Path) -> list[str]:
    """What the agents reported last."""
    if not database.exists():
        return []
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        found = connection.execute("SELECT at, blanket, kind, data FROM events ORDER BY at DESC LIMIT 40")
        return [
            f"{at:.1f} {blanket[:8]} {kind} {data[:120]}" for at, blanket, kind, data in reversed([*found])
        ]
