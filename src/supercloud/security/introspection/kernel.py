"""A Linux kernel in a guest's memory: found by its VMCOREINFO, known by its own symbols and types.

VMCOREINFO is what a kernel says of itself to whoever looks at its memory after a crash. Anybody in the guest
can write something that looks like it, so one counts only if its own kernel's tables lead back to it, and if
there is one such.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from supercloud.model.errors import Unavailable
from supercloud.security.introspection.btf import MOST_BYTES, Types
from supercloud.security.introspection.kallsyms import Symbols
from supercloud.security.introspection.memory import PAGE, Fields, Memory, Physical

#: Of the file that the memory is in: (offset, length) of what was ever written to. Elsewhere is nothing.
Written = Callable[[], Iterable[tuple[int, int]]]

_MARK: Final = b"OSRELEASE="
_CHUNK: Final = 4 << 20
#: Places that look like a VMCOREINFO, and such that are looked at whole.
_MARKS, _CANDIDATES = 4096, 8
#: An idle kernel counts its ticks so often at least (seconds).
TICKS_S: Final = 2.0
_LINE: Final = re.compile(r"(SYMBOL|NUMBER)\((\w{1,64})\)=(-?[0-9a-f]{1,20})")
_RELEASE: Final = re.compile(r"OSRELEASE=([\w.+~-]{1,64})")
#: Where x86-64 maps the kernel's image (Documentation/arch/x86/x86_64/mm.rst of Linux).
_IMAGE: Final = 0xFFFF_FFFF_8000_0000
_IMAGE_BYTES: Final = 1 << 30
#: Symbols that looks need; others are kept by what their names begin with.
_WANTED: Final = frozenset(
    {
        *("init_task", "init_pid_ns", "runqueues", "__per_cpu_offset", "nr_cpu_ids", "jiffies_64"),
        *("vmcoreinfo_data", "__start_BTF", "__stop_BTF", "_stext", "_etext"),
        *("sys_call_table", "sys_ni_syscall", "modules", "module_kset", "tcp_hashinfo", "udp_table"),
        *("__start___jump_table", "__stop___jump_table"),
        *("__start_static_call_sites", "__stop_static_call_sites"),
        *("ftrace_pages_start", "ftrace_call", "ftrace_graph_call", "ftrace_regs_call"),
    }
)
_BEGINNINGS: Final = ("__x64_sys_", "__ia32_sys_", "__x64_compat_sys_", "__SCT__")


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a kernel says of itself."""

    address: int  # of the machine's, where it says so
    release: str
    symbols: Mapping[str, int]
    numbers: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """One that can be looked at."""

    said: Said
    memory: Memory
    symbols: Symbols
    types: Types

    @property
    def release(self) -> str:
        return self.said.release

    def is_there(self) -> bool:
        """Whether it still says of itself what it said: what boots in its place writes over that sooner or
        later."""
        return _read_said(self.memory.physical, self.said.address) == self.said

    def ticks(self) -> int:
        """Grows for as long as it runs."""
        return self.memory.u64(self.symbols["jiffies_64"])

    def fields(self, struct: str, **wanted: str) -> Fields:
        """By the fields' paths in it (`__` for a dot), and what each is in `struct`'s words.

        Raises:
            Unavailable: this kernel has no such field.
        """
        paths = {name: name.replace("__", ".") for name in wanted}
        return Fields.of(
            [(name, self.types.offset(f"{struct}.{paths[name]}"), kind) for name, kind in wanted.items()]
        )


def find_kernel(physical: Physical, written: Written, sleep: Callable[[float], None]) -> Kernel:
    """Takes a second or two, once for each boot of a guest. What an earlier boot left looks like a kernel as
    well, but stands still.

    Raises:
        Unavailable: there is none, it is none that can be looked at, or there is more than one.
    """
    physical.begin()
    found: list[Kernel] = []
    why = "no Linux kernel is found in the guest"
    candidates = 0
    for said in _said(physical, written):
        memory = _memory_of(physical, said)
        if memory is None:
            continue
        candidates += 1
        if candidates > _CANDIDATES:
            raise Unavailable("very much in the guest looks like a kernel")
        try:
            kernel = _kernel(memory, said)
        except Unavailable as error:
            why = error.message
            continue
        if kernel is not None:
            found.append(kernel)
    if len(found) > 1:
        found = _moving(found, sleep)
        why = "the guest stands still"
    if len(found) > 1:
        raise Unavailable("there is more in the guest that looks like its kernel than one")
    if not found:
        raise Unavailable(why)
    return found[0]


def _moving(kernels: list[Kernel], sleep: Callable[[float], None]) -> list[Kernel]:
    """Those that go on."""
    before = [_ticks(one) for one in kernels]
    sleep(TICKS_S)
    return [one for one, then in zip(kernels, before, strict=True) if _ticks(one) not in {then, None}]


def _ticks(kernel: Kernel) -> int | None:
    kernel.memory.begin()
    try:
        return kernel.ticks()
    except Unavailable:
        return None


def _said(physical: Physical, written: Written) -> Iterator[Said]:
    for address in _marks(physical, written):
        if (said := _read_said(physical, address)) is not None:
            yield said


def _read_said(physical: Physical, address: int) -> Said | None:
    try:
        page = physical.read(address, PAGE - (address & (PAGE - 1)))
    except Unavailable:
        return None
    lines = page.split(b"\0", 1)[0].decode("ascii", "replace").splitlines()
    release = _RELEASE.fullmatch(lines[0]) if lines else None
    if release is None:
        return None
    values: dict[str, dict[str, int]] = {"SYMBOL": {}, "NUMBER": {}}
    for line in lines:
        if match := _LINE.fullmatch(line):
            kind, name, value = match.groups()
            with suppress(ValueError):  # not of its base
                values[kind][name] = int(value, 16 if kind == "SYMBOL" else 10)
    return Said(address=address, release=release[1], symbols=values["SYMBOL"], numbers=values["NUMBER"])


def _marks(physical: Physical, written: Written) -> Iterator[int]:
    """Of the machine's addresses."""
    many = 0
    for offset, length in written():
        for span in physical.spans:
            first = max(offset, span.offset)
            last = min(offset + length, span.offset + span.length)
            at = first
            while at < last:
                size = min(_CHUNK + len(_MARK), last - at)
                start = span.address + at - span.offset
                data = physical.read(start, size, counts=False)  # all of a guest, whatever it has
                found = data.find(_MARK)
                while found >= 0:
                    many += 1
                    if many > _MARKS:
                        raise Unavailable("very much in the guest looks like a kernel")
                    yield start + found
                    found = data.find(_MARK, found + 1)
                at += _CHUNK


def _memory_of(physical: Physical, said: Said) -> Memory | None:
    """Nothing, where what it says is not so: its uppermost table does not map itself."""
    top, base = said.symbols.get("swapper_pg_dir"), said.numbers.get("phys_base")
    if top is None or base is None or not _IMAGE <= top < _IMAGE + _IMAGE_BYTES:
        return None
    root = top - _IMAGE + base
    memory = Memory(physical, root, levels=5 if said.numbers.get("pgtable_l5_enabled") else 4)
    try:
        return memory if memory.translate(top) == root else None
    except Unavailable:
        return None


def _kernel(memory: Memory, said: Said) -> Kernel | None:
    symbols = Symbols(memory, said.symbols, lambda name: name in _WANTED or name.startswith(_BEGINNINGS))
    if memory.translate(memory.u64(symbols["vmcoreinfo_data"])) != said.address:
        return None  # a copy, or somebody's forgery
    start, stop = symbols["__start_BTF"], symbols["__stop_BTF"]
    if not 0 < stop - start <= MOST_BYTES:
        raise Unavailable("the guest's kernel says nothing of its types")
    types = Types(memory.read(start, stop - start))
    return Kernel(said=said, memory=memory, symbols=symbols, types=types)
