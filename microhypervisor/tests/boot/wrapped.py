"""A micro-hypervisor with its boot modules, as a kernel image that a partition boots.

It is in the form of Linux's (its boot protocol, 2.10): a setup header, and code that is loaded at `_LOAD`
and entered in 32-bit mode. That code does what a multiboot loader does: the image goes to where it is linked,
and is told of its modules and of memory to use.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

_LOAD = 16 << 20
_SETUP_BYTES = 1024  # a boot sector and one of setup
_PAGE = 4096


def wrapped(elf: Path, modules: Mapping[str, bytes], *, memory_mib: int) -> bytes:
    """The kernel image; `memory_mib` is what the partition has, of which L0 leaves a page out."""
    start, image, entry = _flat(elf.read_bytes())
    parts = bytearray(_PAGE)  # the entry, and what a multiboot loader says, come here
    places = []
    for content in (image, *modules.values()):
        places.append((_LOAD + len(parts), _LOAD + len(parts) + len(content)))
        parts += content + bytes(-len(content) % _PAGE)
    code, told = _code(places[0][0], start, len(image), entry), _LOAD + 128
    parts[: len(code)] = code
    multiboot = _told(told, list(zip(modules, places[1:], strict=True)), (memory_mib << 20) - _PAGE)
    assert len(code) <= 128 and len(multiboot) <= _PAGE - 128
    parts[128 : 128 + len(multiboot)] = multiboot
    return _setup(len(parts)) + parts


def _flat(elf: bytes) -> tuple[int, bytes, int]:
    """Where an ELF's (32 bits) bytes begin, all that it loads, and its entry."""
    entry, headers = struct.unpack_from("<II", elf, 24)
    size, count = struct.unpack_from("<HH", elf, 42)
    loads = [struct.unpack_from("<8I", elf, headers + size * i) for i in range(count)]
    loads = [load for load in loads if load[0] == 1 and load[4] > 0]  # PT_LOAD, with bytes in the file
    start = min(load[3] for load in loads)
    image = bytearray(max(load[3] + load[4] for load in loads) - start)
    for _, offset, _, at, in_file, _, _, _ in loads:
        image[at - start : at - start + in_file] = elf[offset : offset + in_file]
    return start, bytes(image) + bytes(-len(image) % 4), entry


def _code(image: int, start: int, size: int, entry: int) -> bytes:
    rest = _LOAD - start - size  # zeroed: .bss is somewhere in it
    return b"".join(
        (
            b"\xfa\xfc",  # cli; cld
            b"\xbe" + struct.pack("<I", image),  # mov $image, %esi
            b"\xbf" + struct.pack("<I", start),  # mov $start, %edi
            b"\xb9" + struct.pack("<I", size // 4),  # mov $size / 4, %ecx
            b"\xf3\xa5",  # rep movsl
            b"\xb9" + struct.pack("<I", rest // 4),
            b"\x31\xc0\xf3\xab",  # xor %eax, %eax; rep stosl
            b"\xbb" + struct.pack("<I", _LOAD + 128),  # mov $told, %ebx
            b"\xb8" + struct.pack("<I", 0x2BADB002),  # mov $magic, %eax
            b"\xba" + struct.pack("<I", entry) + b"\xff\xe2",  # mov $entry, %edx; jmp *%edx
        )
    )


def _told(at: int, modules: list[tuple[str, tuple[int, int]]], memory: int) -> bytes:
    """Multiboot 0.6.96, 3.3: modules and a map of memory, at this address."""
    head, entries = 52, 16 * len(modules)
    memory_map = b"".join(
        struct.pack("<IQQI", 20, first, end - first, 1) for first, end in ((0, 0xA0000), (1 << 20, memory))
    )
    names = b"".join(name.encode() + b"\0" for name, _ in modules)
    map_at, names_at = at + head + entries, at + head + entries + len(memory_map)
    table = b""
    for name, (first, end) in modules:
        table += struct.pack("<IIII", first, end, names_at, 0)
        names_at += len(name) + 1
    flags = 1 << 3 | 1 << 6
    told = struct.pack("<5I2I16x2I", flags, 0, 0, 0, 0, len(modules), at + head, len(memory_map), map_at)
    assert len(told) == head
    return told + table + memory_map + names


def _setup(size: int) -> bytes:
    setup = bytearray(_SETUP_BYTES)
    struct.pack_into("<B", setup, 0x1F1, 1)  # sectors behind the first one
    struct.pack_into("<H", setup, 0x1FE, 0xAA55)
    struct.pack_into("<2s4sH", setup, 0x200, b"\xeb\x66", b"HdrS", 0x20A)
    setup[0x211] = 1  # it is loaded above 1 MiB
    struct.pack_into("<Q", setup, 0x258, _LOAD)
    struct.pack_into("<I", setup, 0x260, size)
    return bytes(setup)
