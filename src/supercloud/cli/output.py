"""What the command line prints: tables for people, JSON for programs, progress on standard error."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

from supercloud.model.errors import SupercloudError
from supercloud.model.units import format_size


class Format(StrEnum):
    """`-o`."""

    TABLE = "table"
    JSON = "json"


def print_json(value: object) -> None:
    json.dump(value, sys.stdout, indent=2, default=str)
    sys.stdout.write("\n")


def print_rows(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], output: Format) -> None:
    """A list of things: the chosen columns as a table, or everything as JSON."""
    if output is Format.JSON:
        print_json(rows)
        return
    if not rows:
        sys.stderr.write("(none)\n")
        return
    table = [[_title(column).upper() for column in columns]]
    table += [[_value(column, row.get(column)) for column in columns] for row in rows]
    widths = [max(len(line[index]) for line in table) for index in range(len(columns))]
    for line in table:
        sys.stdout.write(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        )
        sys.stdout.write("\n")


def print_thing(thing: Mapping[str, Any], output: Format) -> None:
    """One thing with all it has."""
    if output is Format.JSON:
        print_json(thing)
        return
    width = max((len(_title(key)) for key in thing), default=0)
    for key, value in thing.items():
        sys.stdout.write(f"{_title(key).ljust(width)}  {_value(key, value)}\n")


def _title(key: str) -> str:
    return key.removesuffix("_bytes").removesuffix("_at").replace("_", " ")


def _value(key: str, value: object) -> str:
    """A number of bytes or a moment is written as people do."""
    if isinstance(value, (int, float)) and key.endswith("_bytes"):
        return format_size(value)
    if isinstance(value, (int, float)) and key.endswith("_at"):
        return datetime.fromtimestamp(value).astimezone().isoformat(sep=" ", timespec="seconds")
    return _cell(value)


def _cell(value: object) -> str:
    if value is None or value == []:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.1f}"
    if isinstance(value, (list, tuple)):
        return ",".join(_cell(item) for item in value)
    if isinstance(value, Mapping):
        return " ".join(f"{printable(str(key))}={_cell(item)}" for key, item in value.items())
    return printable(str(value))


def printable(text: str) -> str:
    """A name may hold what a hostile guest or image chose: keep control characters off the terminal."""
    return "".join(char if char.isprintable() else "?" for char in text)


def print_error(error: SupercloudError) -> None:
    """One line that says what happened and what to do."""
    hint = f" ({error.hint})" if error.hint else ""
    sys.stderr.write(printable(f"supercloud: {error.message}{hint}") + "\n")


class Bar(Protocol):
    def __call__(self, phase: str, done: float | None) -> None: ...


class Board(Protocol):
    """Several bars at once, each for as long as its context lasts; from any thread."""

    def __call__(self, title: str, *, usual_s: float | None = None) -> AbstractContextManager[Bar]: ...


@contextmanager
def progress(title: str, *, quiet: bool = False, usual_s: float | None = None) -> Iterator[Bar]:
    """A bar with time left on a terminal; a line now and then elsewhere; nothing when `quiet`.

    `usual_s` is how long the like took before: the time left is told from it until `done` tells it better.
    """
    with board(quiet=quiet) as shown, shown(title, usual_s=usual_s) as bar:
        yield bar


@contextmanager
def board(*, quiet: bool = False) -> Iterator[Board]:
    """As `progress`, for several things at once."""
    if quiet:
        yield _no_bar
        return
    if not sys.stderr.isatty():
        yield _line_bar
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TimeElapsedColumn(),
        _left_column(),
        console=Console(stderr=True),
        transient=True,
    ) as shown:

        @contextmanager
        def bar(title: str, *, usual_s: float | None = None) -> Iterator[Bar]:
            task = shown.add_task(title, total=None, left=TimeLeft(usual_s))

            def update(phase: str, done: float | None) -> None:
                shown.update(
                    task,
                    description=f"{title}: {phase}" if phase else title,
                    total=None if done is None else 1.0,
                    completed=0 if done is None else done,
                )

            try:
                yield update
            finally:
                shown.remove_task(task)

        yield bar


@contextmanager
def _no_bar(title: str, *, usual_s: float | None = None) -> Iterator[Bar]:
    yield lambda phase, done: None


@contextmanager
def _line_bar(title: str, *, usual_s: float | None = None) -> Iterator[Bar]:
    yield _Lines(title, usual_s)


def _left_column() -> Any:
    from rich.progress import ProgressColumn, Task
    from rich.text import Text

    class Left(ProgressColumn):
        def render(self, task: Task) -> Text:
            done = task.completed if task.total else None
            return Text(task.fields["left"](task.elapsed or 0.0, done))

    return Left()


#: A smaller share done says little of the rest.
_TELLING = 0.01


class TimeLeft:
    """The time left of one thing. Some report their progress in few and uneven steps, so it is estimated
    when one is reached, and counted down from there. A share that shrinks is of another part, which began
    then: what came before says nothing of it."""

    def __init__(self, usual_s: float | None) -> None:
        self._usual_s = usual_s
        self._done = self._began_s = 0.0
        self._end_s: float | None = None

    def __call__(self, elapsed_s: float, done: float | None) -> str:
        """In words; nothing where nobody can tell."""
        if done is not None and done < self._done:
            self._done, self._began_s, self._end_s = 0.0, elapsed_s, None
        if done is not None and done >= _TELLING and done != self._done:
            self._done, self._end_s = done, self._began_s + (elapsed_s - self._began_s) / done
        for end_s in (self._end_s, self._usual_s):
            if end_s is not None and elapsed_s < end_s:
                return f"{end_s - elapsed_s:.0f} s left"
        return "" if self._usual_s is None else f"usually takes {self._usual_s:.0f} s"


class _Lines:
    """One for each phase, every few seconds within one, and seldom one that says nothing new."""

    _EVERY_S, _SAME_S = 5.0, 60.0

    def __init__(self, title: str, usual_s: float | None) -> None:
        self._title = title
        self._left = TimeLeft(usual_s)
        self._phase: str | None = None
        self._line = ""
        self._began = self._said = time.monotonic()

    def __call__(self, phase: str, done: float | None) -> None:
        now = time.monotonic()
        if phase == self._phase and now - self._said < self._EVERY_S:
            return
        left = self._left(now - self._began, done)
        share = f" {done:.0%}" if done is not None else ""
        line = f"{self._title}{': ' if phase else ''}{phase}{share}{', ' if left else ''}{left}\n"
        if line == self._line and now - self._said < self._SAME_S:
            return
        self._phase, self._said, self._line = phase, now, line
        sys.stderr.write(line)
