"""Between a detector that must not wait and a loop that may be away."""

from __future__ import annotations

import asyncio

from supercloud.security.detectors.told import Event
from supercloud.security.link import Link

#: Events that wait for the loop; beyond that the newest are left out, and counted.
_WAITING = 1000


class Teller:
    """`tell`, and `run` beside it."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._queue: asyncio.Queue[Event] = asyncio.Queue(_WAITING)
        self.left_out = 0

    def tell(self, events: list[Event]) -> None:
        for one in events:
            try:
                self._queue.put_nowait(one)
            except asyncio.QueueFull:
                self.left_out += 1

    async def run(self) -> None:
        while True:
            await self._link.send(await self._queue.get())
