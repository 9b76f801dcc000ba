"""A partition whose small, measured loader boots what is on its own disk: replaced by replacing the disk."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from machine import ON_IOMMU, Guests, Machine, compiled, machine

from supercloud.platforms.microhypervisor import requests
from supercloud.platforms.microhypervisor.requests import Request, State

_LOADER = Path(__file__).parents[2] / "loader"
_SYSTEM = """#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
echo "NAME is up on $($b nproc) processors: $($b cat /proc/cmdline)"
i=0
while true; do i=$((i+1)); $b taskset $((1 + i % 2)) $b sleep 1; echo "NAME counts $i"; done
"""
_LAYOUT = """
partition own
cores 2
memory 384
kernel vmlinuz
initrd loader
cmdline console=ttyS0 quiet panic=-1
device 00:03.0
console shown
"""
#: Of a disk; QEMU has its size from when the machine began.
_DISK_BYTES = 64 << 20


@dataclass(frozen=True)
class Site:
    machine: Machine
    disk: Path
    systems: dict[str, bytes]

    def insert(self, name: str) -> None:
        """Replace what is on the disk of the partition, which stands still."""
        with self.disk.open("r+b") as disk:
            disk.write(self.systems[name].ljust(_DISK_BYTES, b"\0"))


def _system(guests: Guests, directory: Path, name: str) -> bytes:
    boot = directory / name / "boot"
    boot.mkdir(parents=True)
    (boot / "vmlinuz").write_bytes(guests.kernel.read_bytes())
    (boot / "initrd").write_bytes(guests.initrd(name, _SYSTEM.replace("NAME", name)).read_bytes())
    (boot / "cmdline").write_text(f"console=ttyS0 quiet system={name}\n")
    made = directory / f"{name}.squashfs"
    subprocess.run(
        ["mksquashfs", str(directory / name), str(made), "-quiet", "-no-progress"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return made.read_bytes()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    guests = Guests(tmp_path_factory.mktemp("guests"))
    directory = tmp_path_factory.mktemp("machine")
    kexec = compiled(_LOADER / "kexec.c", directory / "kexec")
    loader = guests.initrd("loader", (_LOADER / "init").read_text(), blanket=True, programs={"kexec": kexec})
    disk = directory / "disk"
    systems = {name: _system(guests, directory, name) for name in ("first", "second")}
    disk.write_bytes(systems["first"].ljust(_DISK_BYTES, b"\0"))
    extra = ["-device", "amd-iommu", "-drive", f"if=none,id=disk,format=raw,cache=none,file={disk}"]
    extra += ["-device", f"virtio-blk-pci,drive=disk,addr=3,{ON_IOMMU}"]
    modules = {"vmlinuz": guests.kernel, "loader": loader}
    with machine(directory, _LAYOUT, modules, cores=3, memory_mib=768, extra=extra) as it:
        yield Site(it, disk, systems)


def test_it_boots_what_is_on_its_own_disk(site: Site) -> None:
    running = site.machine
    at = running.await_line(r"\[own\] first is up on 2 processors: .*system=first .*tsc_early_khz=\d+")
    running.await_line(r"\[own\] first counts 4", after=at)
    assert running.partition("own").launches == 1


def test_it_is_replaced_by_replacing_its_disk_and_measured_the_same(site: Site) -> None:
    running = site.machine
    before = requests.measurement(running.ask(Request.MEASURE, "own"))
    running.ask(Request.STOP, "own")
    site.insert("second")
    at = len(running.lines)
    running.ask(Request.START, "own")
    at = running.await_line(r"\[own\] second is up on 2 processors", after=at)
    running.await_line(r"\[own\] second counts 4", after=at)
    after = requests.measurement(running.ask(Request.MEASURE, "own"))
    assert (after.digest, after.launches) == (before.digest, before.launches + 1), "of the loader"


def test_a_disk_with_nothing_to_boot_ends_it_alone(site: Site) -> None:
    running = site.machine
    running.ask(Request.STOP, "own")
    with site.disk.open("r+b") as disk:
        disk.write(bytes(1 << 20))
    at = len(running.lines)
    running.ask(Request.START, "own")
    running.await_line(r"\[own\] loader: its disk is none to boot from", after=at)
    running.await_line(r"partition own: stopped: powered off", after=at)
    assert running.partition("own").state is State.STOPPED
