"""A guest kernel's own code: whether it is what it was, and where its system calls lead.

A kernel changes its code itself while it runs, at places that it has tables of: branches that are switched
(jump labels), calls that are aimed anew (static calls), and the beginnings of functions that are traced. What
these places hold is left out; all else is compared by digests, page by page.
"""

from __future__ import annotations

import hashlib
import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from supercloud.model.errors import Unavailable
from supercloud.security.introspection.kernel import Kernel
from supercloud.security.introspection.memory import PAGE, number

_MOST_TEXT: Final = 64 << 20
_MOST_SITES: Final = 500_000
_CALL: Final = 5  # bytes of a call, a jump, or what stands in their place
_JUMP_ENTRY, _STATIC_ENTRY = struct.Struct("<iiq"), struct.Struct("<ii")
_TRACED_ENTRY: Final = 16  # struct dyn_ftrace: the address comes first
_TABLE_MOST: Final = 1024  # system calls; Linux 6.1 has 451


@dataclass(frozen=True, slots=True)
class Hook:
    """A system call that leads elsewhere."""

    number: int
    target: int


@dataclass(frozen=True, slots=True)
class Site:
    address: int
    length: int


def hooks(kernel: Kernel) -> tuple[Hook, ...]:
    """Entries of the table of system calls that are no beginning of one.

    Raises:
        Unavailable: it cannot be read.
    """
    symbols = kernel.symbols
    table = symbols["sys_call_table"]
    many = (symbols.after(table) - table) // 8
    if not 0 < many <= _TABLE_MOST:
        raise Unavailable("the guest kernel's table of system calls is not where it could be")
    real = {at for name, at in symbols.by_name.items() if "sys_" in name and at != table}
    entries = memoryview(kernel.memory.read(table, 8 * many)).cast("Q")
    return tuple(Hook(at, entry) for at, entry in enumerate(entries) if entry not in real and entry)


class Text:
    """A kernel's code as it was first seen. `changed` says what is otherwise since."""

    def __init__(self, kernel: Kernel) -> None:
        """
        Raises:
            Unavailable: it cannot be read.
        """
        self._kernel = kernel
        self._start, end = kernel.symbols["_stext"], kernel.symbols["_etext"]
        self._length = end - self._start
        if not 0 < self._length <= _MOST_TEXT:
            raise Unavailable("the guest kernel's code is not where it could be")
        self._sites = self._by_page(_sites(kernel, self._start, end))
        data = self._read()
        self._raw = [_digest(page) for page in _pages(data)]
        self._masked = [_digest(self._mask(at, page)) for at, page in enumerate(_pages(data))]

    @property
    def pages(self) -> int:
        return len(self._raw)

    def changed(self) -> tuple[int, ...]:
        """Addresses of pages that are otherwise than at first."""
        found: list[int] = []
        for at, page in enumerate(_pages(self._read())):
            raw = _digest(page)
            if raw == self._raw[at]:
                continue
            if _digest(self._mask(at, page)) == self._masked[at]:
                self._raw[at] = raw  # only what a kernel changes itself
            else:
                found.append(self._start + at * PAGE)
        return tuple(found)

    def _read(self) -> bytes:
        return self._kernel.memory.read(self._start, self._length)

    def _by_page(self, sites: Iterator[Site]) -> dict[int, array[int]]:
        """Of each page: where a site begins in the code, and behind it."""
        found: dict[int, array[int]] = {}
        for many, site in enumerate(sites):
            if many > _MOST_SITES:
                raise Unavailable("the guest's kernel changes its code at more places than any does")
            first = site.address - self._start
            if not 0 <= first < self._length:
                continue
            for page in {first // PAGE, (first + site.length - 1) // PAGE}:
                found.setdefault(page, array("I")).extend((first, first + site.length))
        return found

    def _mask(self, at: int, page: memoryview) -> bytes:
        sites = self._sites.get(at)
        if sites is None:
            return bytes(page)
        masked, start = bytearray(page), at * PAGE
        for index in range(0, len(sites), 2):
            first, last = max(sites[index] - start, 0), min(sites[index + 1] - start, len(page))
            masked[first:last] = bytes(last - first)
        return bytes(masked)


def _pages(data: bytes) -> Iterator[memoryview]:
    view = memoryview(data)
    return (view[at : at + PAGE] for at in range(0, len(data), PAGE))


def _digest(page: bytes | memoryview) -> bytes:
    return hashlib.blake2b(page, digest_size=16).digest()


def _sites(kernel: Kernel, start: int, end: int) -> Iterator[Site]:
    yield from _jumps(kernel, start, end)
    yield from _static_calls(kernel)
    yield from _traced(kernel)
    for name, address in kernel.symbols.by_name.items():
        if name.startswith(("__SCT__", "ftrace_call", "ftrace_graph_call", "ftrace_regs_call")):
            yield Site(address, 8 if name.startswith("__SCT__") else _CALL)


def _table(kernel: Kernel, name: str, entry: struct.Struct) -> tuple[int, bytes]:
    first, last = kernel.symbols[f"__start_{name}"], kernel.symbols[f"__stop_{name}"]
    if not 0 <= last - first <= _MOST_SITES * entry.size:
        raise Unavailable(f"the guest kernel's {name} is not where it could be")
    length = (last - first) // entry.size * entry.size
    return first, kernel.memory.read(first, length) if length else b""


def _jumps(kernel: Kernel, start: int, end: int) -> Iterator[Site]:
    """An entry is relative to itself. A branch is two bytes long or five, as far as it jumps."""
    first, data = _table(kernel, "__jump_table", _JUMP_ENTRY)
    for at, (code, _, _) in enumerate(_JUMP_ENTRY.iter_unpack(data)):
        address = first + at * _JUMP_ENTRY.size + code
        if start <= address < end - _CALL:
            short = kernel.memory.read(address, 1)[0] in {0xEB, 0x66}
            yield Site(address, 2 if short else _CALL)


def _static_calls(kernel: Kernel) -> Iterator[Site]:
    first, data = _table(kernel, "static_call_sites", _STATIC_ENTRY)
    for at, (code, _) in enumerate(_STATIC_ENTRY.iter_unpack(data)):
        yield Site(first + at * _STATIC_ENTRY.size + code, _CALL + 1)


def _traced(kernel: Kernel) -> Iterator[Site]:
    group = kernel.fields("ftrace_page", next="Q", records="Q", index="i")
    if kernel.types.size("dyn_ftrace") != _TRACED_ENTRY:
        raise Unavailable("the guest's kernel keeps what it traces in a way that is not known")
    address, many = kernel.memory.u64(kernel.symbols["ftrace_pages_start"]), 0
    while address:
        fields = group.read(kernel.memory, address)
        inside = number(fields["index"])
        many += 1
        if many > 1024 or not 0 <= inside <= _MOST_SITES:
            raise Unavailable("the guest's kernel traces more than there can be")
        data = kernel.memory.read(number(fields["records"]), inside * _TRACED_ENTRY)
        for site, _ in struct.iter_unpack("<QQ", data):
            yield Site(site, _CALL)
        address = number(fields["next"])
