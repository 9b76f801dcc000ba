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
        self._seen += 1
        if depth > self._bounds.depth:
            raise InvalidInput(f"{self._what} is deeper than {self._bounds.depth} levels")
        if self._seen > self._bounds.values:
            raise InvalidInput(f"{self._what} has more than {self._bounds.values} values")
        if isinstance(value, dict):
            for key, one in value.items():
                self.visit(key, depth)
                self.visit(one, depth + 1)
        elif isinstance(value, list | tuple):
            for one in value:
                self.visit(one, depth + 1)
        elif isinstance(value, str):
            self._text(value)
        elif isinstance(value, float) and not math.isfinite(value):
            raise InvalidInput(f"{self._what} holds {value}, which is no number of JSON's")
        elif isinstance(value, int) and not _LEAST <= value <= _MOST:
            raise InvalidInput(f"{self._what} holds a number that does not fit in 64 bits")

    def _text(self, text: str) -> None:
        if "\x00" in text:
            raise InvalidInput(f"{self._what} holds a text with a NUL in it")
        if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
            raise InvalidInput(f"{self._what} holds a text that is no Unicode (half of a surrogate pair)")
