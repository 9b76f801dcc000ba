"""Waiting for what the hypervisor says of an instance, without missing what it said just before."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import TypeVar

from supercloud.model.names import Id

T = TypeVar("T")

#: What matters comes as an event; look again this often in case that one was missed. Where everything is
#: emulated a look costs a tenth of a second of a processor, which a transfer needs.
_LOOK_S = 2.0


class Changes:
    """One condition for each instance that somebody waits for."""

    def __init__(self) -> None:
        self._waiting: dict[Id, set[asyncio.Event]] = defaultdict(set)

    def changed(self, instance: Id) -> None:
        for event in self._waiting.get(instance, ()):
            event.set()

    async def until(
        self, instance: Id, look: Callable[[], Awaitable[T]], good: Callable[[T], bool], *, seconds: float
    ) -> T:
        """What `look` sees as soon as it is `good`, or whatever it sees when the time is over."""
        event = asyncio.Event()
        self._waiting[instance].add(event)
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        try:
            while True:
                event.clear()
                seen = await look()
                left_s = end - loop.time()
                if good(seen) or left_s <= 0:
                    return seen
                try:
                    async with asyncio.timeout(min(left_s, _LOOK_S)):
                        await event.wait()
                except TimeoutError:
                    continue
        finally:
            self._waiting[instance].discard(event)
            if not self._waiting[instance]:
                del self._waiting[instance]
