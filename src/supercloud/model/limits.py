"""What a scalar of the model may be, said where its type is said, and checked by who takes it in.

pydantic does that wherever a value enters the program. It is loaded there and not here: whoever only names
these types, as the command line and some of a blanket's programs do, starts without it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """In an `Annotated`; each as pydantic's `Field` has it."""

    pattern: str | None = None
    min_length: int | None = None
    max_length: int | None = None
    gt: int | None = None
    ge: int | None = None
    lt: int | None = None
    le: float | None = None

    #: The protocol of annotated-types: whoever finds such metadata takes what it consists of.
    __is_annotated_types_grouped_metadata__: ClassVar[Literal[True]] = True

    def __iter__(self) -> Iterator[Any]:
        from pydantic import Field

        given = {one.name: getattr(self, one.name) for one in fields(self)}
        yield from Field(**{name: value for name, value in given.items() if value is not None}).metadata
