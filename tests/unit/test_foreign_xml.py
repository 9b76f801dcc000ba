"""What is read of a domain that tools made, and every reason why no instance can be made of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supercloud.blanket.foreign_xml import ForeignDisk, described

pytestmark = pytest.mark.unit
DISK = """<disk type='file' device='disk'><driver name='qemu' type='qcow2'/>
  <source file='/var/lib/libvirt/images/old.qcow2'/><target dev='vda' bus='virtio'/></disk>"""
#: As virt-install has it, after libvirtd has filled it in.
WHOLE = f"""<domain type='kvm' id='3'>
  <name>old</name><uuid>0f0e0d0c-1111-4222-8333-444455556666</uuid>
  <memory unit='KiB'>2097152</memory><currentMemory unit='KiB'>2097152</currentMemory>
  <vcpu placement='static'>2</vcpu>
  <os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type><boot dev='hd'/></os>
  <devices><emulator>/usr/bin/qemu-system-x86_64</emulator>{DISK}
    <disk type='file' device='cdrom'><source file='/seed.iso'/><target dev='sda' bus='sata'/></disk>
    <controller type='usb' index='0'/><interface type='user'><model type='virtio'/></interface>
    <serial type='pty'/><console type='pty'/><channel type='unix'/><input type='tablet' bus='usb'/>
    <graphics type='spice'/><sound model='ich9'/><audio id='1' type='spice'/><video/><redirdev/>
    <memballoon model='virtio'/><rng model='virtio'/></devices></domain>"""


def test_it_is_read() -> None:
    seen = described(WHOLE)
    assert (seen.vcpus, seen.memory_mib, seen.obstacle) == (2, 2048, "")
    assert seen.disk == ForeignDisk(target="vda", form="qcow2", path="/var/lib/libvirt/images/old.qcow2")


def test_a_volume_of_a_pool_is_found_by_its_pool() -> None:
    """As Terraform's module writes it."""
    seen = described(
        WHOLE.replace("type='file' device='disk'", "type='volume' device='disk'").replace(
            "<source file='/var/lib/libvirt/images/old.qcow2'/>",
            "<source pool='default' volume='old.qcow2'/>",
        )
    )
    assert seen.disk == ForeignDisk(target="vda", form="qcow2", pool="default", volume="old.qcow2")
    assert not seen.obstacle


@pytest.mark.parametrize(
    ("was", "becomes", "why"),
    [
        (DISK, "", "it has 0 disks"),
        (DISK, DISK + DISK.replace("vda", "vdb"), "it has 2 disks"),
        ("type='qcow2'", "type='vmdk'", "the format of its disk is not said to be qcow2 or raw"),
        ("<driver name='qemu' type='qcow2'/>", "", "the format of its disk is not said"),
        ("bus='virtio'", "bus='sata'", "its disk is on bus sata, and an instance's is on virtio"),
        ("<target dev='vda' bus='virtio'/>", "<target dev='vda' bus='virtio'/><shareable/>", "is shareable"),
        ("<source file='/var", "<source><encryption format='luks'/></source><x file='/var", "is encrypted"),
        ("type='file' device='disk'", "type='block' device='disk'", "its disk is no file"),
        ("<source file='/var/lib/libvirt/images/old.qcow2'/>", "", "its disk is no file"),
        ("device='disk'", "device='lun'", "its disk is no file"),
        ("arch='x86_64'", "arch='aarch64'", "it is no x86-64 machine"),
        ("hvm", "exe", "it is no x86-64 machine"),
        ("<os>", "<os firmware='efi'>", "another firmware"),
        ("<boot dev='hd'/>", "<loader type='pflash'>/x</loader>", "another firmware"),
        ("<boot dev='hd'/>", "<kernel>/boot/vmlinuz</kernel>", "a kernel that is not on its disk"),
        ("<rng model='virtio'/>", "<hostdev mode='subsystem'/>", "a device that no instance has: hostdev"),
        ("<rng model='virtio'/>", "<tpm/><filesystem/>", "no instance has: filesystem, tpm"),
        ("<rng model='virtio'/>", "<teleporter/>", "no instance has: teleporter"),
        ("placement='static'>2", "placement='static'>65", "no instance has 65 processors"),
        (">2097152</memory", ">1024</memory", "no instance has 1 MiB of memory"),
        (
            "</domain>",
            "<q:commandline xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0'/></domain>",
            "arguments of QEMU's own",
        ),
    ],
)
def test_what_is_in_the_way_is_said(was: str, becomes: str, why: str) -> None:
    assert was in WHOLE
    assert why in described(WHOLE.replace(was, becomes, 1)).obstacle


_tags = st.sampled_from(
    ["disk", "driver", "source", "target", "memory", "vcpu", "os", "type", "devices", "hostdev", "loader"]
)
_attributes = st.dictionaries(
    st.sampled_from(["type", "device", "bus", "dev", "file", "pool", "volume", "arch", "firmware", "unit"]),
    st.sampled_from(["file", "volume", "qcow2", "raw", "virtio", "vda", "/x", "", "x86_64", "efi", "disk"]),
    max_size=3,
)


@st.composite
def elements(draw: st.DrawFn, depth: int = 4) -> str:
    tag, attributes = draw(_tags), draw(_attributes)
    inner = draw(st.lists(elements(depth - 1), max_size=3)) if depth else []
    text = draw(st.sampled_from(["", "5", "hvm", "99999999999"]))
    said = "".join(f" {key}='{value}'" for key, value in attributes.items())
    return f"<{tag}{said}>{text}{''.join(inner)}</{tag}>"


@given(st.lists(elements(), max_size=4))
def test_whatever_is_written_there_is_a_disk_or_an_obstacle(inner: list[str]) -> None:
    seen = described(f"<domain>{''.join(inner)}</domain>")
    assert seen.obstacle or (seen.disk is not None and (seen.disk.path or seen.disk.pool))
