"""Conditions as functions of an event's fields.

Whatever a hostile event holds, none takes longer than the event's length times the pattern's.
"""

from __future__ import annotations

import ipaddress
import operator
from collections.abc import Callable, Mapping
from typing import Any

from supercloud.model.errors import InvalidInput
from supercloud.security.events import Value
from supercloud.security.terms import (
    All,
    Cidr,
    Exists,
    Flag,
    Has,
    Like,
    Not,
    Null,
    Number,
    Op,
    Regex,
    Same,
    Some,
    Term,
    Test,
)

Fields = Mapping[str, Value | tuple[Value, ...]]
Condition = Callable[[Fields], bool]
_Check = Callable[[Value], bool]
_OPERATORS: Mapping[Op, Callable[[float, float], bool]] = {
    Op.LT: operator.lt,
    Op.LTE: operator.le,
    Op.GT: operator.gt,
    Op.GTE: operator.ge,
    Op.NEQ: operator.ne,
}


def compiled(term: Term) -> Condition:
    """
    Raises:
        InvalidInput: a pattern in it cannot be used.
    """
    match term:
        case All(of=parts):
            every = tuple(compiled(one) for one in parts)
            return lambda fields: all(one(fields) for one in every)
        case Some(of=parts):
            some = tuple(compiled(one) for one in parts)
            return lambda fields: any(one(fields) for one in some)
        case Not(of=part):
            inner = compiled(part)
            return lambda fields: not inner(fields)
        case Has(field=None, test=test):
            return _anywhere(_check(test))
        case Has(field=str(name), test=test):
            return _in_field(name, test)
    raise AssertionError(term)


def _in_field(name: str, test: Test) -> Condition:
    match test:
        case Exists(value=wanted):
            return lambda fields: (fields.get(name) is not None) is wanted
        case Null():
            return lambda fields: fields.get(name) in (None, "")
        case Same(field=other):
            return lambda fields: fields.get(name) is not None and fields.get(name) == fields.get(other)
    check = _check(test)

    def condition(fields: Fields) -> bool:
        value = fields.get(name)
        if value is None:
            return False
        if isinstance(value, tuple):
            return any(one is not None and check(one) for one in value)
        return check(value)

    return condition


def _anywhere(check: _Check) -> Condition:
    """Sigma's keywords: somewhere in the event."""

    def condition(fields: Fields) -> bool:
        for value in fields.values():
            for one in value if isinstance(value, tuple) else (value,):
                if one is not None and check(one):
                    return True
        return False

    return condition


def _check(test: Test) -> _Check:
    match test:
        case Like(pattern=pattern, cased=cased):
            like = wildcard(pattern, cased=cased)
            return lambda value: like(_text(value))
        case Regex(pattern=pattern):
            search = _searcher(pattern)
            return lambda value: search(_text(value)) is not None
        case Number(value=number, op=op):
            return _numeric(number, op)
        case Flag(value=flag):
            said = str(flag).lower()
            return lambda value: value is flag or _text(value).lower() == said
        case Cidr(net=net):
            return _in_net(net)
    raise InvalidInput(f"{type(test).__name__} needs a field")


def _text(value: Value) -> str:
    return value if isinstance(value, str) else str(value)


def _searcher(pattern: str) -> Callable[[str], Any]:
    import re2  # only where a rule has one

    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern, options).search  # type: ignore[no-any-return]
    except re2.error as error:
        raise InvalidInput(f"{pattern[:80]!r} is not matched in linear time: {error}") from error


def _numeric(number: float, op: Op | None) -> _Check:
    compare = operator.eq if op is None else _OPERATORS[op]

    def check(value: Value) -> bool:
        if isinstance(value, bool) or value is None:
            return False
        try:
            return compare(float(value), number)
        except ValueError:
            return False

    return check


def _in_net(net: str) -> _Check:
    try:
        found = ipaddress.ip_network(net)
    except ValueError as error:
        raise InvalidInput(f"{net!r} is no network: {error}") from error

    def check(value: Value) -> bool:
        try:
            return isinstance(value, str) and ipaddress.ip_address(value) in found
        except ValueError:
            return False

    return check


def in_net(address: str, net: str) -> bool:
    """Whether that is an address, and of that network."""
    return _in_net(net)(address)


# ---------------------------------------------------------------- wildcards

_ANY, _ONE = object(), object()
_Part = object | str


def wildcard(pattern: str, *, cased: bool = False) -> Callable[[str], bool]:
    """The whole of a text against `*` and `?`. The frequent forms are one call of str's."""
    parts = _parts(pattern if cased else pattern.lower())
    simple = _simple(parts)
    if simple is None:
        pieces = _pieces(parts)
        simple = lambda text: _glob(pieces, text)  # noqa: E731 - the third of three forms
    if cased:
        return simple
    found = simple
    return lambda text: found(text.lower())


def _parts(pattern: str) -> list[_Part]:
    parts: list[_Part] = []
    plain: list[str] = []
    position = 0
    while position < len(pattern):
        char = pattern[position]
        if char == "\\" and pattern[position + 1 : position + 2] in ("*", "?", "\\"):
            plain.append(pattern[position + 1])
            position += 2
            continue
        position += 1
        if char not in "*?":
            plain.append(char)
            continue
        if plain:
            parts.append("".join(plain))
            plain.clear()
        if char == "?" or parts[-1:] != [_ANY]:
            parts.append(_ANY if char == "*" else _ONE)
    return [*parts, "".join(plain)] if plain else parts


def _simple(parts: list[_Part]) -> Callable[[str], bool] | None:  # noqa: PLR0911 - one for each form
    match parts:
        case []:
            return lambda text: not text
        case [str(plain)]:
            return lambda text: text == plain
        case [one] if one is _ANY:
            return lambda _: True
        case [one, str(end)] if one is _ANY:
            return lambda text: text.endswith(end)
        case [str(start), one] if one is _ANY:
            return lambda text: text.startswith(start)
        case [one, str(inner), other] if one is _ANY and other is _ANY:
            return lambda text: inner in text
    return None


def _pieces(parts: list[_Part]) -> list[list[str | None]]:
    """Between the `*`s, character by character; None: any one."""
    pieces: list[list[str | None]] = [[]]
    for part in parts:
        if part is _ANY:
            pieces.append([])
        elif part is _ONE:
            pieces[-1].append(None)
        else:
            pieces[-1].extend(str(part))
    return pieces


def _glob(pieces: list[list[str | None]], text: str) -> bool:
    """Each piece as early as it fits: at most the text's length times the pattern's."""
    first, *rest = pieces
    if not _fits(first, text, 0):
        return False
    if not rest:
        return len(text) == len(first)
    position, last = len(first), rest[-1]
    for piece in rest[:-1]:
        while not _fits(piece, text, position):
            position += 1
            if position + len(piece) > len(text):
                return False
        position += len(piece)
    return len(text) - len(last) >= position and _fits(last, text, len(text) - len(last))


def _fits(piece: list[str | None], text: str, at: int) -> bool:
    if at < 0 or at + len(piece) > len(text):
        return False
    return all(char is None or char == text[at + index] for index, char in enumerate(piece))
