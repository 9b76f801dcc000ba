"""The key store's two faces on the wire, derived from their own types.

A face's method takes named values; on the wire they are one JSON object, and its name is `group.method`.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import Any, NotRequired, get_type_hints

from typing_extensions import TypedDict

from supercloud.wire.rpc import Handler, Handlers


@lru_cache(maxsize=8)
def methods(face: type) -> dict[str, tuple[Any, Any]]:
    """Name -> (type of the named values, type of the answer)."""
    found: dict[str, tuple[Any, Any]] = {}
    for name, method in inspect.getmembers(face, inspect.iscoroutinefunction):
        hints = get_type_hints(method, include_extras=True)
        gives = hints.pop("return")
        for parameter in inspect.signature(method).parameters.values():
            if parameter.default is not parameter.empty:
                hints[parameter.name] = NotRequired[hints[parameter.name]]
        takes: Any = TypedDict(f"{face.__name__}_{name}", hints) if hints else None  # type: ignore[operator]
        found[name] = (takes, gives)
    return found


def handlers(face: type, group: str, implementation: object) -> Handlers:
    """What a connection to this face answers."""

    def serve(method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def run(values: dict[str, Any] | None = None) -> Any:
            return await method(**(values or {}))

        return run

    return {
        f"{group}.{name}": Handler(takes, gives, serve(getattr(implementation, name)))
        for name, (takes, gives) in methods(face).items()
    }
