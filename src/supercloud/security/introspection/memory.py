"""A guest's memory: by the addresses of its machine, and by those of its kernel."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from supercloud.model.errors import Unavailable
from supercloud.model.memory import Span

#: `read(offset, length)` of the file that the memory is in.
Read = Callable[[int, int], bytes]

PAGE: Final = 4096
#: What one look may read, and how long a processor may work for it (seconds): some five times what a large
#: guest needs where processors are emulated.
LOOK_READS, LOOK_BYTES, LOOK_S = 2_000_000, 256 << 20, 300.0
#: Of one read. The largest that is needed is a kernel's text.
_LONGEST: Final = 64 << 20
_PRESENT, _LARGE = 1, 1 << 7
_FRAME: Final = 0x000F_FFFF_FFFF_F000
_LARGE_SHIFT: Final = 21
_LARGE_INSIDE: Final = (1 << _LARGE_SHIFT) - 1
_KERNEL: Final = 0xFF00_0000_0000_0000  # the upper half, with five levels of tables too
_MASK64: Final = (1 << 64) - 1


class Physical:
    """By the machine's addresses. Every read counts, until `begin` says that another look begins."""

    def __init__(self, spans: Sequence[Span], read: Read) -> None:
        self._spans = tuple(spans)
        self._read = read
        self.begin()

    @property
    def spans(self) -> tuple[Span, ...]:
        return self._spans

    def begin(self) -> None:
        self.reads = self.bytes = 0
        self._until = time.process_time() + LOOK_S

    def read(self, address: int, length: int, *, counts: bool = True) -> bytes:
        """
        Raises:
            Unavailable: there is no such memory, or this look has read more than any needs.
        """
        self.reads += 1
        self.bytes += length if counts else 0
        if self.reads > LOOK_READS or self.bytes > LOOK_BYTES:
            raise Unavailable("looking at this guest takes more than any look needs")
        if not self.reads & 0xFF and time.process_time() > self._until:
            raise Unavailable(f"looking at this guest takes more than {LOOK_S:.0f} s")
        for span in self._spans:
            inside = address - span.address
            if 0 <= inside <= span.length - length:
                data = self._read(span.offset + inside, length)
                if len(data) != length:
                    break
                return data
        raise Unavailable(f"the guest's machine has no memory at {address:#x}")


class Memory:
    """By its kernel's addresses, through its own page tables, of which the uppermost is at `root`."""

    def __init__(self, physical: Physical, root: int, *, levels: int) -> None:
        self.physical = physical
        self._root = root
        self._levels = levels
        self._known: dict[int, int] = {}  # of small pages, by their numbers
        self._large: dict[int, int] = {}  # of pages of 2 MiB, by theirs

    def begin(self) -> None:
        """Another look: tables are read anew, and reads counted anew."""
        self._known.clear()
        self._large.clear()
        self.physical.begin()

    def translate(self, address: int) -> int:
        """The machine's address.

        Raises:
            Unavailable: the kernel has nothing there.
        """
        return self._piece(address)[0]

    def _piece(self, address: int) -> tuple[int, int]:
        """The machine's address, and how much from there on lies in one piece."""
        large = self._large.get(address >> _LARGE_SHIFT)
        if large is not None:
            inside = address & _LARGE_INSIDE
            return large | inside, _LARGE_INSIDE + 1 - inside
        frame = self._known.get(address >> 12)
        if frame is None:
            frame, shift = self._walk(address)
            if shift >= _LARGE_SHIFT:
                self._large[address >> _LARGE_SHIFT] = frame & ~_LARGE_INSIDE
                return self._piece(address)
            self._known[address >> 12] = frame
        inside = address & (PAGE - 1)
        return frame | inside, PAGE - inside

    def _walk(self, address: int) -> tuple[int, int]:
        """Of its small page the machine's address; and how large the page is that the kernel has there."""
        if address < _KERNEL or address > _MASK64:
            raise Unavailable(f"{address:#x} is no address of a kernel")
        table = self._root
        for level in range(self._levels - 1, -1, -1):
            shift = 12 + 9 * level
            entry = int.from_bytes(self.physical.read(table + ((address >> shift) & 0x1FF) * 8, 8), "little")
            if not entry & _PRESENT:
                break
            table = entry & _FRAME
            if level == 0 or (level in {1, 2} and entry & _LARGE):
                inside = (1 << shift) - 1
                return (table & ~inside) | (address & inside & ~0xFFF), shift
        raise Unavailable(f"the guest's kernel has nothing at {address:#x}")

    def read(self, address: int, length: int) -> bytes:
        """
        Raises:
            Unavailable: not all of it is there, or it is longer than anything that is looked at.
        """
        if (address & 0xFFF) + length <= PAGE:
            return self.physical.read(self.translate(address), length)
        if not 0 <= length <= _LONGEST:
            raise Unavailable(f"{length} bytes are more than is looked at")
        parts: list[bytes] = []
        while length > 0:
            start, size = self._piece(address)
            size = min(size, length)
            parts.append(self.physical.read(start, size))
            address, length = address + size, length - size
        return b"".join(parts)

    def u64(self, address: int) -> int:
        return int.from_bytes(self.read(address, 8), "little")

    def u32(self, address: int) -> int:
        return int.from_bytes(self.read(address, 4), "little")


@dataclass(frozen=True, slots=True)
class Fields:
    """Some fields of a structure, which are read with one read."""

    names: tuple[str, ...]
    start: int
    form: struct.Struct

    @classmethod
    def of(cls, wanted: Sequence[tuple[str, int, str]]) -> Fields:
        """Each field: its name, its offset, what it is in `struct`'s words.

        Raises:
            Unavailable: they overlap, or lie farther apart than one structure has bytes.
        """
        ordered = sorted(wanted, key=lambda one: one[1])
        start = at = ordered[0][1]
        form = "<"
        for name, offset, kind in ordered:
            if not 0 <= offset - at <= 64 << 10:
                raise Unavailable(f"the guest's kernel has no {name} where it could be")
            form += f"{offset - at}x{kind}"
            at = offset + struct.calcsize("<" + kind)
        return cls(tuple(one[0] for one in ordered), start, struct.Struct(form))

    def read(self, memory: Memory, address: int) -> dict[str, int | bytes]:
        data = memory.read(address + self.start, self.form.size)
        return dict(zip(self.names, self.form.unpack(data), strict=True))


def number(value: int | bytes) -> int:
    """A field that is one."""
    assert isinstance(value, int)  # noqa: S101 - by the form that it was read with
    return value


def text(value: int | bytes) -> str:
    """A field that holds a name: what of it can be printed."""
    assert isinstance(value, bytes)  # noqa: S101 - by the form that it was read with
    return "".join(chr(one) if 0x20 <= one < 0x7F else "?" for one in value.split(b"\0", 1)[0])
