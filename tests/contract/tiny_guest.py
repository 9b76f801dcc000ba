"""A guest of 72 bytes of code: enough of a machine to see whether it runs, and started in a blink.

It writes `B` when it starts, counts the bytes that it receives on its console and answers each with its count
(`1`, `2`, …), and switches itself off when its power button is pressed. Its count is its memory.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from supercloud.model.errors import NotFound
from supercloud.model.names import Digest
from supercloud.ports.platform import BlanketFiles

IMAGE: Digest = "sha256:" + "5c" * 32

# Multiboot wants 32-bit code; QEMU's loader for it is the one that `-kernel` takes.
_CODE = bytes.fromhex(
    "ba 02060000"  # mov  $0x602, %edx      PM1 enable register (ACPI) of q35
    "66 b8 0001"  # mov  $0x100, %ax       the power button
    "66 ef"  # out  %ax, %dx
    "31 db"  # xor  %ebx, %ebx
    "b0 42"  # mov  $'B', %al
    "ba f8030000"  # mov  $0x3f8, %edx      first serial port
    "ee"  # out  %al, %dx
    # again:
    "f3 90"  # pause
    "ba 00060000"  # mov  $0x600, %edx      PM1 status register
    "66 ed"  # in   %dx, %ax
    "66 a9 0001"  # test $0x100, %ax
    "75 17"  # jnz  off
    "ba fd030000"  # mov  $0x3fd, %edx      line status of the serial port
    "ec"  # in   %dx, %al
    "a8 01"  # test $1, %al           a byte came
    "74 e7"  # jz   again
    "ba f8030000"  # mov  $0x3f8, %edx
    "ec"  # in   %dx, %al
    "43"  # inc  %ebx
    "8d 43 30"  # lea  '0'(%ebx), %eax
    "ee"  # out  %al, %dx
    "eb da"  # jmp  again
    # off:
    "ba 04060000"  # mov  $0x604, %edx      PM1 control register
    "66 b8 0020"  # mov  $0x2000, %ax      sleep state S5
    "66 ef"  # out  %ax, %dx
    "eb f3"  # jmp  off
)
_LOAD = 0x100000
_HEADER_BYTES = 32


def _kernel() -> bytes:
    magic, flags = 0x1BADB002, 1 << 16  # the header says where to load: no ELF needed
    end = _LOAD + _HEADER_BYTES + len(_CODE)
    checksum = -(magic + flags) & 0xFFFFFFFF
    return struct.pack("<8I", magic, flags, checksum, _LOAD, _LOAD, end, end, _LOAD + _HEADER_BYTES) + _CODE


def linux_kernel() -> bytes:
    """A guest that writes `B` and waits for ever, as Linux' boot protocol wants one: a setup header, then
    32-bit code at 16 MiB. A partition of the micro-hypervisor starts nothing else."""
    code = bytes.fromhex("ba f8030000 b0 42 ee f4 eb fd")  # mov $0x3f8, %edx; mov $'B', %al; out; hlt; jmp
    setup = bytearray(2 * 512)
    for at, field in {
        0x1F1: b"\x01",  # one sector of setup behind the first
        0x1FE: b"\x55\xaa",
        0x201: b"\x66HdrS\x0f\x02",
        0x211: b"\x01",
        0x258: struct.pack("<QI", 0x1000000, 0x800000),
    }.items():
        setup[at : at + len(field)] = field
    return bytes(setup) + code.ljust(512, b"\0")


@dataclass(frozen=True, slots=True)
class TinyImages:
    """ports.platform.BlanketImages with the tiny guest only."""

    directory: Path
    kernel: bytes = _kernel()

    def current(self) -> Digest:
        return IMAGE

    def files(self, image: Digest) -> BlanketFiles:
        if image != IMAGE:
            raise NotFound("there is no such image")
        self.directory.mkdir(parents=True, exist_ok=True)
        contents = {
            "kernel": self.kernel,
            "initrd": b"\0" * 512,
            "root": b"\0" * 4096,
            "bundle": b"\0" * 4096,
        }
        for name, data in contents.items():
            path = self.directory / name
            if not path.exists():
                path.write_bytes(data)
        return BlanketFiles(
            kernel=self.directory / "kernel",
            initrd=self.directory / "initrd",
            root=self.directory / "root",
            bundle=self.directory / "bundle",
            cmdline="tiny",
        )


class TinyGuest:
    """The same for the simulated platform."""

    def __init__(self) -> None:
        self._count = 0

    def boot(self) -> bytes:
        self._count = 0
        return b"B"

    def receive(self, data: bytes) -> bytes:
        answers = b""
        for _ in data:
            self._count += 1
            answers += bytes([ord("0") + self._count])
        return answers
