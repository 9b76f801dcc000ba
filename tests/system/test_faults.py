"""A seeded sample of faults on both sides of the commit, on what the demo left up; the observer's own test.

`make faults` runs all of them, also those that need a shell in the blankets.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

import pytest
from conftest import CLIENT, CLOUD, SERVER, Estate
from faults.cells import Cell, sample
from faults.run import left_in_order, run
from faults.system import System

from supercloud.cli.demo.scenario import BLANKETS, IMAGE, NETWORK
from supercloud.cli.demo.witness import Witness
from supercloud.model.errors import SupercloudError

pytestmark = [pytest.mark.system, pytest.mark.timeout(3000)]

SEED = int(os.environ.get("SUPERCLOUD_FAULTS_SEED", "3"))
#: A machine without a disk, which runs its firmware: to QEMU, and so to the observer, a copy like any other.
_SECOND = (
    "qemu-system-x86_64 -daemonize -pidfile /run/second.pid -nodefaults -display none -m 32"
    " -machine q35,accel=tcg -qmp unix:/run/supercloud/qmp/{instance}.observer.sock,server=on,wait=off"
)


@pytest.fixture(scope="module")
def system(estate: Estate) -> Iterator[System]:
    """What the demo's own instances do is not needed here, and costs time."""
    client = estate.client()
    for name in (SERVER, CLIENT):
        with suppress(SupercloudError):
            stopping = client.post(f"/instances/{name}/stop", {"mode": "destroy"}, cloud=CLOUD)
            client.wait(stopping, lambda _phase, _done: None)
    made = System(place=estate.place, cloud=CLOUD, network=NETWORK, image=IMAGE, blankets=dict(BLANKETS))
    with left_in_order(made):
        yield made
    made.forget_subject()


@pytest.mark.parametrize("cell", sample(SEED), ids=lambda cell: cell.name)
def test_after_a_fault_there_is_one_copy_or_none_with_the_reason(system: System, cell: Cell) -> None:
    with left_in_order(system):
        result = run(system, cell)
    assert result.wrong == [], result


def test_a_second_copy_started_on_purpose_is_seen(system: System) -> None:
    """By a root shell in another blanket, past every right: what the observer is there to find."""
    system.ready()
    subject = system.subject()
    extra = replace(system, blankets={"control": BLANKETS["n1"]}, debug_shell=True, memory_mib=1024)
    extra.add_blankets()
    try:
        second = extra.machine("control")
        machines = [second, *map(system.machine, system.blankets)]
        with Witness({machine.id: machine.observer for machine in machines}) as witness:
            assert _copies(witness, subject["id"]) == 1
            second.shell(_SECOND.format(instance=subject["id"]))
            deadline = time.monotonic() + 60
            while _copies(witness, subject["id"]) < 2:
                assert time.monotonic() < deadline, "two copies run, and the observer says nothing"
                time.sleep(0.2)
            assert len(witness.running(subject["id"])) == 2
    finally:
        extra.remove_blanket("control")


def _copies(witness: Witness, instance: str) -> int:
    return max((one.at_least for one in witness.copies() if one.instance == instance), default=0)
