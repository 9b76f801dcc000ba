"""The client for asyncio: the same one, whose requests wait in threads, several at once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any, TypeVar, overload

from supercloud.client.http import Client
from supercloud.client.place import Access
from supercloud.client.sse import Said

T = TypeVar("T")
_CONNECTIONS = 8
#: Events that wait for whoever reads them; then the stream does, and in the end it is told of `lost`.
_AHEAD = 64
_TAKEN_S = 0.05


class AsyncClient:
    """As client.Client, for any number of tasks; at most `connections` requests are under way at once.

    Raises, all methods: as Client's.
    """

    def __init__(self, access: Access, *, connections: int = _CONNECTIONS) -> None:
        self._access = access
        self._idle: list[Client] = []
        self._turns = asyncio.Semaphore(connections)

    @overload
    async def get(self, path: str, as_: type[T], /, **query: object) -> T: ...
    @overload
    async def get(self, path: str, /, **query: object) -> Any: ...
    async def get(self, path: str, as_: Any = None, /, **query: object) -> Any:
        return await self._on(lambda client: client.get(path, as_, **query))

    @overload
    async def all(self, path: str, as_: type[T], /, **query: object) -> list[T]: ...
    @overload
    async def all(self, path: str, /, **query: object) -> list[Any]: ...
    async def all(self, path: str, as_: Any = None, /, **query: object) -> Any:
        return await self._on(lambda client: client.all(path, as_, **query))

    async def post(self, path: str, body: Mapping[str, Any] | None = None, **query: object) -> Any:
        return await self._on(lambda client: client.post(path, body, **query))

    async def put(self, path: str, body: Mapping[str, Any], **query: object) -> Any:
        return await self._on(lambda client: client.put(path, body, **query))

    async def delete(self, path: str, **query: object) -> Any:
        return await self._on(lambda client: client.delete(path, **query))

    async def wait(self, operation: Mapping[str, Any]) -> dict[str, Any]:
        """Follow an operation to its end. Cancelled, it stops to; the operation goes on."""
        return await self._on(lambda client: client.wait(operation, lambda *_: None))

    async def events(self, *, since: str | None = None, **query: object) -> AsyncGenerator[Said, None]:
        """As Client.events. Closing the generator ends it (contextlib.aclosing)."""
        client = await asyncio.to_thread(Client, self._access)
        told: asyncio.Queue[Said | BaseException | None] = asyncio.Queue(_AHEAD)
        loop = asyncio.get_running_loop()

        def put(one: Said | BaseException | None) -> None:
            asyncio.run_coroutine_threadsafe(told.put(one), loop).result()

        def read() -> None:
            try:
                for said in client.events(since=since, **query):
                    put(said)
                put(None)
            except RuntimeError:  # the loop has ended
                return
            except BaseException as error:  # noqa: BLE001 - it is raised where the events are read
                put(error)

        reading = loop.run_in_executor(None, read)
        try:
            while (one := await told.get()) is not None:
                if isinstance(one, BaseException):
                    raise one
                yield one
            await reading
        finally:
            client.close()
            while not reading.done():  # it may wait for somebody to take what it has
                with contextlib.suppress(asyncio.QueueEmpty):
                    told.get_nowait()
                await asyncio.wait({reading}, timeout=_TAKEN_S)

    async def _on(self, work: Callable[[Client], T]) -> T:
        async with self._turns:
            client = self._idle.pop() if self._idle else None
            if client is None:
                client = await asyncio.to_thread(Client, self._access)
            found = await asyncio.to_thread(work, client)
            self._idle.append(client)  # of one that was cut off or failed, nobody knows how its connection is
            return found
