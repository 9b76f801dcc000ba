"""What a disk image is, by its first bytes, and whether it names other files: read by us, before qemu-img.

qemu-img opens whatever an image names while it only shows it (CVE-2024-4467), and opening alone can do harm
to a device; so what names anything is refused here.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path

from supercloud.model.errors import InvalidInput
from supercloud.model.names import MIB

_HEAD_BYTES = 1024
_BOOT_SIGNATURE = (510, b"\x55\xaa")


class ImageFormat(StrEnum):
    """What an import may be; `qemu-img` calls VHDX and VDI by the same names."""

    QCOW2 = "qcow2"
    RAW = "raw"
    VMDK = "vmdk"
    VHDX = "vhdx"
    VDI = "vdi"


#: (offset, bytes) -> format.
_MAGIC = (
    (0, b"QFI\xfb", ImageFormat.QCOW2),
    (0, b"KDMV", ImageFormat.VMDK),
    (0, b"COWD", ImageFormat.VMDK),
    (0, b"# Disk DescriptorFile", ImageFormat.VMDK),
    (0, b"vhdxfile", ImageFormat.VHDX),
    (0x40, b"\x7f\x10\xda\xbe", ImageFormat.VDI),
)
#: What looks like a disk and is none of ours.
_FOREIGN = (
    (0, b"QED\x00", "a QED image"),
    (0, b"conectix", "a VHD image (not VHDX)"),
    (0, b"WithoutFreeSpace", "a Parallels image"),
    (0, b"WithouFreSpacExt", "a Parallels image"),
    (0, b"LUKS\xba\xbe", "an encrypted disk"),
    (0, b"\x1f\x8b", "compressed with gzip"),
    (0, b"\xfd7zXZ\x00", "compressed with xz"),
    (0, b"\x28\xb5\x2f\xfd", "compressed with zstd"),
    (0, b"BZh", "compressed with bzip2"),
    (0, b"PK\x03\x04", "a ZIP archive"),
    (257, b"ustar", "a tar archive (an OVA is one)"),
)


def recognize(path: Path, given: ImageFormat | None) -> ImageFormat:
    """The format of a file that names no other file.

    Raises:
        InvalidInput: it is another, or none, or it names other files, or its end is missing.
    """
    head = _head(path)
    found = _by_magic(head)
    if given is ImageFormat.RAW:
        return given  # bytes as they are, whatever they look like: a guest may have written a header there
    if found is None:
        _refuse_unknown(path, head, given)
        return ImageFormat.RAW
    if given not in {None, found}:
        raise InvalidInput(f"{path.name} is {found}, not {given}", hint=f"--format {found}, or none")
    _CHECKS[found](path, head)
    return found


def _head(path: Path) -> bytes:
    """Never waits: a pipe or a device is not even opened."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise InvalidInput(f"{path} is not a file")
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            return file.read(_HEAD_BYTES)
    except FileNotFoundError as error:
        raise InvalidInput(f"{path} does not exist") from error
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{path} cannot be read: {getattr(error, 'strerror', error)}") from error


def _by_magic(head: bytes) -> ImageFormat | None:
    return next((format for at, magic, format in _MAGIC if head[at:].startswith(magic)), None)


def _refuse_unknown(path: Path, head: bytes, given: ImageFormat | None) -> None:
    if given is not None:
        raise InvalidInput(f"{path.name} is not {given}")
    foreign = next((what for at, magic, what in _FOREIGN if head[at:].startswith(magic)), None)
    formats = ", ".join(ImageFormat)
    if foreign is not None:
        raise InvalidInput(f"{path.name} is {foreign}", hint=f"unpack or convert it to one of: {formats}")
    at, signature = _BOOT_SIGNATURE
    if not head[at:].startswith(signature):
        raise InvalidInput(
            f"{path.name} is in no known format and does not boot as a raw disk",
            hint="--format raw takes it as it is",
        )


def _qcow2(path: Path, head: bytes) -> None:
    if len(head) < 104:
        raise _cut_short(path)
    version, backing = struct.unpack_from(">IQ", head, 4)
    if version not in {2, 3}:
        raise InvalidInput(f"{path.name} is qcow version {version}", hint="qemu-img convert -O qcow2")
    if backing:
        raise InvalidInput(f"{path.name} has a backing file", hint="flatten it first: qemu-img convert")
    (incompatible,) = struct.unpack_from(">Q", head, 72) if version == 3 else (0,)
    if incompatible & 4:
        raise InvalidInput(f"{path.name} keeps its data in another file", hint="qemu-img convert it first")
    (encryption,) = struct.unpack_from(">I", head, 32)
    if encryption:
        raise InvalidInput(f"{path.name} is encrypted already", hint="import it decrypted")


def _vmdk(path: Path, head: bytes) -> None:
    """A text lists extents anywhere; so may a sparse file of no capacity, which is a text inside a file."""
    described = head.startswith(b"#")
    if head.startswith(b"KDMV"):
        if len(head) < 24:
            raise _cut_short(path)
        (capacity,) = struct.unpack_from("<Q", head, 12)
        described = capacity == 0
    if described:
        raise InvalidInput(f"{path.name} keeps its data in other files", hint="qemu-img convert it first")


# VHDX and VDI may name a parent only where QEMU does not open them at all. But where their end is missing,
# QEMU reads zeros there and `qemu-img check` says nothing.


def _vhdx(path: Path, head: bytes) -> None:
    """All that is in one is aligned to a mebibyte."""
    if path.stat().st_size % MIB:
        raise _cut_short(path)


def _vdi(path: Path, head: bytes) -> None:
    if len(head) < 392:
        raise _cut_short(path)
    (data,) = struct.unpack_from("<I", head, 0x158)
    block, extra, _, blocks = struct.unpack_from("<4I", head, 0x178)
    if path.stat().st_size < data + blocks * (block + extra):
        raise _cut_short(path)


def _cut_short(path: Path) -> InvalidInput:
    return InvalidInput(f"{path.name} was cut short", hint="get it again, compare its digest")


_CHECKS: dict[ImageFormat, Callable[[Path, bytes], None]] = {
    ImageFormat.QCOW2: _qcow2,
    ImageFormat.VMDK: _vmdk,
    ImageFormat.VHDX: _vhdx,
    ImageFormat.VDI: _vdi,
}
