"""Lists in parts, each of which begins behind the last key of the one before (keyset pagination).

What is added or removed meanwhile moves nothing: a thing that is there all the time is shown exactly once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Select, literal, tuple_
from sqlalchemy.orm import InstrumentedAttribute

from supercloud.model.names import Name

T = TypeVar("T")
S = TypeVar("S", bound=Select[*tuple[Any, ...]])
#: What a list is sorted by: texts and moments, whose last makes it unique.
Key = tuple[str | float, ...]
_Column = InstrumentedAttribute[Any]


class Part(list[T]):
    """Of a list. `after`: the key to go on from; None: there is no more."""

    after: Key | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Which part of a list is wanted, and of which things. Each list says what it is sorted by."""

    limit: int | None = None  # None: all of it
    after: Key | None = None  # None: from its beginning
    name: Name | None = None
    state: str | None = None

    def of(self, query: S, *keys: _Column, newest: bool = False) -> S:
        """The rows of it, and one more where there is more. `newest`: from the greatest key down.

        The query's rows are sorted by `keys`, of which an index makes a page quick wherever it is.
        """
        if self.after is not None:
            bound = tuple_(*(literal(value, key.type) for value, key in zip(self.after, keys, strict=True)))
            query = query.where(tuple_(*keys) < bound if newest else tuple_(*keys) > bound)
        order = [key.desc() for key in keys] if newest else keys
        query = query.order_by(*order)
        return query if self.limit is None else query.limit(self.limit + 1)

    def picks(self, name: _Column, state: _Column | None = None) -> list[ColumnElement[bool]]:
        """The conditions of its filters. A list that has no states leaves `state` out."""
        found: list[ColumnElement[bool]] = []
        if self.name is not None:
            found.append(name == self.name)
        if self.state is not None and state is not None:
            found.append(state == self.state)
        return found

    def part(self, rows: Sequence[Any], key: Callable[[Any], Key], show: Callable[[Any], T]) -> Part[T]:
        """Out of the rows of `of`'s query."""
        shown = rows if self.limit is None else rows[: self.limit]
        found = Part(show(row) for row in shown)
        found.after = key(shown[-1]) if len(shown) < len(rows) else None
        return found


EVERYTHING = Page()
