"""Server-sent events out of bytes, as they come. No connection here: every kind of client reads alike."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from supercloud.model.errors import Failed, Unavailable, error_from

#: Of one event. The API's own have at most some tens of thousands.
_MOST_BYTES = 1 << 20
_AGAIN_S = 0.5


@dataclass(frozen=True, slots=True)
class Said:
    """One event: `name` is change, ready, lost or end; `id` is where to go on from after it."""

    name: str
    id: str
    data: dict[str, Any]


class Reader:
    """The HTML standard's event stream, of UTF-8 lines that end with a line feed, as our API sends it."""

    def __init__(self) -> None:
        self._rest = b""
        self._size = 0
        self._name = ""
        self._data: list[str] = []
        self.last_id = ""

    def take(self, chunk: bytes) -> Iterator[Said]:
        """The events that are complete with it.

        Raises:
            Failed: it is no such stream, or an event has no end.
        """
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            self._size += len(line)
            self._bounded(self._size)
            if line.strip(b"\r"):
                self._field(line)
            else:
                yield from self._end()
        self._bounded(self._size + len(self._rest))

    @staticmethod
    def _bounded(size: int) -> None:
        if size > _MOST_BYTES:
            raise Failed(f"an event has more than {_MOST_BYTES} bytes")

    def _field(self, line: bytes) -> None:
        name, _, value = line.decode("utf-8", "replace").rstrip("\r").partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            self._name = value
        elif name == "data":
            self._data.append(value)
        elif name == "id" and "\x00" not in value:
            self.last_id = value

    def _end(self) -> Iterator[Said]:
        name, data = self._name, "\n".join(self._data)
        self._name, self._data, self._size = "", [], 0
        if not data:
            return
        try:
            said = json.loads(data)
        except ValueError as error:
            raise Failed("the control plane sent an event that is not JSON") from error
        if not isinstance(said, dict):
            raise Failed("the control plane sent an event that is no object")
        yield Said(name or "message", self.last_id, said)


def following(
    opened: Callable[[Mapping[str, object]], Iterator[bytes]],
    since: str | None,
    query: Mapping[str, object],
    *,
    away_s: float,
) -> Iterator[Said]:
    """The events of one stream after the other, each from where the one before ended.

    Raises:
        Unavailable: it could not be opened for `away_s`.
        SupercloudError: what it was refused or ended with.
    """
    once, ready = query.get("lasts_s") is not None, False
    heard = time.monotonic()
    while True:
        reader = Reader()
        try:
            for chunk in opened({**query, "since": since}):
                heard = time.monotonic()
                for said in reader.take(chunk):
                    since = said.id or since
                    if said.name == "end":
                        raise error_from(str(said.data.get("code")), str(said.data.get("detail")))
                    if said.name != "ready" or not ready:
                        ready = ready or said.name == "ready"
                        yield said
                since = reader.last_id or since
            if once:
                return
        except Unavailable:
            if once or not ready or time.monotonic() - heard > away_s:
                raise
        time.sleep(_AGAIN_S)  # that it is back has no event
