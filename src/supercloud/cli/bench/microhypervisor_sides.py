"""The machines of `supercloud bench microhypervisor`: the same L1 with the same L2, over three kinds of L0.

`bare`: L1 on QEMU's processor itself. `microhypervisor`: L1 in a partition. `kvm`: L1 in Debian's KVM and
QEMU, which nest. All are emulated with a clock that counts instructions, so that each run is like the last
one, and nothing that L1 or L2 waits for is outside: disk and network of L2 are L1's memory and L1's tap.
"""

from __future__ import annotations

import struct
import subprocess
import tempfile
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import psutil

from supercloud.images.blanket import build_blanket
from supercloud.images.debian import run as tool
from supercloud.images.initrd import _Cpio, in_order
from supercloud.model.errors import Failed, NotFound

_SOURCES = Path(__file__).parents[4] / "microhypervisor"
_BUILD = _SOURCES / "build"
_L1_MIB, _L2_MIB = 640, 128
_L0_MIB = 1280
#: A machine that has used so much of a processor goes round in circles; how long that is by the clock, is
#: the host's affair.
_LONGEST_CPU_S = 3600.0
#: None sleeps that long: what its guests would wait for, their clock skips.
_LONGEST_IDLE_S = 120.0
_TELLING = 3  # lines before a failure that say why
_DONE, _WRONG = "bench: L1 is done", "bench: failed"
#: Processors with SVM have virtual VMLOAD and VMSAVE since 2017, and QEMU 7.2 does too, but does not list it.
_CPU = "max,+v-vmsave-vmload,x-force-features=on"
_QEMU = (
    f"qemu-system-x86_64 -nodefaults -no-user-config -display none -M q35 -cpu {_CPU} -no-reboot"
    " -accel tcg,thread=single -icount shift=0,sleep=off,align=off -seed 1 -rtc base=2026-01-01,clock=vm"
)
_CMDLINE = "console=ttyS0 quiet panic=-1 net.ifnames=0"
_KVM = ("kvm-amd", "tun")
_VIRTIO = ("virtio_pci", "virtio_blk", "virtio_net")
_LIBRARIES = "usr/lib/x86_64-linux-gnu"
_FIRMWARE = (
    "usr/share/seabios/bios-256k.bin",
    "usr/share/qemu/kvmvapic.bin",
    "usr/share/qemu/linuxboot_dma.bin",
)
_WANTED = (
    "usr/bin/busybox",
    "usr/bin/qemu-system-x86_64",
    _LIBRARIES,
    "usr/lib/modules",
    *_FIRMWARE,
)
_DIRECTORIES = (
    *("bin", "dev", "lib", "lib64", "modules", "proc", "sys", "tmp"),
    *("usr", "usr/share", "usr/share/qemu"),
)
_BEGIN = """#!/bin/busybox sh
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmpfs /tmp
for m in /modules/*.ko; do insmod $m || { dmesg | tail -n 1; echo "bench: failed: $m"; }; done
w() { /bin/work "$@" || echo "bench: failed: $*"; }
rest() { while true; do sleep 1000; done; } # powering off would cut short what was said
"""
_NESTED = (
    "/bin/qemu-system-x86_64 -L /usr/share/qemu -nodefaults -no-user-config -display none -M q35 -accel kvm"
    f" -cpu host -no-reboot -kernel /vmlinuz -append '{_CMDLINE}' -serial stdio"
)


class Side(StrEnum):
    """What is below L1."""

    BARE = "bare"
    MICROHYPERVISOR = "microhypervisor"
    KVM = "kvm"


@dataclass(frozen=True, slots=True)
class Parts:
    """What the machines are made of: files by their use, and where L0's code lies in memory."""

    kernel: Path
    l1: Path
    l0: Path
    image: Path
    meter: Path
    code: range


@contextmanager
def parts(times: int, *, with_kvm: bool) -> Iterator[Parts]:
    """
    Args:
        times: how often each workload runs; L2 boots once.
        with_kvm: the L0 with Debian's KVM as well.

    Raises:
        NotFound: this is no checkout with the micro-hypervisor's sources.
        Failed: something could not be built.
    """
    if not (_SOURCES / "Makefile").is_file():
        raise NotFound("the micro-hypervisor's sources are not here", hint="run it from a checkout")
    tool(["make", "-s", "-C", str(_SOURCES), "all", "bench"])
    image = build_blanket()
    with tempfile.TemporaryDirectory(prefix="supercloud-bench-") as scratch:
        folder = Path(scratch)
        root = folder / "root"
        tool(["unsquashfs", "-q", "-n", "-f", "-d", str(root), str(image / "root.squashfs"), *_WANTED])
        kernel = (image / "vmlinuz").read_bytes()
        work = {"bin/work": (_BUILD / "bench/work").read_bytes()}
        l2 = _archive(root, _l2_script(times), _VIRTIO, work)
        nested = {"vmlinuz": kernel, **_qemu(root)}
        l1 = _archive(root, _l1_script(times), _KVM, {**work, **nested, "l2.cpio": l2})
        (folder / "l1").write_bytes(l1)
        if with_kvm:
            (folder / "l0").write_bytes(_archive(root, _l0_script(), _KVM, {**nested, "l1.cpio": l1}))
        elf = _BUILD / "microhypervisor.elf"
        yield Parts(
            kernel=image / "vmlinuz",
            l1=folder / "l1",
            l0=folder / "l0",
            image=elf,
            meter=_BUILD / "bench/meter.so",
            code=code_of(elf.read_bytes()),
        )


def _l2_script(times: int) -> str:
    return f"""{_BEGIN}
w booted
w l2-cpu {times}
w l2-memory {times}
w l2-disk {times} /dev/vda
ip link set eth0 up
ip addr add 10.9.0.2/24 dev eth0
w l2-network {times} 10.9.0.1
poweroff -f
"""


def _l1_script(times: int) -> str:
    return f"""{_BEGIN}
w l1-cpu {times}
w l1-memory {times}
dd if=/dev/zero of=/tmp/disk bs=1M count=4 2>/dev/null
tunctl -t tap0 >/dev/null
ip addr add 10.9.0.1/24 dev tap0
ip link set tap0 up
w serve {times}
w boots {_NESTED} -m {_L2_MIB} -initrd /l2.cpio \
 -drive if=none,id=disk,format=raw,file=/tmp/disk -device virtio-blk-pci,drive=disk \
 -netdev tap,id=net,ifname=tap0,script=no,downscript=no -device virtio-net-pci,netdev=net,romfile= </dev/null
echo "{_DONE}"
rest
"""


def _l0_script() -> str:
    return f"""{_BEGIN}
{_NESTED} -m {_L1_MIB} -initrd /l1.cpio </dev/null
echo "bench: failed: L1 ended"
rest
"""


def _archive(root: Path, script: str, modules: Sequence[str], files: Mapping[str, bytes]) -> bytes:
    archive = _Cpio()
    for directory in _DIRECTORIES:
        archive.add(directory, 0o040755)
    archive.add("init", 0o100755, script.encode())
    archive.add("bin/busybox", 0o100755, (root / "usr/bin/busybox").read_bytes())
    (depends,) = root.glob("usr/lib/modules/*/modules.dep")
    for number, (module, path) in enumerate(in_order(modules, depends.read_text()).items()):
        archive.add(f"modules/{number:02}-{module}.ko", 0o100644, (depends.parent / path).read_bytes())
    for name, content in files.items():
        archive.add(name, 0o100755, content)
    return archive.end()


def _qemu(root: Path) -> dict[str, bytes]:
    """The blanket's QEMU, with the libraries that its loader says it needs, where it looks for them."""
    libraries, program = root / _LIBRARIES, root / "usr/bin/qemu-system-x86_64"
    loader = libraries / "ld-linux-x86-64.so.2"
    needs = tool([str(loader), "--library-path", str(libraries), "--list", str(program)])
    found = {
        "bin/qemu-system-x86_64": program.read_bytes(),
        "lib64/ld-linux-x86-64.so.2": loader.read_bytes(),
        **{f"usr/share/qemu/{Path(name).name}": (root / name).read_bytes() for name in _FIRMWARE},
    }
    for line in needs.splitlines():
        name, arrow, rest = line.strip().partition(" => ")
        if arrow:
            found[f"lib/{name}"] = Path(rest.rpartition(" (")[0]).read_bytes()
    return found


def code_of(elf: bytes) -> range:
    """The physical addresses of a 32-bit ELF file's code.

    Raises:
        Failed: it is none, or has no code.
    """
    if elf[:5] != b"\x7fELF\x01":
        raise Failed("the micro-hypervisor's image is no 32-bit ELF file", hint="make -C microhypervisor")
    (at,), (size, count) = struct.unpack_from("<I", elf, 28), struct.unpack_from("<HH", elf, 42)
    for header in range(at, at + size * count, size):
        kind, _, _, physical, length, _, flags, _ = struct.unpack_from("<8I", elf, header)
        if kind == 1 and flags & 1:
            return range(physical, physical + length)
    raise Failed("the micro-hypervisor's image has no code", hint="make -C microhypervisor")


def run(side: Side, parts: Parts) -> str:
    """Boot the machine, wait until L1 is done, and give what the meter wrote.

    Raises:
        Failed: a guest said so, ended before, or hangs.
    """
    with tempfile.TemporaryDirectory(prefix="supercloud-bench-") as scratch:
        folder = Path(scratch)
        argv = [*_QEMU.split(), *_machine(side, parts, folder), "-serial", "stdio"]
        if side is Side.MICROHYPERVISOR:
            argv += ["-serial", "null"]  # the management channel, which nobody uses here
        said = folder / "readings"
        meter = f"{parts.meter},out={said}"
        if side is Side.MICROHYPERVISOR:
            meter += f",begin={parts.code.start},end={parts.code.stop}"
        _await_done([*argv, "-plugin", meter])
        return said.read_text()


def _machine(side: Side, parts: Parts, folder: Path) -> list[str]:
    if side is Side.MICROHYPERVISOR:
        layout = folder / "layout"
        layout.write_text(
            f"partition bench\ncores 1\nmemory {_L1_MIB}\nkernel vmlinuz\ninitrd l1\ncmdline {_CMDLINE}\n"
            "console shown\n"
        )
        modules = f"{layout} layout,{parts.kernel} vmlinuz,{parts.l1} l1"
        return ["-smp", "2", "-m", str(_L0_MIB), "-kernel", str(parts.image), "-initrd", modules]
    initrd, memory = (parts.l1, _L1_MIB) if side is Side.BARE else (parts.l0, _L0_MIB)
    return ["-m", str(memory), "-kernel", str(parts.kernel), "-initrd", str(initrd), "-append", _CMDLINE]


def _await_done(argv: Sequence[str]) -> None:
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
    except OSError as error:
        raise Failed(f"QEMU cannot be started: {error}", hint="install qemu-system-x86") from error
    said: deque[str] = deque(maxlen=_TELLING)
    with process, _watched(process) as hangs:
        try:
            assert process.stdout is not None  # noqa: S101 - a pipe, by how it was begun
            for line in process.stdout:
                if _DONE in line:
                    return
                said += [line.strip()] if line.strip() else []
                if _WRONG in line:
                    break
        finally:
            process.kill()
    raise Failed(f"a machine of the bench did not get to its end: {'; '.join([*said, *hangs])[-500:]}")


@contextmanager
def _watched(process: subprocess.Popen[str]) -> Iterator[Sequence[str]]:
    """It is killed if it hangs, and then why is in what is given."""
    why: list[str] = []
    ended = threading.Event()

    def watch() -> None:
        used = 0.0
        with suppress(psutil.NoSuchProcess):
            while not ended.wait(_LONGEST_IDLE_S):
                times = psutil.Process(process.pid).cpu_times()
                before, used = used, times.user + times.system
                if used == before or used > _LONGEST_CPU_S:
                    why.append(f"it hangs, after {used:.0f} s of a processor")
                    process.kill()
                    break

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield why
    finally:
        ended.set()
        watcher.join()
