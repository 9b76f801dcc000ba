"""What this machine can do and what is missing, as values: the command line prints them."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import psutil

from supercloud.model.errors import NotFound, SupercloudError
from supercloud.model.names import GIB, MIB
from supercloud.platforms.host import Host, ThisHost, cgroup_memory_left
from supercloud.platforms.microhypervisor.tpm import PROGRAM
from supercloud.platforms.qemu import accelerator
from supercloud.platforms.qemu.addresses import is_free
from supercloud.platforms.qemu.driver import QemuOptions
from supercloud.ports.platform import BlanketFiles, BlanketImages, MicrohypervisorImages

_PYTHON = (3, 11)
_QEMU_MAJOR = 6  # snapshot-save and snapshot-load
#: What each program is for, and the Debian package that has it.
PROGRAMS: Mapping[str, tuple[str, str]] = {
    "qemu-system-x86_64": ("qemu-system-x86", "runs blankets"),
    "qemu-img": ("qemu-utils", "makes blankets' disks"),
    "mmdebstrap": ("mmdebstrap", "builds images"),
    "sqfstar": ("squashfs-tools", "builds images"),
    "mke2fs": ("e2fsprogs", "builds the demo's guest"),
    "sfdisk": ("fdisk", "builds the demo's guest"),
    "newuidmap": ("uidmap", "builds images without root"),
}
#: What compiles the micro-hypervisor, and where it comes from.
_COMPILES: Mapping[str, str] = {"make": "make", "gcc": "gcc libsodium-dev", "iasl": "acpica-tools"}
#: A demo with two blankets of 2 GiB and their build.
_MEMORY_BYTES = 5 * GIB
_DISK_BYTES = 6 * GIB
#: As adduser gives them to the first user.
_SUBORDINATES = range(100_000, 165_536)


class Verdict(StrEnum):
    OK = "ok"
    WARN = "warn"  # works, with a drawback
    BAD = "bad"  # something will fail


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at."""

    name: str
    verdict: Verdict
    found: str
    hint: str = ""  # what to do about it, where there is something


async def examine(
    images: BlanketImages | None = None,
    *,
    state_dir: Path | None = None,
    cache_dir: Path | None = None,
    host: Host | None = None,
) -> list[Check]:
    """Look at everything. It takes as long as proving KVM does: seconds, the first time after a reboot.

    Args:
        images: where built images are; without them KVM cannot be proven.
        state_dir: where disks will be; this directory by default.
        cache_dir: where proofs are kept; `state_dir` by default.
    """
    state_dir = existing(state_dir or Path.cwd())
    files, image = _image(images)
    checks = [python(), *programs(), await qemu(), device()]
    checks.append(await acceleration(files, cache_dir or state_dir))
    checks += [memory(host or ThisHost()), disk(host or ThisHost(), state_dir), control_group()]
    return [*checks, await namespaces(), ports(QemuOptions()), image, microhypervisor(images), tpm()]


def python(version: tuple[int, int] = sys.version_info[:2]) -> Check:
    """The interpreter."""
    good = version >= _PYTHON
    found = ".".join(map(str, version))
    hint = "" if good else f"use Python {_PYTHON[0]}.{_PYTHON[1]} or newer"
    return Check(name="python", verdict=Verdict.OK if good else Verdict.BAD, found=found, hint=hint)


def programs(path: str | None = None) -> list[Check]:
    """Each program of Debian that we run, and the command that installs a missing one."""
    search = _search(path)
    checks = []
    for name, (package, use) in PROGRAMS.items():
        found = shutil.which(name, path=search)
        checks.append(
            Check(name=name, verdict=Verdict.OK, found=found)
            if found
            else Check(
                name=name,
                verdict=Verdict.BAD,
                found=f"missing: it {use}",
                hint=f"apt-get install --no-install-recommends {package}",
            )
        )
    return checks


def _search(path: str | None) -> str:
    # Administrators' programs may be missing from a user's PATH, and are not needed from there.
    return path if path is not None else os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


async def qemu() -> Check:
    """QEMU's version."""
    try:
        version = await accelerator.qemu_version()
    except SupercloudError as error:
        return Check(name="qemu", verdict=Verdict.BAD, found=error.message, hint=error.hint or "")
    major = version.partition(".")[0]
    if major.isdigit() and int(major) >= _QEMU_MAJOR:
        return Check(name="qemu", verdict=Verdict.OK, found=version)
    return Check(
        name="qemu", verdict=Verdict.BAD, found=version, hint=f"QEMU {_QEMU_MAJOR} or newer is needed"
    )


def device(path: Path = accelerator.KVM_DEVICE) -> Check:
    """/dev/kvm: there and open to us. Whether it works is another check."""
    if not path.exists():
        found, hint = "missing", "enable virtualization in the firmware; without it blankets run in emulation"
    elif not os.access(path, os.R_OK | os.W_OK):
        found, hint = "not open to this user", 'ask an administrator to run: adduser "$USER" kvm'
    else:
        return Check(name="/dev/kvm", verdict=Verdict.OK, found="present (that proves nothing yet)")
    return Check(name="/dev/kvm", verdict=Verdict.WARN, found=found, hint=hint)


async def acceleration(files: BlanketFiles | None, cache_dir: Path) -> Check:
    """What blankets will run on, and why."""
    try:
        proof = await accelerator.prove("auto", files, cache_dir)
    except SupercloudError as error:
        return Check(name="accelerator", verdict=Verdict.BAD, found=error.message, hint=error.hint or "")
    found = f"{proof.accelerator}: {proof.told}"
    if proof.accelerator == "kvm" and proof.nesting:
        return Check(name="accelerator", verdict=Verdict.OK, found=found)
    hint = "load kvm_amd or kvm_intel with nested=1" if proof.accelerator == "kvm" else "it works, but slowly"
    return Check(name="accelerator", verdict=Verdict.WARN, found=found, hint=hint)


def memory(host: Host) -> Check:
    """Memory that blankets can have now."""
    free = host.free_memory_bytes()
    good = free >= _MEMORY_BYTES
    return Check(
        name="memory",
        verdict=Verdict.OK if good else Verdict.WARN,
        found=f"{free // MIB} MiB available",
        hint="" if good else f"two blankets of 2 GiB want {_MEMORY_BYTES // MIB} MiB",
    )


def disk(host: Host, path: Path) -> Check:
    """Disk space for blankets' disks and images."""
    free = host.free_disk_bytes(path)
    good = free >= _DISK_BYTES
    return Check(
        name="disk",
        verdict=Verdict.OK if good else Verdict.WARN,
        found=f"{free // MIB} MiB free in {path}",
        hint="" if good else f"images and two blankets want {_DISK_BYTES // MIB} MiB",
    )


def control_group() -> Check:
    """Whether our control group bounds us below what the machine has."""
    left = cgroup_memory_left()
    if left is None or left >= psutil.virtual_memory().available:
        return Check(name="cgroup", verdict=Verdict.OK, found="no limit on memory")
    verdict = Verdict.OK if left >= _MEMORY_BYTES else Verdict.WARN
    return Check(name="cgroup", verdict=verdict, found=f"{left // MIB} MiB left below the limit on memory")


async def namespaces() -> Check:
    """Whether images can be built: as root, or in a user namespace of one's own with users in it."""
    name = "user namespaces"
    if os.geteuid() == 0:
        return Check(name=name, verdict=Verdict.OK, found="not needed: this is root")
    if why := await _refusal():
        hint = "ask an administrator to run: sysctl kernel.unprivileged_userns_clone=1"
        return Check(name=name, verdict=Verdict.BAD, found=why, hint=hint)
    if await _refusal("--map-auto"):
        found = "allowed, but no subordinate users are yours in /etc/subuid and /etc/subgid"
        some = f"{_SUBORDINATES.start}-{_SUBORDINATES.stop - 1}"
        hint = f'ask an administrator to run: usermod --add-subuids {some} --add-subgids {some} "$USER"'
        return Check(name=name, verdict=Verdict.BAD, found=found, hint=hint)
    return Check(name=name, verdict=Verdict.OK, found="allowed")


async def _refusal(*more: str) -> str:
    """Why there is no such namespace; empty if there is."""
    argv = ["unshare", "--user", "--map-root-user", *more, "--mount", "true"]
    try:
        child = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        return f"unshare: {error.strerror}"
    _, said = await child.communicate()
    return "" if child.returncode == 0 else said.decode(errors="replace").strip() or "refused"


def ports(options: QemuOptions) -> Check:
    """UDP ports of the loopback for blankets' WireGuard."""
    wanted = range(options.first_port, options.last_port + 1)
    free = sum(is_free(port) for port in wanted)
    return Check(
        name="ports",
        verdict=Verdict.OK if free > 16 else Verdict.WARN,
        found=f"{free} of UDP {wanted.start}-{options.last_port} free on the loopback",
        hint="" if free > 16 else "give the domain other ports (first_port, last_port)",
    )


def microhypervisor(images: BlanketImages | None, path: str | None = None) -> Check:
    """The image for domains of that kind; where there is none, whether it could be built here."""
    name = "micro-hypervisor"
    if not isinstance(images, MicrohypervisorImages):
        return Check(name=name, verdict=Verdict.WARN, found="not looked for")
    try:
        return Check(name=name, verdict=Verdict.OK, found=str(images.microhypervisor()))
    except NotFound as error:
        search = _search(path)
        missing = [package for tool, package in _COMPILES.items() if not shutil.which(tool, path=search)]
        install = f"apt-get install --no-install-recommends {' '.join(missing)}; " if missing else ""
        hint = f"{install}{error.hint or 'make images'}"
        return Check(name=name, verdict=Verdict.WARN, found=error.message, hint=hint)


def tpm(path: str | None = None) -> Check:
    """What stands for a TPM beside a micro-hypervisor."""
    found = shutil.which(PROGRAM, path=_search(path))
    if found:
        return Check(name=PROGRAM, verdict=Verdict.OK, found=found)
    missing = "missing: nothing vouches for a micro-hypervisor's key"
    hint = f"apt-get install --no-install-recommends {PROGRAM}"
    return Check(name=PROGRAM, verdict=Verdict.WARN, found=missing, hint=hint)


def existing(path: Path) -> Path:
    """`path`, or the nearest directory above it that exists."""
    path = path.absolute()
    return next(one for one in (path, *path.parents) if one.exists())


def _image(images: BlanketImages | None) -> tuple[BlanketFiles | None, Check]:
    name = "blanket image"
    if images is None:
        return None, Check(name=name, verdict=Verdict.WARN, found="not looked for")
    try:
        digest = images.current()
        return images.files(digest), Check(name=name, verdict=Verdict.OK, found=digest[:19])
    except NotFound as error:
        return None, Check(
            name=name, verdict=Verdict.WARN, found="not built yet", hint=error.hint or "make images"
        )
    except SupercloudError as error:  # the agent's code has changed, and its bundle cannot be built
        hint = error.hint or "make images"
        return None, Check(name=name, verdict=Verdict.BAD, found=error.message, hint=hint)
