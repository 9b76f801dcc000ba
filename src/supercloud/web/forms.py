"""Forms, and the API's own requests made out of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from supercloud.model.errors import InvalidInput
from supercloud.model.names import GIB

T = TypeVar("T")
Form = Mapping[str, tuple[str, ...]]
#: What a box says when it is ticked.
TICKED = "yes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One to fill in. `choices`: (value, label).

    `kind`: of an input; or "choice", "several" (a box for each choice), "box", "lines" (a text area).
    """

    name: str
    label: str
    choices: tuple[tuple[str, str], ...] = ()
    value: str = ""
    kind: str = "text"
    hint: str = ""
    required: bool = False
    least: int | None = None
    most: int | None = None


def chosen(name: str, label: str, choices: Iterable[tuple[str, str]], **more: Any) -> Field:
    """One of several."""
    return Field(name=name, label=label, kind="choice", choices=tuple(choices), **more)


def counted(name: str, label: str, *, least: int = 0, most: int = (1 << 31) - 1, **more: Any) -> Field:
    """A whole number."""
    return Field(name=name, label=label, kind="number", least=least, most=most, **more)


def named(views: Iterable[Any]) -> tuple[tuple[str, str], ...]:
    """Things to choose from."""
    return tuple((each.id, each.name) for each in views)


def filled(fields: Iterable[Field], form: Form) -> tuple[Field, ...]:
    """With what was filled in before, if anything was."""
    return tuple(replace(each, value=" ".join(form.get(each.name, ()))) if form else each for each in fields)


# ---------------------------------------------------------------- what was filled in


def written(form: Form, name: str) -> str:
    """ "" if nothing was."""
    return next(iter(form.get(name, ())), "").strip()


def maybe(form: Form, name: str) -> str | None:
    """None if nothing was."""
    return written(form, name) or None


def ticked(form: Form, name: str) -> bool:
    return written(form, name) == TICKED


def lines(form: Form, name: str) -> list[str]:
    return [line.strip() for line in written(form, name).splitlines() if line.strip()]


def number(form: Form, name: str) -> int | None:
    """
    Raises:
        InvalidInput: it is no whole number.
    """
    text = written(form, name)
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 12):
        raise InvalidInput(f"{name.replace('_', ' ')}: a whole number is expected")
    return int(text)


def size(form: Form, name: str) -> int | None:
    """Bytes, of a number of GiB. Raises: as `number`."""
    gib = number(form, name)
    return None if gib is None else gib * GIB


def moment(form: Form, name: str) -> float | None:
    """Seconds since the epoch, of a date and time in UTC.

    Raises:
        InvalidInput: it is none.
    """
    text = written(form, name)
    if not text:
        return None
    try:
        return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()
    except (ValueError, OverflowError) as error:
        raise InvalidInput(f"{name.replace('_', ' ')}: a date and a time are expected") from error


def request_of(kind: type[T], values: Mapping[str, Any]) -> T:
    """A request as the API takes it, checked by the same rules. What is None is left out.

    Raises:
        InvalidInput: it is not one.
    """
    found: T = checked(kind, {name: value for name, value in values.items() if value is not None})
    return found


def checked(kind: Any, value: object, name: str = "") -> Any:
    """
    Raises:
        InvalidInput: it is no such value. It says so of `name`.
    """
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join((*([name] if name else []), *(str(part) for part in first["loc"])))
        raise InvalidInput(f"{where.replace('_', ' ') or 'the form'}: {first['msg']}") from error
