"""An operation killed with -9 at any step is carried on, and finished steps are not repeated."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from supercloud.model.errors import Conflict
from supercloud.model.names import new_id
from supercloud.model.states import OperationState
from supercloud.services.operations import Operations
from supercloud.services.store.engine import Store

pytestmark = pytest.mark.contract
CHILD = Path(__file__).with_name("durable_child.py")


async def child(url: str, journal: Path, *, kill_after: str | None) -> None:
    """Run it to its end, or kill it as soon as `kill_after` is in the journal."""
    process = await asyncio.create_subprocess_exec(sys.executable, str(CHILD), url, str(journal))
    ended = asyncio.create_task(process.wait())
    try:
        async with asyncio.timeout(60):
            while kill_after is not None and kill_after not in lines(journal):
                assert not ended.done(), "it ended before it could be killed"
                await asyncio.sleep(0.005)  # a file has no event to wait on without a watch
            if kill_after is not None:
                os.kill(process.pid, signal.SIGKILL)
            status = await ended
    finally:
        if process.returncode is None:
            process.kill()
            await ended
    assert status == (0 if kill_after is None else -signal.SIGKILL)


def lines(journal: Path) -> list[str]:
    return journal.read_text().splitlines() if journal.exists() else []


async def test_killed_at_steps_it_is_carried_on(database_url: str, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    for step in ("step 0", "step 3", "step 5"):
        await child(database_url, journal, kill_after=step)
    await child(database_url, journal, kill_after=None)
    said = lines(journal)
    # The step that was running may run again; its error was remembered, so the way through is the same.
    assert said[-1] == "ended succeeded {'total': 125, 'factor': 2}"
    assert [said.count(f"step {number}") for number in (1, 2, 4, 6, 7)] == [1] * 5
    assert all(said.count(f"step {number}") <= 2 for number in (0, 3, 5))


@pytest.fixture
def operations(store: Store) -> Operations:
    return Operations(store)


async def record(store: Store, operations: Operations, thing: str, factor: int) -> str:
    async with store.write() as session:
        return await operations.record(
            session, "test", object_id=thing, name="thing", cloud=None, intent={"factor": factor}
        )


async def test_asking_again_joins_and_asking_for_else_is_refused(
    store: Store, operations: Operations
) -> None:
    thing = new_id()
    first = await record(store, operations, thing, 1)
    assert await record(store, operations, thing, 1) == first
    with pytest.raises(Conflict):
        await record(store, operations, thing, 2)


async def test_waiting_ends_when_something_changes(store: Store, operations: Operations) -> None:
    operation = await record(store, operations, new_id(), 1)
    # What it has seen goes with it: on PostgreSQL its own first look may come after the change.
    seen = (await operations.view(operation)).phase
    waiting = asyncio.create_task(operations.view(operation, wait_s=20, seen_phase=seen))
    await asyncio.sleep(0)
    await operations.progress(operation, "moving", 0.5)
    async with asyncio.timeout(5):
        view = await waiting
    assert (view.phase, view.done) == ("moving", 0.5)


async def test_a_phase_that_the_caller_has_not_seen_is_told_at_once(
    store: Store, operations: Operations
) -> None:
    """It may have begun between two questions; the next change may be long in coming."""
    operation = await record(store, operations, new_id(), 1)
    await operations.progress(operation, "moving", 0.5)
    async with asyncio.timeout(5):
        view = await operations.view(operation, wait_s=20, seen_phase="")
    assert view.phase == "moving"


async def test_cancel_is_a_wish_that_is_seen(store: Store, operations: Operations) -> None:
    operation = await record(store, operations, new_id(), 1)
    assert not await operations.cancel_asked(operation)
    assert (await operations.cancel(operation)).state is OperationState.CANCELLING
    assert await operations.cancel_asked(operation)
