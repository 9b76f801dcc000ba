"""The security state of an instance that moves, or starts: given to the blanket that it goes to, and taken
over there.

It is in force at the target before the instance has a port there, and once more before it goes on; at the
source until the source is gone. Whose word it is: a blanket speaks of an instance that it holds, and says
nothing about anything else by it. If its blanket was lost the control plane gives what that told last.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

from supercloud.agent.ordered import Ordered
from supercloud.model.errors import Conflict, Refused
from supercloud.model.incidents import Incident
from supercloud.model.names import Id
from supercloud.model.reactions import LEFT, Reaction, ReactionState
from supercloud.ports.agent import InstanceSpec
from supercloud.ports.loop import Guard, GuardRef, Held
from supercloud.security.journal import Journal
from supercloud.security.loop import Loop

#: Which reactions an open operation has brought, by its id.
_NOTE = "taken-over"
#: Of what is given: incidents, and lines of the timeline of each.
_MOST, _LINES = 64, 40
#: Operations whose reactions are remembered: of starts nobody says that they are over.
_OPERATIONS = 64


class Guards:
    """`journal` does something with the loop's journal; `loop`: the blanket's own, or Unavailable while it is
    begun anew; `begun` waits a while for it; `spec`: of an instance that is here or on its way."""

    def __init__(
        self,
        *,
        journal: Callable[[Callable[[Journal], Any]], Awaitable[Any]],
        loop: Callable[[], Loop],
        begun: Callable[[], Awaitable[None]],
        ordered: Ordered,
        spec: Callable[[Id], Awaitable[InstanceSpec | None]],
        now: Callable[[], float],
    ) -> None:
        self._journal = journal
        self._loop = loop
        self._begun = begun
        self._ordered = ordered
        self._spec = spec
        self._now = now

    # ------------------------------------------------------------ at the source

    async def guarded(self, instance: Id) -> bool:
        """Whether there is anything to give. Raises: Unavailable."""
        return bool(self._loop().engine.book.about(instance)) or await self._ordered.about(instance)

    async def give(self, request: GuardRef) -> Guard:
        """Raises: Unavailable."""
        found = self._loop().engine.leaving(request.instance)
        held = tuple(
            Held(incident=one.shortened(_LINES), reactions=tuple(reactions))
            for one, reactions in found[:_MOST]
        )
        return Guard(operation=request.operation, instance=request.instance, at=self._now(), held=held)

    # ------------------------------------------------------------ at the target

    async def take_over(self, guard: Guard) -> None:
        """Raises: Refused, Failed, Unavailable."""
        spec = await self._spec(guard.instance)
        own = set() if spec is None else {nic.ip for nic in spec.nics}
        _check(guard, own)
        brought = await self._brought()
        before = set(brought.get(guard.operation, ()))
        for one in guard.held:
            fresh = [_here(of, self._now() - guard.at) for of in one.reactions if of.id not in before]
            live = [of for of in fresh if self._goes_on(of)]
            if live:
                await self._loop().adopt(await self._later(one.incident), live)
                before |= {of.id for of in live}
                await self._write({**brought, guard.operation: sorted(before)})
        for order in guard.ordered:
            try:
                await self._ordered.order(order)
            except (Conflict, Refused):
                continue  # this blanket does the same by itself, or its owner has it protected

    async def _later(self, incident: Incident) -> Incident:
        """Than what was told of it from here, where it may have been before."""
        known = await self._journal(lambda journal: journal.version(incident.id))
        return replace(incident, version=max(incident.version, known))

    def _goes_on(self, one: Reaction) -> bool:
        """Not if its time is over, or this blanket has it already, or knows how it ended: that may not have
        been told yet."""
        if one.command.until is not None and one.command.until <= self._now() + 1:
            return False
        known = self._loop().engine.book.get(one.id)
        if known is None:
            return True
        being_undone = known.state is ReactionState.UNDOING and known.why != LEFT
        return not (known.has_effect or known.is_over or being_undone)

    # ------------------------------------------------------------ where it starts

    async def stand(self, instance: Id, guard: Guard | None) -> None:
        """On return what is in force about it has its effect: what comes with it, and what is in force here,
        which a reboot may have undone.

        Raises: Refused, Failed, NotFound, Unavailable.
        """
        await self._begun()
        if guard:
            await self.take_over(guard)
        await self._loop().again(instance)
        await self._ordered.again(instance)

    # ------------------------------------------------------------ at either

    async def left(self, instance: Id) -> None:
        """It is elsewhere, or will not come. Raises: Failed, Unavailable."""
        await self._loop().left(instance)
        await self._ordered.left(instance)

    async def over(self, operation: Id) -> None:
        """Nothing more is brought by it."""
        brought = await self._brought()
        if brought.pop(operation, None) is not None:
            await self._write(brought)

    async def _brought(self) -> dict[Id, Sequence[Id]]:
        return dict(await self._journal(lambda journal: journal.read(_NOTE)) or {})

    async def _write(self, brought: dict[Id, Sequence[Id]]) -> None:
        latest = dict(list(brought.items())[-_OPERATIONS:])
        await self._journal(lambda journal: journal.write(_NOTE, latest))


def _check(guard: Guard, own: set[str]) -> None:
    """
    Raises:
        Refused: it is about something else than the instance that comes.
    """
    commands = [one.command for held in guard.held for one in held.reactions]
    for one in (*commands, *(order.command for order in guard.ordered)):
        if one.about.id != guard.instance or (one.net is not None and one.net not in own):
            raise Refused(f"{one.deed} of {one.net or one.about.id} does not come with {guard.instance}")


def _here(one: Reaction, later_s: float) -> Reaction:
    """By this blanket's clock, which is so much later."""
    until = None if one.command.until is None else one.command.until + later_s
    intended = one.intended_at if one.state is ReactionState.ASKED else (one.intended_at or one.decided_at)
    return replace(one, command=replace(one.command, until=until), intended_at=intended)
