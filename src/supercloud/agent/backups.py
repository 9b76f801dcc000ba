"""Backups of this blanket's volumes: copies that become images, made here and fetched from here.

A backup is made by a task of the agent's, however often it is asked for; one that a restarted agent does not
know begins anew, unless its copy is whole already.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import structlog
from websockets.exceptions import ConnectionClosed

from supercloud.agent.streams import CHUNK_BYTES, StreamDialer, Wire
from supercloud.model.errors import Exhausted, InvalidInput, NotFound, Unavailable
from supercloud.model.names import Id, Nonce
from supercloud.ports.agent import BackupReport, MadeImage, SendCopy

#: How long a question waits for the end.
_LOOK_S = 10.0
_STREAMS = 8
_log = structlog.get_logger(__name__)

#: Makes the copy and says what it is; tells its argument the share done.
Making = Callable[[Callable[[float], None]], Awaitable[MadeImage]]


class _Job:
    """A backup that is being made, once it is its turn."""

    def __init__(self, making: Making, turn: asyncio.Lock) -> None:
        self.done = 0.0
        self.task = asyncio.create_task(self._make(making, turn))

    async def _make(self, making: Making, turn: asyncio.Lock) -> MadeImage:
        async with turn:
            return await making(self._watch)

    def _watch(self, done: float) -> None:
        self.done = done


class Backups:
    """One is made at a time: each reads and writes as fast as the disk does."""

    def __init__(self, dialer: StreamDialer) -> None:
        self._dialer = dialer
        self._jobs: dict[Id, _Job] = {}
        self._turn = asyncio.Lock()
        self._sending: dict[Nonce, asyncio.Task[None]] = {}

    async def look(self, copy: Id, making: Making) -> BackupReport:
        """As ports.agent.VolumesAgent.back_up."""
        job = self._jobs.get(copy)
        if job is None:
            job = self._jobs[copy] = _Job(making, self._turn)
        await asyncio.wait({job.task}, timeout=_LOOK_S)
        if not job.task.done():
            return BackupReport(done=job.done)
        if job.task.cancelled():
            raise Unavailable(f"copy {copy} was given up")
        if job.task.exception() is not None:
            self._jobs.pop(copy, None)
        return BackupReport(done=1.0, image=job.task.result())

    async def drop(self, copy: Id) -> None:
        """Give it up; once this returns, nothing writes to the copy any more."""
        job = self._jobs.pop(copy, None)
        if job is not None:
            job.task.cancel()
            await asyncio.gather(job.task, return_exceptions=True)

    async def send(self, request: SendCopy, path: Path) -> None:
        """See the port.

        Raises:
            NotFound: the copy is not here.
            InvalidInput: `offset` is beyond its end.
        """
        if request.stream in self._sending:
            return
        if len(self._sending) >= _STREAMS:
            raise Exhausted(f"{_STREAMS} copies are being sent from this blanket")
        size = path.stat().st_size if path.exists() else None
        if size is None:
            raise NotFound(f"copy {request.copy} of volume {request.volume} is not in this blanket")
        if request.offset > size:
            raise InvalidInput(f"{request.offset} is beyond the end of copy {request.copy}")
        async with AsyncExitStack() as stack:
            wire = await stack.enter_async_context(self._dialer.stream(request.stream))
            kept = stack.pop_all()
        task = asyncio.create_task(_send(path, request.offset, wire, kept))
        self._sending[request.stream] = task
        task.add_done_callback(lambda _: self._sending.pop(request.stream, None))

    async def close(self) -> None:
        """End all of them."""
        tasks = [*self._sending.values(), *(job.task for job in self._jobs.values())]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _send(path: Path, offset: int, wire: Wire, kept: AsyncExitStack) -> None:
    async with kept:
        try:
            with path.open("rb") as file:
                file.seek(offset)
                while data := await asyncio.to_thread(file.read, CHUNK_BYTES):
                    await wire.send(data)
        except (ConnectionClosed, OSError) as error:
            _log.info("agent.copy_not_sent", copy=path.stem, reason=str(error))
