"""What detectors were shown, written down call by call, so that the same detectors can be shown it again.

Findings say too little for that: of an hour in which nothing was found there are none. A line is one call
of a detector, in JSON: whose, when, which method, and what it was given. `given` that is as in the same
method's line before is left out. A detector that begins anew says so, and remembers nothing. `replay.py`
reads it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Any, Final, TextIO, TypeVar, cast

import structlog

from supercloud.model.names import Name

T = TypeVar("T")
#: Of one detector's file, which may be kept in memory. It ends with a line that says that it was full.
MOST_BYTES: Final = 16 << 20
#: The parameter by which detectors are told when it was: seconds since the epoch. It is always the last.
MOMENT: Final = "at"
_log = structlog.get_logger(__name__)


def methods(kind: type) -> frozenset[str]:
    """By which a detector is shown something."""
    return frozenset(name for name, what in vars(kind).items() if callable(what) and not name.startswith("_"))


def plain(value: object) -> Any:
    """As JSON has it; bytes as their hex digits."""
    from pydantic_core import to_jsonable_python

    return to_jsonable_python(value, bytes_mode="hex")


class Recorder:
    """One detector's lines. What cannot be written ends the recording, and never the detector."""

    def __init__(self, folder: Path, detector: Name, *, most_bytes: int = MOST_BYTES) -> None:
        """`folder` is there. Goes on in the file of a process that was there before.

        Raises:
            OSError: the file cannot be opened.
        """
        path = folder / f"{detector}.jsonl"
        path.touch(mode=0o600)
        self._file: TextIO | None = path.open("a", buffering=1)
        self._left = most_bytes - path.stat().st_size
        self._detector = detector
        self._last: dict[str, Any] = {}
        self._line(round(time.time(), 3), begins=True)

    def note(self, call: str, at: float, given: list[object]) -> None:
        said = plain(given)
        if self._last.get(call) == said:
            self._line(at, call=call)
            return
        self._last[call] = said
        self._line(at, call=call, given=said)

    def _line(self, at: float, **said: object) -> None:
        if self._file is None:
            return
        line = json.dumps({"at": at, "detector": self._detector, **said}, separators=(",", ":")) + "\n"
        self._left -= len(line)
        try:
            if self._left >= 0:
                self._file.write(line)
                return
            self._file.write(json.dumps({"at": at, "detector": self._detector, "full": True}) + "\n")
            self._file.close()
        except OSError as error:
            _log.warning("recording.ended", detector=self._detector, reason=str(error))
        self._file = None


class _Recorded:
    """A detector, and beside it whoever writes down what it is shown."""

    def __init__(self, detector: object, recorder: Recorder) -> None:
        self._detector = detector
        self._recorder = recorder
        self._calls = {name: self._call(name) for name in methods(type(detector))}

    def __getattr__(self, name: str) -> Any:
        return self._calls.get(name) or getattr(self._detector, name)

    def _call(self, name: str) -> Callable[..., Any]:
        method = getattr(self._detector, name)
        has_moment = MOMENT in signature(method).parameters

        def call(*given: object) -> Any:
            at = round(cast(float, given[-1]) if has_moment else time.time(), 3)
            shown = [_kept(one) for one in (given[:-1] if has_moment else given)]
            told = method(*(one for one, _ in shown), *([at] if has_moment else []))
            # After it: only then is it known what it asked.
            self._recorder.note(name, at, [said for _, said in shown])
            return told

        return call


def _kept(given: object) -> tuple[object, object]:
    """What a detector is given, and what is written of it: of what it may ask, the answers that it got."""
    if not callable(given):
        return given, given
    answers: dict[str, Any] = {}

    def ask(what: str) -> Any:
        answers[what] = given(what)
        return answers[what]

    return ask, answers


def recorded(detector: T, name: Name, folder: Path, *, most_bytes: int = MOST_BYTES) -> T:
    """The detector itself, unless there is such a folder: then it writes there what it is shown."""
    if not folder.is_dir():
        return detector
    try:
        recorder = Recorder(folder, name, most_bytes=most_bytes)
    except OSError as error:
        _log.warning("recording.not_begun", detector=name, reason=str(error))
        return detector
    _log.info("recording.begins", detector=name)
    return cast(T, _Recorded(detector, recorder))
