"""The attackers' own tools of `demo attack`: what they make, and what they leave alone."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import socket
import struct
import threading
from typing import get_args

import pytest
from toy_kernel import STRUCTS, btf

from supercloud.cli.commands.demo import AttackName
from supercloud.cli.demo.attackers import brings, hide, hole, text_of, worm
from supercloud.cli.demo.attacks import ATTACKS

pytestmark = pytest.mark.unit
OFFSETS = {"pid": 4, "tasks": 8, "pid_links": 24}


def test_each_attack_can_be_asked_for() -> None:
    assert get_args(AttackName) == tuple(ATTACKS)


def test_a_guest_gets_its_tool_as_cloud_init_has_it() -> None:
    first, _, said = brings("scan.sh", "10.77.0.0/24").partition("\n")
    assert first == "#cloud-config"
    config = json.loads(said)
    assert config["runcmd"] == [["/root/scan.sh", "10.77.0.0/24"]]
    assert config["write_files"][0]["content"].startswith("#!/bin/bash")


# ---------------------------------------------------------------- a process that hides


def test_offsets_are_what_the_kernels_types_say() -> None:
    found = hide.offsets_of(btf(), b"task_struct", [b"tasks", b"pid", b"pid_links"])
    assert found == {name: STRUCTS["task_struct"][1][name][0] for name in ("tasks", "pid", "pid_links")}
    with pytest.raises(ValueError, match="nothing of that"):
        hide.offsets_of(btf(), b"nothing", [])


class Tasks:
    """Some, as a kernel links them: each with a pid, a place in the list, and two links to its pid."""

    def __init__(self, pids: list[int]) -> None:
        self.memory = ctypes.create_string_buffer(4096)
        self.base = ctypes.addressof(self.memory)
        self.pids = pids
        for number, pid in enumerate(pids):
            after, before = ((number + step) % len(pids) for step in (1, -1))
            struct.pack_into("<iiQQ", self.memory, 128 * number, 0, pid, self.link(after), self.link(before))
            for kind in (0, 1):
                self.put(self.head(number, kind), self.node(number, kind))
                self.put(self.node(number, kind) + 8, self.head(number, kind))

    def link(self, number: int) -> int:
        return self.base + 128 * number + OFFSETS["tasks"]

    def node(self, number: int, kind: int) -> int:
        return self.base + 128 * number + OFFSETS["pid_links"] + 16 * kind

    def head(self, number: int, kind: int) -> int:
        return self.base + 128 * number + 96 + 8 * kind

    def put(self, address: int, value: int) -> None:
        struct.pack_into("<Q", self.memory, address - self.base, value)

    def get(self, address: int) -> int:
        found: int = struct.unpack_from("<Q", self.memory, address - self.base)[0]
        return found


def run(code: bytes) -> int:
    """What the processor makes of it, which it is the same for in a kernel and here."""
    room = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    room.write(code)
    function = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(room)))
    return int(function())


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="it is code for x86-64")
def test_the_process_is_taken_off_its_pid_and_no_other_is() -> None:
    tasks = Tasks([0, 1, 77, 99])
    assert run(hide.code(tasks.base, 77, OFFSETS)) == -hide.EPERM
    for number, pid in enumerate(tasks.pids):
        for kind in (0, 1):
            node, head = tasks.node(number, kind), tasks.head(number, kind)
            if pid == 77:
                assert (tasks.get(head), tasks.get(node), tasks.get(node + 8)) == (0, 0, node)
            else:
                assert (tasks.get(head), tasks.get(node + 8)) == (node, head)
    assert tasks.get(tasks.link(1)) == tasks.link(2), "it is still in the list of tasks: it has to run"


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="it is code for x86-64")
def test_a_process_that_there_is_not_is_said() -> None:
    tasks = Tasks([0, 1])
    before = bytes(tasks.memory)
    assert run(hide.code(tasks.base, 77, OFFSETS)) == -hide.ESRCH
    assert bytes(tasks.memory) == before


def test_a_module_is_made_of_what_one_of_debians_says() -> None:
    """Of one that it made itself, as a real one has the same parts."""

    class Given:
        said = (b"vermagic=6.1.0-57-cloud-amd64 SMP", b"retpoline=Y")
        versions = (struct.pack("<Q", 0x1234) + b"module_layout").ljust(64, b"\0")
        size, name_at, init_at = 896, 24, 312

    made = hide.module(b"\xc3", Given())  # type: ignore[arg-type]
    assert made[:4] == b"\x7fELF"
    with pytest.raises(ValueError, match="begin and end"):
        hide.Debians(made)  # it has nothing that is called as it ends
    assert b"module_layout" in made and b"vermagic=6.1.0-57-cloud-amd64 SMP\0" in made


# ---------------------------------------------------------------- a worm


def test_it_goes_upwards_from_its_own_address_and_to_every_other_one_once() -> None:
    found = worm.order("10.77.0.5")
    assert found[:2] == ["10.77.0.6", "10.77.0.7"] and found[-1] == "10.77.0.4"
    assert sorted(found) == sorted({f"10.77.0.{last}" for last in range(1, 255)} - {"10.77.0.5"})


def test_a_copy_says_how_far_it_has_come() -> None:
    head, _, body = worm.copy(text_of("worm.py")).partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    assert body.decode().count("HOPS = 1  # counted") == 1


def test_a_hole_takes_what_a_worm_sends_and_nothing_else() -> None:
    for sent, taken in (
        (worm.copy("HOPS = 0  # x"), "HOPS = 1  # x"),
        (b"GET / HTTP/1.0\r\n\r\n", None),
        (b"POST /update HTTP/1.0\r\nContent-Length: 99999999\r\n\r\n", None),
        (b"nothing", None),
    ):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.sendall(sent)
            ours.shutdown(socket.SHUT_WR)
            assert hole.asked(theirs) == taken


def test_it_finds_a_hole_and_comes_in(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.9", 0)) as prey:
        port = prey.getsockname()[1]
        monkeypatch.setattr(worm, "PORT", port)
        heard: list[str | None] = []

        def serve() -> None:
            line, _ = prey.accept()
            with line:
                heard.append(hole.asked(line))
                line.sendall(b"HTTP/1.0 200 OK\r\n\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        assert worm.spread("127.0.0.2", "HOPS = 0  # x") == ["127.0.0.9"]
        thread.join(10)
    assert heard == ["HOPS = 1  # x"]
