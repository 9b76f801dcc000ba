"""YARA's rules over memory, in windows: which rules match and where, never what is there.

A rule's condition is decided on one window at a time: what it asks for has to be within `WINDOW_BYTES` of
each other, in the order in which the machine has it, which is not the order in which a process sees it.
Whoever calls this is where neither hostile rules nor hostile memory can do harm: both go through a library
in C.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

import yara
from pydantic import Field

from supercloud.model.errors import Exhausted, Failed, InvalidInput
from supercloud.model.findings import Severity

WINDOW_BYTES: Final = 8 << 20
#: Of a window that the next one begins with: so long a string is found wherever it lies.
OVERLAP_BYTES: Final = 64 << 10
#: Of what is told: rules, and places of each.
RULES, PLACES = 64, 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A string of a rule, by its name, at an address of the machine."""

    address: Annotated[int, Field(ge=0, lt=1 << 64)]
    string: Annotated[str, Field(max_length=140)]
    length: Annotated[int, Field(ge=0)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """`many`: places in all, of which the first are told; a rule without strings has none."""

    rule: Annotated[str, Field(pattern=r"^[A-Za-z0-9_]{1,128}$")]
    severity: Severity
    many: Annotated[int, Field(ge=0)]
    places: Annotated[tuple[Place, ...], Field(max_length=PLACES)] = ()


def compiled(source: str) -> Any:
    """
    Raises:
        InvalidInput: with the first thing that is wrong, and its line.
    """
    try:
        return yara.compile(source=source, includes=False)
    except (yara.Error, UnicodeError) as error:
        raise InvalidInput(f"YARA: {str(error)[:200]}") from error


def names(source: str) -> list[str]:
    """Of the rules that are told. Raises: InvalidInput."""
    return [rule.identifier for rule in compiled(source) if not rule.is_private]


@dataclass(slots=True)
class _Seen:
    severity: Severity
    addresses: set[tuple[int, str]] = field(default_factory=set)
    places: list[Place] = field(default_factory=list)
    many: int = 0


class Scan:
    """One pass. `seconds`: for all of it."""

    def __init__(self, rules: Any, *, seconds: float) -> None:
        self._rules = rules
        self._ends = time.monotonic() + seconds
        self._seen: dict[str, _Seen] = {}

    def see(self, address: int, window: bytes, fresh: int = 0) -> None:
        """The memory at an address; of a window that begins with what was seen, `fresh` is where what was not
        does.

        Raises:
            Exhausted: the time is over. Failed: it cannot be scanned.
        """
        left_s = self._ends - time.monotonic()
        try:
            if left_s < 1:
                raise yara.TimeoutError
            found = self._rules.match(
                data=window,
                timeout=int(left_s),
                console_callback=lambda _: None,
                warnings_callback=lambda *_: yara.CALLBACK_CONTINUE,
            )
        except yara.TimeoutError as error:
            raise Exhausted("the rules take more time than a scan has") from error
        except yara.Error as error:
            raise Failed(f"YARA: {str(error)[:200]}") from error
        for one in found:
            self._matched(one, address, fresh)

    def found(self) -> tuple[Match, ...]:
        """By name."""
        return tuple(
            Match(rule=rule, severity=seen.severity, many=seen.many, places=tuple(seen.places))
            for rule, seen in sorted(self._seen.items())[:RULES]
        )

    def _matched(self, one: Any, address: int, fresh: int) -> None:
        seen = self._seen.setdefault(one.rule, _Seen(_severity(one.meta)))
        for string in one.strings:
            for place in string.instances:
                end = place.offset + place.matched_length
                if fresh and end <= fresh and (address + place.offset, string.identifier) in seen.addresses:
                    continue  # in the window before, as well
                seen.many += 1
                if len(seen.places) < PLACES:
                    seen.places.append(
                        Place(
                            address=address + place.offset,
                            string=string.identifier[:140],
                            length=place.matched_length,
                        )
                    )
                if end > WINDOW_BYTES - OVERLAP_BYTES and len(seen.addresses) < RULES * PLACES:
                    seen.addresses.add((address + place.offset, string.identifier))


def windows(pieces: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, bytes, int]]:
    """Address, bytes, and where in them what is new begins, of memory that comes in order and in pieces: what
    follows at once is one."""
    begin, waiting, fresh = 0, bytearray(), 0
    for address, data in pieces:
        if waiting and address != begin + len(waiting):
            if len(waiting) > fresh:
                yield begin, bytes(waiting), fresh
            waiting, fresh = bytearray(), 0
        if not waiting:
            begin = address
        waiting += data
        while len(waiting) >= WINDOW_BYTES:
            yield begin, bytes(waiting[:WINDOW_BYTES]), fresh
            gone = WINDOW_BYTES - OVERLAP_BYTES
            del waiting[:gone]
            begin, fresh = begin + gone, OVERLAP_BYTES
    if len(waiting) > fresh:
        yield begin, bytes(waiting), fresh


def scanned(rules: Any, pieces: Iterable[tuple[int, bytes]], *, seconds: float) -> tuple[Match, ...]:
    """Raises: Exhausted, Failed."""
    scan = Scan(rules, seconds=seconds)
    for address, window, fresh in windows(pieces):
        scan.see(address, window, fresh)
    return scan.found()


def _severity(meta: dict[str, Any]) -> Severity:
    """As the rule's `severity` says; without one it is high: whoever set the rule wants to know."""
    try:
        return Severity(str(meta.get("severity", "")).lower())
    except ValueError:
        return Severity.HIGH
