"""A blanket's own root from a disk of its partition's, a network, an L2 by its QEMU; DMA is confined."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from machine import BLANKET_INIT, BOOT_S, ON_IOMMU, Guests, Machine, compiled, machine

_INSIDE = """export PATH=/usr/sbin:/usr/bin:/sbin:/bin
echo "blanket's root is mounted: $(. /etc/os-release; echo $PRETTY_NAME)"
echo "written by L1" | dd of=/dev/vdb bs=512 conv=sync,fsync 2>/dev/null && echo "disk was written"
ip link set eth0 up && ip addr add 10.0.2.15/24 dev eth0
busybox ping -c 1 -w 20 10.0.2.2 >/dev/null && echo "network answers"
echo "clock says $(cat /sys/class/rtc/rtc0/since_epoch)"
modprobe kvm-amd nested=1 && echo "kvm is there: $(ls /dev/kvm)"
qemu-system-x86_64 -nodefaults -no-user-config -display none -M q35 -accel kvm -cpu host -m 192 -no-reboot \\
  -kernel /vmlinuz -initrd /l2.cpio -append 'console=ttyS0 quiet panic=-1' -serial stdio </dev/null 2>&1 | cat
echo "L2's QEMU has ended"
grep -E 'virtio.*(req|input|output)' /proc/interrupts
busybox poweroff -f
"""
_L2 = """#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
echo "L2 is up: $(/bin/busybox uname -r)"
i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done
echo "L2 has counted to $i"
/bin/busybox reboot -f
"""
_DMA = """#!/bin/busybox sh
export PATH=/bin
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev
device=/sys/bus/pci/devices/0000:00:05.0
echo "sees $($b ls /sys/bus/pci/devices | $b tr '\\n' ' ')"
echo 1 > $device/enable
/program/master $device/config
a=0x10000000
list=""
while [ $((a)) -lt $((0x40000000)) ]; do list="$list $a"; a=$((a + 0x1000000)); done
/program/edu $device/resource0 0x7ff000000 $list
$b poweroff -f
"""
_LAYOUT = """
partition blanket
cores 1
memory 768
kernel vmlinuz
initrd blanket
cmdline console=ttyS0 quiet panic=-1 net.ifnames=0
device 00:03.0
device 00:04.0
device 00:06.0
console shown

partition attacker
cores 1
memory 256
kernel vmlinuz
initrd attacker
cmdline console=ttyS0 quiet panic=-1
device 00:05.0
console shown
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    guests = Guests(tmp_path_factory.mktemp("guests"))
    directory = tmp_path_factory.mktemp("machine")
    programs = {
        name: compiled(Path(__file__).with_name("guests") / f"{name}.c", directory / name)
        for name in ("edu", "master")
    }
    l2 = guests.initrd("l2", _L2).read_bytes()
    modules = {
        "vmlinuz": guests.kernel,
        "blanket": guests.initrd(
            "blanket", BLANKET_INIT, blanket=True, programs={"inside": _INSIDE.encode(), "l2.cpio": l2}
        ),
        "attacker": guests.initrd("attacker", _DMA, programs=programs),
    }
    disk = directory / "disk"
    disk.write_bytes(bytes(1 << 20))
    extra = ["-device", "amd-iommu"]
    extra += ["-drive", f"if=none,id=root,format=raw,readonly=on,file={guests.root}"]
    extra += ["-device", f"virtio-blk-pci,drive=root,addr=3,{ON_IOMMU}"]
    extra += ["-netdev", "user,id=net", "-device", f"virtio-net-pci,netdev=net,addr=4,{ON_IOMMU}"]
    extra += ["-device", "edu,addr=5,dma_mask=0xffffffffff"]
    extra += [
        "-drive",
        f"if=none,id=disk,format=raw,file={disk}",
        "-device",
        f"virtio-blk-pci,drive=disk,addr=6,{ON_IOMMU}",
    ]
    with machine(directory, _LAYOUT, modules, cores=3, memory_mib=1536, extra=extra) as it:
        yield it


def test_devices_are_confined_before_anything_runs(running: Machine) -> None:
    at = running.await_line("devices are confined by the IOMMU")
    running.await_line("partition blanket: starts", after=at)


def test_a_partition_sees_its_own_devices_and_no_other(running: Machine) -> None:
    running.await_line(r"\[attacker\] sees 0000:00:00.0 0000:00:05.0 *$")


def test_a_device_reaches_its_partitions_memory_and_no_other(running: Machine) -> None:
    running.await_line(r"\[attacker\] own memory by DMA: arrived")
    running.await_line(r"\[attacker\] foreign memory by DMA: 0 of 49 arrived")


def test_a_blankets_root_and_its_network_by_devices_of_its_own(running: Machine) -> None:
    at = running.await_line(r"\[blanket\] blanket's root is mounted: Debian GNU/Linux 12")
    at = running.await_line(r"\[blanket\] disk was written", after=at)
    at = running.await_line(r"\[blanket\] network answers", after=at)
    running.await_line(r"\[blanket\] clock says \d{10}", after=at)


def test_its_qemu_boots_a_debian_kernel_under_its_kvm(running: Machine) -> None:
    at = running.await_line(r"\[blanket\] kvm is there: /dev/kvm")
    at = running.await_line(r"\[blanket\] L2 is up: 6\.1", after=at, timeout_s=2 * BOOT_S)
    at = running.await_line(r"\[blanket\] L2 has counted to 20000", after=at)
    running.await_line(r"\[blanket\] L2's QEMU has ended", after=at)
