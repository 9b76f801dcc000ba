"""A machine as libvirt's domain XML: the very image that this blanket booted, by direct kernel boot.

Its devices are where those of a blanket on the `qemu` platform are: the image knows them by their order.
"""

from __future__ import annotations

import os
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Final

from supercloud.blanket.domain_xml import sub, sub_text
from supercloud.blanket.machines.home import Home, Record
from supercloud.blanket.machines.network import Way
from supercloud.model.names import Digest, Id

#: Not an instance's: whoever lists, pauses, moves or fences those does not see it.
PREFIX: Final = "scm-"
_BIRTH_NAME: Final = "opt/supercloud/birth"
_OBSERVER: Final = "supercloud.observer"


def machine_domain(
    record: Record, home: Home, files: dict[str, Path], way: Way, *, log: Path, processors: int | None = None
) -> str:
    """`files`: paths of its image's parts, by their names in MachineImage.

    The processor is this blanket's own, as far as it can be had, with what lets it run instances. It has no
    more of them than there are: two that share one would only take turns at waiting for each other.
    """
    wanted = record.wanted
    root = ET.Element("domain", type="kvm")
    sub_text(root, "name", PREFIX + wanted.machine)
    sub_text(root, "uuid", wanted.machine)
    sub_text(root, "memory", str(wanted.memory_mib), unit="MiB")
    vcpus = min(wanted.vcpus, processors or os.cpu_count() or 1)
    sub_text(root, "vcpu", str(vcpus), placement="static")
    firmware = sub(root, "sysinfo", type="fwcfg")
    sub(firmware, "entry", name=_BIRTH_NAME, file=str(home.birth))  # a file: argv is for everybody to read
    system = sub(root, "os")
    sub_text(system, "type", "hvm", arch="x86_64", machine="q35")
    sub_text(system, "kernel", str(files["kernel"]))
    sub_text(system, "initrd", str(files["initrd"]))
    sub_text(system, "cmdline", f"{wanted.image.cmdline} {way.argument}")
    features = sub(root, "features")
    sub(features, "acpi")
    sub(features, "apic")
    sub(root, "cpu", mode="host-passthrough", check="none", migratable="off")
    sub(root, "clock", offset="utc")
    for event, action in (("poweroff", "destroy"), ("reboot", "restart"), ("crash", "destroy")):
        sub_text(root, f"on_{event}", action)
    _devices(root, record, home, files, way, log)
    return ET.tostring(root, encoding="unicode")


def file_path(folder: Path, digest: Digest) -> Path:
    return folder / digest.removeprefix("sha256:")


def machine_of(name: str) -> Id | None:
    return name.removeprefix(PREFIX) if name.startswith(PREFIX) else None


def _devices(  # noqa: PLR0917 - what a machine is made of
    root: ET.Element, record: Record, home: Home, files: dict[str, Path], way: Way, log: Path
) -> None:
    devices = sub(root, "devices")
    sub(devices, "controller", type="pci", model="pcie-root")
    sub(devices, "controller", type="usb", model="none")
    for at, (target, path) in enumerate((("vda", files["root"]), ("vdb", files["bundle"]))):
        _at(_shared(devices, path, target), 2 + at)
    disk = sub(devices, "disk", type="file", device="disk")
    sub(disk, "driver", name="qemu", type="qcow2", cache="none", discard="unmap", detect_zeroes="unmap")
    sub(disk, "source", file=str(home.disk))
    sub(disk, "backingStore")
    sub(disk, "target", dev="vdc", bus="virtio")
    _at(disk, 4)
    nic = sub(devices, "interface", type="ethernet")
    sub(nic, "mac", address=way.mac)
    sub(nic, "target", dev=way.device, managed="no")
    sub(nic, "model", type="virtio")
    _at(nic, 5)
    serial = sub(devices, "serial", type="pty")
    sub(serial, "log", file=str(log), append="on")
    sub(serial, "target", port="0")
    _at(sub(devices, "controller", type="virtio-serial", index="0"), 6)
    channel = sub(devices, "channel", type="unix")
    sub(channel, "source", mode="bind")
    sub(channel, "target", type="virtio", name=_OBSERVER)
    sub(devices, "memballoon", model="none")
    rng = sub(devices, "rng", model="virtio")
    sub_text(rng, "backend", "/dev/urandom", model="random")
    _at(rng, 7)


def _shared(devices: ET.Element, path: Path, target: str) -> ET.Element:
    """A part of the image, which several machines have open: its owner stays who it is."""
    disk = sub(devices, "disk", type="file", device="disk")
    sub(disk, "driver", name="qemu", type="raw")
    source = sub(disk, "source", file=str(path))
    sub(source, "seclabel", model="dac", relabel="no")
    sub(disk, "backingStore")
    sub(disk, "target", dev=target, bus="virtio")
    sub(disk, "readonly")
    return disk


def _at(device: ET.Element, slot: int) -> None:
    sub(device, "address", type="pci", domain="0x0000", bus="0x00", slot=f"0x{slot:02x}", function="0x0")
