"""Doing what is due when it is, as a task of its own: at the moment, at once when something changed, and
every while in case that nobody told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from supercloud.model.errors import SupercloudError

_log = structlog.get_logger(__name__)
#: Other controllers may have planned something, and nobody on SQLite tells of a clock that was set.
LOOK_EVERY_S = 30.0
_AGAIN_S = 1.0


async def keep_up(what: str, do_due: Callable[[], Awaitable[float]], changed: asyncio.Event) -> None:
    """Until cancelled. `do_due` answers the seconds until something is next; one that fails is tried again
    soon, under the name of `what` in the log. `changed`: the next moment may be another now."""
    while True:
        changed.clear()
        try:
            wait_s = min(LOOK_EVERY_S, max(0.0, await do_due()))
        except SupercloudError as error:
            _log.warning(f"{what}.later", why=error.message)
            wait_s = _AGAIN_S
        try:
            async with asyncio.timeout(wait_s):
                await changed.wait()
        except TimeoutError:
            continue
