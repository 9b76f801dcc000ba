"""What changes, as server-sent events: `GET /events`; and what agents reported before."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from fastapi.sse import format_sse_event
from pydantic import TypeAdapter
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from supercloud.api.bodies import Router
from supercloud.api.guard import EVENTS, BlanketRead, OperationRead, Sight
from supercloud.api.pages import TIMED, Paged
from supercloud.api.things import InCloud
from supercloud.model.errors import Unauthenticated
from supercloud.model.kinds import Kind
from supercloud.model.names import Id
from supercloud.services.feed import Lost, Place, Watch
from supercloud.services.store.changes import Act, Change, ThingId
from supercloud.services.views import ReportView

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


#: What is told of a change, as a dataclass; None: nothing, since it is not asked for or not for this one.
#: Raises: Unauthenticated.
Show = Callable[[Change], Any]
Since = Annotated[str | None, Query(max_length=64, description="as Last-Event-ID")]
Lasts = Annotated[float | None, Query(ge=0, le=_DAY_S, allow_inf_nan=False)]
LastId = Annotated[str | None, Header(max_length=64)]


@dataclass(frozen=True, slots=True)
class _Asked:
    """Of one stream."""

    show: Show
    until: float  # of the loop's clock
    ending: asyncio.Event


def place(text: str | None) -> Place | None:
    """
    Raises:
        InvalidInput: that is not the id of an event.
    """
    return Place.read(text) if text else None


def stream(watch: Watch, request: Request, show: Show, lasts_s: float | None) -> Stream:
    """What `show` makes of what is watched, for so long, or for a day."""
    until = asyncio.get_running_loop().time() + (_DAY_S if lasts_s is None else lasts_s)
    return Stream(watch, _told(watch, request.state.sight, _Asked(show, until, request.app.state.ending)))


def documented(event: type[Any]) -> dict[str, Any]:
    """A stream whose changes are of this type."""
    return {
        "description": (
            "Events `ready` (from here on nothing is missed: list now, and then apply what comes), `change` "
            f"(a `{event.__name__}`), `lost` (more happened than is kept: list again, and come back with "
            "this event's id) and `end` (a problem's `code` and `detail`). Lines that begin with a colon "
            "keep the connection alive."
        ),
        "content": {
            "text/event-stream": {
                "schema": {
                    "type": "object",
                    "description": "Each event: `data` is JSON",
                    "properties": {one: {"type": "string"} for one in ("data", "event", "id")},
                    "required": ["data", "event", "id"],
                },
                "x-event-data": {"$ref": f"#/components/schemas/{event.__name__}"},
            }
        },
    }


def schemas(event: type[Any]) -> dict[str, Any]:
    """Of the data of events, for the API's description, which says nothing of a stream's parts otherwise."""
    found = TypeAdapter(event).json_schema(ref_template="#/components/schemas/{model}")
    return {**found.pop("$defs", {}), event.__name__: found}


def router() -> APIRouter:
    """The one stream."""
    found = Router(tags=["events"])

    @found.get(EVENTS, status_code=200, response_class=Stream, responses={200: documented(Event)})
    async def events(  # noqa: PLR0917 - FastAPI calls it by name
        control: OperationRead,
        request: Request,
        cloud: InCloud = None,
        kind: Annotated[list[Kind] | None, Query(max_length=len(Kind))] = None,
        since: Since = None,
        lasts_s: Lasts = None,
        last_event_id: LastId = None,
    ) -> Stream:
        """From now on, or from what came after an event's id; with `lasts_s`, for so long only."""
        watch, identity = await control.watch(after=place(last_event_id or since), cloud=cloud)
        kinds, sight = frozenset(kind or ()), request.state.sight

        def show(change: Change) -> Event | None:
            wanted = (not kinds or change.kind in kinds) and identity in {None, change.cloud}
            return _event_of(change) if wanted and sight.of(change) else None

        return stream(watch, request, show, lasts_s)

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


class Stream(StreamingResponse):
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
        if now - looked >= _LOOK_EVERY_S or _decides(told.change):
            await sight.renew()
            looked = now
        if told.change is None:
            if not left_s:
                return
            passed = 0
        elif (shown := asked.show(told.change)) is not None:
            yield _event("change", asdict(shown), told.place)
            said = now
        else:
            passed += 1
        if now - said >= HEARTBEAT_S:
            yield format_sse_event(comment=f"{time.time():.0f}", id=str(watch.place))
            said = now
        if passed >= _IN_A_ROW:  # a long line of what is not for this one: let others have their turn
            await asyncio.sleep(0)
            passed = 0


def _decides(change: Change | None) -> bool:
    """Whether it may change what else is to be told: what trust let somebody see ends with the trust."""
    return change is not None and change.kind is Kind.TRUST


def _event_of(change: Change) -> Event:
    fields = asdict(change)
    fields.pop("owner")
    return Event(**fields)


def _event(name: str, data: dict[str, Any], place: Place, *, retry: int | None = None) -> bytes:
    said = json.dumps(data, separators=(",", ":"))
    return format_sse_event(data_str=said, event=name, id=str(place), retry=retry)
