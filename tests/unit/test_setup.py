"""`make setup` as whoever is not root has it, as root has it, and the second time."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit
ROOT = Path(__file__).parents[2]
PACKAGES = (ROOT / "debian-packages.txt").read_text().split()


class Machine:
    """One with these packages, as its programs tell of it."""

    def __init__(self, folder: Path, *, root: bool, missing: tuple[str, ...]) -> None:
        self.folder = folder
        self.said = folder / "apt"
        self._program("id", f"echo {0 if root else 1000}")
        there = "".join(f"{name}) exit 1;; " for name in missing)
        self._program("dpkg-query", f'for one; do :; done; case "$one" in {there}esac; echo "ii "')
        self._program("apt-get", f'echo "$@" >> {self.said}')
        self._program("npm", "true")

    def _program(self, name: str, does: str) -> None:
        made = self.folder / name
        made.write_text(f"#!/bin/sh\n{does}\n")
        made.chmod(0o755)

    def install(self) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [ROOT / "scripts" / "install-debian-packages"],
            check=False,
            capture_output=True,
            text=True,
            env={"PATH": f"{self.folder}:/usr/bin:/bin"},
        )


@pytest.mark.parametrize("root", [True, False])
def test_where_everything_is_there_nothing_is_done_and_nobody_needs_to_be_root(
    tmp_path: Path, root: bool
) -> None:
    machine = Machine(tmp_path, root=root, missing=())
    done = machine.install()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not machine.said.exists()


def test_an_ordinary_user_is_told_what_to_ask_for(tmp_path: Path) -> None:
    machine = Machine(tmp_path, root=False, missing=("qemu-utils", "uidmap"))
    done = machine.install()
    assert done.returncode == 1 and not machine.said.exists()
    assert "apt-get install --no-install-recommends qemu-utils uidmap\n" in done.stderr


def test_root_installs_what_is_missing_and_no_more(tmp_path: Path) -> None:
    machine = Machine(tmp_path, root=True, missing=("socat",))
    assert machine.install().returncode == 0
    (asked,) = machine.said.read_text().splitlines()
    words = asked.split()
    assert "install" in words and "socat" in words and not {*PACKAGES} - {"socat"} & {*words}


def test_what_was_set_up_is_not_set_up_again() -> None:
    """But for looking whether packages and images are there."""
    argv = ["make", "--dry-run", "--no-print-directory", "setup"]
    done = subprocess.run(argv, cwd=ROOT, check=True, capture_output=True, text=True)
    looks = ["scripts/install-debian-packages", ".venv/bin/python -m supercloud.images build"]
    assert done.stdout.splitlines() == looks
