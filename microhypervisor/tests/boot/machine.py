"""A machine with a micro-hypervisor in QEMU (TCG emulates SVM), its log and its management channel."""

from __future__ import annotations

import contextlib
import gzip
import re
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from supercloud.images.blanket import build_blanket
from supercloud.images.initrd import _Cpio, make_initrd
from supercloud.platforms.microhypervisor import requests
from supercloud.platforms.microhypervisor.frames import RESET, Frame, Receiver
from supercloud.platforms.microhypervisor.requests import Request

IMAGE = Path(__file__).parents[2] / "build/microhypervisor.elf"
_QEMU = (
    "qemu-system-x86_64 -nodefaults -no-user-config -display none -M q35 -accel tcg,thread=multi -no-reboot"
)
#: Generous: emulated, on a machine that may be busy with other tests. Nothing waits that long if all is well.
BOOT_S = 400.0
REPLY_S = 300.0
#: The blanket's root is mounted as its own initrd does it; then this runs in it instead of its services.
BLANKET_INIT = """#!/bin/busybox sh
export PATH=/bin
busybox mount -t proc proc /proc
busybox mount -t sysfs sys /sys
busybox mount -t devtmpfs dev /dev
for module in /modules/*.ko; do busybox insmod "$module"; done
busybox mount -t squashfs -o ro /dev/vda /root || exec busybox poweroff -f
busybox mount -t tmpfs -o size=256m,mode=0755 tmpfs /memory
busybox mkdir /memory/upper /memory/work
busybox mount -t overlay -o lowerdir=/root,upperdir=/memory/upper,workdir=/memory/work overlay /new
busybox cp /program/* /new/
for directory in proc sys dev; do busybox mount --move "/$directory" "/new/$directory"; done
exec busybox switch_root /new /bin/sh /inside
"""
#: Of virtio devices, so that the IOMMU is before them.
ON_IOMMU = "disable-legacy=on,iommu_platform=on"
_KVM = ("virt/lib/irqbypass.ko", "arch/x86/kvm/kvm.ko", "arch/x86/kvm/kvm-amd.ko")


class Guests:
    """Kernel, root and initrds for partitions, from the blanket's image as it is."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        image = build_blanket()
        self.kernel, self.root, self._initrd = image / "vmlinuz", image / "root.squashfs", image / "initrd"
        root = directory / "root"
        wanted = ["usr/bin/busybox", "usr/lib/modules/*/kernel/virt", "usr/lib/modules/*/kernel/arch/x86/kvm"]
        unsquash = ["unsquashfs", "-q", "-n", "-f", "-d", str(root), str(self.root), *wanted]
        subprocess.run(unsquash, check=True, stdout=subprocess.DEVNULL)
        self._busybox = (root / "usr/bin/busybox").read_bytes()
        (self._kernel,) = root.glob("usr/lib/modules/*/kernel")

    def initrd(
        self,
        name: str,
        script: str,
        *,
        kvm: bool = False,
        blanket: bool = False,
        programs: Mapping[str, bytes] | None = None,
    ) -> Path:
        """An initrd whose init is `script`.

        Args:
            kvm: with the kernel's KVM modules as they are.
            blanket: on top of the blanket's own initrd, with its modules.
            programs: by name; they lie in /program.
        """
        modules = [(Path(path).stem, (self._kernel / path).read_bytes()) for path in _KVM] if kvm else []
        archive = _Cpio()
        archive.add("program", 0o040755)
        for program, content in (programs or {}).items():
            archive.add(f"program/{program}", 0o100755, content)
        below = gzip.decompress(self._initrd.read_bytes()) if blanket else b""
        packed = gzip.decompress(make_initrd(self._busybox, script.encode(), modules))
        path = self._directory / f"{name}.cpio"
        path.write_bytes(below + packed + archive.end())
        return path


def compiled(source: Path, into: Path) -> bytes:
    """A program for a guest, linked statically."""
    subprocess.run(["gcc", "-O2", "-static", "-Wall", "-Werror", str(source), "-o", str(into)], check=True)
    return into.read_bytes()


@dataclass
class Machine:
    """A running machine. `await_line` waits for its log, `ask` speaks on the channel."""

    process: subprocess.Popen[str]
    channel_path: Path
    log_path: Path  # what was said, for people
    lines: list[str] = field(default_factory=list)
    heard: bytearray = field(default_factory=bytearray)  # all that the channel gave
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _ended: bool = False
    _sequence: int = 0
    _channel: socket.socket | None = None

    def read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self.log_path.open("a") as log:
                log.write(line)
            with self._changed:
                self.lines.append(line.rstrip())
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def await_line(self, pattern: str, *, after: int = 0, timeout_s: float = BOOT_S) -> int:
        """The number behind the first line from `after` on that holds the pattern."""
        deadline, seen = time.monotonic() + timeout_s, after
        with self._changed:
            while True:
                for number in range(seen, len(self.lines)):
                    if re.search(pattern, self.lines[number]):
                        return number + 1
                seen = len(self.lines)
                left = deadline - time.monotonic()
                if self._ended or left <= 0 or any("panic" in line for line in self.lines):
                    said = "\n".join(self.lines[-40:])
                    raise AssertionError(f"{pattern!r} was not said; the last lines:\n{said}")
                self._changed.wait(left)

    def ask(self, request: Request, name: str = "", start: int | None = None, *, rest: bytes = b"") -> bytes:
        """The payload of the reply. Raises Failed if it was refused."""
        self._sequence += 1
        frame = requests.ask(request, self._sequence, name, start, rest=rest)
        return requests.accepted(frame, self.exchange(frame.encode()))

    def exchange(self, data: bytes) -> Frame:
        """Whatever bytes are sent, and the next frame that comes back."""
        channel, receiver = self._open(), Receiver()
        channel.sendall(data)
        while True:
            received = channel.recv(4096)
            assert received, "the channel was closed"
            self.heard += received
            for frame in receiver.feed(received):
                return frame

    def partition(self, name: str) -> requests.Partition:
        return next(p for p in requests.partitions(self.ask(Request.LIST)) if p.name == name)

    def _open(self) -> socket.socket:
        if self._channel is None:
            self._channel = socket.socket(socket.AF_UNIX)
            self._channel.settimeout(REPLY_S)
            self._channel.connect(str(self.channel_path))
            self._channel.sendall(RESET)
        return self._channel

    def close(self) -> None:
        if self._channel is not None:
            self._channel.close()
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def machine(
    directory: Path,
    layout: str,
    modules: Mapping[str, Path],
    *,
    cores: int,
    memory_mib: int,
    extra: Sequence[str] = (),
) -> Iterator[Machine]:
    """Boot a machine; `modules` are boot modules by their names in the layout."""
    (directory / "layout").write_text(layout)
    initrd = ",".join(f"{path} {name}" for name, path in {"layout": directory / "layout", **modules}.items())
    channel = directory / "channel"
    argv = [*_QEMU.split(), "-cpu", "max", "-smp", str(cores), "-m", str(memory_mib), "-kernel", str(IMAGE)]
    argv += ["-initrd", initrd, "-serial", "stdio"]
    argv += [
        "-chardev",
        f"socket,id=channel,path={channel},server=on,wait=off",
        "-serial",
        "chardev:channel",
        "-monitor",  # for people, while something hangs: socat - unix:DIRECTORY/monitor
        f"unix:{directory}/monitor,server=on,wait=off",
        *extra,
    ]
    process = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    running = Machine(process, channel, directory / "log")
    reader = threading.Thread(target=running.read, daemon=True)
    reader.start()
    try:
        yield running
    finally:
        running.close()
        reader.join()
