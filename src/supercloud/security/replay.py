"""A recording (`recording.py`) shown again: to the same detectors, at its own moments, as fast as they go."""

from __future__ import annotations

import gzip
import heapq
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from inspect import signature
from pathlib import Path
from typing import Annotated, Any, Final, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from supercloud.model.errors import InvalidInput
from supercloud.model.findings import Layer, ObjectKind
from supercloud.model.names import Name
from supercloud.security.detectors import COMPONENTS, GUEST, INTEGRITY, MEMORY, PORT
from supercloud.security.detectors.components import Components
from supercloud.security.detectors.guests import Guests
from supercloud.security.detectors.integrity import Integrity
from supercloud.security.detectors.memory import Scans
from supercloud.security.detectors.ports import PortWatch
from supercloud.security.detectors.told import Event
from supercloud.security.recording import MOMENT, methods

#: Of a recording, and of one of its lines: guests have many processes.
MOST_BYTES, LINE_BYTES = 256 << 20, 4 << 20


#: By what the loop knows them: each, and the layer and the kind of object of which it speaks.
KINDS: Final[Mapping[Name, tuple[Callable[[str], Any], Layer, ObjectKind]]] = {
    PORT: (PortWatch, Layer.L2, ObjectKind.INSTANCE),
    COMPONENTS: (Components, Layer.L1, ObjectKind.MACHINE),
    GUEST: (Guests, Layer.L2, ObjectKind.INSTANCE),
    MEMORY: (Scans, Layer.L2, ObjectKind.INSTANCE),
    INTEGRITY: (Integrity, Layer.L1, ObjectKind.MACHINE),
}


class Line(BaseModel):
    """One of a recording. `given`: None where it is as in the same method's line before. `full`: the last
    one, since the recording came to its bound."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    at: Annotated[float, Field(ge=0, allow_inf_nan=False)]  # seconds since the epoch
    detector: Name
    begins: bool = False
    full: bool = False
    call: str | None = None
    given: tuple[Any, ...] | None = None


def lines(file: Path) -> Iterator[Line]:
    """Of a recording, gzip or not.

    Raises:
        InvalidInput: it cannot be read, and at which line.
    """
    number, left = 0, MOST_BYTES
    try:
        with gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb") as source:
            while line := source.readline(LINE_BYTES):
                number, left = number + 1, left - len(line)
                if left < 0:
                    raise InvalidInput(f"{file}: it is longer than {MOST_BYTES >> 20} MiB")
                yield Line.model_validate_json(line)
    except (OSError, EOFError, zlib.error) as error:
        raise InvalidInput(f"{file} cannot be read: {error}") from error
    except ValidationError as error:
        raise InvalidInput(f"{file}:{number}: that is no line of a recording") from error


def read(places: Iterable[Path]) -> Iterator[Line]:
    """Several detectors' recordings as one, by their moments. A place is a file, or a folder of *.jsonl[.gz].

    Raises:
        InvalidInput: as `lines`, or there is none.
    """
    files = [file for place in places for file in _files(place)]
    return heapq.merge(*(_full(lines(file)) for file in files), key=lambda one: one.at)


def _files(place: Path) -> list[Path]:
    if not place.is_dir():
        return [place]
    found = sorted(place.glob("*.jsonl*"))
    if not found:
        raise InvalidInput(f"{place} has no recordings", hint="their files end in .jsonl or .jsonl.gz")
    return found


def _full(one: Iterable[Line]) -> Iterator[Line]:
    """With what was left out, since lines of others come between."""
    last: dict[tuple[Name, str], tuple[Any, ...]] = {}
    for line in one:
        if line.call is None:
            yield line
            continue
        key = (line.detector, line.call)
        given = line.given if line.given is not None else last.get(key)
        if given is None:
            raise InvalidInput(f"{line.detector}.{line.call} at {line.at}: the line before is missing")
        last[key] = given
        yield line if line.given is not None else line.model_copy(update={"given": given})


class Replay:
    """`show` each line, in its order: what the detectors tell of it."""

    def __init__(self) -> None:
        self._there: dict[Name, Any] = {}
        self._begun = 0

    def show(self, line: Line) -> list[Event]:
        """OCSF events, as a loop is told them.

        Raises:
            InvalidInput: no detector has what it says, or a detector asks what it did not ask then.
        """
        if line.detector not in KINDS:
            raise InvalidInput(f"there is no detector {line.detector}")
        make, layer, kind = KINDS[line.detector]
        if line.begins or line.detector not in self._there:
            self._begun += 1
            self._there[line.detector] = make(f"replay-{self._begun}")
        if line.call is None:
            return []
        events = _shown(self._there[line.detector], line) or []
        said = {"layer": layer.value, "object": kind.value}
        return [{**one, "unmapped": said} for one in events]


def _shown(detector: object, line: Line) -> list[Event] | None:
    call, given, at = line.call or "", line.given or (), line.at
    if call not in methods(type(detector)):
        raise InvalidInput(f"detector {line.detector} is shown nothing by {call}")
    readers, has_moment = _parameters(line.detector, call)
    try:
        values = [read(one) for read, one in zip(readers, given, strict=True)]
        told: list[Event] | None = getattr(detector, call)(*values, *([at] if has_moment else []))
    except (ValueError, TypeError, LookupError) as error:  # ValidationError is a ValueError
        raise InvalidInput(f"{line.detector}.{call} at {at}: it was not shown that: {error}") from error
    return told


@cache
def _parameters(detector: Name, call: str) -> tuple[tuple[Callable[[Any], Any], ...], bool]:
    """How each is read, and whether it is told the moment."""
    method = getattr(KINDS[detector][0], call)
    hints = get_type_hints(method)
    names = [name for name in signature(method).parameters if name != "self"]
    return tuple(_reader(hints[name]) for name in names if name != MOMENT), MOMENT in names


def _reader(hint: Any) -> Callable[[Any], Any]:
    if hint is bytes:
        return bytes.fromhex
    if get_origin(hint) is Callable:
        return lambda answers: answers.__getitem__
    adapter: TypeAdapter[Any] = TypeAdapter(hint)
    return adapter.validate_python


def events(recording: Iterable[Line]) -> Iterator[Event]:
    """What detectors tell a loop of it. Raises: InvalidInput."""
    replay = Replay()
    for line in recording:
        yield from replay.show(line)
