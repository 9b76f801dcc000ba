"""That something changed, as it does: pages then ask for the part of themselves that shows it.

What is told is no more than that, of the kinds that a page shows, and only what its reader may see. Changes
that come close together are told as one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.sse import format_sse_event
from starlette.responses import StreamingResponse

from supercloud.api.events import HEARTBEAT_S, Stream
from supercloud.api.guard import LOOK_EVERY_S, DomainRead, OperationRead, Sight
from supercloud.model.errors import Unauthenticated
from supercloud.model.kinds import Kind
from supercloud.services.feed import Lost, Watch
from supercloud.services.requests import Ref
from supercloud.services.store.changes import Change
from supercloud.web.ask import Seeing
from supercloud.web.gate import DOMAIN_EVENTS, EVENTS

_GATHER_S = 0.15
_RETRY_MS = 1000
_IN_A_ROW = 100
_Kinds = Annotated[list[Kind] | None, Query(max_length=len(Kind))]


def router() -> APIRouter:
    """A stream for users, and one for providers, who may be told of less and of other things."""
    found = APIRouter()

    @found.get(EVENTS)
    async def events(
        control: OperationRead,
        sight: Seeing,
        request: Request,
        kind: _Kinds = None,
        cloud: Annotated[Ref | None, Query()] = None,
    ) -> StreamingResponse:
        watch, identity = await control.watch(cloud=cloud)
        kinds = frozenset(kind or Kind)

        def wanted(change: Change) -> bool:
            here = identity is None or change.cloud in {None, identity}
            return here and change.kind in kinds and sight.of(change)

        return Stream(watch, _Teller(watch, sight, wanted).told(request.app.state.ending))

    @found.get(DOMAIN_EVENTS)
    async def domain_events(
        control: DomainRead, sight: Seeing, request: Request, kind: _Kinds = None
    ) -> StreamingResponse:
        watch = await control.watch()
        kinds = frozenset(kind or Kind)

        def wanted(change: Change) -> bool:
            return change.kind in kinds and sight.of_domains(change)

        return Stream(watch, _Teller(watch, sight, wanted).told(request.app.state.ending))

    return found


class _Teller:
    """Of one stream. `wanted`: whether a change is for it; raises Unauthenticated."""

    def __init__(self, watch: Watch, sight: Sight, wanted: Callable[[Change], bool]) -> None:
        self._watch = watch
        self._sight = sight
        self._wanted = wanted

    async def told(self, ending: asyncio.Event) -> AsyncIterator[bytes]:
        """Everything that is said, to the end. `ready`: what changed before is not told, so look."""
        yield format_sse_event(event="ready", data_str="", retry=_RETRY_MS)
        try:
            while not ending.is_set():
                async for said in self._changes(ending):
                    yield said
        except Unauthenticated:
            yield format_sse_event(event="end", data_str="")

    async def _changes(self, ending: asyncio.Event) -> AsyncIterator[bytes]:
        """Until some were lost, which is told as a change. Raises: Unauthenticated."""
        loop = asyncio.get_running_loop()
        looked = said = loop.time()
        due: float | None = None
        passed = 0
        while not ending.is_set():
            now = loop.time()
            try:
                told = await self._watch.next(LOOK_EVERY_S if due is None else max(0.0, due - now))
            except Lost as lost:
                self._watch.place = lost.now
                yield format_sse_event(event="change", data_str="")
                return
            now = loop.time()
            if now - looked >= LOOK_EVERY_S:
                await self._sight.renew()
                looked = now
            passed = 0 if told.change is None else passed + 1
            if due is None and told.change is not None and self._wanted(told.change):
                due = now + _GATHER_S
            if due is not None and now >= due:
                yield format_sse_event(event="change", data_str="")
                due, said = None, now
            elif now - said >= HEARTBEAT_S:
                yield format_sse_event(comment="")
                said = now
            if passed >= _IN_A_ROW:  # a long line of what is not for this one: let others have their turn
                await asyncio.sleep(0)
                passed = 0
