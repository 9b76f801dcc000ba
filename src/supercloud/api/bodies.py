"""Bodies mean what they say: no word is a number, and neither a word nor a number a truth.

FastAPI reads a body as a form is read, where everything is text: `"yes"` would be true, and `false` a size of
nothing. What a client got so wrong is refused, since it means something else than it would be taken for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from functools import cache
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import TypeAdapter, ValidationError

from supercloud.api.guard import may

#: With what is known at run time only.
_ANNOTATED: Any = Annotated
Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class _Strict(APIRoute):
    """Reads a body so before FastAPI reads it."""

    def get_route_handler(self) -> Handler:
        handler = super().get_route_handler()
        if self.body_field is None:
            return handler
        info = self.body_field.field_info

        @cache
        def adapter() -> TypeAdapter[Any]:
            """Made when the first body comes."""
            return TypeAdapter(_ANNOTATED[info.annotation, info])

        async def strict(request: Request) -> Response:
            body = await request.body()  # which keeps it for the other
            if body:
                try:
                    _check(adapter(), body)
                except ValidationError as error:
                    await may(self.dependant, request)  # of what is not for it, who asks learns nothing else
                    found = error.errors(include_url=False)
                    where = [{**one, "loc": ("body", *one["loc"])} for one in found]
                    raise RequestValidationError(where) from error
            return await handler(request)

        return strict


def _check(adapter: TypeAdapter[Any], body: bytes) -> None:
    """A whole number may be written as 10.0, which in JSON is the same. Raises: ValidationError."""
    try:
        adapter.validate_json(body, strict=True)
    except ValidationError as error:
        if error.errors(include_url=False, include_input=False)[0]["type"] == "json_invalid":
            raise
        adapter.validate_json(json.dumps(json.loads(body, parse_float=_number)), strict=True)


def _number(text: str) -> float:
    value = float(text)
    return int(value) if value.is_integer() else value


class Router(APIRouter):
    """Of one resource."""

    def __init__(self, *, prefix: str = "", tags: list[str | Any] | None = None) -> None:
        super().__init__(prefix=prefix, tags=tags, route_class=_Strict)
