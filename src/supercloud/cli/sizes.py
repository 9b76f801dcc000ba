"""Sizes as people write them: 512M, 10G, 1.5T; powers of 1024."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any

from cyclopts import Parameter

from supercloud.model.units import format_size

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
#: Also for those who check it elsewhere, so of what every kind of regular expression has.
PATTERN = r"([0-9]{1,12}(?:\.[0-9]{1,3})?)([KMGTkmgt]?)(?:[iI]?[bB])?"
_FORM = re.compile(PATTERN)


def parse_size(text: str) -> int:
    """Bytes.

    Raises:
        ValueError: it is not a size.
    """
    match = _FORM.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a size such as 512M or 10G")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def exact_size(size: int) -> str:
    """As `format_size`, but that it is read as what it was, to the byte."""
    short = format_size(size)
    if parse_size(short) == size:
        return short
    return f"{size >> 20}M" if size % (1 << 20) == 0 else str(size)


def _convert(_: Any, tokens: Sequence[Any]) -> int:
    return parse_size(tokens[0].value)


#: A size option, in bytes.
Size = Annotated[int, Parameter(converter=_convert, n_tokens=1, show_default=format_size, metavar="SIZE")]
OptionalSize = Annotated[int | None, Parameter(converter=_convert, n_tokens=1, metavar="SIZE")]
