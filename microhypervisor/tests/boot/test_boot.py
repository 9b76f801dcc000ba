"""Real kernels in partitions: two at once, several cores, a KVM guest; started and stopped from outside."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from machine import Guests, Machine, compiled, machine

from supercloud.model.errors import Failed
from supercloud.platforms.microhypervisor import requests
from supercloud.platforms.microhypervisor.requests import Request, State

_BEGIN = """#!/bin/busybox sh
export PATH=/bin
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev
"""
#: Says so as long as it lives; two processors take turns, so that interrupts between them are needed.
_COUNTS = f"""{_BEGIN}
echo "counts on $($b nproc) processors"
i=0
while true; do i=$((i+1)); $b taskset $((1 + i % 2)) $b sleep 1; echo "count $i"; done
"""
_NESTS = f"""{_BEGIN}
for m in /modules/*.ko; do $b insmod $m; done
/program/vmm
echo "its user ended with $?"
$b reboot -f
"""
_LAYOUT = """
partition counts
cores 2
memory 256
kernel vmlinuz
initrd counts
cmdline console=ttyS0 quiet panic=-1
console shown

partition nests
cores 1
memory 256
kernel vmlinuz
initrd nests
cmdline console=ttyS0 quiet panic=-1
console shown

partition hidden
cores 1
memory 128
kernel vmlinuz
cmdline console=ttyS0 quiet panic=5
"""


@pytest.fixture(scope="module")
def guests(tmp_path_factory: pytest.TempPathFactory) -> Guests:
    return Guests(tmp_path_factory.mktemp("guests"))


@pytest.fixture(scope="module")
def running(guests: Guests, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    directory = tmp_path_factory.mktemp("machine")
    vmm = compiled(Path(__file__).with_name("guests") / "vmm.c", directory / "vmm")
    modules = {
        "vmlinuz": guests.kernel,
        "counts": guests.initrd("counts", _COUNTS),
        "nests": guests.initrd("nests", _NESTS, kvm=True, programs={"vmm": vmm}),
    }
    with machine(directory, _LAYOUT, modules, cores=5, memory_mib=1024) as it:
        yield it


def _counted(running: Machine) -> int:
    return max(
        (int(found[1]) for line in running.lines if (found := re.search(r"\[counts\] count (\d+)", line))),
        default=0,
    )


def test_it_proves_that_no_page_is_shared(running: Machine) -> None:
    running.await_line(r"self-check: \d+ pages, none in two partitions or in L0")


def test_an_unmodified_kernel_runs_on_two_cores(running: Machine) -> None:
    at = running.await_line(r"\[counts\] counts on 2 processors")
    running.await_line(r"\[counts\] count 4", after=at)


def test_unmodified_kvm_runs_a_guest_and_the_partition_restarts_by_itself(running: Machine) -> None:
    at = running.await_line(r"\[nests\] L2 says 2048")  # 1 + 2 + ... + 4096, in 16 bits
    at = running.await_line(r"\[nests\] L2 halted", after=at)
    at = running.await_line(r"\[nests\] its user ended with 0", after=at)
    at = running.await_line(r"partition nests: restarts: reset", after=at)
    at = running.await_line(r"partition nests: starts, launch 2", after=at)
    running.await_line(r"\[nests\] L2 says 2048", after=at)
    deadline = time.monotonic() + 120
    while not _has_nested(running):  # what is counted begins anew with each launch
        assert time.monotonic() < deadline


def _has_nested(running: Machine) -> bool:
    (core,) = requests.statistics(running.ask(Request.STATISTICS, "nests"))
    return core.nested_runs > 0 and core.nested_exits > 0 and core.shadow_faults > 0


def test_a_partition_without_a_root_is_restarted_and_disturbs_nobody(running: Machine) -> None:
    """Its kernel panics, and resets by what the tables told it; the others count on."""
    running.await_line(r"partition hidden: starts, launch 2")
    before = _counted(running)
    running.await_line(rf"\[counts\] count {before + 2}")


def test_stop_and_start_by_the_channel(running: Machine) -> None:
    running.ask(Request.STOP, "nests")
    stopped = running.partition("nests")
    assert (stopped.state, stopped.reason) == (State.STOPPED, "stopped by the admin")
    before = _counted(running)
    running.await_line(rf"\[counts\] count {before + 2}")
    running.ask(Request.START, "nests")
    with pytest.raises(Failed, match="it runs already"):
        running.ask(Request.START, "counts")
    started = running.partition("nests")
    assert started.launches == stopped.launches + 1
    assert requests.measurement(running.ask(Request.MEASURE, "nests")).launches == started.launches


def test_the_same_is_measured_the_same(running: Machine) -> None:
    before = requests.measurement(running.ask(Request.MEASURE, "counts"))
    at = len(running.lines)
    running.ask(Request.RESTART, "counts")
    running.await_line(r"\[counts\] count 1$", after=at)
    after = requests.measurement(running.ask(Request.MEASURE, "counts"))
    assert (after.digest, after.launches) == (before.digest, before.launches + 1)
    assert not after.attested
    assert after.digest != requests.measurement(running.ask(Request.MEASURE, "nests")).digest


def test_only_consoles_that_are_shown_are_given(running: Machine) -> None:
    part = requests.console(running.ask(Request.CONSOLE, "counts", 0))
    assert b"count" in part.text
    with pytest.raises(Failed, match="not shown"):
        running.ask(Request.CONSOLE, "hidden", 0)
    assert not any("[hidden]" in line for line in running.lines)


def test_noise_on_the_channel_harms_nothing(running: Machine) -> None:
    noise = bytes((i * 37 + i // 7) % 256 for i in range(20000)) + b"MH\x01" * 100
    frame = requests.ask(Request.LIST, 4242)
    reply = running.exchange(noise + bytes(1036) + frame.encode())
    assert len(requests.partitions(requests.accepted(frame, reply))) == 3
