"""Changes as they are committed, for whoever watches: the last of them are kept, each has a place in a line.

Who watches has a place in that line and no queue of its own, so that a thousand slow ones cost no more than a
quick one. Whose place has left the line is told so, and begins anew. The line is of one run of one
controller; on SQLite it is told by the transactions themselves. On PostgreSQL the transactions tell the
database, which tells every controller, each transaction's changes together and all in the order of commits.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import secrets
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import structlog
from sqlalchemy.exc import SQLAlchemyError

from supercloud.model.errors import Exhausted, InvalidInput, SupercloudError
from supercloud.model.names import Id
from supercloud.services.store.changes import Change
from supercloud.services.store.engine import CHANNEL, Store
from supercloud.wire.codec import from_json

_log = structlog.get_logger(__name__)
KEPT = 10_000
#: At once, of everybody and of each principal.
WATCHERS, WATCHERS_OF_ONE = 2000, 64
_PLACE = re.compile(r"([0-9a-f]{16})-([0-9]{1,15})")
#: A connection to PostgreSQL that died without a word is noticed so late.
_LOOK_EVERY_S = 10.0
_AGAIN_S = 0.5


@dataclass(frozen=True, slots=True)
class Place:
    """Behind a change of a line: what comes next is what came after it."""

    line: str
    number: int

    def __str__(self) -> str:
        return f"{self.line}-{self.number}"

    @classmethod
    def read(cls, text: str) -> Place:
        """
        Raises:
            InvalidInput: it is none.
        """
        found = _PLACE.fullmatch(text)
        if found is None:
            raise InvalidInput("that is not the id of an event", hint="leave it out to begin now")
        return cls(found[1], int(found[2]))


@dataclass(frozen=True, slots=True)
class Told:
    """A change and the place behind it; None: time passed and nothing changed."""

    change: Change | None
    place: Place


class Lost(Exception):
    """What came after a place is not kept. `now`: the place to go on from, after looking at everything."""

    def __init__(self, why: str, now: Place) -> None:
        super().__init__(why)
        self.why = why
        self.now = now


class Feed:
    """One controller's line. `listeners` are told of changes before anybody who watches."""

    def __init__(self, *, kept: int = KEPT) -> None:
        self.listeners: list[Callable[[tuple[Change, ...]], None]] = []
        self._kept: deque[Change] = deque(maxlen=kept)
        self._line = secrets.token_hex(8)
        self._last = 0
        self._arrived = asyncio.Event()
        self._watchers: dict[Id | None, int] = {}

    @property
    def now(self) -> Place:
        return Place(self._line, self._last)

    def publish(self, changes: Iterable[Change]) -> None:
        """In the order of their commits."""
        told = tuple(changes)
        if not told:
            return
        for listener in self.listeners:
            listener(told)
        self._kept.extend(told)
        self._last += len(told)
        self._wake()

    def broken(self) -> None:
        """Some may not have been told: whoever watches has to look at everything."""
        self._kept.clear()
        self._line, self._last = secrets.token_hex(8), 0
        self._wake()

    def watch(self, principal: Id | None, after: Place | None) -> Watch:
        """From `after`, or from now on. Close it.

        Raises:
            Exhausted: too many watch already.
        """
        of_one = self._watchers.get(principal, 0)
        if of_one >= WATCHERS_OF_ONE or sum(self._watchers.values()) >= WATCHERS:
            raise Exhausted("too many watch for events already", hint="end some of those that do")
        self._watchers[principal] = of_one + 1
        return Watch(self, principal, after or self.now)

    def left(self, principal: Id | None) -> None:
        """One that watched does no more."""
        self._watchers[principal] -= 1
        if not self._watchers[principal]:
            del self._watchers[principal]

    def after(self, place: Place) -> Told | None:
        """The next change; None: there is none yet.

        Raises:
            Lost: it is not kept, or the place is not of this line.
        """
        if place.line != self._line or place.number > self._last:
            raise Lost("the control plane, or its store, was away since then", self.now)
        first = self._last - len(self._kept)  # the place before the oldest
        if place.number < first:
            raise Lost(f"that was more than {len(self._kept)} changes ago", self.now)
        if place.number == self._last:
            return None
        return Told(self._kept[place.number - first], Place(self._line, place.number + 1))

    async def arrival(self, timeout_s: float) -> None:
        """Until something is told, or `timeout_s` passed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._arrived.wait()

    def _wake(self) -> None:
        self._arrived.set()
        self._arrived = asyncio.Event()


class Watch:
    """One who watches."""

    def __init__(self, feed: Feed, principal: Id | None, place: Place) -> None:
        self._feed = feed
        self._principal = principal
        self._open = True
        self.place = place

    async def next(self, timeout_s: float) -> Told:
        """The next change, or after `timeout_s` that there was none.

        Raises:
            Lost: there were some that are not kept any more.
        """
        told = self._feed.after(self.place)
        if told is None and timeout_s > 0:
            await self._feed.arrival(timeout_s)
            told = self._feed.after(self.place)
        told = told or Told(None, self.place)
        self.place = told.place
        return told

    def check(self) -> None:
        """Whether what came after its place is there. Raises: Lost."""
        self._feed.after(self.place)

    def close(self) -> None:
        if self._open:
            self._open = False
            self._feed.left(self._principal)


class Listener:
    """Takes from PostgreSQL what every controller's transactions tell. Nothing to do on SQLite."""

    def __init__(self, store: Store, feed: Feed) -> None:
        self._store = store
        self._feed = feed
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """From now on. Raises: Unavailable."""
        if self._store.sqlite:
            self._store.committed.append(self._feed.publish)
            return
        listening = asyncio.Event()
        self._task = asyncio.create_task(self._run(listening))
        await asyncio.wait(
            {self._task, first := asyncio.create_task(listening.wait())}, return_when=asyncio.FIRST_COMPLETED
        )
        first.cancel()

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self, listening: asyncio.Event) -> None:
        while True:
            try:
                await self._listen(listening)
            except (SQLAlchemyError, SupercloudError, OSError, TimeoutError) as error:
                _log.warning("feed.broken", why=(str(error) or type(error).__name__).splitlines()[0])
            self._feed.broken()
            await asyncio.sleep(_AGAIN_S)

    async def _listen(self, listening: asyncio.Event) -> None:
        """Until the connection ends."""
        ended = asyncio.Event()
        engine = self._store.engine.execution_options(isolation_level="AUTOCOMMIT")
        async with engine.connect() as connection:
            raw: Any = (await connection.get_raw_connection()).driver_connection
            raw.add_termination_listener(lambda _: ended.set())
            await raw.add_listener(CHANNEL, self._heard)
            try:
                self._feed.broken()  # nobody knows what was told before
                listening.set()
                while not ended.is_set():
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(_LOOK_EVERY_S):
                            await ended.wait()
                    if not ended.is_set():
                        await raw.execute("SELECT 1", timeout=_LOOK_EVERY_S)
            finally:
                await connection.invalidate()  # it listens, so that nobody else may have it

    def _heard(self, _connection: object, _pid: int, _channel: str, said: str) -> None:
        try:
            change = from_json(Change, json.loads(said))
        except (ValueError, SupercloudError) as error:  # another version's, or another program's
            _log.warning("feed.not_understood", why=str(error).splitlines()[0])
            return
        self._feed.publish((change,))
