"""An instance of the user's own on the demo's estate, reached by ssh through the command line."""

from __future__ import annotations

import json
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conftest import CLOUD, PROGRAM, Estate

#: Generous for a machine that emulates everything twice.
BOOT_S = 900.0


def new_key(folder: Path) -> Path:
    """The private one; beside it is the public one."""
    key = folder / "id_ed25519"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    return key


@dataclass(frozen=True, slots=True)
class SshGuest:
    estate: Estate
    key: Path
    name: str

    def cli(self, *arguments: str, timeout_s: float = 400.0) -> str:
        done = self.estate.run(*arguments, timeout_s=timeout_s)
        assert done.returncode == 0, f"{' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def show(self, name: str | None = None) -> dict[str, Any]:
        said = self.cli("vm", "show", name or self.name, "--cloud", CLOUD, "-o", "json")
        shown: dict[str, Any] = json.loads(said)
        return shown

    def ssh(
        self, command: str, *, data: bytes = b"", timeout_s: float = 120.0
    ) -> subprocess.CompletedProcess[str]:
        """Status 255 as well if it takes longer: who boots may take a connection and say nothing."""
        called = [str(PROGRAM), "vm", "ssh", self.name, "--cloud", CLOUD, "-i", str(self.key), "--", command]
        try:
            done = subprocess.run(
                called,
                check=False,
                capture_output=True,
                input=data,
                timeout=timeout_s,
                env=self.estate.environment(),
            )
        except subprocess.TimeoutExpired:
            return subprocess.CompletedProcess(called, 255, "", f"no end within {timeout_s:.0f} s")
        said = (one.decode(errors="replace") for one in (done.stdout, done.stderr))
        return subprocess.CompletedProcess(done.args, done.returncode, *said)

    def await_ssh(self) -> None:
        """Until it has booted as far as its ssh server; each try waits for the connection itself."""
        deadline = time.monotonic() + BOOT_S
        while (done := self.ssh("true")).returncode != 0:
            assert time.monotonic() < deadline, done.stderr
            time.sleep(2)  # a refused connection comes at once, and nothing tells when it will not be

    def inside(self, command: str, *, data: bytes = b"", timeout_s: float = 120.0) -> str:
        done = self.ssh(command, data=data, timeout_s=timeout_s)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout.strip()

    def device(self, serial: str) -> str:
        """The guest's block device of a volume, whose id begins with `serial`."""
        return self.inside(f"basename $(dirname $(grep -l {serial} /sys/block/vd*/serial))")
