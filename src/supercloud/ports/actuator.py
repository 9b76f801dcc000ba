"""Actuator port: who carries a reaction out. One for each kind of thing; the loop knows which takes what."""

from __future__ import annotations

from typing import Protocol

from supercloud.model.reactions import Command, Deed


class Actuator(Protocol):
    """An order is done once however often it is given: by `Command.id`, which the effect itself carries where
    it can, so that a program that was killed can look it up.

    Raises, all methods: Failed, Unavailable (it may help to try again), NotFound (the object is not here).
    """

    @property
    def takes(self) -> frozenset[Deed]:
        """What it can do. What is not in here is refused before anything is intended."""
        ...

    async def do(self, command: Command) -> None:
        """On return the effect is there. Repeating changes nothing, nor how long it lasts."""
        ...

    async def look(self, command: Command) -> bool:
        """Whether the effect of exactly this command is there now: looked at, never remembered."""
        ...

    async def undo(self, command: Command) -> None:
        """On return the effect of this command is not there; another command's stays. Repeatable."""
        ...
