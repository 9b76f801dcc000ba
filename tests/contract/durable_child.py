"""A process that a test kills: one operation of eight steps, each of which appends a line to a file.

Run as `python durable_child.py DATABASE_URL JOURNAL`: it carries on what is open, or begins one operation.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

from supercloud.model.errors import Refused
from supercloud.model.names import new_id
from supercloud.ports.durable import Saga
from supercloud.services.durable import DurableRuntime
from supercloud.services.operations import Operations
from supercloud.services.store.engine import Store
from supercloud.services.takeover import Takeover

STEPS = 8


async def main(url: str, journal: Path) -> None:
    def note(line: str) -> None:
        with journal.open("a") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())

    async def work(saga: Saga, intent: dict[str, Any]) -> dict[str, Any]:
        total = 0
        for number in range(STEPS):

            async def one(number: int = number) -> int:
                note(f"step {number}")
                await asyncio.sleep(0.05)  # so that a kill finds it in the middle of a step
                if number == 3:
                    raise Refused("three")
                return number

            try:
                total += await saga.step(f"step {number}", one, int)
            except Refused:
                total += 100
        return {"total": total, "factor": intent["factor"]}

    store = await Store.open(url)
    operations = Operations(store)
    operations.register("test", work)
    runtime = DurableRuntime(operations, url)
    operations.runs_on(runtime.start)
    takeover = Takeover(store, runtime)
    await takeover.claim()
    await runtime.launch()
    if not await operations.open():
        async with store.write() as session:
            await operations.record(
                session, "test", object_id=new_id(), name="thing", cloud=None, intent={"factor": 2}
            )
    opened = await operations.open()
    await takeover.sweep()
    for operation in opened:
        await operations.started(operation)
    note("up")
    for operation in opened:
        view = await operations.view(operation, wait_s=30)
        while view.ended_at is None:
            view = await operations.view(operation, wait_s=30)
        note(f"ended {view.state} {view.result}")
    await runtime.close()
    await takeover.close()
    await store.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
