"""Calls that are carried out together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from supercloud.services.together import Rounds, Together

pytestmark = pytest.mark.unit


class Work:
    """Doubles numbers, each time when it is let go; a failure may come instead."""

    def __init__(self) -> None:
        self.seen: list[list[int]] = []
        self.go: asyncio.Queue[Exception | None] = asyncio.Queue()

    async def __call__(self, asked: Sequence[int]) -> list[int]:
        self.seen.append(list(asked))
        if (failure := await self.go.get()) is not None:
            raise failure
        return [2 * one for one in asked]


async def _begun(together: Together[int, int], *asked: int) -> list[asyncio.Task[int]]:
    tasks = [asyncio.create_task(_ask(together, one)) for one in asked]
    for _ in range(3):
        await asyncio.sleep(0)
    return tasks


async def _ask(together: Together[int, int], one: int) -> int:
    return await together(one)


async def test_who_comes_alone_waits_for_nobody_and_who_comes_meanwhile_goes_together() -> None:
    work = Work()
    together = Together(work, most=3)
    tasks = await _begun(together, 1)
    assert work.seen == [[1]]
    tasks += await _begun(together, 2, 3, 4, 5)
    assert work.seen == [[1]]
    for _ in range(3):
        work.go.put_nowait(None)
    assert await asyncio.gather(*tasks) == [2, 4, 6, 8, 10]
    assert work.seen == [[1], [2, 3, 4], [5]]


async def test_a_failure_is_one_calls_and_for_the_others_it_is_done_again() -> None:
    work = Work()
    together = Together(work, most=9)
    tasks = [*await _begun(together, 1), *await _begun(together, 2, 3, 4)]
    for outcome in (None, OSError("no disk"), None):
        work.go.put_nowait(outcome)
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(found[1], OSError)
    assert [found[0], *found[2:]] == [2, 6, 8]
    assert work.seen == [[1], [2, 3, 4], [3, 4]]


async def test_who_leaves_holds_nobody_up_and_is_not_carried_out() -> None:
    work = Work()
    together = Together(work, most=9)
    leading = await _begun(together, 1)
    waiting = await _begun(together, 2, 3)
    leading[0].cancel()
    waiting[0].cancel()
    work.go.put_nowait(None)
    assert await waiting[1] == 6
    assert work.seen == [[1], [3]]


class Round:
    """Counts how often each key's work was begun; it ends when it is let go."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.go: dict[str, asyncio.Queue[Exception | None]] = {"a": asyncio.Queue(), "b": asyncio.Queue()}

    async def __call__(self, key: str) -> int:
        self.begun.append(key)
        number = len(self.begun)
        if (failure := await self.go[key].get()) is not None:
            raise failure
        return number


async def _asked(rounds: Rounds[str, int], *keys: str) -> list[asyncio.Task[int]]:
    async def ask(key: str) -> int:
        return await rounds(key)

    tasks = [asyncio.create_task(ask(one)) for one in keys]
    for _ in range(4):
        await asyncio.sleep(0)
    return tasks


async def test_who_asks_meanwhile_shares_the_next_round_which_begins_after_it_was_asked_for() -> None:
    work = Round()
    rounds = Rounds(work)
    first = await _asked(rounds, "a")
    more = await _asked(rounds, "a", "a", "b", "a")
    assert work.begun == ["a", "b"], "another key waits for nobody"
    for key in ("a", "b", "a"):
        work.go[key].put_nowait(None)
    assert await asyncio.gather(*first, *more) == [1, 3, 3, 2, 3]
    last = await _asked(rounds, "a")
    work.go["a"].put_nowait(None)
    assert await last[0] == 4, "nothing is kept"


async def test_a_round_that_fails_fails_for_who_shares_it_and_the_next_is_begun() -> None:
    work = Round()
    rounds = Rounds(work)
    first, shared = await _asked(rounds, "a"), await _asked(rounds, "a", "a")
    alone = await _asked(rounds, "a")
    alone[0].cancel()
    for outcome in (OSError("away"), OSError("still")):
        work.go["a"].put_nowait(outcome)
    found = await asyncio.gather(*first, *shared, *alone, return_exceptions=True)
    assert [str(one) for one in found[:3]] == ["away", "still", "still"]
    assert isinstance(found[3], asyncio.CancelledError)
    again = await _asked(rounds, "a")
    work.go["a"].put_nowait(None)
    assert await again[0] == 3
    await _asked(rounds, "b")
    await rounds.close()
    assert work.begun == ["a", "a", "a", "b"]
