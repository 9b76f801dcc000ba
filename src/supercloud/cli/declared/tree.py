"""YAML as plain values, each with its place in the text. A subset, so that a file means what it looks like.

The core schema of YAML 1.2 (`on` and `no` are text), one document, no tags, no aliases, no key twice; bounded
in size and in depth. What is wrong is collected, so that all of it can be said at once.
"""

from __future__ import annotations

import codecs
import math
import re
from dataclasses import dataclass, field
from typing import Any

import yaml

MAX_BYTES = 4 << 20
MAX_DEPTH = 16  # a cloud needs 5
_MAX_DIGITS = 40

Path = tuple[str | int, ...]

_BREAK = re.compile(r"\r\n|[\r\n\x85\u2028\u2029]")  # as the parser counts lines
_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_BOOL = {**dict.fromkeys(("true", "True", "TRUE"), True), **dict.fromkeys(("false", "False", "FALSE"), False)}
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Counted from 1, as editors do."""

    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.line}:{self.column}"


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """What is wrong at a place, and what to do about it."""

    place: Place
    what: str
    todo: str

    def __str__(self) -> str:
        return f"{self.place}: {self.what}; {self.todo}"


@dataclass(slots=True)
class Tree:
    """`data` is of JSON's types only. What could not be read is not in it, and its path is `broken`."""

    data: Any = None
    problems: list[Problem] = field(default_factory=list)
    values: dict[Path, Place] = field(default_factory=dict)
    keys: dict[Path, Place] = field(default_factory=dict)
    broken: set[Path] = field(default_factory=set)

    def place(self, path: Path) -> Place:
        """Of the value there; where there is none, of the nearest thing around it."""
        for end in range(len(path), -1, -1):
            if (found := self.values.get(path[:end])) is not None:
                return found
        return Place(1, 1)

    def key_place(self, path: Path) -> Place:
        """Of the key that leads there; of an item of a list, its own."""
        return self.keys.get(path) or self.place(path)


def parse(content: bytes) -> Tree:
    """Never raises for what `content` holds."""
    tree = Tree()
    if len(content) > MAX_BYTES:
        _wrong(tree, Place(1, 1), f"it has more than {MAX_BYTES} bytes", "split it into several clouds")
        return tree
    content = content.removeprefix(codecs.BOM_UTF8)
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        place = _place_of(content[: error.start].decode())
        _wrong(tree, place, "this is not UTF-8", "save it as UTF-8")
        return tree
    _compose(text, tree)
    return tree


def scalar(text: str) -> str | int | float | bool | None:
    """What a plain scalar means. A number that is not finite or absurdly long is left as text."""
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    if len(text) > _MAX_DIGITS:
        return text
    if _INT.fullmatch(text):
        return int(text, 0) if text[:2] in {"0o", "0x"} else int(text)
    if _FLOAT.fullmatch(text) and math.isfinite(number := float(text)):
        return number
    return text


def _compose(text: str, tree: Tree) -> None:
    try:
        loader = yaml.SafeLoader(text)
    except yaml.reader.ReaderError as error:
        _not_text(tree, text, error)
        return
    try:
        tree.data = _Composer(loader, tree).document()
    except _Stop:
        pass
    except yaml.reader.ReaderError as error:
        _not_text(tree, text, error)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark or loader.get_mark()
        what = " ".join(part for part in (error.context, error.problem) if part) or "it cannot be read"
        _wrong(tree, _place(mark), f"this is not YAML: {what}", "check quotes, brackets and indentation")
    except (ValueError, OverflowError):  # of an escape or a version that is no number it can have
        _wrong(tree, _place(loader.get_mark()), "this is not YAML", "check what stands behind \\ and %")
    finally:
        loader.dispose()


def _not_text(tree: Tree, text: str, error: yaml.reader.ReaderError) -> None:
    what = f"U+{ord(text[error.position]):04X} is not allowed in YAML"
    _wrong(tree, _place_of(text[: error.position]), what, "write it as an escape in double quotes")


class _Stop(Exception):
    """What is wrong makes the rest unreadable."""


class _Composer:
    """Events into a tree: own code, since PyYAML's composer neither bounds depth nor refuses aliases."""

    def __init__(self, loader: yaml.SafeLoader, tree: Tree) -> None:
        self._loader = loader
        self._tree = tree

    def document(self) -> Any:
        self._next()  # the stream's start
        if self._loader.check_event(yaml.StreamEndEvent):
            return None
        self._next()
        data = self._node(())
        self._next()
        if not self._loader.check_event(yaml.StreamEndEvent):
            place = _place(self._next().start_mark)
            _wrong(self._tree, place, "a second document begins", "one file is one cloud; remove `---`")
        return data

    def _next(self) -> Any:
        return self._loader.get_event()

    def _node(self, path: Path) -> Any:
        event = self._next()
        place = self._tree.values[path] = _place(event.start_mark)
        if isinstance(event, yaml.AliasEvent):
            self._break(path, place, "aliases are not read", "write out what `*` stands for")
            return None
        if event.tag is not None:
            self._break(path, place, f"tags such as {event.tag} are not read", "leave it out")
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event, path, place)
        if len(path) >= MAX_DEPTH:
            _wrong(self._tree, place, f"nested more than {MAX_DEPTH} deep", "a cloud needs less")
            raise _Stop
        return self._mapping(path) if isinstance(event, yaml.MappingStartEvent) else self._sequence(path)

    def _scalar(self, event: yaml.ScalarEvent, path: Path, place: Place) -> Any:
        try:
            text = _paired(event.value)
        except UnicodeDecodeError:
            self._break(path, place, "half of a surrogate pair is no text", "write the character itself")
            return None
        return scalar(text) if event.implicit[0] else text

    def _sequence(self, path: Path) -> list[Any]:
        items: list[Any] = []
        while not self._loader.check_event(yaml.SequenceEndEvent):
            items.append(self._node((*path, len(items))))
        self._next()
        return items

    def _mapping(self, path: Path) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while not self._loader.check_event(yaml.MappingEndEvent):
            key, place = self._key(path)
            below = (*path, key)
            if key in found:
                first = self._tree.keys[below]
                _wrong(self._tree, place, f"`{key}` is here twice, first in line {first.line}", "remove one")
                self._skip()
                continue
            self._tree.keys[below] = place
            value = self._node(below)
            if below in self._tree.broken and value is None:
                found.pop(key, None)
            else:
                found[key] = value
        self._next()
        return found

    def _key(self, path: Path) -> tuple[str, Place]:
        event = self._loader.peek_event()
        place = _place(event.start_mark)
        if isinstance(event, yaml.ScalarEvent) and event.tag is None and not _SURROGATE.search(event.value):
            self._next()
            return event.value, place
        _wrong(self._tree, place, "this cannot be a key", "a key is plain text")
        raise _Stop

    def _skip(self) -> None:
        """A value that nobody asks for; its depth does not matter, since nothing is built."""
        depth = 0
        while True:
            event = self._next()
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if not depth:
                return

    def _break(self, path: Path, place: Place, what: str, todo: str) -> None:
        self._tree.broken.add(path)
        _wrong(self._tree, place, what, todo)


def _paired(text: str) -> str:
    """JSON, which is read as well, writes some characters as two escapes.

    Raises:
        UnicodeDecodeError: one has lost the other.
    """
    if not _SURROGATE.search(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")


def _wrong(tree: Tree, place: Place, what: str, todo: str) -> None:
    tree.problems.append(Problem(place, what, todo))


def _place(mark: Any) -> Place:
    return Place(mark.line + 1, mark.column + 1)


def _place_of(before: str) -> Place:
    """Of what comes after `before`."""
    lines = _BREAK.split(before)
    return Place(len(lines), len(lines[-1]) + 1)
