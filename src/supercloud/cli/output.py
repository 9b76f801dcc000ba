"""What the command line prints: tables for people, JSON for programs, progress on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from typing import Any, Protocol

from supercloud.model.errors import SupercloudError


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
    table = [[column.upper().replace("_", " ") for column in columns]]
    table += [[_cell(row.get(column)) for column in columns] for row in rows]
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
    width = max(map(len, thing), default=0)
    for key, value in thing.items():
        sys.stdout.write(f"{key.replace('_', ' ').ljust(width)}  {_cell(value)}\n")


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
        return " ".join(f"{key}={_cell(item)}" for key, item in value.items())
    # A name may hold what a hostile guest or image chose: keep control characters off the terminal.
    return "".join(char if char.isprintable() else "?" for char in str(value))


def print_error(error: SupercloudError) -> None:
    """One line that says what happened and what to do."""
    hint = f" ({error.hint})" if error.hint else ""
    sys.stderr.write(f"supercloud: {error.message}{hint}\n")


class Bar(Protocol):
    def __call__(self, phase: str, done: float | None) -> None: ...


@contextmanager
def progress(title: str, *, quiet: bool = False) -> Iterator[Bar]:
    """A bar with time left on a terminal; a line for each new phase elsewhere; nothing when `quiet`."""
    if quiet:
        yield lambda phase, done: None
        return
    if not sys.stderr.isatty():
        yield _Lines(title)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as shown:
        task = shown.add_task(title, total=None)

        def update(phase: str, done: float | None) -> None:
            shown.update(
                task,
                description=f"{title}: {phase}",
                total=None if done is None else 1.0,
                completed=0 if done is None else done,
            )

        yield update


class _Lines:
    def __init__(self, title: str) -> None:
        self._title = title
        self._phase = ""

    def __call__(self, phase: str, done: float | None) -> None:
        if phase != self._phase:
            self._phase = phase
            sys.stderr.write(f"{self._title}: {phase}\n")
