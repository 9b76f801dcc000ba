"""Durable execution port: a saga is a coroutine whose steps are remembered.

One saga text runs over DBOS in the product and over a journal in memory in the simulation, which kills it
between and inside steps. A step that was running may run again, so every step is idempotent; its result
must be JSON and must hold no secret.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

T = TypeVar("T")


class Saga(Protocol):
    """What a saga gets to run its steps with."""

    @property
    def operation(self) -> str:
        """The operation's id: the key of everything idempotent that the saga does."""
        ...

    async def step(self, name: str, work: Callable[[], Awaitable[T]], kind: type[T]) -> T:
        """Run `work` once and remember what it returned, validated as `kind`. After a crash: remembered."""
        ...

    async def sleep(self, seconds: float) -> None: ...

    async def cancelled(self) -> bool:
        """Whether the user asked to cancel. The saga decides where it still can."""
        ...

    async def progress(self, phase: str, *, done: float | None = None) -> None:
        """Tell who watches: the phase's name, and its share done in 0..1 where known. Not remembered."""
        ...
