"""The command line of a blanket's QEMU: a pure function of what was decided before.

QEMU runs with the machine's directory as its working directory, so every socket and file of the machine
has a short relative name: a UNIX socket's path may have 107 bytes only, and state directories may be deep.
Secrets never appear here: first-boot data is a file that QEMU hands over by fw_cfg.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from supercloud.ports.machines import FIRST_INNER_PORT
from supercloud.ports.platform import BlanketFiles, BlanketMachine

BINARY = "qemu-system-x86_64"
#: Names inside a machine's directory.
QMP_SOCKET = "qmp.sock"
CONSOLE = "console"  # QEMU reads from its `.in`, a FIFO
CONSOLE_LOG = "console.log"
OBSERVER_SOCKET = "observer.sock"
DATA_DISK = "data.qcow2"
BIRTH = "birth"
QEMU_LOG = "qemu.log"

WIREGUARD_PORT = 51820  # inside the blanket
NIC = "nic"
DATA_NODE = "data"
#: Where a guest of QEMU's user-mode network finds the host's loopback.
GATEWAY = "10.0.2.2"
SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"


@dataclass(frozen=True, slots=True, kw_only=True)
class Accelerator:
    """How guest code runs: QEMU's `-accel` and `-cpu`, and at most how many processors (None: any number)."""

    name: str  # "kvm" or "tcg"
    accel: str
    cpu: str
    processors: int | None


#: One processor: with two, guests inside die by triple faults and blankets are reset or panic, since QEMU
#: does not emulate SVM soundly on processors that run at once (7.2, 10.0; docs/adr/0014-one-processor.md).
TCG = Accelerator(name="tcg", accel="tcg,thread=multi", cpu="max", processors=1)
KVM = Accelerator(name="kvm", accel="kvm", cpu="host", processors=None)


def base(accelerator: Accelerator, *, vcpus: int, memory_mib: int, sandbox: bool = True) -> list[str]:
    """A PC without any device of its own."""
    argv = [BINARY, "-nodefaults", "-no-user-config", "-display", "none", "-M", "q35"]
    argv += ["-accel", accelerator.accel, "-cpu", accelerator.cpu]
    argv += ["-smp", str(min(vcpus, accelerator.processors or vcpus)), "-m", str(memory_mib)]
    return [*argv, "-sandbox", SANDBOX] if sandbox else argv


def kernel(files: BlanketFiles, cmdline: str) -> list[str]:
    """Direct kernel boot."""
    return ["-kernel", str(files.kernel), "-initrd", str(files.initrd), "-append", cmdline]


def machine(
    spec: BlanketMachine,
    files: BlanketFiles,
    accelerator: Accelerator,
    *,
    port: int,
    inner: int = 0,
    qmp_fd: int,
    sandbox: bool = True,
) -> list[str]:
    """The whole command line.

    Args:
        port: UDP port on the host's loopback that leads to the blanket's WireGuard.
        inner: so many ports after that one lead to where it hears for blankets inside it.
        qmp_fd: a listening socket that QEMU inherits, so that whoever starts it can connect at once.
    """
    targets = (WIREGUARD_PORT, *range(FIRST_INNER_PORT, FIRST_INNER_PORT + inner))
    forward = ",".join(f"hostfwd=udp:127.0.0.1:{port + at}-:{to}" for at, to in enumerate(targets))
    argv = base(accelerator, vcpus=spec.vcpus, memory_mib=spec.memory_mib, sandbox=sandbox)
    argv += ["-uuid", spec.id, "-name", f"guest={spec.name},debug-threads=on"]
    argv += ["-rtc", "base=utc,clock=host"]  # goes on while the machine is frozen: keepers watch for that
    argv += kernel(files, files.cmdline)
    argv += disk("root", raw(files.root)) + disk("bundle", raw(files.bundle)) + disk(DATA_NODE, _data())
    argv += ["-netdev", f"user,id=net,{forward}", "-device", f"virtio-net-pci,netdev=net,id={NIC}"]
    argv += ["-device", "virtio-rng-pci"]
    argv += ["-chardev", f"pipe,id=console,path={CONSOLE},logfile={CONSOLE_LOG},logappend=on"]
    argv += ["-serial", "chardev:console"]
    argv += _listener("observer", OBSERVER_SOCKET)
    argv += ["-device", "virtio-serial-pci"]
    argv += ["-device", "virtserialport,chardev=observer,name=supercloud.observer"]
    argv += qmp(qmp_fd)
    if spec.birth:
        argv += ["-fw_cfg", f"name=opt/supercloud/birth,file={BIRTH}"]
    return argv


def qmp(descriptor: int) -> list[str]:
    """The monitor, on a listening socket that QEMU inherits."""
    return [
        *("-chardev", f"socket,id=qmp,fd={descriptor},server=on,wait=off"),
        *("-mon", "chardev=qmp,mode=control"),
    ]


def _listener(name: str, path: str) -> list[str]:
    return ["-chardev", f"socket,id={name},path={path},server=on,wait=off"]


def disk(node: str, blockdev: Mapping[str, object], *, device: str = "") -> list[str]:
    """A disk on PCI.

    Args:
        device: more of its device's options, as `,name=value`.
    """
    # JSON, because a comma in a path would end an option of the other syntax.
    options = json.dumps({"node-name": node, **blockdev})
    return ["-blockdev", options, "-device", f"virtio-blk-pci,drive={node}{device}"]


def raw(path: Path) -> Mapping[str, object]:
    """An image that is only read."""
    return {"driver": "raw", "read-only": True, "file": {"driver": "file", "filename": str(path)}}


def _data() -> Mapping[str, object]:
    return {
        "driver": "qcow2",
        "discard": "unmap",
        "detect-zeroes": "unmap",
        "file": {"driver": "file", "filename": DATA_DISK, "discard": "unmap"},
    }
