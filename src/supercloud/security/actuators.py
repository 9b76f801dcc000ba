"""Several actuators as one: each deed to who takes it."""

from __future__ import annotations

from collections.abc import Sequence

from supercloud.model.errors import Refused
from supercloud.model.reactions import Command, Deed
from supercloud.ports.actuator import Actuator


class Actuators:
    """ports.actuator.Actuator. The first that takes a deed does it."""

    def __init__(self, actuators: Sequence[Actuator]) -> None:
        self._by_deed = {deed: one for one in reversed(actuators) for deed in one.takes}

    @property
    def takes(self) -> frozenset[Deed]:
        return frozenset(self._by_deed)

    async def do(self, command: Command) -> None:
        await self._of(command).do(command)

    async def look(self, command: Command) -> bool:
        return await self._of(command).look(command)

    async def undo(self, command: Command) -> None:
        await self._of(command).undo(command)

    def _of(self, command: Command) -> Actuator:
        try:
            return self._by_deed[command.deed]
        except KeyError as error:
            raise Refused(f"nobody here can do {command.deed}") from error
