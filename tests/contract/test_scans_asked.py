"""Scans that are asked for, by a reaction or a person: done once, by who scans; told how they ended."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import actuator_checks as checks
import pytest

from supercloud.agent import scanning
from supercloud.agent.scanning import AgentScans, ScanReactions, Turns
from supercloud.model.errors import Conflict, NotFound, Refused
from supercloud.model.names import Id, new_id
from supercloud.model.reactions import Deed
from supercloud.ports.agent import RunState
from supercloud.ports.scans import SCANNED, ScanMemory
from supercloud.security.policy import Do, PolicyFile

pytestmark = pytest.mark.contract


class Hypervisor:
    """Says how instances are: by default that they run."""

    def __init__(self, **stands: RunState) -> None:
        self.stands = {checks.NOWHERE: RunState.ABSENT, **stands}

    async def state(self, instance: Id) -> RunState:
        return self.stands.get(instance, RunState.RUNNING)


@pytest.fixture
def rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(scanning, "_LOOK_S", 0.01)
    made = tmp_path / "rules.yar"
    made.write_text("rule marked { condition: false }")
    return made


@asynccontextmanager
async def detector(rules: Path, *, matched: int = 0, why: str = "") -> AsyncIterator[list[str]]:
    """Scans whoever is asked for. By what each was."""
    turns, done = Turns(rules), list[str]()

    async def scan() -> None:
        while True:
            for instance in (checks.HERE, checks.NOWHERE):
                if (by := turns.waits(instance)) is not None:
                    done.append(by)
                    turns.ends(instance, by, matched=matched, why=why)
            await asyncio.sleep(0.01)

    task = asyncio.create_task(scan())
    try:
        yield done
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


# ---------------------------------------------------------------- by a reaction


@pytest.mark.parametrize("check", checks.CHECKS, ids=lambda one: one.__name__)
async def test_it_is_an_actuator(check: checks.Check, rules: Path) -> None:
    async with detector(rules):
        await check(ScanReactions(Hypervisor(), rules), Deed.SCAN)


async def test_it_is_done_once_also_by_an_agent_that_was_begun_anew(rules: Path) -> None:
    one = checks.command(Deed.SCAN)
    async with detector(rules) as done:
        await asyncio.gather(*(ScanReactions(Hypervisor(), rules).do(one) for _ in range(3)))
        await ScanReactions(Hypervisor(), rules).do(one)
        assert await ScanReactions(Hypervisor(), rules).look(one)
    assert done == [one.id]


async def test_what_cannot_be_scanned_is_refused_and_leaves_nothing(rules: Path) -> None:
    one, hypervisor = checks.command(Deed.SCAN), Hypervisor()
    scans = ScanReactions(hypervisor, rules)
    async with detector(rules, why="it takes too long"):
        with pytest.raises(Refused, match="it takes too long"):
            await scans.do(one)
    task = asyncio.create_task(scans.do(one))
    async with asyncio.timeout(10):
        while Turns(rules).waits(checks.HERE) is None:  # noqa: ASYNC110 - it is noted in a file
            await asyncio.sleep(0.01)
    hypervisor.stands[checks.HERE] = RunState.DEFINED
    with pytest.raises(NotFound, match="is defined here"):
        await task
    del hypervisor.stands[checks.HERE]
    rules.unlink()
    with pytest.raises(Refused, match="no YARA rules"):
        await scans.do(one)
    assert Turns(rules).by(checks.HERE) is None and not await scans.look(one)


def test_a_policy_says_it_as_openc2_does() -> None:
    do = {"action": "scan", "target": "memory", "for": "1h"}
    file = PolicyFile.model_validate_json(json.dumps({"version": 1, "policies": {"look": {"do": [do]}}}))
    (found,) = file.policies["look"].do
    assert found.deed is Deed.SCAN
    said = checks.command(Deed.SCAN).as_openc2(time.time())
    assert (said["action"], list(said["target"])) == ("scan", ["x-supercloud:memory"])
    with pytest.raises(ValueError, match="there is no scan of device"):
        Do.model_validate({"action": "scan", "target": "device"})


# ---------------------------------------------------------------- by a person


async def test_a_person_is_told_how_it_ended_and_may_ask_again(rules: Path) -> None:
    told: list[tuple[str, dict[str, Any], str]] = []
    heard = asyncio.Event()

    async def tell(kind: str, said: dict[str, Any], *, id: str) -> None:
        told.append((kind, said, id))
        heard.set()

    scans = AgentScans(ScanReactions(Hypervisor(), rules), tell)
    one = ScanMemory(scan=new_id(), instance=checks.HERE)
    await scans.begin(one)
    await scans.begin(one)
    with pytest.raises(Conflict, match="asked for already"):
        await scans.begin(ScanMemory(scan=new_id(), instance=checks.HERE))
    async with asyncio.timeout(10), detector(rules, matched=2) as done:
        await heard.wait()
        said = {"instance": checks.HERE, "scan": one.scan, "matched": 2, "why": ""}
        assert told == [(SCANNED, said, one.scan)] and done == [one.scan]
        heard.clear()
        await scans.begin(ScanMemory(scan=new_id(), instance=checks.HERE))
        await heard.wait()
    with pytest.raises(NotFound):
        await scans.begin(ScanMemory(scan=new_id(), instance=checks.NOWHERE))
    await scans.close()


async def test_what_an_agent_leaves_behind_that_ended_is_in_nobodys_way(rules: Path) -> None:
    person, reaction = AgentScans(ScanReactions(Hypervisor(), rules), _nobody), checks.command(Deed.SCAN)
    await person.begin(ScanMemory(scan=new_id(), instance=checks.HERE))
    await person.close()
    again = ScanReactions(Hypervisor(), rules)
    async with asyncio.timeout(10), detector(rules):
        await again.do(reaction)
    assert await ScanReactions(Hypervisor(), rules).look(reaction), "what a reaction asked for stays"


async def _nobody(*_: object, **__: object) -> None:
    raise AssertionError("nothing has ended")
