"""An instance's libvirt domain, changed into one that is nobody's: the same guest for plain virsh to move.

Neither the agent nor the keeper looks at domains of other makers; the observer does, since the twin has an
observer's monitor as the instance has.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import dataclass

from supercloud.model.errors import Failed
from supercloud.model.names import Id

NAME = "bench-plain"
TAP = "benchplain"
MAC = "52:54:00:be:9c:01"
_QEMU = "{http://libvirt.org/schemas/domain/qemu/1.0}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Twin:
    """The domain, and what it needs in a blanket."""

    id: Id
    xml: str
    disk: str
    seed: str
    console: str
    base: str
    base_secret: Id


def twin_of(xml: str, *, instance: Id, twin: Id, run: str, data: str) -> Twin:
    """From `virsh dumpxml --migratable` of the instance. `run` and `data` are directories of the twin's own.

    Raises:
        Failed: it is not an instance with one disk over a base image.
    """
    root = ET.fromstring(xml)  # noqa: S314 - a blanket of the bench's own wrote it
    try:
        found = _change(root, instance, twin, run, data)
    except (AttributeError, KeyError) as error:
        raise Failed("libvirt's description of the instance is not as expected") from error
    base, base_secret = found
    return Twin(
        id=twin,
        xml=ET.tostring(root, encoding="unicode"),
        disk=f"{data}/disk.qcow2",
        seed=f"{run}/seed.iso",
        console=f"{run}/console.log",
        base=base,
        base_secret=base_secret,
    )


def _change(root: ET.Element, instance: Id, twin: Id, run: str, data: str) -> tuple[str, Id]:
    root.attrib.pop("id", None)
    _only(root, "name").text = NAME
    _only(root, "uuid").text = twin
    if (metadata := root.find("metadata")) is not None:
        root.remove(metadata)
    disk = _only(root, "devices/disk[@device='disk']/target[@dev='vda']/..")
    _only(disk, "source").set("file", f"{data}/disk.qcow2")
    _only(disk, "source/encryption/secret").set("uuid", twin)
    seed = _only(root, "devices/disk[@device='disk']/target[@dev='vdz']/..")
    _only(seed, "source").set("file", f"{run}/seed.iso")
    nic = _only(root, "devices/interface")
    _only(nic, "mac").set("address", MAC)
    _only(nic, "target").set("dev", TAP)
    for log in root.iterfind("devices/*/log"):
        log.set("file", f"{run}/console.log")
    _observed_only(_only(root, f"{_QEMU}commandline"), instance, twin)
    backing = _only(disk, "backingStore")
    return (
        _only(backing, "source").attrib["file"],
        _only(backing, "source/encryption/secret").attrib["uuid"],
    )


def _observed_only(line: ET.Element, instance: Id, twin: Id) -> None:
    """Leave the keeper's monitor out: the keeper pauses what has one and no right."""
    arguments = [one.get("value", "") for one in line]
    for one in list(line):
        line.remove(one)
    for option, value in zip(arguments[::2], arguments[1::2], strict=True):
        if "sc-keeper" not in value:
            for text in (option, value.replace(instance, twin)):
                ET.SubElement(line, f"{_QEMU}arg", value=text)


def _only(parent: ET.Element, path: str) -> ET.Element:
    found = parent.find(path)
    if found is None:
        raise KeyError(path)
    return found
