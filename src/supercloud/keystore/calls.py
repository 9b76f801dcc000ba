"""The key store's two faces on the wire, derived from their own types.

A face's method takes named values; on the wire they are one JSON object, and its name is `group.method`.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import Any, get_type_hints

from supercloud.wire.rpc import Handler, Handlers


@lru_cache(maxsize=8)
def methods(face: type) -> dict[str, tuple[Any, Any]]:
    """Name -> (dataclass of the named values, or None; type of the answer)."""
    found: dict[str, tuple[Any, Any]] = {}
    for name, method in inspect.getmembers(face, inspect.iscoroutinefunction):
        hints = get_type_hints(method, include_extras=True)
        gives = hints.pop("return")
        found[name] = (_values(f"{face.__name__}_{name}", method, hints) if hints else None, gives)
    return found


def _values(name: str, method: Callable[..., Any], hints: dict[str, Any]) -> type:
    """What a method takes, as one type; what has a default may be left out."""
    fields: list[tuple[str, Any] | tuple[str, Any, Any]] = []
    for parameter, kind in hints.items():
        default = inspect.signature(method).parameters[parameter].default
        fields.append((parameter, kind) if default is inspect.Parameter.empty else (parameter, kind, default))
    return dataclasses.make_dataclass(name, fields, frozen=True, kw_only=True, repr=False)


def handlers(face: type, group: str, implementation: object) -> Handlers:
    """What a connection to this face answers."""

    def serve(method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def run(values: Any = None) -> Any:
            named = () if values is None else dataclasses.fields(values)
            return await method(**{field.name: getattr(values, field.name) for field in named})

        return run

    return {
        f"{group}.{name}": Handler(takes, gives, serve(getattr(implementation, name)))
        for name, (takes, gives) in methods(face).items()
    }
