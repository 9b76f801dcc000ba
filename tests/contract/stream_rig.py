"""A stream of events, read as it comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from supercloud.client.sse import Reader, Said


class Stream:
    """One that is read as it comes."""

    def __init__(self, answer: httpx.Response) -> None:
        self._chunks = answer.aiter_bytes()
        self._reader = Reader()
        self._waiting: list[Said] = []

    async def next(self) -> Said:
        async with asyncio.timeout(20):
            while not self._waiting:
                self._waiting += self._reader.take(await anext(self._chunks))
        return self._waiting.pop(0)

    async def change(self, **wanted: object) -> dict[str, Any]:
        """The next one that is so."""
        while True:
            said = await self.next()
            assert said.name == "change", said
            if all(said.data[key] == value for key, value in wanted.items()):
                return said.data

    async def rest(self) -> list[Said]:
        """To its end."""
        async with asyncio.timeout(20):
            async for chunk in self._chunks:
                self._waiting += self._reader.take(chunk)
        return self._waiting


@asynccontextmanager
async def watching(http: httpx.AsyncClient, **query: Any) -> AsyncIterator[Stream]:
    async with http.stream("GET", "/events", params=query) as answer:
        assert answer.status_code == 200, await answer.aread()
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield Stream(answer)


async def arrived(http: httpx.AsyncClient, since: str, **wanted: object) -> None:
    """Until a change that is so was told: PostgreSQL tells of a commit a moment after it."""
    async with watching(http, since=since) as stream:
        await stream.next()
        await stream.change(**wanted)
