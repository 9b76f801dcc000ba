"""Lists over HTTP: how much of one, from where on, and the link to what comes next (RFC 8288)."""

from __future__ import annotations

import base64
import binascii
import json
import math
from typing import Annotated, Any, TypeVar
from urllib.parse import parse_qsl, urlencode

from fastapi import Depends, Query, Request, Response

from supercloud.model.errors import InvalidInput
from supercloud.model.names import Name
from supercloud.services.pages import Key, Page, Part

T = TypeVar("T")
DEFAULT, MOST = 100, 1000
_CURSOR_CHARS = 1024
#: Of what a list is sorted by: names, ids, moments.
TEXTS: tuple[type, ...] = (str, str)
TEXT: tuple[type, ...] = (str,)
TIMED: tuple[type, ...] = (float, str)

Limit = Annotated[int, Query(ge=1, le=MOST)]
Cursor = Annotated[
    str | None, Query(pattern=r"^[A-Za-z0-9_-]+$", max_length=_CURSOR_CHARS, description="of a `next` link")
]
Named = Annotated[Name | None, Query(description="only what has this name")]


def write_cursor(which: str, key: Key) -> str:
    """Opaque to clients. `which`: the list that it is of."""
    said = json.dumps([which, *key], separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(said).rstrip(b"=").decode()


def read_cursor(which: str, kinds: tuple[type, ...], text: str) -> Key:
    """
    Raises:
        InvalidInput: it is not a cursor of this list.
    """
    wrong = InvalidInput("that cursor is not of this list", hint="follow the `next` link of an answer")
    try:
        said = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (ValueError, binascii.Error, RecursionError) as error:
        raise wrong from error
    if not isinstance(said, list) or len(said) != len(kinds) + 1 or said[0] != which:
        raise wrong
    if not all(_fits(value, kind) for value, kind in zip(said[1:], kinds, strict=True)):
        raise wrong
    return tuple(said[1:])


def _fits(value: object, kind: type) -> bool:
    """Whether any database takes it."""
    if kind is float:
        return isinstance(value, float) and math.isfinite(value)
    if not isinstance(value, str) or "\x00" in value:
        return False
    return value.encode("utf-8", "replace").decode() == value


class Paging:
    """Of one request for a list."""

    def __init__(
        self, request: Request, response: Response, limit: Limit = DEFAULT, cursor: Cursor = None
    ) -> None:
        self._request = request
        self._response = response
        self._limit = limit
        self._cursor = cursor

    def page(self, kinds: tuple[type, ...], *, name: str | None = None, state: str | None = None) -> Page:
        """`kinds`: of the parts of the list's key. Raises: InvalidInput."""
        after = None if self._cursor is None else read_cursor(self._list, kinds, self._cursor)
        return Page(limit=self._limit, after=after, name=name, state=state)

    def answer(self, part: Part[T]) -> list[T]:
        """The part, and where the next one is."""
        if part.after is not None:
            query: list[tuple[str, Any]] = [
                pair for pair in parse_qsl(self._request.url.query) if pair[0] != "cursor"
            ]
            query.append(("cursor", write_cursor(self._list, part.after)))
            self._response.headers["Link"] = f'<{self._request.url.path}?{urlencode(query)}>; rel="next"'
        return part

    @property
    def _list(self) -> str:
        return self._request.url.path.rpartition("/")[2]


Paged = Annotated[Paging, Depends(Paging)]
