"""A micro-hypervisor in a partition of a micro-hypervisor: its own partition's Debian kernel is an L2."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from machine import BOOT_S, IMAGE, Guests, Machine, machine
from wrapped import wrapped

from supercloud.platforms.microhypervisor import requests
from supercloud.platforms.microhypervisor.requests import Request, State

_MEMORY_MIB = 384
_L2 = """#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
echo "L2 is up: $(/bin/busybox uname -r)"
i=0; while [ $i -lt 2000 ]; do i=$((i+1)); done
/bin/busybox sleep 1
echo "L2 has counted to $i and slept"
/bin/busybox sleep 1
/bin/busybox reboot -f
"""
_INNER = b"""
partition l2
cores 1
memory 160
kernel vmlinuz
initrd l2
cmdline console=ttyS0 quiet panic=-1
console shown
"""
_OUTER = f"""
partition inner
cores 2
memory {_MEMORY_MIB}
kernel inner
console shown
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    guests = Guests(tmp_path_factory.mktemp("guests"))
    directory = tmp_path_factory.mktemp("machine")
    modules = {
        "layout": _INNER,
        "vmlinuz": guests.kernel.read_bytes(),
        "l2": guests.initrd("l2", _L2).read_bytes(),
    }
    inner = directory / "inner"
    inner.write_bytes(wrapped(IMAGE, modules, memory_mib=_MEMORY_MIB))
    with machine(directory, _OUTER, {"inner": inner}, cores=3, memory_mib=640) as it:
        yield it


def test_it_starts_as_on_a_machine(running: Machine) -> None:
    at = running.await_line(r"\[inner\] mh: supercloud micro-hypervisor")
    at = running.await_line(r"\[inner\] mh: self-check: \d+ pages, none in two partitions or in L0", after=at)
    at = running.await_line(r"\[inner\] mh: there is no IOMMU, and no device is given away", after=at)
    at = running.await_line(r"\[inner\] mh: there is no TPM", after=at)
    at = running.await_line(r"\[inner\] mh: clock \d{5,} kHz, 1 partitions, 1 cores", after=at)
    running.await_line(r"\[inner\] mh: partition l2: starts, launch 1", after=at)


def test_its_partition_is_an_l2_that_boots_a_debian_kernel(running: Machine) -> None:
    at = running.await_line(r"\[inner\] mh: \[l2\] L2 is up: 6\.1", timeout_s=2 * BOOT_S)
    running.await_line(r"\[inner\] mh: \[l2\] L2 has counted to 2000 and slept", after=at)
    cores = requests.statistics(running.ask(Request.STATISTICS, "inner"))
    assert cores[0].nested_runs == 0, "its monitor core runs no partition"
    assert cores[1].nested_runs > 0 and cores[1].nested_exits > 0 and cores[1].shadow_faults > 0


def test_the_inner_one_restarts_it_and_the_outer_one_is_not_disturbed(running: Machine) -> None:
    at = running.await_line(r"\[inner\] mh: partition l2: restarts: reset")
    at = running.await_line(r"\[inner\] mh: partition l2: starts, launch 2", after=at)
    running.await_line(r"\[inner\] mh: \[l2\] L2 is up: 6\.1", after=at, timeout_s=2 * BOOT_S)
    inner = running.partition("inner")
    assert (inner.state, inner.launches) == (State.RUNNING, 1)
