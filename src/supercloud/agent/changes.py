"""Waiting for what the hypervisor says of an instance, without missing what it said just before."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

from supercloud.model.names import Id

T = TypeVar("T")

#: What matters comes as an event; look again this often in case that one was missed, and to tell of progress.
_LOOK_S = 2.0
#: Where everything is emulated a look takes a tenth of a second and more of the only processor, which a
#: transfer needs: no more than this share of the time goes into looking, as long as that is often enough.
_SHARE, _SELDOM_S = 0.02, 10.0
#: For so long nobody looks at an instance that stands still for the last part of its transfer: its downtime
#: runs, and a look waits in its QEMU, and with it what libvirt has to tell that QEMU, for most of a second.
_REST_S = 5.0


class Changes:
    """One condition for each instance that somebody waits for."""

    def __init__(self) -> None:
        self._waiting: dict[Id, set[asyncio.Event]] = defaultdict(set)
        #: Seconds between two looks without an event.
        self.pause_s = _LOOK_S
        self._rests_until: dict[Id, float] = {}

    def rest(self, instance: Id) -> None:
        """Nobody looks until something changed, or for a while."""
        self._rests_until[instance] = asyncio.get_running_loop().time() + _REST_S

    def changed(self, instance: Id) -> None:
        self._rests_until.pop(instance, None)
        for event in self._waiting.get(instance, ()):
            event.set()

    async def until(
        self, instance: Id, look: Callable[[], Awaitable[T]], good: Callable[[T], bool], *, seconds: float
    ) -> T:
        """What `look` sees as soon as it is `good`, or whatever it sees when the time is over; a rest comes
        on top of that. A look is given up, and another one taken, when something changes meanwhile."""
        loop = asyncio.get_running_loop()
        wake = loop.time()
        end = wake + seconds
        with self._heard(instance) as event:
            while True:
                await self._pause(instance, event, wake)
                event.clear()
                began = loop.time()
                if (found := await _unless_stale(look, event)) is None:
                    wake = loop.time()
                    continue
                (seen,) = found
                self.pause_s = min(max(_LOOK_S, (loop.time() - began) / _SHARE), _SELDOM_S)
                left_s = end - loop.time()
                if good(seen) or left_s <= 0:
                    return seen
                wake = loop.time() + min(left_s, self.pause_s)

    @contextlib.contextmanager
    def _heard(self, instance: Id) -> Iterator[asyncio.Event]:
        event = asyncio.Event()
        self._waiting[instance].add(event)
        try:
            yield event
        finally:
            self._waiting[instance].discard(event)
            if not self._waiting[instance]:
                del self._waiting[instance]

    async def _pause(self, instance: Id, event: asyncio.Event, until: float) -> None:
        """Until something changed, or that time, by the loop's clock, and any rest are over."""
        loop = asyncio.get_running_loop()
        while (end := max(until, self._rests_until.get(instance, until))) > loop.time():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(end):
                    await event.wait()
                    return
        self._rests_until.pop(instance, None)


async def _unless_stale(look: Callable[[], Awaitable[T]], event: asyncio.Event) -> tuple[T] | None:
    """What `look` sees; None if the event came first: what is seen is of before it then, and who asks about a
    process that is being ended is answered when that has ended, up to a second later."""
    looking, news = asyncio.ensure_future(look()), asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait({looking, news}, return_when=asyncio.FIRST_COMPLETED)
        return (looking.result(),) if looking.done() else None
    finally:
        for task in (looking, news):
            task.cancel()
        await asyncio.gather(looking, news, return_exceptions=True)
