"""A kernel that tries what no partition may, beside a neighbour whose memory keeps its checksum."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from machine import IMAGE, Guests, Machine, machine

from supercloud.platforms.microhypervisor import requests
from supercloud.platforms.microhypervisor.requests import Request, State

_NEIGHBOUR = """#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t devtmpfs dev /dev
$b mkdir -p /memory && $b mount -t tmpfs tmpfs /memory
$b dd if=/dev/urandom of=/memory/data bs=1M count=16 2>/dev/null
sum=$($b sha256sum /memory/data)
i=0
while [ "$($b sha256sum /memory/data)" = "$sum" ]; do i=$((i+1)); echo "memory is as it was, look $i"; done
echo "memory has changed"
while true; do $b sleep 60; done
"""
_LAYOUT = """
partition neighbour
cores 1
memory 256
kernel vmlinuz
initrd neighbour
cmdline console=ttyS0 quiet panic=-1
console shown

partition hostile
cores 1
memory 256
kernel hostile
console shown
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    guests = Guests(tmp_path_factory.mktemp("guests"))
    directory = tmp_path_factory.mktemp("machine")
    modules = {
        "vmlinuz": guests.kernel,
        "neighbour": guests.initrd("neighbour", _NEIGHBOUR),
        "hostile": IMAGE.parent / "guest/hostile",
    }
    with machine(directory, _LAYOUT, modules, cores=3, memory_mib=1024) as it:
        yield it


def test_every_try_is_refused_and_the_last_one_parks_it_alone(running: Machine) -> None:
    running.await_line(r"\[hostile\] begins with clean registers")
    end = running.await_line(r"\[hostile\] \d+ tries, 0 of them not refused", timeout_s=800)
    found = re.search(r"(\d+) tries", running.lines[end - 1])
    assert found is not None
    assert int(found[1]) > 103_000
    (core,) = requests.statistics(running.ask(Request.STATISTICS, "hostile"))
    assert core.nested_runs > 80_000  # the rest of the altered ones were refused before they ran
    assert core.shadow_flushes > 0
    assert core.refused > 0
    end = running.await_line(r"partition hostile: parked: touched an address that is not its own", after=end)
    parked = running.partition("hostile")
    assert (parked.state, running.partition("neighbour").state) == (State.PARKED, State.RUNNING)
    at = running.await_line(r"\[neighbour\] memory is as it was", after=end)
    running.await_line(r"\[neighbour\] memory is as it was", after=at)
    assert not any("has changed" in line or "NOT " in line for line in running.lines)
    assert running.partition("neighbour").launches == 1


def test_who_is_parked_can_be_started_again_and_finds_nothing_in_registers(running: Machine) -> None:
    at = len(running.lines)
    running.ask(Request.START, "hostile")
    running.await_line(r"\[hostile\] begins with clean registers", after=at)
    running.ask(Request.STOP, "hostile")
    running.await_line(r"\[neighbour\] memory is as it was", after=len(running.lines))
