"""Checks a user's disk image and makes of it what travels: a compact qcow2, encrypted on the owner's side.

The file may be hostile: qemu-img is its only reader, under limits of time, memory and size, and an image that
names other files (a backing file, an external data file) is refused before anything is read through it.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from supercloud.images.cache import file_digest
from supercloud.model.errors import Exhausted, Failed, InvalidInput
from supercloud.model.names import GIB, Digest

MAX_VIRTUAL_BYTES = 2048 * GIB
_INFO_S = 30
_CONVERT_S = 3600
_MEMORY_BYTES = 4 * GIB
#: The passphrase is 256 random bits: stretching it adds seconds to each opening and no strength.
_ITERATION_MS = 10


class ImageFormat(StrEnum):
    """What an import may be; `qemu-img` calls VHDX and VDI by the same names."""

    QCOW2 = "qcow2"
    RAW = "raw"
    VMDK = "vmdk"
    VHDX = "vhdx"
    VDI = "vdi"


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


def check(path: Path, format: ImageFormat | None = None) -> Checked:
    """Look at an image without trusting it.

    Raises:
        InvalidInput: it is not an image of that format, is too large, or names other files.
    """
    if not path.is_file():
        raise InvalidInput(f"{path} is not a file")
    given = ["-f", format.value] if format else []
    said = json.loads(_qemu_img(["info", "--output=json", *given, _plain(path)], _INFO_S, path))
    found = said.get("format")
    if found not in list(ImageFormat):
        raise InvalidInput(
            f"{path.name} is {found}, which cannot be imported",
            hint=f"--format one of {', '.join(ImageFormat)}",
        )
    if "backing-filename" in said or "full-backing-filename" in said:
        raise InvalidInput(f"{path.name} has a backing file", hint="flatten it first: qemu-img convert")
    details = said.get("format-specific", {}).get("data", {})
    if "data-file" in details or _names_extents(found, details, path):
        raise InvalidInput(f"{path.name} keeps its data in another file", hint="qemu-img convert it first")
    if said.get("encrypted"):
        raise InvalidInput(f"{path.name} is encrypted already", hint="import it decrypted")
    size = int(said["virtual-size"])
    if not 0 < size <= MAX_VIRTUAL_BYTES:
        raise InvalidInput(f"{path.name} has a size of {size} bytes; at most {MAX_VIRTUAL_BYTES} are taken")
    return Checked(path=path, format=ImageFormat(found), virtual_bytes=size)


def _names_extents(format: str, details: dict[str, object], path: Path) -> bool:
    """A VMDK may be a text that lists extents anywhere: only one, the file itself, is fine."""
    extents = details.get("extents")
    if format != ImageFormat.VMDK or not isinstance(extents, list):
        return False
    return any(Path(str(extent.get("filename"))).name != path.name for extent in extents) or len(extents) != 1


def encrypt(source: Checked, passphrase: str, into: Path, watch: Callable[[float], None]) -> Encrypted:
    """Convert into `into/image.qcow2`, encrypted with LUKS; `watch` hears the share done.

    Raises:
        InvalidInput: the source's content is broken.
        Exhausted: the disk is full.
    """
    target = into / "image.qcow2"
    watch(0.0)
    with _secret(passphrase) as descriptor:
        _qemu_img(
            [
                "convert",
                "-f",
                source.format.value,
                "-O",
                "qcow2",
                "--object",
                f"secret,id=key,file=/proc/self/fd/{descriptor}",
                "-o",
                f"encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time={_ITERATION_MS}",
                _plain(source.path),
                str(target),
            ],
            _CONVERT_S,
            source.path,
            keep=(descriptor,),
        )
    watch(1.0)
    return Encrypted(
        path=target,
        digest=file_digest(target),
        size_bytes=target.stat().st_size,
        virtual_bytes=source.virtual_bytes,
    )


def _plain(path: Path) -> str:
    """Never a protocol: `nbd:…` or `json:…` as a file's name would make qemu-img open something else."""
    return f"file:{path.absolute()}"


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


def _qemu_img(argv: Sequence[str], seconds: int, image: Path, keep: Sequence[int] = ()) -> str:
    limits = ["prlimit", f"--as={_MEMORY_BYTES}", f"--cpu={seconds}", "--core=0", "--"]
    with tempfile.TemporaryFile("w+") as said:
        try:
            done = subprocess.run(
                [*limits, "qemu-img", *argv],
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
                timeout=seconds,
                pass_fds=keep,
                env={"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LC_ALL": "C"},
            )
        except subprocess.TimeoutExpired as error:
            raise InvalidInput(f"{image.name} took more than {seconds} s to read") from error
        except FileNotFoundError as error:
            raise Failed("qemu-img is not installed", hint="supercloud doctor") from error
        if done.returncode == 0:
            return done.stdout
        said.seek(0)
        reason = said.read(2000).strip().splitlines()[-1:] or [f"qemu-img ended with {done.returncode}"]
        if "No space left" in reason[0]:
            raise Exhausted("the disk is full", hint="TMPDIR names another place for the import")
        raise InvalidInput(f"{image.name} cannot be read: {reason[0]}")
