"""An actuator without anything behind it: for the contract suite, dry runs of policies, and crashes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from supercloud.model.errors import Failed, NotFound, SupercloudError
from supercloud.model.names import Id
from supercloud.model.reactions import LASTING, ONCE, Aspect, Command, Deed


class SimulatedActuator:
    """ports.actuator.Actuator over a dictionary that outlives whoever uses it, as a kernel does.

    `effects` counts, for each command, how often something really changed by it.
    """

    def __init__(self, *, now: Callable[[], float], objects: set[Id] | None = None) -> None:
        self._now = now
        self._objects = objects  # None: whatever is named is there
        self.there: dict[tuple[str, Aspect], Command] = {}
        self.effects: Counter[Id] = Counter()
        self.undone: Counter[Id] = Counter()
        self.failing: SupercloudError | None = None

    @property
    def takes(self) -> frozenset[Deed]:
        return LASTING | ONCE

    async def do(self, command: Command) -> None:
        self.done(command)

    async def look(self, command: Command) -> bool:
        return self.seen(command)

    async def undo(self, command: Command) -> None:
        self.take_back(command)

    # Without a loop, for state machines that are tested step by step.

    def done(self, command: Command) -> None:
        """Raises: Failed, NotFound."""
        self._check(command)
        if self.seen(command):
            return
        if command.subject in self.there and self._valid(self.there[command.subject]):
            raise Failed(f"another command holds {command.subject[1]} of {command.subject[0]}")
        self.there[command.subject] = command
        self.effects[command.id] += 1

    def seen(self, command: Command) -> bool:
        found = self.there.get(command.subject)
        return found is not None and found.id == command.id and self._valid(found)

    def take_back(self, command: Command) -> None:
        """Raises: Failed, NotFound."""
        self._check(command)
        found = self.there.get(command.subject)
        if found is not None and found.id == command.id:
            del self.there[command.subject]
            self.undone[command.id] += 1

    def _check(self, command: Command) -> None:
        if self.failing is not None:
            raise self.failing
        if self._objects is not None and command.about.id not in self._objects:
            raise NotFound(f"{command.about.kind} {command.about.id} is not here")

    def _valid(self, command: Command) -> bool:
        return command.until is None or self._now() < command.until
