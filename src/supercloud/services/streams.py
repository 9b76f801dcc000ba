"""Streams of bytes, to instances and out of blankets: asked for over an agent's channel, dialled by it."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol

from supercloud.model.errors import NotFound, Unavailable
from supercloud.model.names import Id, Nonce
from supercloud.ports.agent import OpenStream, StreamKind
from supercloud.services.agents import Agents
from supercloud.wire.proxies import RemoteAgent

_DIAL_S = 20.0


class Pipe(Protocol):
    """What carries a stream: the agent's second connection."""

    async def send(self, data: bytes) -> None:
        """Raises: Unavailable."""
        ...

    async def receive(self) -> bytes | None:
        """None at the end.

        Raises: Unavailable.
        """
        ...

    async def close(self) -> None: ...


class ByteStream:
    """services.northbound.Stream over a pipe."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self.ended = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            while (data := await self._pipe.receive()) is not None:
                yield data
        except Unavailable:
            return
        finally:
            self.ended.set()

    async def write(self, data: bytes) -> None:
        await self._pipe.send(data)

    async def close(self) -> None:
        self.ended.set()
        await self._pipe.close()


class Streams:
    """Names that were given out, and what came back under them."""

    def __init__(self, agents: Agents) -> None:
        self._agents = agents
        self._awaited: dict[str, tuple[Id, asyncio.Future[ByteStream]]] = {}

    async def open(self, blanket: Id, instance: Id, kind: StreamKind, port: int | None = None) -> ByteStream:
        """As `ask`, to an instance."""
        return await self.ask(
            blanket,
            lambda agent, name: agent.streams.open(
                OpenStream(stream=name, kind=kind, instance=instance, port=port)
            ),
        )

    async def ask(self, blanket: Id, to_dial: Callable[[RemoteAgent, Nonce], Awaitable[None]]) -> ByteStream:
        """What the agent dials back with once it was told to, under the name it was given.

        Raises:
            Unavailable: the agent is not connected, or did not dial back.
            SupercloudError: what the agent said, such as a refused connection.
        """
        name = secrets.token_hex(16)
        answer: asyncio.Future[ByteStream] = asyncio.get_running_loop().create_future()
        self._awaited[name] = (blanket, answer)
        stream: ByteStream | None = None
        try:
            async with asyncio.timeout(_DIAL_S):
                await to_dial(self._agents.agent(blanket), name)
                stream = await answer
        except TimeoutError as error:
            raise Unavailable("the agent did not dial back with the stream") from error
        finally:
            self._awaited.pop(name, None)
            if stream is None and not answer.cancel() and not answer.cancelled():
                answer.result().ended.set()  # it came as nobody waited any more
        return stream

    async def arrived(self, blanket: Id, name: str, pipe: Pipe) -> None:
        """The listener hands in what was dialled; returns when the stream is over.

        Raises:
            NotFound: nobody waits for `name`, or another blanket was asked.
        """
        waited = self._awaited.get(name)
        if waited is None or waited[0] != blanket or waited[1].done():
            raise NotFound("nobody waits for this stream")
        stream = ByteStream(pipe)
        waited[1].set_result(stream)
        await stream.ended.wait()
