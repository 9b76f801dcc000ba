"""In a partition: an L2 on two processors under KVM, and its live migration to another QEMU beside it."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

_QEMU = (
    "qemu-system-x86_64 -nodefaults -no-user-config -display none -M q35 -accel kvm -cpu host -smp 2 -m 160"
    " -kernel /vmlinuz -initrd /l2.cpio -append"
)
_WAIT_S = 700.0


class Qemu:
    """One QEMU, its monitor, and what its guest said."""

    def __init__(self, name: str, *more: str) -> None:
        self._log, monitor = Path(f"/{name}.log"), f"/{name}.monitor"
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(monitor)
        listening.listen()
        serial = ("-chardev", f"file,id=serial,path={self._log}", "-serial", "chardev:serial")
        chardev = ("-chardev", f"socket,id=monitor,path={monitor}", "-mon", "chardev=monitor,mode=control")
        subprocess.Popen([*_QEMU.split(), "console=ttyS0 quiet panic=-1", *serial, *chardev, *more])
        connected, _ = listening.accept()
        self._monitor = connected.makefile("rw")
        self._read()
        self.do("qmp_capabilities")

    def _read(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._monitor.readline())
        return found

    def do(self, command: str, **arguments: object) -> None:
        self._monitor.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self._monitor.flush()
        while "return" not in (said := self._read()):
            if "error" in said:
                raise SystemExit(f"{command}: {said}")

    def query(self, command: str) -> dict[str, Any]:
        self._monitor.write(json.dumps({"execute": command}) + "\n")
        self._monitor.flush()
        while "return" not in (said := self._read()):
            pass
        found: dict[str, Any] = said["return"]
        return found

    def count(self, least: int) -> int:
        """How far its guest has counted, once it is as far as that."""
        until = time.monotonic() + _WAIT_S
        while time.monotonic() < until:
            said = self._log.read_text(errors="replace") if self._log.exists() else ""
            counted = [int(number) for number in re.findall(r"L2 counts (\d+) on 2 processors", said)]
            if counted and counted[-1] >= least:
                return counted[-1]
            time.sleep(0.5)  # a console's log has no event
        raise SystemExit(f"it never counted to {least}:\n{said[-2000:]}")


def main() -> None:
    source = Qemu("source")
    print(f"L2 counts: {source.count(3)} on two processors", flush=True)
    target = Qemu("target", "-incoming", "unix:/incoming")
    source.do("migrate", uri="unix:/incoming")
    while (told := source.query("query-migrate")).get("status") not in ("completed", "failed", "cancelled"):
        time.sleep(0.5)  # no library of QEMU's monitor in this guest, so no events of it
    print(
        f"migration {told['status']}: {told.get('total-time')} ms, {told.get('downtime')} ms down", flush=True
    )
    before = source.count(0)
    after = target.count(before + 3)
    print(f"L2 went on from {before} to {after}", flush=True)
    dirty = told["ram"]["dirty-sync-count"]
    print(f"its memory was looked through {dirty} times", flush=True)
    source.do("quit")
    target.do("quit")


main()
