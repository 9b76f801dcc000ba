"""The ports' values as JSON, checked on the way in.

Unknown fields are ignored and new fields come with defaults, so that an agent and a controller one version
apart understand each other while either is being upgraded. Everything else is strict: a value that does not
fit its type and bounds is refused.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from supercloud.model.errors import InvalidInput

T = TypeVar("T")


@lru_cache(maxsize=512)
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def prepare(*kinds: Any) -> None:
    """Make now what the first of each kind would wait for: a tenth of a second and more where everything is
    emulated."""
    for kind in kinds:
        _adapter(kind)


def to_json(kind: Any, value: object) -> Any:
    """`value`, which is a `kind`, as what `json.dumps` takes."""
    return _adapter(kind).dump_python(value, mode="json")


def from_json(kind: type[T], data: object) -> T:
    """A `kind` out of parsed JSON.

    Raises:
        InvalidInput: with the first place that does not fit and why.
    """
    try:
        return cast(T, _adapter(cast(Any, kind)).validate_python(data))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "value"
        raise InvalidInput(f"{where}: {first['msg']}") from error
