"""Where a machine's memory is in the file that it is kept in."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """`length` bytes from the machine's physical `address` on are in the file from `offset` on."""

    address: int
    offset: int
    length: int
