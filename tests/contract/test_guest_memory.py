"""An instance's memory, opened from its blanket: by a real QEMU, in whose memory something was put."""

from __future__ import annotations

import mmap
import os
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from still_qemu import MARK, Qemu, qemu

from supercloud.blanket.domain_xml import domain, domain_name
from supercloud.blanket.guest_memory import allow_huge_pages, open_memory, parts_of, running
from supercloud.blanket.places import Places
from supercloud.model.errors import Unavailable
from supercloud.model.names import GIB, MIB, new_id
from supercloud.ports.agent import Disk, InstanceSpec
from supercloud.ports.hypervisor import VolumeSource
from supercloud.ports.platform import Flavour

pytestmark = pytest.mark.contract
SMALL, LARGE = 64 * MIB, 3 * GIB  # the larger one reaches behind the addresses of PCI


def read(qemu: Qemu, folder: Path, at: int) -> int:
    memory = open_memory(qemu.instance, folder)
    try:
        (part,) = [one for one in memory.parts if one.address <= at < one.address + one.length]
        return int.from_bytes(os.pread(memory.descriptor, 8, part.offset + at - part.address), "little")
    finally:
        memory.close()


@pytest.mark.parametrize(
    ("size", "at"), [(SMALL, 0x10_0000), (LARGE, 0x10_0000), (LARGE, 4 * GIB), (LARGE, 5 * GIB - 8)]
)
def test_what_is_in_a_guests_memory_is_read_where_it_is(tmp_path: Path, size: int, at: int) -> None:
    with qemu(tmp_path, size, at=at) as made:
        assert running(tmp_path) == (made.instance,)
        assert read(made, tmp_path, at) == MARK


def test_one_that_was_started_before_moves_there_and_what_is_new_moves_back(tmp_path: Path) -> None:
    """To a migration both kinds of memory are one: the block has the same name. The domain that libvirt
    starts at the target is the source's, so in a blanket that was upgraded there are both."""
    socket, at = f"unix:{tmp_path}/m", 0x10_0000
    with (
        qemu(tmp_path, SMALL, at=at, shared=False) as old,
        qemu(tmp_path, SMALL, incoming=socket) as new,
    ):
        _migrate(old, socket)
        assert read(new, tmp_path, at) == MARK
        with qemu(tmp_path, SMALL, shared=False, incoming=socket + "2") as back:
            _migrate(new, socket + "2")
            found = back.ask("human-monitor-command", **{"command-line": f"xp /1gx {at:#x}"})
            assert f"{MARK:#x}" in found["text"]


def _migrate(source: Qemu, to: str) -> None:
    source.ask("migrate", uri=to)
    deadline = time.monotonic() + 60
    while (found := source.ask("query-migrate")).get("status") != "completed":
        assert found.get("status") not in {"failed", "cancelled"} and time.monotonic() < deadline, found
        time.sleep(0.01)  # QEMU tells of it to who has the capability; asking is shorter


def test_it_is_read_only_also_by_whoever_the_descriptor_is_handed_to(tmp_path: Path) -> None:
    with qemu(tmp_path, SMALL, at=0) as made:
        memory = open_memory(made.instance, tmp_path)
        try:
            with pytest.raises(OSError):
                os.pwrite(memory.descriptor, b"x", 0)
            with pytest.raises(PermissionError):
                mmap.mmap(memory.descriptor, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE)
            assert os.fstat(memory.descriptor).st_mode & 0o777 == 0o400
            if os.geteuid() == 0:
                assert _opened_anew_by_another(memory.descriptor) == "PermissionError"
        finally:
            memory.close()


def _opened_anew_by_another(descriptor: int) -> str:
    """What comes of it where a process of another user tries."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setuid(65534)
            os.open(f"/proc/self/fd/{descriptor}", os.O_RDWR)
            os.write(writer, b"opened")
        except OSError as error:
            os.write(writer, type(error).__name__.encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    with os.fdopen(reader) as said:
        return said.read()


def test_one_that_was_started_before_cannot_be_looked_at_and_says_so(tmp_path: Path) -> None:
    with qemu(tmp_path, SMALL, at=0, shared=False) as made:
        with pytest.raises(Unavailable, match="cannot be looked at") as refused:
            open_memory(made.instance, tmp_path)
        assert refused.value.hint
    with pytest.raises(Unavailable, match="no QEMU"):
        open_memory(made.instance, tmp_path)  # it has ended, and its file is still there
    (tmp_path / f"{domain_name(made.instance)}.pid").write_text(f"{os.getpid()}\n")
    with pytest.raises(Unavailable, match="no QEMU"):
        open_memory(made.instance, tmp_path)  # another process has its number
    with pytest.raises(Unavailable, match="no QEMU"):
        open_memory(new_id(), tmp_path)


def test_parts_cover_all_memory_once() -> None:
    for size in (SMALL, 0xB000_0000 - MIB, 0xB000_0000, LARGE, 64 * GIB):
        parts = parts_of(size)
        assert sum(one.length for one in parts) == size
        assert [one.offset for one in parts] == [0, *[2 * GIB for _ in parts[1:]]]
        assert all(one.address + one.length <= 0xB000_0000 for one in parts[:1])


@pytest.mark.parametrize("flavour", Flavour)
def test_every_instance_has_its_memory_where_it_can_be_looked_at(flavour: Flavour, tmp_path: Path) -> None:
    spec = InstanceSpec(
        id=new_id(),
        name="web",
        cloud=new_id(),
        vcpus=1,
        memory_mib=64,
        cpu_model="Westmere",
        disks=(Disk(volume=new_id(), size_bytes=1 << 30, boot=True),),
        nics=(),
    )
    source = VolumeSource(volume=spec.disks[0].volume, path=tmp_path, secret=new_id())
    places = Places(run=tmp_path, data=tmp_path)
    xml = domain(spec, sources=lambda _: source, places=places, flavour=flavour)
    backing = ET.fromstring(xml).find("memoryBacking")  # noqa: S314 - our own
    assert backing is not None
    assert [(one.tag, one.attrib) for one in backing] == [
        ("source", {"type": "memfd"}),
        ("access", {"mode": "shared"}),
    ]


def test_huge_pages_are_asked_for_where_there_are_any(tmp_path: Path) -> None:
    switch = tmp_path / "shmem_enabled"
    allow_huge_pages(tmp_path / "absent" / "shmem_enabled")
    allow_huge_pages(switch)
    assert switch.read_text() == "advise"
