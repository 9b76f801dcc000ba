"""The symbols of a Linux kernel, from its own table: kallsyms, to which VMCOREINFO leads since Linux 6.0.

Names are compressed: each byte stands for a token of a table of 256 (scripts/kallsyms.c of Linux).
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Final

from supercloud.model.errors import Unavailable
from supercloud.security.introspection.memory import Memory

#: Debian's kernel has some 150,000 in 2 MiB.
_MOST, _MOST_BYTES, _MOST_EXPANDED = 1_000_000, 24 << 20, 96 << 20
_LONGEST: Final = 512  # KSYM_NAME_LEN
_LONGEST_TOKEN: Final = 64
_TOKENS: Final = 256
#: Where the table is, by the names that VMCOREINFO has for it.
PARTS: Final = tuple(
    f"kallsyms_{part}"
    for part in ("names", "num_syms", "token_table", "token_index", "offsets", "relative_base")
)


class Symbols:
    """What `keep` says of is kept by its name; of every symbol it is known that something begins there."""

    def __init__(self, memory: Memory, where: Mapping[str, int], keep: Callable[[str], bool]) -> None:
        """
        Raises:
            Unavailable: there is no such table.
        """
        missing = [part for part in PARTS if part not in where]
        if missing:
            raise Unavailable("the guest's kernel does not say where its symbols are: it is older than 6.0")
        self._tokens = _tokens(memory, where["kallsyms_token_table"], where["kallsyms_token_index"])
        many = memory.u32(where["kallsyms_num_syms"])
        length = where["kallsyms_token_table"] - where["kallsyms_names"]
        if not 0 < many <= _MOST or not 0 < length <= _MOST_BYTES:
            raise Unavailable("the guest kernel's symbols are more than any kernel has")
        self._memory, self._names_at, self._names_length = memory, where["kallsyms_names"], length
        self._addresses = _addresses(
            memory.read(where["kallsyms_offsets"], 4 * many), memory.u64(where["kallsyms_relative_base"])
        )
        self.by_name: dict[str, int] = {}
        for address, name in self._named():
            if keep(name):
                self.by_name.setdefault(name, address)
        self._sorted = array("Q", sorted(self._addresses))

    def _named(self) -> Iterator[tuple[int, str]]:
        data = self._memory.read(self._names_at, self._names_length)
        tokens, at, expanded = self._tokens, 0, 0
        for address in self._addresses:
            if at + 2 > len(data):
                raise Unavailable("the guest kernel's symbols end too early")
            length = data[at]
            at += 1
            if length & 0x80:  # since 6.1: seven bits, and more in the next byte
                length = (length & 0x7F) | (data[at] << 7)
                at += 1
            if not 0 < length <= _LONGEST:
                raise Unavailable("a name of the guest kernel's symbols is longer than any is")
            name = b"".join([tokens[one] for one in data[at : at + length]])
            at += length
            expanded += len(name)
            if expanded > _MOST_EXPANDED:
                raise Unavailable("the guest kernel's symbols are more than any kernel has")
            yield address, name[1:].decode("ascii", "replace")  # the first is its kind

    def __getitem__(self, name: str) -> int:
        """
        Raises:
            Unavailable: the kernel has none of this name.
        """
        found = self.by_name.get(name)
        if found is None:
            raise Unavailable(f"the guest's kernel has no {name}")
        return found

    def after(self, address: int) -> int:
        """Where the next symbol begins, behind it: how long it is at most."""
        at = bisect_right(self._sorted, address)
        return self._sorted[at] if at < len(self._sorted) else address

    def names(self, addresses: Collection[int]) -> dict[int, str]:
        """What each is in, as `name+0x10`. Goes through the whole table."""
        starts: dict[int, list[int]] = {}
        for one in addresses:
            at = bisect_right(self._sorted, one)
            if at:
                starts.setdefault(self._sorted[at - 1], []).append(one)
        found: dict[int, str] = {}
        for start, name in self._named():
            for one in starts.get(start, ()):
                found.setdefault(one, name if one == start else f"{name}+{one - start:#x}")
        return found


def _tokens(memory: Memory, table: int, index: int) -> list[bytes]:
    starts = struct.unpack(f"<{_TOKENS}H", memory.read(index, 2 * _TOKENS))
    data = memory.read(table, max(starts) + _LONGEST_TOKEN)
    return [data[start : start + _LONGEST_TOKEN].split(b"\0", 1)[0] for start in starts]


def _addresses(offsets: bytes, base: int) -> array[int]:
    """Negative: relative to the base, and the others are absolute (those of each processor's own data). Where
    none is negative, all are relative (Linux 6.15 and later)."""
    signed = array("i")
    signed.frombytes(offsets)
    mask = (1 << 64) - 1
    if min(signed) < 0:
        return array("Q", [one if one >= 0 else (base - 1 - one) & mask for one in signed])
    return array("Q", [(base + one) & mask for one in signed])
