"""Two ends of a transport inside one process, for tests and the simulation."""

from __future__ import annotations

import asyncio

from supercloud.model.errors import Unavailable


class MemoryTransport:
    """One end; make both with `pair()`."""

    def __init__(self) -> None:
        self._inbox: asyncio.Queue[str | None] = asyncio.Queue()
        self._other: MemoryTransport | None = None
        self._reason = ""
        self._open = True

    @classmethod
    def pair(cls) -> tuple[MemoryTransport, MemoryTransport]:
        left, right = cls(), cls()
        left._other, right._other = right, left
        return left, right

    async def send(self, frame: str) -> None:
        if not self._open or self._other is None:
            raise Unavailable(self._reason or "closed")
        self._other._inbox.put_nowait(frame)

    async def receive(self) -> str:
        frame = await self._inbox.get()
        if frame is None:
            self._inbox.put_nowait(None)  # whoever else receives learns it too
            raise Unavailable(self._reason or "closed")
        return frame

    async def close(self, reason: str = "") -> None:
        for end in (self, self._other):
            if end is not None and end._open:
                end._open, end._reason = False, reason
                end._inbox.put_nowait(None)
