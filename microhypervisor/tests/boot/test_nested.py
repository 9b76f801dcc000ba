"""Two L1s at once, each with an L2 by its own KVM and QEMU: one on two processors, which is moved live inside
its L1, and one without nested paging."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from machine import BLANKET_INIT, BOOT_S, ON_IOMMU, Guests, Machine, machine

from supercloud.platforms.microhypervisor import requests
from supercloud.platforms.microhypervisor.requests import Request

_MOVES = """export PATH=/usr/sbin:/usr/bin:/sbin:/bin
modprobe kvm-amd nested=1
python3 /migrate.py 2>&1
busybox poweroff -f
"""
_WITHOUT = """export PATH=/usr/sbin:/usr/bin:/sbin:/bin
modprobe kvm-amd nested=1 npt=0
echo "nested paging: $(cat /sys/module/kvm_amd/parameters/npt)"
qemu-system-x86_64 -nodefaults -no-user-config -display none -M q35 -accel kvm -cpu host -m 160 -no-reboot \\
  -kernel /vmlinuz -initrd /l2.cpio -append 'console=ttyS0 quiet panic=-1' -serial stdio </dev/null 2>&1 | cat
"""
_COUNTS = """#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
i=0
while true; do
  i=$((i+1))
  echo "L2 counts $i on $($b nproc) processors"
  $b taskset $((1 + i % $($b nproc))) $b sleep 1
done
"""
_LAYOUT = """
partition moves
cores 2
memory 896
kernel vmlinuz
initrd moves
cmdline console=ttyS0 quiet panic=-1 net.ifnames=0
device 00:03.0
console shown

partition without
cores 1
memory 640
kernel vmlinuz
initrd without
cmdline console=ttyS0 quiet panic=-1 net.ifnames=0
device 00:04.0
console shown
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    guests = Guests(tmp_path_factory.mktemp("guests"))
    directory = tmp_path_factory.mktemp("machine")
    l2 = guests.initrd("l2", _COUNTS).read_bytes()
    migrate = Path(__file__).with_name("guests") / "migrate.py"
    modules = {"vmlinuz": guests.kernel}
    for name, inside in (("moves", _MOVES), ("without", _WITHOUT)):
        programs = {"inside": inside.encode(), "l2.cpio": l2, "migrate.py": migrate.read_bytes()}
        modules[name] = guests.initrd(name, BLANKET_INIT, blanket=True, programs=programs)
    extra = ["-device", "amd-iommu"]
    for slot in (3, 4):
        extra += ["-drive", f"if=none,id=root{slot},format=raw,readonly=on,file={guests.root}"]
        extra += ["-device", f"virtio-blk-pci,drive=root{slot},addr={slot},{ON_IOMMU}"]
    with machine(directory, _LAYOUT, modules, cores=4, memory_mib=2048, extra=extra) as it:
        yield it


def test_an_l2_runs_on_two_processors(running: Machine) -> None:
    running.await_line(r"\[moves\] L2 counts: \d+ on two processors", timeout_s=2 * BOOT_S)


def test_an_l2_without_nested_paging_runs_beside_it(running: Machine) -> None:
    at = running.await_line(r"\[without\] nested paging: N")
    at = running.await_line(r"\[without\] L2 counts 1 on 1 processors", after=at, timeout_s=2 * BOOT_S)
    running.await_line(r"\[without\] L2 counts 3 on 1 processors", after=at)
    for name in ("moves", "without"):
        cores = requests.statistics(running.ask(Request.STATISTICS, name))
        assert any(core.nested_runs > 0 for core in cores)


def test_an_l2_moves_live_inside_its_l1(running: Machine) -> None:
    end = running.await_line(r"\[moves\] migration completed: \d+ ms, \d+ ms down", timeout_s=2 * BOOT_S)
    print(running.lines[end - 1])
    end = running.await_line(r"\[moves\] L2 went on from \d+ to \d+", after=end)
    found = re.search(r"from (\d+) to (\d+)", running.lines[end - 1])
    assert found is not None and int(found[1]) + 3 <= int(found[2]), "with its memory"
    end = running.await_line(r"\[moves\] its memory was looked through \d+ times", after=end)
    found = re.search(r"through (\d+)", running.lines[end - 1])
    assert found is not None and int(found[1]) >= 2, "what it wrote meanwhile was found by dirty logging"
