"""What becomes of each instance of a move of several, as the operation's result says it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from supercloud.model.names import Id, Name
from supercloud.services.caller import Caller

#: Where a result has them.
INSTANCES = "instances"


class End(StrEnum):
    MOVED = "moved"
    THERE = "there"  # it was where it was to go already
    LOST = "memory-lost"  # it booted from its disk where it is now
    STAYED = "stayed"
    GONE = "gone"  # removed meanwhile


@dataclass(frozen=True, slots=True, kw_only=True)
class Fate:
    instance: Id
    name: Name
    cloud: Id
    end: End
    was_in: Name | None  # blanket
    is_in: Name | None
    why: str = ""  # it stayed, or it came there
    operation: Id | None = None  # its migration


def result_of(fates: Iterable[Fate]) -> dict[str, Any]:
    """How many of each, and each."""
    fates = tuple(fates)
    counts = Counter(str(one.end) for one in fates)
    return {**{str(end): counts[end] for end in End}, INSTANCES: [asdict(one) for one in fates]}


def seen_by(caller: Caller | None, result: dict[str, Any] | None) -> dict[str, Any] | None:
    """A drain moves many people's instances: of those of others an operator is told the numbers."""
    if caller is None or result is None or INSTANCES not in result:
        return result
    mine = [one for one in result[INSTANCES] if one["cloud"] in caller.clouds]
    return {**result, INSTANCES: mine}
