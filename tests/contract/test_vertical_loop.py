"""The vertical loop in the agent, over fakes of what it drives: with the control plane away, and killed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from supercloud.agent.journal import Journal
from supercloud.agent.loop import LoopHands, VerticalLoop, told, usual_detectors
from supercloud.model.errors import Conflict, InvalidInput, Unavailable
from supercloud.model.findings import Layer, Object, ObjectKind, Severity
from supercloud.model.incidents import TIMELINE, Entry, EntryKind, Incident, IncidentState
from supercloud.ports.loop import AnswerReaction, CloseIncident, LoopPolicy
from supercloud.security import journal as loops
from supercloud.security import usual
from supercloud.security.detectors.memory import Scans
from supercloud.security.detectors.told import finding
from supercloud.security.link import Link, Where
from supercloud.security.memoryscan import Match
from supercloud.security.simulated import SimulatedActuator
from supercloud.security.terms import RuleSet
from supercloud.wire.codec import from_json, to_json

pytestmark = pytest.mark.contract
BLANKET, CLOUD, ONE = (str(uuid.UUID(int=number)) for number in (3, 2, 100))
POLICY = {
    "version": 1,
    "policies": {
        "contain": {
            "when": {"rule": "spoofed-address"},
            "do": [{"action": "contain", "target": "device", "for": "10m"}],
        }
    },
}


def spoof(number: int, *, device: str | None = "tone") -> dict[str, Any]:
    return finding(
        "port",
        uid=f"u{number}",
        rule="spoofed-address",
        title="It speaks under another's address",
        severity=Severity.HIGH,
        about=device,
        at=time.time(),
        evidence={"src_endpoint": {"ip": "10.20.0.9"}, "data": {"proven": False}},
    )


class World:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.actuator = SimulatedActuator(now=time.time)
        self.outbox = Journal(folder / "agent.sqlite")

    @asynccontextmanager
    async def agent(self, *detectors: tuple[str, list[str]]) -> AsyncIterator[VerticalLoop]:
        hands = LoopHands(
            actuator=self.actuator,
            owner=lambda device: ONE if device == "tone" else None,
            journal=self.folder / "loop.sqlite",
            socket=self.folder / "loop.sock",
            instances=lambda: (ONE,),
            detectors=detectors,
            yara=self.folder / "rules.yar",
        )
        loop = VerticalLoop(hands, self.outbox, blanket=BLANKET, cloud=CLOUD)
        task = asyncio.create_task(loop.run())
        try:
            await until(lambda: loop._loop is not None)
            yield loop
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    @asynccontextmanager
    async def detector(self, name: str = "port") -> AsyncIterator[Link]:
        link = Link(Where(path=self.folder / "loop.sock"), name)
        task = asyncio.create_task(link.run())
        try:
            yield link
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def told(self) -> list[dict[str, Any]]:
        return [event.data for event in await self.outbox.pending() if event.kind == "incident"]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.outbox.close()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110 - of what is looked at nobody tells
            await asyncio.sleep(0.01)


async def sent(link: Link, event: dict[str, Any]) -> dict[str, Any]:
    return await asyncio.wait_for(await link.send(event), 20)


async def incident_told(world: World, state: IncidentState) -> Incident:
    async with asyncio.timeout(20):
        while True:
            for one in await world.told():
                found = from_json(Incident, one["incident"])
                if found.state is state:
                    return found
            await asyncio.sleep(0.05)


async def test_until_it_is_told_a_policy_it_tells_and_does_nothing(world: World) -> None:
    async with world.agent() as agent, world.detector() as link:
        assert (await sent(link, spoof(1)))["ok"]
        found = await incident_told(world, IncidentState.OPEN)
        assert [one.rule for one in found.seen] == ["spoofed-address"]
        assert found.objects == (Object(kind=ObjectKind.INSTANCE, id=ONE),)
        assert json.loads((await agent.policy()).policy)["policies"] == {}
    assert not world.actuator.effects


async def test_a_policy_is_kept_and_gone_by_with_the_control_plane_away(world: World) -> None:
    async with world.agent() as agent:
        await agent.apply(LoopPolicy(policy=json.dumps(POLICY)))
    async with world.agent(), world.detector() as link:  # and nobody acknowledges anything
        await sent(link, spoof(1))
        await until(lambda: world.actuator.effects.total() == 1)
        found = await incident_told(world, IncidentState.CONTAINED)
        assert found.cloud == CLOUD
    async with world.agent(), world.detector() as link:
        await sent(link, spoof(1))
        await sent(link, spoof(2))
        assert world.actuator.effects.total() == 1


async def test_the_detector_of_guests_speaks_of_instances_that_are_here(world: World) -> None:
    def hidden(about: str | None) -> dict[str, Any]:
        said: dict[str, Any] = {"rule": "hidden-process", "title": "A process is hidden"}
        evidence = {"data": {"name": "evil"}}
        return finding(
            "guest",
            uid="u",
            severity=Severity.CRITICAL,
            about=about,
            at=time.time(),
            evidence=evidence,
            **said,
        )

    async with world.agent(), world.detector("guest") as link:
        for other in (CLOUD, BLANKET, "tone", None):
            assert "may not speak of" in (await sent(link, hidden(other)))["error"]
        assert (await sent(link, hidden(ONE)))["ok"]
        found = await incident_told(world, IncidentState.OPEN)
        assert found.objects == (Object(kind=ObjectKind.INSTANCE, id=ONE),)
        assert {one.rule for one in found.seen} == {"hidden-process", "compromised-kernel"}
    assert [name for name, _ in usual_detectors()] == ["port", "components", "guest", "memory", "integrity"]


async def test_rules_over_memory_are_handed_to_their_detector_and_kept(world: World) -> None:
    """Also by a loop that is begun anew; taken away, they are gone."""
    path, text = world.folder / "rules.yar", "rule a { condition: true }"
    rules = json.dumps(to_json(RuleSet, replace(usual.RULES, yara=text)))
    async with world.agent() as agent:
        await agent.apply(LoopPolicy(policy=json.dumps(POLICY), rules=rules))
        assert path.read_text() == text and path.stat().st_mode & 0o777 == 0o600
    path.unlink()
    async with world.agent() as agent:
        assert path.read_text() == text
        await agent.apply(LoopPolicy(policy=json.dumps(POLICY)))
        assert not path.exists()


async def test_what_is_found_in_memory_is_of_instances_that_are_here(world: World) -> None:
    def event(about: str) -> dict[str, Any]:
        match = Match(rule="needle", severity=Severity.HIGH, many=1)
        return Scans("boot").found(about, [match], time.time())[0]

    async with world.agent(), world.detector("memory") as link:
        assert "may not speak of" in (await sent(link, event(str(uuid.UUID(int=9)))))["error"]
        assert (await sent(link, event(ONE)))["ok"]
        found = await incident_told(world, IncidentState.OPEN)
        assert [one.rule for one in found.seen] == ["yara:needle"]


async def test_the_detector_of_memory_is_begun_once_there_are_rules(world: World) -> None:
    """It costs a blanket memory."""
    said = world.folder / "begun"
    argv = [
        sys.executable,
        "-c",
        f"import pathlib, sys; pathlib.Path({str(said)!r}).touch(); sys.stdin.read()",
    ]
    rules = json.dumps(to_json(RuleSet, replace(usual.RULES, yara="rule a { condition: true }")))
    async with world.agent(("memory", argv)) as agent:
        await agent.apply(LoopPolicy(policy=json.dumps(POLICY)))
        await asyncio.sleep(0.2)
        assert not said.exists()
        await agent.apply(LoopPolicy(policy=json.dumps(POLICY), rules=rules))
        await until(said.exists)


async def test_what_is_no_policy_changes_nothing(world: World) -> None:
    async with world.agent() as agent:
        await agent.apply(LoopPolicy(policy=json.dumps(POLICY)))
        for policy, rules in (("{", None), ('{"version": 9}', None), (json.dumps(POLICY), "{")):
            with pytest.raises(InvalidInput):
                await agent.apply(LoopPolicy(policy=policy, rules=rules))
        assert json.loads((await agent.policy()).policy) == POLICY


async def test_an_incident_is_closed_and_what_was_done_is_undone(world: World) -> None:
    async with world.agent() as agent, world.detector() as link:
        await agent.apply(LoopPolicy(policy=json.dumps(POLICY)))
        await sent(link, spoof(1))
        found = await incident_told(world, IncidentState.CONTAINED)
        request = CloseIncident(incident=found.id, by="ada", undo=True)
        await agent.close(request)
        closed = await incident_told(world, IncidentState.CLOSED)
        assert any("closed by ada" in one.says for one in closed.timeline)
        await until(lambda: not world.actuator.there)
        await agent.close(request)


async def test_one_in_which_nothing_was_done_is_closed_as_soon_as_that_is_said(world: World) -> None:
    """And not when something else happens: what was told to who closed it is kept, and told on."""
    async with world.agent() as agent, world.detector() as link:
        await sent(link, spoof(1))
        found = await incident_told(world, IncidentState.OPEN)
        await agent.close(CloseIncident(incident=found.id, by="ada", undo=True))
        await incident_told(world, IncidentState.CLOSED)


@pytest.mark.parametrize("yes", [True, False])
async def test_what_asks_waits_for_an_answer(world: World, yes: bool) -> None:
    policy = json.loads(json.dumps(POLICY))
    policy["policies"]["contain"]["mode"] = "ask"
    async with world.agent() as agent, world.detector() as link:
        await agent.apply(LoopPolicy(policy=json.dumps(policy)))
        await sent(link, spoof(1))
        await incident_told(world, IncidentState.OPEN)
        ((asking,),) = [one["reactions"] for one in await world.told()]
        assert asking["state"] == "asked"
        assert not world.actuator.effects
        request = AnswerReaction(reaction=asking["command"]["id"], by="ada", yes=yes)
        await agent.answer(request)
        if yes:
            await incident_told(world, IncidentState.CONTAINED)
        assert world.actuator.effects.total() == yes
        with pytest.raises(Conflict):
            await agent.answer(request)


async def test_a_detector_speaks_of_its_own_only(world: World) -> None:
    async with world.agent(), world.detector() as port, world.detector("components") as other:
        assert "may not speak of" in (await sent(port, spoof(1, device="tother")))["error"]
        assert "may not speak of" in (await sent(port, spoof(2, device=None)))["error"]
        assert "may not speak of" in (await sent(other, spoof(3)))["error"]
        assert (await sent(other, spoof(4, device=None)))["ok"]
        found = await incident_told(world, IncidentState.OPEN)
        assert found.objects == (Object(kind=ObjectKind.MACHINE, id=BLANKET),)
        assert found.seen[0].layer is Layer.L1


async def test_a_detectors_process_is_begun_anew_and_ends_with_its_agent(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("supercloud.agent.loop._AGAIN_S", 0.01)
    pids = world.folder / "pids"
    program = "import os, sys; print(os.getpid(), file=open(sys.argv[1], 'a')); sys.stdin.read()"

    def begun() -> list[int]:
        return [int(line) for line in pids.read_text().split()] if pids.exists() else []

    async with world.agent(("port", ["python3", "-c", program, str(pids)])):
        await until(lambda: len(begun()) == 1)
        os.kill(begun()[0], signal.SIGKILL)
        await until(lambda: len(begun()) == 2)
    for one in begun():
        assert not Path(f"/proc/{one}").exists()


async def test_a_loop_that_cannot_write_is_begun_anew(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supercloud.agent.loop._RETRY_S", 0.05)
    failing, whole = [True], loops.Journal.commit

    def once(self: Any, batch: Any) -> None:
        if failing.pop() if failing else False:
            raise Unavailable("the loop's journal: disk I/O error")
        whole(self, batch)

    monkeypatch.setattr(loops.Journal, "commit", once)
    async with world.agent(), world.detector() as link:
        assert (await sent(link, spoof(1)))["ok"], "it was sent again to the loop that came after"


def test_what_is_told_of_an_incident_fits_in_an_event() -> None:
    timeline = tuple(
        Entry(at=float(number), kind=EntryKind.DECISION, says=f"{number} " + "x" * 500)
        for number in range(TIMELINE)
    )
    found = Incident(
        id=ONE,
        domain=BLANKET,
        cloud=CLOUD,
        state=IncidentState.OPEN,
        severity=Severity.LOW,
        title="a",
        opened_at=0.0,
        last_at=1.0,
        objects=(),
        seen=(),
        findings=1,
        timeline=timeline,
    )
    said = told(found, [])
    assert len(json.dumps(said)) < 16 << 10
    short = from_json(Incident, said["incident"])
    assert short.timeline[0] == timeline[0]
    assert short.timeline[-1] == timeline[-1]
    assert short.left_out + len(short.timeline) == TIMELINE
