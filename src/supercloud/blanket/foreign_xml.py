"""What tools made of a domain, and whether an instance can be made of that. Read only; nothing is probed."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from supercloud.model.names import MIB, MemoryMib, Vcpus

_KIB: Final = 1024
#: Devices that an instance has otherwise, or that hold nothing of the machine: its tools' defaults, mostly.
_REPLACED: Final = frozenset(
    {"audio", "channel", "console", "controller", "emulator", "graphics", "input", "interface", "memballoon"}
    | {"panic", "redirdev", "rng", "serial", "sound", "video", "watchdog"}
)
_FORMS: Final = frozenset({"raw", "qcow2"})
_QEMU_LINE: Final = "{http://libvirt.org/schemas/domain/qemu/1.0}commandline"


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignDisk:
    """Where it is: a file, or a volume of a pool that libvirt knows."""

    target: str
    form: str
    path: str | None = None
    pool: str | None = None
    volume: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """`disk` is there where nothing is an obstacle."""

    vcpus: int
    memory_mib: int
    disk: ForeignDisk | None
    obstacle: str


def described(xml: str) -> Described:
    """Of a domain as libvirtd describes it."""
    root = ET.fromstring(xml)  # noqa: S314 - libvirtd wrote it, which is as trusted as we are
    memory_mib = _number(root.findtext("memory")) * _KIB // MIB
    vcpus = _number(root.findtext("vcpu"))
    disks = [one for one in root.iterfind("devices/disk") if one.get("device", "disk") in {"disk", "lun"}]
    found = _disk(disks[0]) if len(disks) == 1 else f"it has {len(disks)} disks, and has to have one"
    reasons = [*_machine(root, vcpus, memory_mib), *([found] if isinstance(found, str) else [])]
    return Described(
        vcpus=vcpus,
        memory_mib=memory_mib,
        disk=None if isinstance(found, str) else found,
        obstacle="; ".join(reasons),
    )


def _machine(root: ET.Element, vcpus: int, memory_mib: int) -> Iterator[str]:
    system = root.find("os")
    kind = root.find("os/type")
    if kind is None or kind.text != "hvm" or kind.get("arch", "x86_64") != "x86_64":
        yield "it is no x86-64 machine"
    if system is not None and (system.get("firmware") == "efi" or system.find("loader") is not None):
        yield "it boots by another firmware than a BIOS"
    if system is not None and system.find("kernel") is not None:
        yield "it boots a kernel that is not on its disk"
    if root.find(_QEMU_LINE) is not None:
        yield "it has arguments of QEMU's own"
    if not _is(Vcpus, vcpus):
        yield f"no instance has {vcpus} processors"
    if not _is(MemoryMib, memory_mib):
        yield f"no instance has {memory_mib} MiB of memory"
    devices = {one.tag for one in root.iterfind("devices/*")} - _REPLACED - {"disk"}
    if devices:
        yield f"it has a device that no instance has: {', '.join(sorted(devices))}"


def _number(text: str | None) -> int:
    """What is none is nothing that an instance has."""
    return int(text) if text is not None and text.isdecimal() else 0


def _is(kind: Any, value: int) -> bool:
    try:
        TypeAdapter(kind).validate_python(value)
    except ValidationError:
        return False
    return True


def _disk(element: ET.Element) -> ForeignDisk | str:
    """The disk, or why it is none that can be taken."""
    driver, source, target = element.find("driver"), element.find("source"), element.find("target")
    if element.get("device") == "lun" or source is None or target is None:
        return "its disk is no file"
    form = driver.get("type", "") if driver is not None else ""
    if (why := _not_taken(element, source, target, form)) is not None:
        return why
    place = {"path": source.get("file")} if element.get("type") == "file" else {}
    if element.get("type") == "volume":
        place = {"pool": source.get("pool"), "volume": source.get("volume")}
    if not place or not all(place.values()):
        return "its disk is no file"
    return ForeignDisk(target=target.get("dev", ""), form=form, **place)


def _not_taken(element: ET.Element, source: ET.Element, target: ET.Element, form: str) -> str | None:
    if form not in _FORMS:
        return f"the format of its disk is not said to be {' or '.join(sorted(_FORMS))}"
    if (bus := target.get("bus")) != "virtio":
        return f"its disk is on bus {bus}, and an instance's is on virtio"
    if source.find("encryption") is not None or element.find("encryption") is not None:
        return "its disk is encrypted"
    odd = [tag for tag in ("readonly", "shareable", "transient") if element.find(tag) is not None]
    return f"its disk is {odd[0]}" if odd else None
