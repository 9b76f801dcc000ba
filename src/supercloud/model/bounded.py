"""How much somebody else's JSON may be: deep, large, odd. Pure.

What is kept of others' events is shown to people and handed to other programs, so that whatever no database
keeps, or no encoder writes, is refused where it comes in.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from supercloud.model.errors import InvalidInput

#: What any program reads: the least that a signed and the most that an unsigned 64-bit integer holds.
_LEAST, _MOST = -(1 << 63), (1 << 64) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """`bytes_`: of its shortest text in ASCII. `depth`: of what is in what. `values`: in all, keys too."""

    bytes_: int
    depth: int
    values: int

    def check(self, value: Any, what: str) -> None:
        """
        Raises:
            InvalidInput: it is more than that, or holds what is no Unicode or no number.
        """
        _Counted(self, what).visit(value, 1)
        size = len(json.dumps(value, separators=(",", ":")))
        if size > self.bytes_:
            raise InvalidInput(f"{what} has {size} bytes, and {self.bytes_} is all it may have")


class _Counted:
    """One walk over a value. It stops at the bound, so a value that is far beyond it costs no more."""

    def __init__(self, bounds: Bounds, what: str) -> None:
        self._bounds = bounds
        self._what = what
        self._seen = 0

    def visit(self, value: Any, depth: int) -> None:
        """Not by recursion: every event of every detector comes through here."""
        most, deepest = self._bounds.values, self._bounds.depth
        waiting: list[tuple[Any, int]] = [(value, depth)]
        while waiting:
            one, at = waiting.pop()
            self._seen += 1
            if at > deepest:
                raise InvalidInput(f"{self._what} is deeper than {deepest} levels")
            if self._seen > most:
                raise InvalidInput(f"{self._what} has more than {most} values")
            kind = type(one)
            if kind is str:
                self._text(one)
            elif kind is dict:
                waiting += [(key, at) for key in one]
                waiting += [(inner, at + 1) for inner in one.values()]
            elif kind is list or kind is tuple:
                waiting += [(inner, at + 1) for inner in one]
            elif kind is not bool and one is not None:
                self._other(one, at, waiting)

    def _other(self, one: Any, at: int, waiting: list[tuple[Any, int]]) -> None:
        """Numbers, and kinds that are some of these by descent."""
        if isinstance(one, dict):
            waiting += [(key, at) for key in one]
            waiting += [(inner, at + 1) for inner in one.values()]
        elif isinstance(one, list | tuple):
            waiting += [(inner, at + 1) for inner in one]
        elif isinstance(one, str):
            self._text(one)
        elif isinstance(one, float):
            if not math.isfinite(one):
                raise InvalidInput(f"{self._what} holds {one}, which is no number of JSON's")
        elif isinstance(one, int) and not _LEAST <= one <= _MOST:
            raise InvalidInput(f"{self._what} holds a number that does not fit in 64 bits")

    def _text(self, text: str) -> None:
        if "\x00" in text:
            raise InvalidInput(f"{self._what} holds a text with a NUL in it")
        if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
            raise InvalidInput(f"{self._what} holds a text that is no Unicode (half of a surrogate pair)")
