"""Files of this blanket on their way out, each over a stream that was asked for and dialled from here."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import structlog
from websockets.exceptions import ConnectionClosed

from supercloud.agent.streams import CHUNK_BYTES, StreamDialer, Wire
from supercloud.model.errors import Exhausted, InvalidInput, NotFound
from supercloud.model.names import Nonce

_STREAMS = 8
_log = structlog.get_logger(__name__)


class Sending:
    """So many at once, and each stream once."""

    def __init__(self, dialer: StreamDialer) -> None:
        self._dialer = dialer
        self._tasks: dict[Nonce, asyncio.Task[None]] = {}

    async def send(self, stream: Nonce, path: Path, offset: int, *, what: str) -> None:
        """From `offset` on, by a task; on return it is dialled.

        Raises:
            NotFound: the file is not here.
            InvalidInput: `offset` is beyond its end.
            Exhausted: too many are being sent.
        """
        if stream in self._tasks:
            return
        if len(self._tasks) >= _STREAMS:
            raise Exhausted(f"{_STREAMS} files are being sent from this blanket")
        size = path.stat().st_size if path.exists() else None
        if size is None:
            raise NotFound(f"{what} is not in this blanket")
        if offset > size:
            raise InvalidInput(f"{offset} is beyond the end of {what}")
        async with AsyncExitStack() as stack:
            wire = await stack.enter_async_context(self._dialer.stream(stream))
            kept = stack.pop_all()
        task = asyncio.create_task(_send(path, offset, wire, kept))
        self._tasks[stream] = task
        task.add_done_callback(lambda _: self._tasks.pop(stream, None))

    async def close(self) -> None:
        """End all of them."""
        tasks = list(self._tasks.values())
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
            _log.info("agent.file_not_sent", file=path.stem, reason=str(error))
