"""Values of the file as people write them, and the API's own rules and defaults for them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator, Field, PlainValidator, TypeAdapter, ValidationError, WithJsonSchema
from pydantic_core import PydanticCustomError

from supercloud.cli.bounds import COST_PATTERN, cost
from supercloud.cli.sizes import PATTERN, parse_size
from supercloud.cli.times import LENGTH_PATTERN, seconds
from supercloud.model.errors import InvalidInput
from supercloud.model.names import MIB, MemoryMib, SizeBytes
from supercloud.model.placement import Cost
from supercloud.model.quota import Bytes, Mebibytes
from supercloud.model.trust import LONGEST_S
from supercloud.services.requests import OptionValue, Publish

T = TypeVar("T")
_PUBLISH = TypeAdapter(Publish)


def default_of(request: type[Any], name: str) -> Any:
    """What the API takes where a request does not say."""
    return next(one.default for one in dataclasses.fields(request) if one.name == name)


def ruled(check: Callable[[], T]) -> T:
    """A rule of the API's, where it says no, as pydantic wants to hear it."""
    try:
        return check()
    except InvalidInput as error:
        raise PydanticCustomError("rule", "{what}", {"what": error.message, "todo": error.hint}) from error


def _size(value: Any) -> Any:
    return parse_size(value) if isinstance(value, str) else value


def _memory(value: Any) -> Any:
    size = _size(value)
    if isinstance(size, bool) or not isinstance(size, int):
        return size  # for pydantic to say what it is not
    if size % MIB:
        raise ValueError(f"{value} is not a whole number of MiB")
    return size // MIB


def published(value: Any) -> Publish:
    """
    Raises:
        ValueError: it is no port.
    """
    at, colon, port = str(value).rpartition(":") if isinstance(value, str | int) else ("", "", "")
    try:
        if isinstance(value, bool) or not port.isascii() or not (at or "0").isascii():
            raise ValueError
        return _PUBLISH.validate_python({"port": int(port), "at": int(at) if colon else 0})
    except (ValueError, ValidationError) as error:
        raise ValueError(f"{value!r:.60} is not PORT or PORT_HERE:PORT") from error


def _option(value: Any) -> Any:
    """As they would be typed: a number or `true` stands for its text."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | float) else value


def _size_schema(unit: int, scalar: Any) -> dict[str, Any]:
    """As a number of bytes, or as people write it; `scalar` is what it becomes, in `unit`s."""
    bounds = TypeAdapter(scalar).json_schema()
    number = {"type": "integer", "minimum": bounds["minimum"] * unit, "multipleOf": unit}
    text = {"type": "string", "pattern": f"^{PATTERN}$".replace("?:", "")}
    return {"anyOf": [number, text], "examples": ["512M", "10G"]}


_PORT_SCHEMA = {
    "anyOf": [
        {"type": "integer", "minimum": 1, "maximum": 65535},
        {"type": "string", "pattern": "^([0-9]{1,5}:)?[0-9]{1,5}$"},
    ],
    "examples": ["8080:80", 80],
}
QuotaMemory = Annotated[Mebibytes, BeforeValidator(_memory), WithJsonSchema(_size_schema(MIB, Mebibytes))]
QuotaDisk = Annotated[Bytes, BeforeValidator(_size), WithJsonSchema(_size_schema(1, Bytes))]
Memory = Annotated[MemoryMib, BeforeValidator(_memory), WithJsonSchema(_size_schema(MIB, MemoryMib))]
Size = Annotated[SizeBytes, BeforeValidator(_size), WithJsonSchema(_size_schema(1, SizeBytes))]
Port = Annotated[Publish, PlainValidator(published), WithJsonSchema(_PORT_SCHEMA)]
Option = Annotated[
    OptionValue,
    BeforeValidator(_option),
    WithJsonSchema({"type": ["string", "number", "boolean"], "maxLength": 4096}),
]


def _cost(value: Any) -> Any:
    if not isinstance(value, str):
        return value  # for pydantic to say what it is not
    try:
        return Cost(**cost(value))
    except InvalidInput as error:
        raise ValueError(error.message) from error


def _lasts(value: Any) -> Any:
    if not isinstance(value, str):
        return value  # for pydantic to say what it is not
    try:
        return seconds(value)
    except InvalidInput as error:
        raise ValueError(error.message) from error


_LASTS_SCHEMA = {"type": "string", "pattern": LENGTH_PATTERN, "default": "30d", "examples": ["90d", "8h"]}
#: Of a trust relation, in seconds.
Lasts = Annotated[
    float,
    BeforeValidator(_lasts),
    Field(gt=0, le=LONGEST_S, allow_inf_nan=False),
    WithJsonSchema(_LASTS_SCHEMA),
]
_COST_SCHEMA = {"type": "string", "pattern": COST_PATTERN, "examples": ["0.05 EUR"]}
MaxCost = Annotated[Cost, BeforeValidator(_cost), WithJsonSchema(_COST_SCHEMA)]
