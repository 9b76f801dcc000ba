"""An instance as libvirt's domain XML, and back. Built as a tree, never by formatting strings."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from typing import Final

from pydantic import TypeAdapter, ValidationError

from supercloud.blanket.places import MONITORS, Places
from supercloud.model.errors import Failed, InvalidInput
from supercloud.model.names import Id
from supercloud.ports.agent import Disk, InstanceSpec, Nic
from supercloud.ports.hypervisor import VolumeSource
from supercloud.ports.platform import Flavour

_OURS = "sc-"
_OUR_NAME: Final = re.compile(_OURS + r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})")
_QEMU = "http://libvirt.org/schemas/domain/qemu/1.0"
_SPEC = "urn:supercloud:instance:1"
_MTU = 1370  # WireGuard's 1420 less VXLAN's 50
_LOG_SERIAL = 20  # virtio-blk shows the guest at most so many characters
#: PCIe slots kept for disks attached later; q35 can add a device only where a root port is free.
_SPARE_PORTS = 6
_MAX_DISKS = 24  # vda to vdx
_SPECS: Final = TypeAdapter(InstanceSpec)

ET.register_namespace("qemu", _QEMU)
ET.register_namespace("sc", _SPEC)

#: The CPU model of a cloud that names none. Measured: of QEMU's named models, blankets translated by TCG
#: (`-cpu max`) lack nothing of Westmere but `vme`; models after it lack more. It is x86-64-v2 with AES, which
#: distributions that dropped older processors ask for, and runs on AMD hosts as well as on Intel's.
DEFAULT_BASELINE: Final = "Westmere"
#: Virtual-8086 extensions serve 16-bit code only; TCG has none, so no instance has them anywhere.
ABSENT_FEATURES: Final = ("vme",)

Sources = Callable[[Id], VolumeSource]


def domain_name(instance: Id) -> str:
    """By this name tools' rules tell what is ours (images/recipe/blanket/tools/tools.rules)."""
    return f"{_OURS}{instance}"


def instance_of(name: str) -> Id | None:
    """Whose domain is called so, if it is ours. Tools can rename what is theirs to look nearly like it."""
    found = _OUR_NAME.fullmatch(name)
    return found[1] if found else None


def tap_name(instance: Id, index: int = 0) -> str:
    """The tap of an instance's NIC: at most 15 characters, as the kernel allows."""
    return f"t{instance.replace('-', '')[:12]}{index or ''}"


def domain(
    spec: InstanceSpec, *, sources: Sources, places: Places, flavour: Flavour, cache: str = "none"
) -> str:
    """The domain of `spec`: transient, never started by anyone but us, stopped for good when it powers off.

    `sources` tells how each volume is opened. `cache` is QEMU's cache mode of the volumes.

    Raises:
        InvalidInput: no boot disk or too many disks.
    """
    if [disk.boot for disk in spec.disks].count(True) != 1:
        raise InvalidInput("an instance has exactly one boot disk")
    if len(spec.disks) > _MAX_DISKS:
        raise InvalidInput(f"an instance has at most {_MAX_DISKS} disks")
    root = ET.Element("domain", type="kvm" if flavour is Flavour.KVM else "qemu")
    sub_text(root, "name", domain_name(spec.id))
    sub_text(root, "uuid", spec.id)
    # ASCII JSON: XML 1.0 has no way to write some characters that an ssh key's comment may have.
    ET.SubElement(sub(root, "metadata"), f"{{{_SPEC}}}spec").text = _SPECS.dump_json(
        spec, ensure_ascii=True
    ).decode()
    sub_text(root, "memory", str(spec.memory_mib), unit="MiB")
    _memory_backing(root)
    sub_text(root, "vcpu", str(spec.vcpus), placement="static")
    sub_text(sub(root, "os"), "type", "hvm", arch="x86_64", machine="q35")
    features = sub(root, "features")
    sub(features, "acpi")
    sub(features, "apic")
    _cpu(root, spec.cpu_model, flavour)
    sub(root, "clock", offset="utc")
    for event, action in (("poweroff", "destroy"), ("reboot", "restart"), ("crash", "destroy")):
        sub_text(root, f"on_{event}", action)
    _devices(root, spec, sources, places, cache)
    _monitors(root, spec.id, places)
    return ET.tostring(root, encoding="unicode")


def disk(disk: Disk, source: VolumeSource, target: str, *, cache: str = "none") -> ET.Element:
    """One volume as a virtio disk: LUKS qcow2, its whole chain named, so that nothing is probed."""
    element = ET.Element("disk", type="file", device="disk")
    sub(element, "driver", name="qemu", type="qcow2", cache=cache, discard="unmap", detect_zeroes="unmap")
    _encrypted(sub(element, "source", file=str(source.path)), source.secret)
    backing = sub(element, "backingStore")
    if source.base_path is not None:
        backing.set("type", "file")
        sub(backing, "format", type="qcow2")
        file = sub(backing, "source", file=str(source.base_path))
        if source.base_secret is not None:
            _encrypted(file, source.base_secret)
        sub(backing, "backingStore")
    sub(element, "target", dev=target, bus="virtio")
    if disk.read_only:
        sub(element, "readonly")
    sub_text(element, "serial", disk.volume[:_LOG_SERIAL])
    if disk.boot:
        sub(element, "boot", order="1")
    return element


def spec_of(xml: str) -> InstanceSpec:
    """The spec a domain was made from.

    Raises:
        Failed: the domain is not ours.
    """
    # libvirtd, which is as trusted as we are, produced this XML.
    found = ET.fromstring(xml).find(f"metadata/{{{_SPEC}}}spec")  # noqa: S314
    try:
        return _SPECS.validate_json((found.text or "") if found is not None else "")
    except ValidationError as broken:
        raise Failed("the domain carries no instance spec") from broken


def disk_target(xml: str, volume: Id) -> str | None:
    """The guest device ("vdb") of a volume in a domain, if it is attached."""
    for found in ET.fromstring(xml).iterfind("devices/disk"):  # noqa: S314
        if found.findtext("serial") == volume[:_LOG_SERIAL] and (target := found.find("target")) is not None:
            return target.get("dev")
    return None


def free_target(xml: str) -> str:
    """A guest device name that no disk of the domain has.

    Raises:
        InvalidInput: it has as many disks as it can have.
    """
    taken = {found.get("dev") for found in ET.fromstring(xml).iterfind("devices/disk/target")}  # noqa: S314
    for index in range(_MAX_DISKS):
        if (name := _device(index)) not in taken:
            return name
    raise InvalidInput(f"an instance has at most {_MAX_DISKS} disks")


def console_device(xml: str) -> str:
    """The pseudo-terminal of the serial console.

    Raises:
        Failed: the domain has none, so it is not running.
    """
    found = ET.fromstring(xml).find("devices/serial[@type='pty']/source")  # noqa: S314
    path = found.get("path") if found is not None else None
    if path is None:
        raise Failed("the instance has no console now")
    return path


def usable_models(capabilities: str) -> tuple[str, ...]:
    """The CPU models of libvirt's domain capabilities that lack nothing but what no instance has."""
    names: set[str] = set()
    for model in ET.fromstring(capabilities).iterfind("cpu/mode[@name='custom']/model"):  # noqa: S314
        if model.text and model.get("usable") == "yes":
            names.add(model.text)
    return tuple(sorted(names | {DEFAULT_BASELINE}))


def _memory_backing(root: ET.Element) -> None:
    """In a file without a name, so that the blanket can look at it (guest_memory). To a migration it is the
    same block of memory under the same name as one of QEMU's own."""
    backing = sub(root, "memoryBacking")
    sub(backing, "source", type="memfd")
    sub(backing, "access", mode="shared")


def _cpu(root: ET.Element, model: str, flavour: Flavour) -> None:
    # Without KVM libvirt cannot know what the translator offers, so it would refuse every named model.
    check = "none" if flavour is Flavour.TCG else "partial"
    cpu = sub(root, "cpu", mode="custom", match="exact", check=check)
    sub_text(cpu, "model", model, fallback="forbid")
    for name in ABSENT_FEATURES:
        sub(cpu, "feature", policy="disable", name=name)


def _devices(root: ET.Element, spec: InstanceSpec, sources: Sources, places: Places, cache: str) -> None:
    devices = sub(root, "devices")
    sub(devices, "controller", type="pci", model="pcie-root")
    wanted = len(spec.disks) + len(spec.nics) + _SPARE_PORTS
    for _ in range(wanted):
        sub(devices, "controller", type="pci", model="pcie-root-port")
    sub(devices, "controller", type="usb", model="none")
    boot_first = sorted(spec.disks, key=lambda one: not one.boot)
    for index, one in enumerate(boot_first):
        devices.append(disk(one, sources(one.volume), _device(index), cache=cache))
    devices.append(_seed(spec, places))
    for index, nic in enumerate(spec.nics):
        devices.append(_nic(spec.id, index, nic))
    serial = sub(devices, "serial", type="pty")
    sub(serial, "log", file=str(places.console_log(spec.id)), append="on")
    sub(serial, "target", port="0")
    sub(devices, "memballoon", model="none")
    rng = sub(devices, "rng", model="virtio")
    sub_text(rng, "backend", "/dev/urandom", model="random")


def _seed(spec: InstanceSpec, places: Places) -> ET.Element:
    element = ET.Element("disk", type="file", device="disk")
    sub(element, "driver", name="qemu", type="raw")
    sub(element, "source", file=str(places.seed(spec.id)))
    sub(element, "backingStore")
    sub(element, "target", dev="vdz", bus="virtio")
    sub(element, "readonly")
    return element


def _nic(instance: Id, index: int, nic: Nic) -> ET.Element:
    element = ET.Element("interface", type="ethernet")
    sub(element, "mac", address=nic.mac)
    sub(element, "target", dev=tap_name(instance, index), managed="no")
    sub(element, "model", type="virtio")
    sub(element, "mtu", size=str(_MTU))
    return element


def _monitors(root: ET.Element, instance: Id, places: Places) -> None:
    line = ET.SubElement(root, f"{{{_QEMU}}}commandline")
    for client in MONITORS:
        path = str(places.monitor(instance, client)).replace(",", ",,")
        for argument in (
            "-chardev",
            f"socket,id=sc-{client},path={path},server=on,wait=off",
            "-mon",
            f"chardev=sc-{client},mode=control",
        ):
            ET.SubElement(line, f"{{{_QEMU}}}arg", value=argument)


def _encrypted(source: ET.Element, secret: Id) -> None:
    encryption = sub(source, "encryption", format="luks")
    sub(encryption, "secret", type="passphrase", uuid=secret)


def _device(index: int) -> str:
    return f"vd{chr(ord('a') + index)}"


def sub(parent: ET.Element, tag: str, **attributes: str) -> ET.Element:
    return ET.SubElement(parent, tag, attributes)


def sub_text(parent: ET.Element, tag: str, text: str, **attributes: str) -> None:
    sub(parent, tag, **attributes).text = text
