"""Scans of an instance's memory that are asked for: by a reaction, and by a person.

Nobody in a blanket scans but the detector `memory` (agent.scans), which is another process: it is told by a
note whose turn it is, and says by another how that ended. Both are in tmpfs. A scan that is done twice, after
a crash, has done no harm.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final, Protocol

from supercloud.agent.notes import Notes
from supercloud.model.errors import Conflict, NotFound, Refused, SupercloudError
from supercloud.model.names import Id
from supercloud.model.reactions import Command, Deed
from supercloud.ports.agent import RunState
from supercloud.ports.scans import SCANNED, ScanMemory

_ALIVE = frozenset({RunState.RUNNING, RunState.PAUSED})
#: How often it is looked how a scan ended: who scans is another process, and says so by a file (seconds).
_LOOK_S: Final = 1.0
_WHY: Final = 200


class Seeing(Protocol):
    """Of ports.hypervisor.Hypervisor, what this needs."""

    async def state(self, instance: Id) -> RunState: ...


class Turns:
    """Whose memory is to be scanned out of its turn, and how that ended; beside the file with the rules."""

    def __init__(self, rules: Path) -> None:
        self._asked = Notes(rules.with_name("scans") / "asked")
        self._ended = Notes(rules.with_name("scans") / "ended")

    def ask(self, instance: Id, by: Id, *, person: bool) -> None:
        """Raises: Failed."""
        self._asked.write(instance, by=by, person=int(person))

    def by(self, instance: Id) -> Id | None:
        """Because of what: a command, or a scan that a person asked for."""
        said = self._asked.read(instance).get("by")
        return None if said is None else str(said)

    def waits(self, instance: Id) -> Id | None:
        """The same, if it was not scanned since."""
        by = self.by(instance)
        return None if by is None or self.end(instance, by) is not None else by

    def ends(self, instance: Id, by: Id, *, matched: int = 0, why: str = "") -> None:
        """Of who scans. Raises: Failed."""
        self._ended.write(instance, by=by, matched=matched, why=why[:_WHY])

    def end(self, instance: Id, by: Id) -> tuple[int, str] | None:
        """How many rules matched, and why it failed, if it did. None: it has not ended."""
        said = self._ended.read(instance)
        return (int(said.get("matched", 0)), str(said.get("why", ""))) if said.get("by") == by else None

    def drop(self, instance: Id) -> None:
        self._asked.drop(instance)
        self._ended.drop(instance)

    def give_up(self) -> None:
        """What persons asked for."""
        for instance in self._asked.names():
            if self._asked.read(instance).get("person"):
                self.drop(instance)


class ScanReactions:
    """ports.actuator.Actuator of scans. `rules`: the file with them, which is there if there are any."""

    takes = frozenset({Deed.SCAN})

    def __init__(self, hypervisor: Seeing, rules: Path) -> None:
        self._hypervisor = hypervisor
        self._rules = rules
        self._turns = Turns(rules)
        self._turns.give_up()  # who would tell them is gone with the agent before this one

    async def begin(self, instance: Id, by: Id, *, person: bool = False) -> None:
        """
        Raises:
            Conflict: it was asked for because of something else. Refused: there are no rules. NotFound: the
                instance has no process here.
        """
        before = self._turns.by(instance)
        if before == by:
            return
        if before is not None:
            raise Conflict(f"a scan of instance {instance} was asked for already")
        await self._check(instance)
        self._turns.ask(instance, by, person=person)

    async def ended(self, instance: Id, by: Id) -> int:
        """How many rules matched, once it has.

        Raises:
            Refused: it failed, or there are no rules any more. NotFound: the instance ended before.
        """
        while (end := self._turns.end(instance, by)) is None:
            await self._check(instance)
            await asyncio.sleep(_LOOK_S)
        matched, why = end
        if why:
            raise Refused(f"its memory was not scanned: {why}")
        return matched

    def forget(self, instance: Id, by: Id) -> None:
        """It may be asked for again."""
        if self._turns.by(instance) == by:
            self._turns.drop(instance)

    # ------------------------------------------------------------ ports.actuator.Actuator

    async def do(self, command: Command) -> None:
        instance = command.about.id
        await self.begin(instance, command.id)
        try:
            await self.ended(instance, command.id)
        except SupercloudError:
            self.forget(instance, command.id)
            raise

    async def look(self, command: Command) -> bool:
        instance = command.about.id
        end = self._turns.end(instance, command.id)
        return self._turns.by(instance) == command.id and end is not None and not end[1]

    async def undo(self, command: Command) -> None:
        self.forget(command.about.id, command.id)

    async def _check(self, instance: Id) -> None:
        if not self._rules.exists():
            raise Refused("this blanket has no YARA rules", hint="supercloud policy set --yara")
        if (state := await self._hypervisor.state(instance)) not in _ALIVE:
            raise NotFound(f"instance {instance} is {state} here")


class AgentScans:
    """ports.scans.ScansAgent. `tell`: into the outbox. What a person asked for is forgotten once it has
    ended."""

    def __init__(self, scans: ScanReactions, tell: Callable[..., Awaitable[Any]]) -> None:
        self._scans = scans
        self._tell = tell
        self._jobs: dict[Id, asyncio.Task[None]] = {}

    async def begin(self, request: ScanMemory) -> None:
        if request.scan in self._jobs:
            return
        await self._scans.begin(request.instance, request.scan, person=True)
        job = self._jobs[request.scan] = asyncio.create_task(self._told(request))
        job.add_done_callback(lambda _: self._jobs.pop(request.scan, None))

    async def close(self) -> None:
        jobs = list(self._jobs.values())
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)

    async def _told(self, request: ScanMemory) -> None:
        matched, why = 0, ""
        try:
            matched = await self._scans.ended(request.instance, request.scan)
        except SupercloudError as error:
            why = error.message
        finally:
            self._scans.forget(request.instance, request.scan)
        said = {"instance": request.instance, "scan": request.scan, "matched": matched, "why": why}
        await self._tell(SCANNED, said, id=request.scan)
