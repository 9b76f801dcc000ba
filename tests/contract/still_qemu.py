"""A real QEMU that stands still, begun as libvirt begins one, with something in its memory."""

from __future__ import annotations

import json
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from supercloud.blanket.domain_xml import domain_name
from supercloud.model.names import Id

MARK = 0x5EC0_7DE5_1B1E_600D


@dataclass(frozen=True, slots=True)
class Qemu:
    """One that stands still."""

    instance: Id
    process: subprocess.Popen[bytes]

    def ask(self, command: str, **arguments: object) -> dict[str, Any]:
        """Over QMP: what it returns."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps({"execute": command, "arguments": arguments}).encode())
        self.process.stdin.flush()
        for line in self.process.stdout:
            said = json.loads(line)
            assert "error" not in said, said
            if "return" in said:
                found = said["return"]
                return found if isinstance(found, dict) else {"text": found}
        raise AssertionError("it has ended")


@contextmanager
def qemu(
    folder: Path, size: int, *, at: int | None = None, shared: bool = True, incoming: str | None = None
) -> Iterator[Qemu]:
    """As libvirt starts it; with `MARK` at the machine's address `at`."""
    instance = str(uuid.uuid4())
    kind = "memory-backend-memfd" if shared else "memory-backend-ram"
    pid_file = folder / f"{domain_name(instance)}.pid"
    options = [
        *("-name", f"guest={domain_name(instance)},debug-threads=on"),
        *("-machine", "pc-q35-7.2,usb=off,memory-backend=pc.ram", "-accel", "tcg"),
        *("-m", f"size={size // 1024}k"),
        *("-object", f"{kind},id=pc.ram,x-use-canonical-path-for-ramblock-id=off,size={size}"),
        *("-S", "-nodefaults", "-display", "none", "-qmp", "stdio", "-pidfile", str(pid_file)),
    ]
    if at is not None:
        options += ["-device", f"loader,addr={at:#x},data={MARK:#x},data-len=8"]
    if incoming is not None:
        options += ["-incoming", incoming]
    process = subprocess.Popen(
        ["qemu-system-x86_64", *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        made = Qemu(instance, process)
        made.ask("qmp_capabilities")
        made.ask("query-status")  # answered when all is there
        yield made
    finally:
        process.kill()
        process.communicate()
