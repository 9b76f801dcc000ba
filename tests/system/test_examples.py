"""The example that a user would copy, run as it is, and what it says one can do then."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import PROGRAM

from supercloud.images.guest import build_guest

pytestmark = [pytest.mark.system, pytest.mark.timeout(3600)]
_SCRIPT = Path(__file__).parents[2] / "examples" / "two-clouds.sh"
_RUN_S, _BOOT_S = 2400.0, 400.0


@dataclass(frozen=True, slots=True)
class Example:
    """What the script made, in a home of its own."""

    home: Path

    def sh(self, *command: str | Path, timeout_s: float = 400.0) -> subprocess.CompletedProcess[str]:
        path = f"{PROGRAM.parent}:{os.environ['PATH']}"
        return subprocess.run(
            command,
            check=False,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=timeout_s,
            env={**os.environ, "SUPERCLOUD_HOME": str(self.home / "h"), "PATH": path},
        )

    def cli(self, *command: str) -> Any:
        done = self.sh(PROGRAM, *command, "-o", "json")
        assert done.returncode == 0, (command, done.stderr)
        return json.loads(done.stdout)

    def script(self, *arguments: str | Path) -> str:
        done = self.sh(_SCRIPT, *arguments, timeout_s=_RUN_S)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def asked_by_the_job(self, url: str) -> subprocess.CompletedProcess[str]:
        """Of the web server, from the team's instance; within a few seconds, or not at all."""
        program = f"import urllib.request as u; print(u.urlopen('{url}', timeout=8).status)"
        key = str(self.home / "id_ed25519")
        return self.sh(
            PROGRAM, "vm", "ssh", "job", "--cloud", "team", "-i", key, "--", f'python3 -c "{program}"'
        )

    def awaited(self, url: str) -> str:
        """What the server says, once both have booted; a refused connection comes at once."""
        deadline = time.monotonic() + _BOOT_S
        while (done := self.asked_by_the_job(url)).returncode != 0:
            assert time.monotonic() < deadline, done.stderr
            time.sleep(2)  # nothing tells when the next try would do
        return done.stdout.strip()


@pytest.fixture(scope="module")
def example() -> Iterator[Example]:
    home = Path(tempfile.mkdtemp(prefix="sc-"))  # short: a socket's path has at most 107 bytes
    made = Example(home)
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(home / "id_ed25519")], check=True
    )
    try:
        yield made
    finally:
        ended = made.sh(_SCRIPT, "--end", timeout_s=900)
        shutil.rmtree(home)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_two_clouds_are_made_connected_and_cut(example: Example) -> None:
    given = (build_guest() / "guest.qcow2", example.home / "id_ed25519.pub")
    said = example.script(*given)
    assert "team" in said and "connect" in said
    (server,) = example.cli("vm", "show", "server", "--cloud", "mine")["addresses"]
    url = f"http://{server}:8080/"
    assert example.awaited(url) == "200"
    nested = example.cli("cloud", "show", "team")
    assert nested["parent"] == "mine" and nested["quota"]["blankets"] == 1

    again = example.script(*given)
    assert "to make" not in again and "to change" not in again, "it may be run again"

    example.cli("vm", "migrate", "server", "--cloud", "mine", "--to", "s1")
    assert example.awaited(url) == "200", "from the other domain"

    (relation,) = example.cli("trust", "ls", "--cloud", "mine", "--state", "active")
    example.cli("trust", "revoke", relation["id"])
    refused = example.asked_by_the_job(url)
    assert refused.returncode != 0 and "Error" in refused.stderr, "what was open is closed"
