"""Whether KVM works here, proven by booting the blanket's own kernel under it before a deadline.

`/dev/kvm` may be there, and machines may be created with it, while an ordinary kernel still hangs in it (a
host that is itself a guest of a hypervisor with half of nesting). A boot sector would not notice. So the
proof is what a blanket does: its kernel and initrd, up to a program in user space that says what CPU it sees.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from supercloud.model.errors import InvalidInput, Unavailable
from supercloud.platforms.qemu import command
from supercloud.platforms.qemu.command import KVM, TCG, Accelerator
from supercloud.platforms.qemu.record import write_private
from supercloud.ports.platform import BlanketFiles

Choice = Literal["auto", "kvm", "tcg"]
KVM_DEVICE = Path("/dev/kvm")

_MARK = "supercloud-proof"
_DEADLINE_S = 10.0  # the same boot takes 1.4 s under TCG on an idle machine
_MEMORY_MIB = 256
_INIT = (
    f'rdinit=/bin/busybox -- sh -c "busybox mount -t proc proc /proc; '
    f'busybox echo {_MARK} $(busybox grep -o -w -m1 -e svm -e vmx /proc/cpuinfo); busybox poweroff -f"'
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What was found to work."""

    accelerator: str  # "kvm" or "tcg"
    nesting: bool  # a guest sees a CPU that can virtualize
    reason: str

    @property
    def how(self) -> Accelerator:
        return KVM if self.accelerator == "kvm" else TCG

    @property
    def told(self) -> str:
        """For people: the reason, and the limit that comes with it."""
        limit = self.how.processors
        return (
            self.reason if limit is None else f"{self.reason}; a blanket has at most {limit} processor here"
        )


async def prove(choice: Choice, files: BlanketFiles | None, cache_dir: Path) -> Proof:
    """The accelerator to use; KVM only where it is proven. A proof is kept for this boot of the host.

    Args:
        files: the image whose kernel is tried; None if there is none yet: then KVM cannot be proven.

    Raises:
        InvalidInput: KVM was asked for and does not work.
        Unavailable: there is no QEMU.
    """
    if choice == "tcg":
        return _tcg("it was asked for")
    version = await qemu_version()
    if not KVM_DEVICE.exists():
        proof = _tcg("there is no /dev/kvm")
    elif not os.access(KVM_DEVICE, os.R_OK | os.W_OK):
        proof = _tcg("this user may not open /dev/kvm")
    elif files is None:
        proof = _tcg("KVM is not proven until a blanket image is built")
    else:
        proof = await _cached(files, version, cache_dir)
    if choice == "kvm" and proof.accelerator != "kvm":
        raise InvalidInput(f"KVM does not work here: {proof.reason}", hint="use accelerator=tcg or auto")
    return proof


async def qemu_version() -> str:
    """What QEMU calls itself, as `7.2.22`.

    Raises:
        Unavailable: it is not installed or does not run.
    """
    try:
        child = await asyncio.create_subprocess_exec(
            command.BINARY,
            "--version",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except OSError as error:
        hint = "apt-get install qemu-system-x86 qemu-utils"
        raise Unavailable(f"{command.BINARY} cannot be run: {error.strerror}", hint=hint) from error
    said, _ = await child.communicate()
    words = said.decode(errors="replace").split()
    return words[3] if len(words) > 3 else "unknown"


async def try_kvm(files: BlanketFiles, *, deadline_s: float = _DEADLINE_S) -> Proof:
    """Boot the image's kernel under KVM, without the cache."""
    outcome = await boot(KVM, files, deadline_s=deadline_s)
    if outcome.mark is None:
        return _tcg(f"KVM is there but does not run a blanket's kernel: {outcome.why}")
    nesting = bool(outcome.mark)
    seen = f"and its guests see {outcome.mark}" if nesting else "but its guests cannot virtualize"
    return Proof(
        accelerator="kvm",
        nesting=nesting,
        reason=f"KVM ran a blanket's kernel in {outcome.took_s:.1f} s, {seen}",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a trial boot ended: what user space said of the CPU (None: it was never reached), or why not."""

    mark: str | None
    why: str
    took_s: float


async def boot(accelerator: Accelerator, files: BlanketFiles, *, deadline_s: float) -> Outcome:
    """Boot a kernel to user space once; its process is gone when this returns or is cancelled."""
    argv = command.base(accelerator, vcpus=1, memory_mib=_MEMORY_MIB)
    argv += command.kernel(files, f"{files.cmdline} {_INIT}")
    argv += ["-no-reboot", "-chardev", "stdio,id=serial,signal=off", "-serial", "chardev:serial"]
    loop = asyncio.get_running_loop()
    begun = loop.time()
    child = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(deadline_s):
            console, errors = await child.communicate()
    except TimeoutError:
        return Outcome(mark=None, why=f"it hung for {deadline_s:.0f} s", took_s=deadline_s)
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    took_s = loop.time() - begun
    for line in console.decode(errors="replace").splitlines():
        if line.startswith(_MARK):
            return Outcome(mark=line.removeprefix(_MARK).strip(), why="", took_s=took_s)
    said = errors.decode(errors="replace").strip().splitlines()
    first = said[0] if said else f"it ended with status {child.returncode} before user space"
    return Outcome(mark=None, why=first.removeprefix(f"{command.BINARY}: "), took_s=took_s)


async def _cached(files: BlanketFiles, version: str, cache_dir: Path) -> Proof:
    key = await asyncio.to_thread(_key, files, version)
    path = cache_dir / "accelerator.json"
    try:
        kept = json.loads(path.read_text())
        if kept.pop("key") == key:
            return Proof(**kept)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        pass  # none yet, or of an older version: prove it again
    proof = await try_kvm(files)
    cache_dir.mkdir(parents=True, exist_ok=True)
    write_private(path, json.dumps({"key": key, **asdict(proof)}).encode())
    return proof


def _key(files: BlanketFiles, version: str) -> str:
    """Changes with what a proof depends on: this boot and kernel of the host, QEMU, the guest's kernel."""
    digest = hashlib.sha256()
    digest.update(Path("/proc/sys/kernel/random/boot_id").read_bytes())
    digest.update(f"{platform.release()} {version} {files.cmdline}".encode())
    for path in (files.kernel, files.initrd):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _tcg(reason: str) -> Proof:
    # QEMU's own CPU emulation has SVM with nested paging on every host.
    return Proof(accelerator="tcg", nesting=True, reason=reason)
