"""What changes, as server-sent events: `GET /events`; and what agents reported before."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from fastapi.sse import format_sse_event
from pydantic import TypeAdapter
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from supercloud.api.guard import EVENTS, BlanketRead, OperationRead, Sight
from supercloud.api.pages import TIMED, Paged
from supercloud.api.things import InCloud
from supercloud.model.errors import Unauthenticated
from supercloud.model.names import Id
from supercloud.services.feed import Lost, Place, Watch
from supercloud.services.northbound import ReportView
from supercloud.services.store.changes import Act, Change, Kind, ThingId

#: So often something is said, so that neither end nor anything between them takes the other for dead.
HEARTBEAT_S = 15.0
#: So often it is looked whether the token counts still.
_LOOK_EVERY_S = 1.0
#: What a browser waits before it comes back.
_RETRY_MS = 1000
_DAY_S = 86400.0
#: Before something else gets its turn.
_IN_A_ROW = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """The data of an event `change`: something was added, changed or removed."""

    kind: Kind
    act: Act
    id: ThingId
    name: str  # of a report, what it is about; of a token, its id
    cloud: Id | None
    cloud_name: str | None
    state: str | None
    at: float  # wall clock as it was committed, seconds since the epoch
    data: dict[str, Any] | None  # of an operation: what, phase, share done; of a report: what was said


@dataclass(frozen=True, slots=True)
class _Asked:
    """Of one stream."""

    cloud: Id | None
    kinds: frozenset[Kind]
    until: float  # of the loop's clock
    ending: asyncio.Event

    def wants(self, change: Change) -> bool:
        return (not self.kinds or change.kind in self.kinds) and self.cloud in {None, change.cloud}


_DOCUMENTED: dict[str, Any] = {
    "description": (
        "Events `ready` (from here on nothing is missed: list now, and then apply what comes), `change` (an "
        "`Event`), `lost` (more happened than is kept: list again, and come back with this event's id) and "
        "`end` (a problem's `code` and `detail`). Lines that begin with a colon keep the connection alive."
    ),
    "content": {
        "text/event-stream": {
            "schema": {
                "type": "object",
                "description": "Each event: `data` is JSON",
                "properties": {one: {"type": "string"} for one in ("data", "event", "id")},
                "required": ["data", "event", "id"],
            },
            "x-event-data": {"$ref": "#/components/schemas/Event"},
        }
    },
}


def schemas() -> dict[str, Any]:
    """Of the data of events, for the API's description, which says nothing of a stream's parts otherwise."""
    found = TypeAdapter(Event).json_schema(ref_template="#/components/schemas/{model}")
    return {**found.pop("$defs", {}), "Event": found}


def router() -> APIRouter:
    """The one stream."""
    found = APIRouter(tags=["events"])

    @found.get(EVENTS, status_code=200, response_class=_Stream, responses={200: _DOCUMENTED})
    async def events(  # noqa: PLR0917 - FastAPI calls it by name
        control: OperationRead,
        request: Request,
        cloud: InCloud = None,
        kind: Annotated[list[Kind] | None, Query(max_length=len(Kind))] = None,
        since: Annotated[str | None, Query(max_length=64, description="as Last-Event-ID")] = None,
        lasts_s: Annotated[float | None, Query(ge=0, le=_DAY_S, allow_inf_nan=False)] = None,
        last_event_id: Annotated[str | None, Header(max_length=64)] = None,
    ) -> _Stream:
        """From now on, or from what came after an event's id; with `lasts_s`, for so long only."""
        after = last_event_id or since
        watch, identity = await control.watch(after=Place.read(after) if after else None, cloud=cloud)
        lasts = _DAY_S if lasts_s is None else lasts_s
        until = asyncio.get_running_loop().time() + lasts
        asked = _Asked(identity, frozenset(kind or ()), until, request.app.state.ending)
        return _Stream(watch, _told(watch, request.state.sight, asked))

    @found.get("/reports")
    async def reports(
        control: BlanketRead,
        paging: Paged,
        cloud: InCloud = None,
        blanket: InCloud = None,
        kind: Annotated[str | None, Query(pattern=r"^[a-z._-]{1,100}$")] = None,
    ) -> list[ReportView]:
        """What agents reported, the newest first, as far back as it is kept."""
        page = paging.page(TIMED, name=kind)
        return paging.answer(await control.reports(cloud=cloud, blanket=blanket, page=page))

    return found


class _Stream(StreamingResponse):
    """Closes what it watches, however it ends."""

    media_type = "text/event-stream"

    def __init__(self, watch: Watch, said: AsyncIterator[bytes]) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(said, headers=headers)
        self._watch = watch

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with suppress(OSError):  # whoever watched has left
                await super().__call__(scope, receive, send)
        finally:
            self._watch.close()


async def _told(watch: Watch, sight: Sight, asked: _Asked) -> AsyncIterator[bytes]:
    """Everything that is said, to the end."""
    try:
        watch.check()
        yield _event("ready", {}, watch.place, retry=_RETRY_MS)
        async for said in _changes(watch, sight, asked):
            yield said
    except Lost as lost:
        yield _event("lost", {"detail": lost.why}, lost.now)
    except Unauthenticated as error:
        yield _event("end", {"code": error.code, "detail": error.message}, watch.place)


async def _changes(watch: Watch, sight: Sight, asked: _Asked) -> AsyncIterator[bytes]:
    """
    Raises:
        Lost; Unauthenticated: the token counts no more.
    """
    loop = asyncio.get_running_loop()
    looked = said = loop.time()
    passed = 0
    while not asked.ending.is_set():
        left_s = max(0.0, asked.until - loop.time())
        told = await watch.next(min(_LOOK_EVERY_S, left_s))
        now = loop.time()
        if now - looked >= _LOOK_EVERY_S:
            await sight.renew()
            looked = now
        if told.change is None:
            if not left_s:
                return
            passed = 0
        elif asked.wants(told.change) and sight.of(told.change):
            yield _event("change", asdict(_event_of(told.change)), told.place)
            said = now
        else:
            passed += 1
        if now - said >= HEARTBEAT_S:
            yield format_sse_event(comment=f"{time.time():.0f}", id=str(watch.place))
            said = now
        if passed >= _IN_A_ROW:  # a long line of what is not for this one: let others have their turn
            await asyncio.sleep(0)
            passed = 0


def _event_of(change: Change) -> Event:
    fields = asdict(change)
    fields.pop("owner")
    return Event(**fields)


def _event(name: str, data: dict[str, Any], place: Place, *, retry: int | None = None) -> bytes:
    said = json.dumps(data, separators=(",", ":"))
    return format_sse_event(data_str=said, event=name, id=str(place), retry=retry)
