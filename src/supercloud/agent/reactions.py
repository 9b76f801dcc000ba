"""A reaction at an instance's processors: ports.actuator.Actuator over the hypervisor."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

from supercloud.model.errors import Conflict, Failed, NotFound
from supercloud.model.names import Id
from supercloud.model.reactions import Command, Deed
from supercloud.ports.agent import RunState


class Pausing(Protocol):
    """Of ports.hypervisor.Hypervisor, what this needs."""

    async def pause(self, instance: Id) -> None: ...

    async def resume(self, instance: Id) -> None: ...

    async def state(self, instance: Id) -> RunState: ...


async def _never(_: Id) -> bool:
    return False


class PauseReactions:
    """Why an instance stands still is written down before it does, in `run` (tmpfs): what the owner or the
    keeper paused is nobody's here to resume. `may_run`: whether its right allows it to go on; if not, the
    keeper resumes it with the next right. `arriving`: whether it is on its way here, or about to start, and
    then does not go on when it has come."""

    takes = frozenset({Deed.PAUSE})

    def __init__(
        self,
        hypervisor: Pausing,
        run: Path,
        may_run: Callable[[Id], Awaitable[bool]],
        arriving: Callable[[Id], Awaitable[bool]] = _never,
    ) -> None:
        self._hypervisor = hypervisor
        self._run = run
        self._may_run = may_run
        self._arriving = arriving

    def holds(self, instance: Id) -> bool:
        """Whether it is to stand still, whatever its right allows."""
        return self._holder(instance) is not None

    async def do(self, command: Command) -> None:
        instance = command.about.id
        state = await self._hypervisor.state(instance)
        holder = self._holder(instance)
        if state is RunState.PAUSED and holder == command.id:
            return
        mine = holder in {None, command.id}
        if state is not RunState.RUNNING and mine and await self._arriving(instance):
            self._write(instance, command.id)
            return
        if state is RunState.PAUSED:
            raise Conflict(f"instance {instance} is paused already")
        if state is not RunState.RUNNING:
            raise NotFound(f"instance {instance} is {state} here")
        self._write(instance, command.id)
        await self._hypervisor.pause(instance)

    async def look(self, command: Command) -> bool:
        instance = command.about.id
        if self._holder(instance) != command.id:
            return False
        state = await self._hypervisor.state(instance)
        still = state is not RunState.RUNNING and await self._arriving(instance)
        return state is RunState.PAUSED or still

    async def undo(self, command: Command) -> None:
        instance = command.about.id
        if self._holder(instance) != command.id:
            return
        paused = await self._hypervisor.state(instance) is RunState.PAUSED
        if paused and await self._may_run(instance):
            await self._hypervisor.resume(instance)
        self._path(instance).unlink(missing_ok=True)

    def _path(self, instance: Id) -> Path:
        return self._run / instance

    def _holder(self, instance: Id) -> Id | None:
        try:
            return self._path(instance).read_text()
        except FileNotFoundError:
            return None

    def _write(self, instance: Id, command: Id) -> None:
        try:
            self._run.mkdir(mode=0o700, parents=True, exist_ok=True)
            fresh = self._path(instance).with_suffix(".new")
            fresh.write_text(command)
            fresh.rename(self._path(instance))
        except OSError as error:
            raise Failed(f"it cannot be written down: {error}") from error
