"""Calls that come while one is carried out are carried out together after it: so many more a second where
what each costs by itself, a transaction, is most of what it costs. Whoever comes alone waits for nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

K = TypeVar("K")
A = TypeVar("A")
R = TypeVar("R")


@dataclass(eq=False, slots=True)
class _Asked(Generic[A, R]):
    what: A
    answer: list[R] = field(default_factory=list)  # one, once there is one


class Together(Generic[A, R]):
    """`work` answers several at once, in their order; of these there are `most` at a time."""

    def __init__(self, work: Callable[[Sequence[A]], Awaitable[Sequence[R]]], *, most: int) -> None:
        self._work = work
        self._most = most
        self._turn = asyncio.Lock()
        self._waiting: list[_Asked[A, R]] = []

    async def __call__(self, what: A) -> R:
        """Raises: what `work` does, to the one call that carried it out; for the others it is done again."""
        asked: _Asked[A, R] = _Asked(what)
        self._waiting.append(asked)
        try:
            async with self._turn:
                if not asked.answer:
                    await self._carry_out()
        finally:
            if asked in self._waiting:
                self._waiting.remove(asked)
        return asked.answer[0]

    async def _carry_out(self) -> None:
        """For whoever has its turn: it has waited longest of all, so that it is among the first."""
        together, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
        try:
            answers = await self._work([one.what for one in together])
        except BaseException:  # cancelled, too: one caller's end is no answer for the others
            self._waiting = [*together, *self._waiting]
            raise
        for one, answer in zip(together, answers, strict=True):
            one.answer.append(answer)


class Rounds(Generic[K, R]):
    """`work` on a key, one at a time for each. Who asks while it is carried out shares the next one with
    everybody else who does: what is answered was begun after it was asked for, and seldom only for one."""

    def __init__(self, work: Callable[[K], Awaitable[R]]) -> None:
        self._work = work
        self._under_way: dict[K, asyncio.Task[R]] = {}
        self._next: dict[K, asyncio.Task[R]] = {}

    async def __call__(self, key: K) -> R:
        """Raises: what `work` does, to everybody who shares it. Who is cancelled leaves it to the others."""
        task = self._next.get(key)
        if task is None:
            task = self._next[key] = asyncio.create_task(self._after(self._under_way.get(key), key))
            task.add_done_callback(_seen)
        return await asyncio.shield(task)

    async def close(self) -> None:
        tasks = [*self._under_way.values(), *self._next.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _after(self, before: asyncio.Task[R] | None, key: K) -> R:
        task = self._next[key]
        try:
            if before is not None:
                await asyncio.wait((before,))
        finally:  # cancelled, too: nobody may wait for it any more
            del self._next[key]
        self._under_way[key] = task
        try:
            return await self._work(key)
        finally:
            del self._under_way[key]


def _seen(task: asyncio.Task[R]) -> None:
    """Of a round whose askers are all gone, nobody else looks at how it ended."""
    if not task.cancelled():
        task.exception()
