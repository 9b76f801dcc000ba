"""A real kernel, looked into from outside: busy and left alone, and with what an attacker would have done.

What a rootkit in the guest does to its kernel's memory is done here from outside, through the same memory:
there is no compiler in the guest, and to the one who looks it is the same bytes. One test has a real one, in
an ordinary Debian and made there on the spot.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from supercloud.agent.guests import Eyes, Rounds
from supercloud.agent.looker import Guest
from supercloud.blanket.guest_memory import open_memory
from supercloud.blanket.seed import build as build_seed
from supercloud.cli.bench.plain_guest import PlainGuest, emulated, plain_guest
from supercloud.cli.demo.attackers import brings
from supercloud.cli.demo.traces import Hidden, marked
from supercloud.images.guest import build_guest
from supercloud.model.errors import Unavailable
from supercloud.model.names import new_id
from supercloud.ports.agent import InstanceSpec
from supercloud.security.detectors.guests import AGAIN_S
from supercloud.security.introspection.kernel import Kernel
from supercloud.security.introspection.look import Looker
from supercloud.security.introspection.memory import Physical
from supercloud.security.introspection.tasks import Task, Tasks

pytestmark = pytest.mark.system
#: Processes that begin and end all the time, one that only sleeps, and one that listens.
BUSY = (
    "($b nc -l -p 8080 </dev/ttyS0 >/dev/null &); ($b sleep 100000 &);"
    " (while :; do $b true; done) & (while :; do $b ls /proc >/dev/null; done) & $b sleep 1; echo ready; wait"
)
PASSES = 25


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlainGuest]:
    with plain_guest(tmp_path_factory.mktemp("pids"), BUSY, processors=2) as made:
        made.wait_for("ready")
        threading.Thread(target=lambda: list(made.lines()), daemon=True).start()
        yield made


class Attacker:
    """Who writes into the guest's memory, and knows its kernel: what `root` in the guest can do as well."""

    def __init__(self, guest: PlainGuest) -> None:
        found = open_memory(guest.instance, guest.folder)
        spans = found.parts
        reader = Guest(found.descriptor, spans)
        reader.looker.look()
        assert reader.looker._kernel is not None
        self.kernel: Kernel = reader.looker._kernel
        folder = Path(f"/proc/{guest.process.pid}/fd")
        (link,) = [one for one in folder.iterdir() if "memory-backend-memfd" in str(one.readlink())]
        self._writable = os.open(link, os.O_RDWR)

    def put(self, address: int, value: int) -> None:
        self.kernel.memory.begin()
        os.pwrite(self._writable, struct.pack("<Q", value), self.kernel.memory.translate(address))

    def u64(self, address: int) -> int:
        self.kernel.memory.begin()
        return self.kernel.memory.u64(address)

    def sleeper(self) -> Task:
        """The process that sleeps, for whose name all are busybox: begun by the first process, asleep."""
        tasks = Tasks(self.kernel)
        state = self.kernel.types.offset("task_struct.se.sum_exec_runtime")
        own = [one for one in tasks.listed().values() if one.parent == 1 and one.name == "busybox"]
        return min(own, key=lambda one: self.u64(one.address + state))

    @contextmanager
    def unlinked(self, task: Task) -> Iterator[None]:
        """Out of the list of tasks, and its own links lead to itself, so that it can end."""
        at = task.address + self.kernel.types.offset("task_struct.tasks")
        after, before = self.u64(at), self.u64(at + 8)
        for address, value in ((before, after), (after + 8, before), (at, at), (at + 8, at)):
            self.put(address, value)
        try:
            yield
        finally:
            after = self.u64(before)  # whoever is there now
            for address, value in ((at, after), (at + 8, before), (after + 8, at), (before, at)):
                self.put(address, value)

    @contextmanager
    def written(self, address: int, value: int) -> Iterator[None]:
        was = self.u64(address)
        self.put(address, value)
        try:
            yield
        finally:
            self.put(address, was)


class Told:
    """What the detector says."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def tell(self, events: list[dict[str, Any]]) -> None:
        self.events += events

    def rules(self) -> list[str]:
        return [one["finding_info"]["analytic"]["uid"] for one in self.events]


def looked(guest: PlainGuest, times: int, act: Callable[[int], None] = lambda _: None) -> Told:
    """By the detector's own process, after `act` with the number of each look."""

    async def work() -> Told:
        told, eyes = Told(), Eyes()
        rounds = Rounds(eyes, told, guest.folder)
        assert await rounds.once() == 0  # it sees what runs
        try:
            for number in range(times):
                act(number)
                async with asyncio.timeout(60):
                    while not await rounds.once():
                        pass  # the guest's processors have not run since
            return told
        finally:
            await eyes.close()

    return asyncio.run(work())


def test_a_busy_guest_that_is_left_alone_gives_no_finding(guest: PlainGuest) -> None:
    assert looked(guest, PASSES).events == []


def test_whatever_is_read_of_its_memory_a_look_ends(guest: PlainGuest) -> None:
    """One read of some hundreds is of something else: what it says is wrong in a place that a look needs."""
    found, chance = open_memory(guest.instance, guest.folder), random.Random(7)  # noqa: S311 - replayed
    spans = found.parts
    ended: Counter[str] = Counter()

    def read(offset: int, length: int) -> bytes:
        data = bytearray(os.pread(found.descriptor, length, offset))
        if ended and chance.random() < 0.003:
            data[chance.randrange(length)] ^= 1 << chance.randrange(8)
        return bytes(data)

    looker = Looker(Physical(spans, read), lambda: [(0, found.size)], sleep=lambda _: None)
    for _ in range(30):
        try:
            ended["clean" if looker.look().clean else "wrong"] += 1
        except Unavailable:
            ended["cannot"] += 1
    assert ended.total() == 30 and ended["cannot"] and ended["clean"], ended


def test_a_process_that_is_unlinked_from_the_list_of_tasks_is_found(guest: PlainGuest) -> None:
    attacker = Attacker(guest)
    victim = attacker.sleeper()
    with attacker.unlinked(victim):
        told = looked(guest, 2)
    assert told.rules() == ["hidden-process"]  # and not again within a minute
    assert AGAIN_S >= 60
    (event,) = told.events
    assert event["resources"] == [{"uid": guest.instance}]
    data = event["evidences"][0]["data"]
    assert (data["pid"], data["name"], data["missing"]) == (victim.pid, "busybox", "the list of tasks")
    assert data["release"] and f"{victim.pid} busybox" not in data["processes"] and data["processes"]
    assert "tcp :::8080" in data["listens"]
    assert looked(guest, 2).events == []  # it is back


def test_a_system_call_that_leads_elsewhere_is_found(guest: PlainGuest) -> None:
    attacker = Attacker(guest)
    symbols = attacker.kernel.symbols
    unused = 180  # nfsservctl, which no kernel has had for years
    elsewhere = symbols["_stext"] + 0x1230
    with attacker.written(symbols["sys_call_table"] + 8 * unused, elsewhere):
        told = looked(guest, 1)
    assert told.rules() == ["hooked-system-call"]
    data = told.events[0]["evidences"][0]["data"]
    assert (data["system_call"], data["address"]) == (unused, hex(elsewhere))


def test_changed_code_is_found_once_it_is_changed_after_the_first_look(guest: PlainGuest) -> None:
    attacker = Attacker(guest)
    address = attacker.kernel.symbols["__x64_sys_reboot"] + 8  # behind where it may be traced
    was = attacker.u64(address)

    def act(number: int) -> None:
        if number == 1:
            attacker.put(address, was ^ 0xFF << 40)

    try:
        told = looked(guest, 2, act)
    finally:
        attacker.put(address, was)
    assert told.rules() == ["changed-kernel-text"]
    data = told.events[0]["evidences"][0]["data"]
    assert data["changed"] == 1 and int(data["pages"][0]["address"], 16) <= address
    assert json.dumps(told.events)  # whatever it is, it can be sent


@contextmanager
def debian(folder: Path, user_data: str) -> Iterator[PlainGuest]:
    """The demo's guest, with user data as an instance gets it."""
    spec = InstanceSpec(
        id=new_id(), name="hideout", cloud=new_id(), vcpus=1, memory_mib=256, cpu_model="max", disks=()
    )
    seed = folder / "seed.iso"
    seed.write_bytes(build_seed(spec, user_data.encode()))
    disk = build_guest() / "guest.qcow2"
    boots = (
        *("-drive", f"file={disk},format=qcow2,if=virtio,snapshot=on"),
        *("-drive", f"file={seed},format=raw,if=virtio,readonly=on"),
    )
    with emulated(folder, boots, memory_mib=256, processors=1) as guest:
        yield guest


def test_a_process_that_hides_itself_by_a_module_in_an_ordinary_debian_is_found(tmp_path: Path) -> None:
    """Nothing is left of the module, and nothing in the guest shows the process any more."""
    with debian(tmp_path, brings("hide.py")) as guest:
        hidden = next(one for line in guest.lines() for one in marked(line, "demo-hidden", Hidden))
        assert hidden.problem == "" and not hidden.shown
        rest: list[str] = []
        threading.Thread(target=lambda: rest.extend(guest.lines()), daemon=True).start()
        told = looked(guest, 2)
    assert told.rules() == ["hidden-process"], told.events
    data = told.events[0]["evidences"][0]["data"]
    assert (data["pid"], data["name"], data["missing"]) == (hidden.pid, "worker", "the tree of pids")
    said = marked("\n".join(rest), "demo-hidden", Hidden)
    assert not any(one.shown for one in said)
    assert not said or said[-1].worked > hidden.worked, "it goes on working"
