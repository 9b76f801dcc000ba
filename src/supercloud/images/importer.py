"""Checks a user's disk image and makes of it what travels: a compact qcow2, encrypted on the owner's side.

The file may be hostile. Its first bytes decide what it is, so that qemu-img never guesses; what would make
qemu-img open another file (a backing file, an external data file, the extents of a VMDK) is refused before
qemu-img sees it; then qemu-img is its only reader, under limits of time, memory and size.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from supercloud.images.cache import file_digest
from supercloud.images.header import ImageFormat, recognize
from supercloud.model.errors import Exhausted, Failed, InvalidInput
from supercloud.model.names import GIB, MIB, Digest

#: The passphrase is 256 random bits: stretching it adds seconds to each opening and no strength.
_ITERATION_MS = 10
_PERCENT = re.compile(rb"\(([0-9.]+)/100%\)")
#: Of qemu-img check: leaked clusters waste space and harm nobody; some formats cannot be checked.
_BROKEN, _LEAKS, _NO_CHECK = 2, 3, 63
#: QEMU measures how fast it hashes by its thread's time in user mode, which a busy kernel may count as none.
_UNLUCKY, _TRIES = "accurate CPU usage", 50
#: What may be written by who only reads: what it has to say.
_NOTES_BYTES = 1 * MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one import may cost."""

    virtual_bytes: int = 2048 * GIB
    written_bytes: int = 1024 * GIB  # a small file may decompress to a large one
    spare_bytes: int = 512 * MIB  # of the scratch disk, left to others
    look_s: int = 30
    convert_s: int = 3600
    memory_bytes: int = 4 * GIB


USUAL = Limits()


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A source that may be converted."""

    path: Path
    format: ImageFormat
    virtual_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Encrypted:
    """The file that travels."""

    path: Path
    digest: Digest
    size_bytes: int
    virtual_bytes: int


def check(path: Path, format: ImageFormat | None = None, limits: Limits = USUAL) -> Checked:
    """Look at an image without trusting it.

    Raises:
        InvalidInput: it is not an image of that format, is broken, is too large, or names other files.
    """
    found = recognize(path, format)
    said = _json(_qemu_img(["info", "--output=json", "-f", found.value, _plain(path)], path, limits), path)
    # The header's reader refused these already; qemu-img's own word on it costs nothing.
    if {"backing-filename", "full-backing-filename"} & said.keys():
        raise InvalidInput(f"{path.name} has a backing file", hint="flatten it first: qemu-img convert")
    if said.get("encrypted"):
        raise InvalidInput(f"{path.name} is encrypted already", hint="import it decrypted")
    size = int(said.get("virtual-size", 0))
    if not 0 < size <= limits.virtual_bytes:
        raise InvalidInput(
            f"{path.name} has a size of {size} bytes; 1 to {limits.virtual_bytes} bytes are taken"
        )
    if found is not ImageFormat.RAW:
        _check_structure(path, found, int(said.get("cluster-size", 0)), limits)
    return Checked(path=path, format=found, virtual_bytes=size)


def _check_structure(path: Path, format: ImageFormat, cluster: int, limits: Limits) -> None:
    """A truncated file would read as zeros where its end was."""
    argv = ["check", "--output=json", "-f", format.value, _plain(path)]
    said = _json(_qemu_img(argv, path, limits, fine=(_BROKEN, _LEAKS, _NO_CHECK)) or "{}", path)
    # The last cluster need not be whole: what is behind its end was never written.
    missing = int(said.get("image-end-offset", 0)) - path.stat().st_size >= max(cluster, 1)
    if said.get("corruptions") or said.get("check-errors") or missing:
        raise InvalidInput(f"{path.name} is broken or was cut short", hint="get it again, compare its digest")


def encrypt(
    source: Checked, passphrase: str, into: Path, watch: Callable[[float], None], limits: Limits = USUAL
) -> Encrypted:
    """Convert into `into/image.qcow2`, encrypted with LUKS; `watch` hears the share done.

    Raises:
        InvalidInput: the source's content is broken, or grows beyond the limit.
        Exhausted: the disk is full.
    """
    target = into / "image.qcow2"
    watch(0.0)
    for left in reversed(range(_TRIES)):
        try:
            _convert(source, passphrase, target, watch, limits)
            break
        except InvalidInput as error:
            if not left or _UNLUCKY not in error.message:
                raise
    watch(1.0)
    return Encrypted(
        path=target,
        digest=file_digest(target),
        size_bytes=target.stat().st_size,
        virtual_bytes=source.virtual_bytes,
    )


def _convert(
    source: Checked, passphrase: str, target: Path, watch: Callable[[float], None], limits: Limits
) -> None:
    with _secret(passphrase) as descriptor:
        argv = ["convert", "-p", "-f", source.format.value, "-O", "qcow2"]
        argv += ["--object", f"secret,id=key,file=/proc/self/fd/{descriptor}"]
        argv += ["-o", f"encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time={_ITERATION_MS}"]
        argv += [_plain(source.path), str(target)]
        _qemu_img(
            argv,
            source.path,
            limits,
            seconds=limits.convert_s,
            writes=target.parent,
            keep=(descriptor,),
            watch=watch,
        )


def _plain(path: Path) -> str:
    """Never a protocol: `nbd:…` or `json:…` as a file's name would make qemu-img open something else."""
    return f"file:{path.absolute()}"


def _json(text: str, path: Path) -> dict[str, Any]:
    try:
        said = json.loads(text)
    except ValueError as error:
        raise InvalidInput(f"{path.name} cannot be read: qemu-img describes it as no JSON") from error
    if not isinstance(said, dict):
        raise InvalidInput(f"{path.name} cannot be read: qemu-img describes it in no form that is known")
    return said


@contextmanager
def _secret(passphrase: str) -> Iterator[int]:
    """A descriptor that reads as the passphrase; nothing on any disk or in any argument."""
    descriptor = os.memfd_create("key", 0)
    try:
        os.write(descriptor, passphrase.encode())
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield descriptor
    finally:
        os.close(descriptor)


def _qemu_img(
    argv: Sequence[str],
    image: Path,
    limits: Limits,
    *,
    seconds: int | None = None,
    writes: Path | None = None,
    fine: Sequence[int] = (),
    keep: Sequence[int] = (),
    watch: Callable[[float], None] | None = None,
) -> str:
    """Run it to its end; what it printed. Its process is gone when this returns or raises.

    CPU time is limited by the kernel; a process that waits instead (a file system that hangs) by `timeout`,
    which also outlives us.
    """
    seconds = seconds or limits.look_s
    may_write = _NOTES_BYTES if writes is None else _may_write(writes, limits)
    bounds = [f"--as={limits.memory_bytes}", f"--cpu={seconds}", f"--fsize={may_write}", "--core=0"]
    command = ["timeout", "--signal=KILL", str(seconds), "prlimit", *bounds, "--", "qemu-img", *argv]
    environment = {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LC_ALL": "C"}
    with tempfile.TemporaryFile() as errors, _started(command, errors, keep, environment) as process:
        said, printed = bytearray(), cast("IO[bytes]", process.stdout)
        while data := os.read(printed.fileno(), 65536):
            said += data
            if watch and (shares := _PERCENT.findall(data)):
                watch(float(shares[-1]) / 100)
        status = process.wait()
        if status == 0 or status in fine:
            return said.decode(errors="replace")
        errors.seek(0)
        raise _why(image, status, errors.read(4000).decode(errors="replace"), seconds, may_write)


@contextmanager
def _started(
    command: Sequence[str], errors: IO[bytes], keep: Sequence[int], environment: dict[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            pass_fds=keep,
            env=environment,
            process_group=0,  # Ctrl-C reaches us, and we end it
        )
    except FileNotFoundError as error:
        raise Failed(f"{error.filename} is not installed", hint="supercloud doctor") from error
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, 9)


def _may_write(folder: Path, limits: Limits) -> int:
    free = shutil.disk_usage(folder).free - limits.spare_bytes
    if free <= 0:
        raise _disk_full()
    return min(free, limits.written_bytes)


def _why(image: Path, status: int, errors: str, seconds: int, may_write: int) -> Exception:
    reason = (errors.strip().splitlines() or [f"qemu-img ended with {status}"])[-1]
    if "No space left" in reason:
        return _disk_full()
    if "File too large" in reason or status in {-25, 128 + 25}:  # EFBIG, or SIGXFSZ
        return Exhausted(
            f"{image.name} would take more than {may_write} bytes", hint="TMPDIR names another place for it"
        )
    if status in {-9, 128 + 9, -24, 128 + 24}:  # `timeout`, or the limit of CPU time
        return InvalidInput(f"{image.name} took more than {seconds} s to read")
    if status == 127:
        return Failed("qemu-img or prlimit is not installed", hint="supercloud doctor")
    return InvalidInput(f"{image.name} cannot be read: {reason.removeprefix('qemu-img: ')}")


def _disk_full() -> Exhausted:
    return Exhausted("the disk is full", hint="TMPDIR names another place for the import")
