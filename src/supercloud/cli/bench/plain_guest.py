"""One guest of the blankets' own kernel, in a plain QEMU without KVM, that does what a line of shell says.

For the bench and the tests of looks into guests: it boots in seconds, and its memory is where an
instance's is.
"""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from supercloud.blanket.domain_xml import domain_name
from supercloud.images.blanket import build_blanket
from supercloud.model.errors import Failed
from supercloud.model.names import Id

_BEGIN = (
    "b=/bin/busybox; $b mkdir -p /proc /dev; $b mount -t proc proc /proc; $b mount -t devtmpfs dev /dev;"
    " $b ip link set lo up; "
)


@dataclass(frozen=True, slots=True)
class PlainGuest:
    """`instance`: its name, as if it were one. `process`: its QEMU."""

    instance: Id
    process: subprocess.Popen[bytes]
    folder: Path

    def lines(self) -> Iterator[str]:
        """What it says on its console, as it does. Read on or it stops there, once a pipe is full."""
        assert self.process.stdout is not None  # noqa: S101 - a pipe, by how it was begun
        for line in self.process.stdout:
            yield line.decode(errors="replace").strip()

    def wait_for(self, said: str) -> None:
        """
        Raises:
            Failed: it ended before.
        """
        last = ""
        for line in self.lines():
            if said in line:
                return
            last = line
        raise Failed(f"the guest ended: {last[:200]}")


@contextmanager
def plain_guest(
    folder: Path, script: str, *, memory_mib: int = 256, processors: int = 1
) -> Iterator[PlainGuest]:
    """`script`: for busybox's shell, in which `$b` is busybox; without double quotes, as the kernel takes it.
    `folder` gets its process id, where libvirt has those of instances in a blanket.

    Raises:
        Failed: it cannot be started.
    """
    image = build_blanket()
    words = f'console=ttyS0 quiet panic=-1 rdinit=/bin/busybox -- sh -c "{_BEGIN}{script}"'
    boots = ("-kernel", str(image / "vmlinuz"), "-initrd", str(image / "initrd"), "-append", words)
    with emulated(folder, boots, memory_mib=memory_mib, processors=processors) as guest:
        yield guest


@contextmanager
def emulated(folder: Path, boots: Sequence[str], *, memory_mib: int, processors: int) -> Iterator[PlainGuest]:
    """The same of whatever `boots` says to QEMU.

    Raises:
        Failed: it cannot be started.
    """
    instance = str(uuid.uuid4())
    backend = f"memory-backend-memfd,id=pc.ram,size={memory_mib << 20}"
    argv = [
        "qemu-system-x86_64",
        *("-name", f"guest={domain_name(instance)},debug-threads=on"),
        *("-machine", "q35,memory-backend=pc.ram", "-accel", "tcg,thread=multi", "-cpu", "max"),
        *("-smp", str(processors), "-m", f"{memory_mib}M", "-no-reboot"),
        *("-object", backend),
        *boots,
        *("-nodefaults", "-display", "none", "-serial", "stdio"),
        *("-pidfile", str(folder / f"{domain_name(instance)}.pid")),
    ]
    try:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    except OSError as error:
        raise Failed(f"QEMU cannot be started: {error}", hint="install qemu-system-x86") from error
    try:
        yield PlainGuest(instance, process, folder)
    finally:
        process.kill()
        process.communicate()
