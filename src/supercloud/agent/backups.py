"""Backups of this blanket's volumes: copies that become images, made here and fetched from here.

A backup is made by a task of the agent's, however often it is asked for; one that a restarted agent does not
know begins anew, unless its copy is whole already.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from supercloud.agent.sending import Sending
from supercloud.agent.streams import StreamDialer
from supercloud.model.errors import Unavailable
from supercloud.model.names import Id
from supercloud.ports.agent import BackupReport, MadeImage, SendCopy

#: How long a question waits for the end.
_LOOK_S = 10.0

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
        self._sending = Sending(dialer)
        self._jobs: dict[Id, _Job] = {}
        self._turn = asyncio.Lock()

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
        what = f"copy {request.copy} of volume {request.volume}"
        await self._sending.send(request.stream, path, request.offset, what=what)

    async def close(self) -> None:
        """End all of them."""
        tasks = [job.task for job in self._jobs.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._sending.close()
