"""The machine of a micro-hypervisor: its layout and its command line, pure functions of what was decided.

As everywhere, QEMU runs with the machine's directory as its working directory, and every name is relative to
it. That also keeps spaces and commas out of the list of boot modules, which knows no quotes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from supercloud.platforms.qemu import command

#: Names inside the machine's directory.
CHANNEL_SOCKET = "channel.sock"
IMAGE = "microhypervisor.elf"
LAYOUT, KERNEL, INITRD = "layout", "kernel", "initrd"

#: The devices of each partition, in the order in which its kernel finds them: /dev/vda to /dev/vdd, and eth0.
_DEVICES = ("root", "bundle", "data", "birth", "nic")
_FIRST_SLOT, _SLOTS = 3, 0x1F  # of PCI; before are QEMU's bridge and IOMMU, behind its LPC bridge
MOST_PARTITIONS = (_SLOTS - _FIRST_SLOT) // len(_DEVICES)
#: One processor each (docs/adr/0014-one-processor.md), and the monitor's.
CORES = 1
#: Sizes of the two disks that are written anew before each start.
BUNDLE_BYTES, BIRTH_BYTES = 64 << 20, 64 << 10

#: For the micro-hypervisor, its boot modules and its pools.
_OWN_MIB = 256
#: Where a q35 machine's memory is in two parts, so much of it is below 4 GiB.
_WHOLE_MIB, _LOW_MIB = 2816, 2048
_CONFINED = "disable-legacy=on,iommu_platform=on"
_ACCELERATOR = replace(command.TCG, processors=None)


def name(partition: int) -> str:
    return f"p{partition}"


def node(partition: int, disk: str) -> str:
    """QEMU's name for a disk of a partition, which is also its file's."""
    return f"{name(partition)}-{disk}"


def nic(partition: int) -> str:
    return node(partition, "nic")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All that a machine's start needs."""

    partitions: int
    memory_mib: int  # of each partition
    root: Path
    ports: range  # UDP ports of the host's loopback, one for each partition's WireGuard
    qmp_fd: int
    channel_fd: int  # both are listening sockets that QEMU inherits
    tpm_fd: int | None = None  # a connection to its TPM, if it has one
    sandbox: bool = True


def layout(partitions: int, memory_mib: int, cmdline: str) -> str:
    """What the micro-hypervisor reads at its start: microhypervisor/memory/layout.h."""
    return "\n".join(_partition(number, memory_mib, cmdline) for number in range(partitions))


def _partition(number: int, memory_mib: int, cmdline: str) -> str:
    lines = [f"partition {name(number)}", f"cores {CORES}", f"memory {memory_mib}"]
    lines += [f"kernel {KERNEL}", f"initrd {INITRD}", f"cmdline {cmdline}"]
    lines += [f"device 00:{_slot(number, device)}.0" for device in _DEVICES]
    return "\n".join([*lines, "start asked", "console shown", ""])


def _slot(number: int, device: str) -> str:
    """Hexadecimal, as the layout and QEMU both have it."""
    return f"{_FIRST_SLOT + number * len(_DEVICES) + _DEVICES.index(device):02x}"


def machine_memory_mib(partitions: int, memory_mib: int) -> int:
    """Memory is taken from the lowest place where it fits, and what is below 4 GiB may be left over: what
    nobody touches costs the host nothing."""
    wanted = _OWN_MIB + partitions * memory_mib
    return wanted if wanted < _WHOLE_MIB else _LOW_MIB + partitions * memory_mib


def machine(plan: Plan) -> list[str]:
    """The whole command line."""
    memory_mib = machine_memory_mib(plan.partitions, plan.memory_mib)
    vcpus = 1 + plan.partitions * CORES
    argv = command.base(_ACCELERATOR, vcpus=vcpus, memory_mib=memory_mib, sandbox=plan.sandbox)
    argv += ["-name", "guest=microhypervisor,debug-threads=on", "-no-reboot"]
    argv += ["-rtc", "base=utc,clock=host"]
    argv += ["-kernel", IMAGE, "-initrd", ",".join((LAYOUT, KERNEL, INITRD))]
    argv += ["-chardev", f"file,id=log,path={command.CONSOLE_LOG},append=on", "-serial", "chardev:log"]
    argv += ["-chardev", f"socket,id=channel,fd={plan.channel_fd},server=on,wait=off"]
    argv += ["-serial", "chardev:channel", "-device", "amd-iommu"]
    argv += [] if plan.tpm_fd is None else _tpm(plan.tpm_fd)
    for number in range(plan.partitions):
        argv += _devices(number, plan)
    return argv + command.qmp(plan.qmp_fd)


def _tpm(descriptor: int) -> list[str]:
    return [
        *("-chardev", f"socket,id=tpm,fd={descriptor}"),
        *("-tpmdev", "emulator,id=tpm,chardev=tpm"),
        *("-device", "tpm-tis,tpmdev=tpm"),
    ]


def _devices(number: int, plan: Plan) -> list[str]:
    disks = {
        "root": command.raw(plan.root),
        "bundle": command.raw(Path(node(number, "bundle"))),
        "data": _written(node(number, "data")),
        "birth": command.raw(Path(node(number, "birth"))),
    }
    argv: list[str] = []
    for disk, blockdev in disks.items():
        at = f",addr={_slot(number, disk)},{_CONFINED}"
        argv += command.disk(node(number, disk), blockdev, device=at)
    forward = f"hostfwd=udp:127.0.0.1:{plan.ports[number]}-:{command.WIREGUARD_PORT}"
    argv += ["-netdev", f"user,id={node(number, 'net')},{forward}"]
    card = f"netdev={node(number, 'net')},id={nic(number)},addr={_slot(number, 'nic')},romfile=,{_CONFINED}"
    return [*argv, "-device", f"virtio-net-pci,{card}"]


def _written(path: str) -> Mapping[str, object]:
    # Not qcow2: while its partition stands still, the file is made blank in place.
    return {
        "driver": "raw",
        "discard": "unmap",
        "detect-zeroes": "unmap",
        "file": {"driver": "file", "filename": path, "discard": "unmap"},
    }
