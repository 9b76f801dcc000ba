"""Reactions that are done once: ports.actuator.Actuator over an instance's reset, and over the supervisor.

Who did it last is written down in tmpfs: of a program with the process that was there before, so that
whether it was begun anew is looked at. A reset leaves no trace in what is reset: killed between it and its
note, it is done once more.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

from supercloud.agent.notes import Notes
from supercloud.model.errors import Conflict, Failed, NotFound
from supercloud.model.names import Id, Name
from supercloud.model.reactions import Command, Deed
from supercloud.ports.agent import RunState
from supercloud.security.detectors.components import Status, parsed

SERVICES = Path("/etc/service")
#: How long a program may take to end and to be there again: below what the loop waits for (security.loop).
_RESTART_S = 12


class Resetting(Protocol):
    """Of ports.hypervisor.Hypervisor, what this needs."""

    async def reboot(self, instance: Id) -> None: ...

    async def state(self, instance: Id) -> RunState: ...


class RestartReactions:
    """Of an instance's machine."""

    takes = frozenset({Deed.RESTART})

    def __init__(self, hypervisor: Resetting, run: Path) -> None:
        self._hypervisor = hypervisor
        self._notes = Notes(run)

    async def do(self, command: Command) -> None:
        instance = command.about.id
        by = self._notes.read(instance).get("command")
        if by == command.id:
            return
        if by is not None:
            raise Conflict(f"instance {instance} was restarted by another reaction")
        if (state := await self._hypervisor.state(instance)) is not RunState.RUNNING:
            raise NotFound(f"instance {instance} is {state} here")
        await self._hypervisor.reboot(instance)
        self._notes.write(instance, command=command.id)

    async def look(self, command: Command) -> bool:
        if self._notes.read(command.about.id).get("command") != command.id:
            return False
        return await self._hypervisor.state(command.about.id) is RunState.RUNNING

    async def undo(self, command: Command) -> None:
        """It may be restarted again."""
        if self._notes.read(command.about.id).get("command") == command.id:
            self._notes.drop(command.about.id)


class ComponentReactions:
    """Of a program of this `blanket`, which runit begins anew. `supervise` runs its `sv`."""

    takes = frozenset({Deed.RENEW})

    def __init__(
        self,
        supervise: Callable[..., Awaitable[None]],
        run: Path,
        *,
        blanket: Id,
        services: Path = SERVICES,
    ) -> None:
        self._supervise = supervise
        self._notes = Notes(run)
        self._blanket = blanket
        self._services = services

    async def do(self, command: Command) -> None:
        name, status = self._found(command)
        note = self._notes.read(name)
        if note.get("command") not in {None, command.id}:
            raise Conflict(f"{name} was begun anew by another reaction")
        if note and self._is_new(status, note):
            return
        if not note:
            self._notes.write(name, command=command.id, before=status.pid)
        await self._supervise("sv", "-w", str(_RESTART_S), "restart", str(self._services / name))
        _, status = self._found(command)
        if not self._is_new(status, self._notes.read(name)):
            raise Failed(f"{name} did not begin anew")

    async def look(self, command: Command) -> bool:
        try:
            name, status = self._found(command)
        except NotFound:
            return False
        note = self._notes.read(name)
        return note.get("command") == command.id and self._is_new(status, note)

    async def undo(self, command: Command) -> None:
        """It may be begun anew again."""
        name = command.component or ""
        if self._notes.read(name).get("command") == command.id:
            self._notes.drop(name)

    @staticmethod
    def _is_new(status: Status, note: dict[str, str | int]) -> bool:
        return status.pid not in {0, note.get("before")}

    def _found(self, command: Command) -> tuple[Name, Status]:
        """
        Raises:
            NotFound: there is no such program here.
        """
        name = command.component
        if command.about.id != self._blanket or name is None:
            raise NotFound(f"that is no program of blanket {self._blanket}")
        try:
            status = parsed((self._services / name / "supervise" / "status").read_bytes())
        except OSError as error:
            raise NotFound(f"there is no program {name} here") from error
        if status is None:
            raise Failed(f"what the supervisor knows of {name} cannot be read")
        return name, status
