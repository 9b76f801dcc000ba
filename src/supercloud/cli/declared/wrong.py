"""What pydantic found, as a person wants to read it: at a place, what is wrong, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from supercloud.cli.declared.models import keys_of, part_at
from supercloud.cli.declared.tree import Path, Problem, Tree
from supercloud.cli.output import printable
from supercloud.model import names
from supercloud.services import requests

_NAME = "use up to 63 lower-case letters, digits and inner hyphens"
#: What a pattern of the API's means, for who does not read patterns.
_FORMS: dict[str, tuple[str, str]] = {
    TypeAdapter(kind).json_schema()["pattern"]: said
    for kind, said in (
        (names.Name, ("is not a name", _NAME)),
        (names.Cidr, ("is not a network", "write it as 10.20.0.0/24")),
        (names.Text, ("has a NUL in it", "leave it out")),
        (requests.ImageRef, ("is not the name of an image", "use its name, or its digest as sha256:…")),
        (requests.CpuModel, ("is not a CPU model", "name one as QEMU does, e.g. EPYC-v2")),
        (requests.PlatformKind, ("is not a kind of platform", "write qemu or simulated")),
        (requests.OptionName, ("is not an option", "use lower-case letters, digits and _")),
        (requests.SshKey, ("is more than one line", "write each key as a line of its own")),
    )
}
_TYPES = {
    "string_type": ("is not text", "put it in quotes"),
    "int_type": ("is not a whole number", "write digits only, without quotes"),
    "int_from_float": ("is not a whole number", "write digits only, without quotes"),
    "float_type": ("is not a number", "write it without quotes and without a unit"),
    "bool_type": ("is neither true nor false", "write true or false, without quotes"),
    "tuple_type": ("is not a list", "write it as [a, b], or as lines that begin with -"),
    "dict_type": ("is not a mapping", "write `key: value` lines below it, indented"),
    "model_type": ("is not a mapping", "write `key: value` lines below it, indented"),
}
_LIMITS = {
    "greater_than_equal": ("is too small", "ge", "at least"),
    "less_than_equal": ("is too large", "le", "at most"),
    "less_than": ("is too large", "lt", "less than"),
    "too_long": ("has too many entries", "max_length", "at most"),
    "string_too_long": ("is too long", "max_length", "at most"),
}
_UNITS = {"memory": " (MiB)", "disk": " (bytes)", "size": " (bytes)"}


#: Which model the mapping at a path has, if it has one.
PartAt = Callable[[Path], type[BaseModel] | None]


def problems_of(error: ValidationError, tree: Tree, part_at: PartAt = part_at) -> Iterator[Problem]:
    """But those that come of something that could not even be read."""
    for one in error.errors(include_url=False):
        path: Path = tuple(one["loc"])
        if path[-1:] == ("[key]",):
            path = path[:-1]
            place = tree.key_place(path)
        elif one["type"] == "missing":
            place = tree.key_place(path[:-1])
        elif one["type"] == "extra_forbidden":
            place = tree.key_place(path)
        else:
            place = tree.place(path)
        if not any(path[: len(broken)] == broken for broken in tree.broken):
            yield Problem(place, *_said(one, path, part_at))


def _said(one: Any, path: Path, part_at: PartAt) -> tuple[str, str]:
    """What, and what to do."""
    kind, context, told = one["type"], one.get("ctx", {}), quoted(one["input"])
    known: dict[str, Callable[[], tuple[str, str]]] = {
        "extra_forbidden": lambda: _unknown(path, part_at),
        "missing": lambda: _missing(path, part_at),
        "rule": lambda: (context["what"], context["todo"] or f"change it: {_purpose(path, part_at)}"),
        "value_error": lambda: (str(context["error"]), f"change it: {_purpose(path, part_at)}"),
        "enum": lambda: (f"{told} is not known here", f"write {context['expected']}"),
        "literal_error": lambda: (f"{told} is not known here", f"write {context['expected']}"),
    }
    if kind in known:
        return known[kind]()
    if kind == "string_pattern_mismatch" and context["pattern"] in _FORMS:
        what, todo = _FORMS[context["pattern"]]
        return f"{told} {what}", todo
    if kind in _TYPES:
        what, todo = _TYPES[kind]
        return f"{told} {what}", todo
    if kind in _LIMITS:
        what, limit, how = _LIMITS[kind]
        return f"{told} {what}", f"write {how} {context[limit]:g}{_UNITS.get(str(path[-1]), '')}"
    return f"{told}: {one['msg']}", f"change it: {_purpose(path, part_at)}"


def _unknown(path: Path, part_at: PartAt) -> tuple[str, str]:
    part = part_at(path[:-1])
    return f"there is no `{quoted(path[-1], bare=True)}` here", near(
        str(path[-1]), keys_of(part) if part else ()
    )


def _missing(path: Path, part_at: PartAt) -> tuple[str, str]:
    return f"`{path[-1]}` is missing", f"add it: {_purpose(path, part_at)}"


def _purpose(path: Path, part_at: PartAt) -> str:
    part = part_at(path[:-1])
    purpose = keys_of(part).get(str(path[-1]), "") if part and path else ""
    if not purpose and path and isinstance(path[-1], int):
        return _purpose(path[:-1], part_at)
    words = purpose.partition(";")[0].removesuffix(".")
    return words[:1].lower() + words[1:] if words[1:2].islower() else words or "see `supercloud schema cloud`"


def near(word: str, known: Iterable[str]) -> str:
    """The one that was probably meant, or all that there are."""
    there = sorted(known)
    lower = {one.lower(): one for one in reversed(there)}
    if found := difflib.get_close_matches(word.lower(), lower, n=1):
        return f"did you mean `{lower[found[0]]}`?"
    if not there:
        return "there is none"
    shown = ", ".join(there[:12])
    return f"there is: {shown}" + (", …" if len(there) > 12 else "")


def quoted(value: Any, *, bare: bool = False) -> str:
    if isinstance(value, dict | list | tuple):
        return "this"
    if value is None:
        return "nothing"
    text = str(value).lower() if isinstance(value, bool) else str(value)
    text = printable(text if len(text) <= 60 else text[:59] + "…")
    return text if bare or not isinstance(value, str) else f"“{text}”"
