"""On the platform's machine: reads every blanket's observer port and relates its clock to ours.

A blanket's clock is related by pings, as NTP does it: of the recent round trips the shortest bounds the
offset best, and half of it is the uncertainty that goes with each fact.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from supercloud.model.errors import Unavailable
from supercloud.model.names import Id
from supercloud.observer.timeline import Copies, Fact, count_copies

_PING_EVERY_S = 0.5
_LINE_BYTES = 4096

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(frozen=True, slots=True)
class _Offset:
    """ours = theirs + seconds, give or take `uncertain_s`."""

    seconds: float
    uncertain_s: float


class Port:
    """One blanket's port. `facts` grows as lines come in."""

    def __init__(self, blanket: Id, path: Path) -> None:
        self._blanket = blanket
        self._path = path
        self._offsets: deque[_Offset] = deque(maxlen=20)  # ten seconds: drift within is below a millisecond
        self._waiting: list[tuple[Id, bool, float]] = []  # facts that came before the first pong
        self.facts: list[Fact] = []

    async def open(self) -> Streams:
        """Raises: Unavailable, since an observer that sees nothing must not look like a clean record."""
        try:
            return await _connect(self._path)
        except OSError as error:
            raise Unavailable(
                f"the observer's port of blanket {self._blanket} cannot be opened: {error}"
            ) from error

    async def follow(self, streams: Streams) -> None:
        """Until cancelled or the port closes (the blanket's machine ended: nothing of it runs any more)."""
        reader, writer = streams
        pinging = asyncio.create_task(self._ping(writer))
        try:
            while line := await reader.readline():
                self._take(line)
        finally:
            pinging.cancel()
            with suppress(asyncio.CancelledError, OSError):
                await pinging
            writer.close()
        self._end_all()

    async def _ping(self, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(json.dumps({"ping": time.monotonic()}).encode() + b"\n")
            await writer.drain()
            await asyncio.sleep(_PING_EVERY_S)

    def _take(self, line: bytes) -> None:
        now = time.monotonic()
        try:
            said = json.loads(line)
            at_s = float(said["at_s"])
        except (ValueError, KeyError, TypeError):
            return  # the first line after (re)opening may be a fragment
        if "pong" in said:
            round_trip_s = now - float(said["pong"])
            self._offsets.append(_Offset(now - round_trip_s / 2 - at_s, round_trip_s / 2))
            for instance, running, theirs in self._waiting:
                self._note(instance, running, theirs)
            self._waiting.clear()
        elif self._offsets:
            self._note(str(said["instance"]), bool(said["running"]), at_s)
        else:
            self._waiting.append((str(said["instance"]), bool(said["running"]), at_s))

    def _note(self, instance: Id, running: bool, theirs: float) -> None:
        best = min(self._offsets, key=lambda offset: offset.uncertain_s)
        self.facts.append(
            Fact(
                at_s=theirs + best.seconds,
                uncertain_s=best.uncertain_s,
                blanket=self._blanket,
                instance=instance,
                running=running,
            )
        )

    def _end_all(self) -> None:
        now = time.monotonic()
        for instance in {fact.instance for fact in self.facts}:
            self.facts.append(
                Fact(at_s=now, uncertain_s=0.0, blanket=self._blanket, instance=instance, running=False)
            )


async def _connect(path: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """By way of the directory's descriptor: a socket's own path is bounded to 107 bytes."""
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        short = f"/proc/self/fd/{directory}/{path.name}"
        return await asyncio.open_unix_connection(short, limit=_LINE_BYTES)
    finally:
        os.close(directory)


class Observer:
    """All blankets of this machine. Use as an async context manager; ask `copies()` at any time."""

    def __init__(self, ports: Mapping[Id, Path]) -> None:
        self._ports = [Port(blanket, path) for blanket, path in ports.items()]
        self._following: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Observer:
        opened = [(port, await port.open()) for port in self._ports]
        self._following = [asyncio.create_task(port.follow(streams)) for port, streams in opened]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._following:
            task.cancel()
        await asyncio.gather(*self._following, return_exceptions=True)

    def facts(self) -> list[Fact]:
        return sorted((fact for port in self._ports for fact in port.facts), key=lambda fact: fact.at_s)

    def copies(self) -> list[Copies]:
        """Of each instance, how many copies ran at once so far."""
        return count_copies(self.facts())
