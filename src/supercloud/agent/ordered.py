"""What this blanket does because it was decided elsewhere: kept, done again after a reboot, ended in time.

Who orders is the control plane, which may be lied to, or lie: what the policy here protects stays alone,
whoever says what, and nothing is done that does not end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import structlog

from supercloud.model.errors import Conflict, Exhausted, NotFound, Refused, SupercloudError
from supercloud.model.names import Id
from supercloud.model.reactions import LASTING, Command, Deed
from supercloud.ports.actuator import Actuator
from supercloud.ports.loop import OrderDeed, OrderedRef
from supercloud.security.journal import Journal
from supercloud.security.loop import Loop
from supercloud.security.policy import protects
from supercloud.wire.codec import from_json, to_json

T = TypeVar("T")
#: At a time. One beyond is refused.
MOST = 2000
KIND = "loop.ordered"
_NOTE = "ordered"
_LOOK_EVERY_S, _AGAIN_S = 30.0, 2.0
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    command: Command  # whose `until` is by this blanket's clock
    by: Id


class Ordered:
    """`journal` does something with the loop's journal; `loop`: the blanket's own, or None while it is begun
    anew; `tell`: its owner, that something was done."""

    def __init__(
        self,
        actuator: Actuator,
        *,
        journal: Callable[[Callable[[Journal], Any]], Awaitable[Any]],
        loop: Callable[[], Loop],
        tell: Callable[[str, dict[str, Any]], Awaitable[None]],
        now: Callable[[], float],
    ) -> None:
        self._actuator = actuator
        self._journal = journal
        self._loop = loop
        self._tell = tell
        self._now = now
        self._turn = asyncio.Lock()
        self._known: dict[Id, _Kept] | None = None  # as it is kept, once it was read
        self._changed = asyncio.Event()

    # ------------------------------------------------------------ ports.loop.LoopAgent

    async def order(self, request: OrderDeed) -> None:
        command = request.command
        async with self._turn:
            kept = await self._read()
            known = kept.get(command.id)
            if known is not None:
                await self._actuator.do(known.command)
                return
            self._check(command)
            if len(kept) >= MOST:
                raise Exhausted(f"{MOST} orders are in force here, which is all that can be")
            one = _Kept(command=replace(command, until=self._now() + request.left_s), by=request.by)
            # Kept before it is done: what is done and not known here would not be ended by anybody.
            await self._write({**kept, command.id: one})
            try:
                await self._actuator.do(one.command)
            except (NotFound, Refused):
                await self._write(kept)
                raise
        self._changed.set()
        await self._tell(KIND, {"deed": command.deed, "about": command.net or command.about.id, "by": one.by})

    async def ordered(self, request: OrderedRef) -> bool:
        kept = await self._read()
        one = kept.get(request.command)
        return one is not None and await self._actuator.look(one.command)

    async def recall(self, request: OrderedRef) -> None:
        async with self._turn:
            kept = await self._read()
            one = kept.pop(request.command, None)
            if one is not None:
                await self._actuator.undo(one.command)
                await self._write(kept)

    # ------------------------------------------------------------ an instance that moves

    async def about(self, instance: Id) -> bool:
        """Whether something is in force about it that goes where it goes."""
        return any(_goes_with(one.command, instance) for one in (await self._read()).values())

    async def again(self, instance: Id) -> None:
        """On return what is in force about it has its effect, though a reboot had undone that."""
        async with self._turn:
            for one in (await self._read()).values():
                if _goes_with(one.command, instance) and not self._over(one):
                    await self._actuator.do(one.command)

    async def left(self, instance: Id) -> None:
        """What went with it is not in force here any more."""
        for one in (await self._read()).values():
            if _goes_with(one.command, instance):
                await self.recall(OrderedRef(command=one.command.id))

    def _check(self, command: Command) -> None:
        """
        Raises:
            Refused, Conflict, Unavailable.
        """
        if command.deed not in LASTING or command.deed not in self._actuator.takes:
            raise Refused(f"nobody here can do {command.deed}")
        engine = self._loop().engine
        protected = engine.policies.protected
        if (entry := protects(protected, object=command.about.id, net=command.net)) is not None:
            raise Refused(f"this blanket's policy protects {entry}")
        for one in engine.book.in_force(command.subject):
            if one.command.same(command):
                raise Conflict(f"this blanket does the same by itself, by policy {one.policy}")

    # ------------------------------------------------------------ at work

    async def run(self) -> None:
        """Until cancelled. First what a reboot has undone, then each to its end."""
        for one in (await self._patient(self._read)).values():
            if not self._over(one):
                with suppress(SupercloudError):
                    await self._actuator.do(one.command)
        while True:
            self._changed.clear()
            due = await self._patient(self._end_what_is_over)
            with suppress(TimeoutError):
                async with asyncio.timeout(min(_LOOK_EVERY_S, max(0.0, due - self._now()))):
                    await self._changed.wait()

    async def _end_what_is_over(self) -> float:
        """When there is something to do next."""
        again = None
        async with self._turn:
            kept = await self._read()
            before = len(kept)
            for one in [one for one in kept.values() if self._over(one)]:
                try:
                    await self._actuator.undo(one.command)
                except NotFound:
                    pass  # what it was about has gone
                except SupercloudError as error:
                    _log.warning("agent.ordered_not_ended", command=one.command.id, why=error.message)
                    again = self._now() + _AGAIN_S
                    continue
                del kept[one.command.id]
            if len(kept) < before:
                await self._write(kept)
        if again is not None:
            return again
        return min((one.command.until or 0.0 for one in kept.values()), default=self._now() + _LOOK_EVERY_S)

    def _over(self, one: _Kept) -> bool:
        return one.command.until is not None and self._now() >= one.command.until

    async def _patient(self, work: Callable[[], Awaitable[T]]) -> T:
        while True:
            try:
                return await work()
            except SupercloudError as error:
                _log.warning("agent.ordered_later", why=error.message)
                await asyncio.sleep(_AGAIN_S)

    # ------------------------------------------------------------ kept

    async def _read(self) -> dict[Id, _Kept]:
        if self._known is None:
            said = await self._journal(lambda journal: journal.read(_NOTE)) or []
            self._known = {one.command.id: one for one in (from_json(_Kept, item) for item in said)}
        return dict(self._known)

    async def _write(self, kept: dict[Id, _Kept]) -> None:
        said = [to_json(_Kept, one) for one in kept.values()]
        self._known = None  # until it is known to be written
        await self._journal(lambda journal: journal.write(_NOTE, said))
        self._known = dict(kept)


def _goes_with(command: Command, instance: Id) -> bool:
    """An address is denied where its instance is not."""
    return command.about.id == instance and command.deed is not Deed.DENY
