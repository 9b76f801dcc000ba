"""The overlay driver on a real kernel: one VM of the blanket image, in which namespaces act as blankets.

The machine that tests run on may have no WireGuard; a blanket's kernel has. The VM boots the image's kernel
and root with our checks in place of the blanket's services, and reports over its serial line.
"""

from __future__ import annotations

import gzip
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from supercloud.images import blanket as image
from supercloud.images.bundle import bundle_path
from supercloud.images.initrd import _Cpio

pytestmark = [pytest.mark.system, pytest.mark.timeout(1900)]
HERE = Path(__file__).parent
DEADLINE_S = 1800  # minutes on an idle machine
_BOOT = """#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin PYTHONPATH=/opt/supercloud/site:/check PYTHONDONTWRITEBYTECODE=1
mount -t tmpfs run /run
mkdir -p /run/netns /opt/supercloud
modprobe -a wireguard vxlan bridge tun veth dummy nf_tables
busybox sysctl -q -w net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1 \
    net.ipv4.ip_forward=1
ip link set lo up
mount -t squashfs -o ro /dev/vdb /opt/supercloud
python3 -u /check/overlay_inside.py >/dev/ttyS0 2>&1 </dev/null
busybox poweroff -f
"""


def test_overlay_on_a_real_kernel(findings: list[dict[str, Any]]) -> None:
    for found in findings:
        print(json.dumps(found))
    failed = [found for found in findings if not found["ok"]]
    assert not failed, "\n".join(json.dumps(found) for found in failed)
    assert len(findings) >= 251


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[dict[str, Any]]]:
    """What the VM found, once it said that it was done."""
    scratch = tmp_path_factory.mktemp("overlay")
    log = scratch / "console"
    with log.open("wb") as console:
        subprocess.run(
            _machine(scratch), stdout=console, stdin=subprocess.DEVNULL, timeout=DEADLINE_S, check=True
        )
    lines = log.read_text(errors="replace").splitlines()
    assert "DONE" in lines, "\n".join(lines[-60:])
    yield [json.loads(line.removeprefix("CHECK ")) for line in lines if line.startswith("CHECK ")]


def _machine(scratch: Path) -> list[str]:
    files = image.build_blanket()
    initrd, checks = scratch / "initrd", scratch / "checks.squashfs"
    initrd.write_bytes((files / "initrd").read_bytes() + _another_init())
    _squash(scratch / "checks", checks)
    drives = [files / "root.squashfs", bundle_path(), checks]
    return [
        *("qemu-system-x86_64", "-nodefaults", "-nographic", "-no-user-config", "-no-reboot"),
        *("-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "1024"),
        *("-kernel", str(files / "vmlinuz"), "-initrd", str(initrd)),
        *("-append", "console=ttyS0 quiet net.ifnames=0 panic=-1"),
        *("-device", "virtio-rng-pci", "-serial", "stdio"),
        *(
            argument
            for number, drive in enumerate(drives)
            for argument in (
                *("-drive", f"file={drive},format=raw,if=none,id=d{number},readonly=on"),
                *("-device", f"virtio-blk-pci,drive=d{number}"),
            )
        ),
    ]


def _another_init() -> bytes:
    """An archive to append to the blanket's initrd: of two files of one name the later counts."""
    theirs = (Path(image.__file__).parent / "recipe" / "blanket" / "init").read_text()
    last = "exec busybox switch_root /new /usr/lib/supercloud/boot"
    assert last in theirs
    mounted = "busybox mkdir /new/check\nbusybox mount -t squashfs -o ro /new/dev/vdc /new/check\n"
    archive = _Cpio()
    archive.add(
        "init", 0o100755, theirs.replace(last, f"{mounted}exec busybox switch_root /new /check/boot").encode()
    )
    return gzip.compress(archive.end())


def _squash(directory: Path, into: Path) -> None:
    directory.mkdir()
    boot = directory / "boot"
    boot.write_text(_BOOT)
    boot.chmod(0o755)
    for name in HERE.glob("overlay_*.py"):
        (directory / name.name).write_bytes(name.read_bytes())
    subprocess.run(
        ["mksquashfs", str(directory), str(into), "-quiet", "-no-progress"], check=True, timeout=60
    )
