"""BPF Type Format, which a Linux kernel carries of itself: where the fields of its structures are.

The format: Documentation/bpf/btf.rst of Linux. Only what leads to offsets is read.
"""

from __future__ import annotations

import struct
from array import array
from typing import Final

from supercloud.model.errors import Unavailable

_HEADER: Final = struct.Struct("<HBBIIIII")
_MAGIC: Final = 0xEB9F
#: Of one kernel: Debian's has some 5 MiB and 130,000 types.
MOST_BYTES, _MOST_TYPES = 32 << 20, 1_000_000
_INT, _ARRAY, _STRUCT, _UNION, _VAR, _TAG = 1, 3, 4, 5, 14, 17
#: typedef, volatile, const, restrict, type tag: another name of the type that they lead to.
_ALIASES: Final = frozenset({8, 9, 10, 11, 18})
#: Words that follow a type's first three, for each of its parts; and of a kind as a whole.
_EACH: Final = {_STRUCT: 3, _UNION: 3, 6: 2, 13: 2, 15: 3, 19: 3}
_WHOLE: Final = {_INT: 1, _ARRAY: 3, _VAR: 1, _TAG: 1}
_KINDS: Final = 19
_DEEP: Final = 12


class Types:
    """
    Raises, from everything:
        Unavailable: that is no such format, or it has no such structure or field.
    """

    def __init__(self, data: bytes) -> None:
        if len(data) < _HEADER.size or len(data) > MOST_BYTES:
            raise Unavailable("the guest's kernel says nothing of its types")
        magic, version, _, header, at, length, names_at, names_length = _HEADER.unpack_from(data)
        if magic != _MAGIC or version != 1 or header + max(at + length, names_at + names_length) > len(data):
            raise Unavailable("what the guest's kernel says of its types cannot be read")
        self._names = data[header + names_at : header + names_at + names_length]
        words = array("I")
        words.frombytes(data[header + at : header + at + length // 4 * 4])
        self._words = words
        self._at = array("I", [0])  # of each type; type 0 is void
        self._structs: dict[int, int] = {}
        self._index()

    def _index(self) -> None:
        words, at, found = self._words, 0, self._at
        end = len(words) - 2
        while at < end:
            info = words[at + 1]
            kind = info >> 24 & 0x1F
            if not 0 < kind <= _KINDS or len(found) > _MOST_TYPES:
                raise Unavailable("what the guest's kernel says of its types cannot be read")
            if kind == _STRUCT:
                self._structs.setdefault(words[at], at)
            found.append(at)
            at += 3 + _EACH.get(kind, 0) * (info & 0xFFFF) + _WHOLE.get(kind, 0)
        if at > len(words):
            raise Unavailable("what the guest's kernel says of its types ends too early")

    def offset(self, path: str) -> int:
        """In bytes: `struct.field`, or farther in, `struct.field.field`."""
        name, *fields = path.split(".")
        at: int | None = self._structure(name)
        offset = 0
        for field in fields:
            found = None if at is None else self._member(at, field.encode(), _DEEP)
            if found is None:
                raise Unavailable(f"the guest's kernel has no {path}")
            offset += found[0]
            at = self._resolved(found[1])
        return offset

    def has(self, path: str) -> bool:
        try:
            self.offset(path)
        except Unavailable:
            return False
        return True

    def size(self, name: str) -> int:
        """Of a structure, in bytes."""
        return self._words[self._structure(name) + 2]

    def _structure(self, name: str) -> int:
        named = self._names.find(b"\0" + name.encode() + b"\0") + 1
        at = self._structs.get(named) if named else None
        if at is None:
            raise Unavailable(f"the guest's kernel has no {name}")
        return at

    def _member(self, at: int, name: bytes, deep: int) -> tuple[int, int] | None:
        """Its offset in bytes, and its type; also in a member that has no name."""
        words = self._words
        info = words[at + 1]
        if info >> 24 & 0x1F not in {_STRUCT, _UNION} or deep == 0:
            return None
        for first in range(at + 3, at + 3 + 3 * (info & 0xFFFF), 3):
            bits = words[first + 2] & (0xFF_FFFF if info >> 31 else 0xFFFF_FFFF)
            if words[first] == 0:
                inner = self._resolved(words[first + 1])
                found = None if inner is None else self._member(inner, name, deep - 1)
                if found is not None:
                    return bits // 8 + found[0], found[1]
            elif self._names.startswith(name + b"\0", words[first]):
                return bits // 8, words[first + 1]
        return None

    def _resolved(self, number: int) -> int | None:
        for _ in range(_DEEP):
            if not 0 < number < len(self._at):
                return None
            at = self._at[number]
            if self._words[at + 1] >> 24 & 0x1F not in _ALIASES:
                return at
            number = self._words[at + 2]
        return None
