"""Times as people write them: how long (90s, 30m, 2h, 7d), or until when (2031-05-01, 2031-05-01T12:00)."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

from cyclopts import Parameter

from supercloud.model.errors import InvalidInput

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}
#: How long, as a JSON Schema says it.
LENGTH_PATTERN = "^([0-9]{1,9})([smhd])$"
_FORM = re.compile(LENGTH_PATTERN)


def parse_until(text: str, now: float) -> float:
    """Seconds since the epoch. A date without a zone is this machine's.

    Raises:
        ValueError: it is no time, or not one to come.
    """
    match = _FORM.fullmatch(text)
    try:
        at = now + int(match[1]) * _UNITS_S[match[2]] if match else datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{text!r} is not a time such as 2h, 7d or 2031-05-01T12:00") from error
    if at <= now:
        raise ValueError(f"{text} is over")
    return at


def seconds(text: str) -> float:
    """How long.

    Raises:
        InvalidInput: it is not a length of time.
    """
    match = _FORM.fullmatch(text)
    if match is None:
        raise InvalidInput(f"{text!r} is not a length of time such as 90s, 30m, 2h or 7d")
    return float(int(match[1]) * _UNITS_S[match[2]])


def moment(at: float) -> str:
    """Seconds since the epoch, as people on this machine write it, to the minute."""
    return datetime.fromtimestamp(at).astimezone().isoformat(sep=" ", timespec="minutes")


def _convert(_: Any, tokens: Sequence[Any]) -> float:
    return parse_until(tokens[0].value, time.time())


#: A time option, in seconds since the epoch.
Until = Annotated[float | None, Parameter(converter=_convert, n_tokens=1, metavar="TIME")]
