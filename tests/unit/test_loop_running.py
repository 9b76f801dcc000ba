"""The loop at work, its socket, and what is left of it when it is killed."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from supercloud.model.errors import InvalidInput
from supercloud.model.findings import Layer, Object, ObjectKind
from supercloud.model.incidents import IncidentState
from supercloud.model.reactions import Command, ReactionState
from supercloud.security.door import REFUSED, Door
from supercloud.security.events import Stand
from supercloud.security.journal import Journal
from supercloud.security.link import IN_FLIGHT, Link, Where
from supercloud.security.loop import Loop
from supercloud.security.policy import PolicyFile
from supercloud.security.rules import Rules
from supercloud.security.sigma import load
from supercloud.security.simulated import SimulatedActuator

pytestmark = pytest.mark.unit
RULES = Path(__file__).parents[2] / "examples" / "security" / "rules" / "port-scan.yml"
DOMAIN, CLOUD, ONE = (str(uuid.UUID(int=number)) for number in (1, 2, 11))
POLICY = PolicyFile.model_validate_json(
    json.dumps(
        {
            "version": 1,
            "policies": {
                "contain": {
                    "when": {"rule": "port-scan"},
                    "do": [{"action": "contain", "target": "device", "for": "10m"}],
                }
            },
        }
    )
)


def _objects(name: str | None) -> Object | None:
    return Object(kind=ObjectKind.INSTANCE, id=ONE) if name == "one" else None


STAND = Stand(detector="port", layer=Layer.L2, domain=DOMAIN, cloud=CLOUD, objects=_objects)


def scan(number: int, *, about: str = "one", rule: str = "port-scan") -> dict[str, Any]:
    return {
        "class_uid": 2004,
        "category_uid": 2,
        "activity_id": 1,
        "type_uid": 200401,
        "severity_id": 4,
        "time": int(time.time() * 1000),
        "metadata": {"uid": f"f{number}", "version": "1.3.0", "product": {"name": "port"}},
        "finding_info": {"uid": f"f{number}", "title": "A scan", "analytic": {"uid": rule}},
        "resources": [{"uid": about}],
        "evidences": [{"src_endpoint": {"ip": "10.0.0.1"}, "data": {"proven": True}}],
    }


def connection(number: int) -> dict[str, Any]:
    return {
        "class_uid": 4001,
        "time": int(time.time() * 1000),
        "metadata": {"uid": f"c{number}"},
        "src_endpoint": {"ip": "10.0.0.1"},
        "dst_endpoint": {"ip": "10.0.0.2", "port": number + 1},
        "connection_info": {"protocol_name": "tcp"},
        "device": {"uid": "one"},
    }


@asynccontextmanager
async def at_work(
    path: Path, actuator: Any = None, *, rules: Rules | None = None, told: Callable[[], None] = lambda: None
) -> AsyncIterator[Loop]:
    journal = Journal(path / "loop.sqlite")
    loop = Loop(
        journal=journal,
        policies=POLICY,
        rules=rules,
        actuator=actuator or SimulatedActuator(now=time.time),
        now=time.time,
        told=told,
    )
    task = asyncio.create_task(loop.run())
    try:
        yield loop
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        journal.close()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 - of what is looked at nobody tells
            await asyncio.sleep(0.005)


async def test_what_is_answered_is_durable_and_what_was_decided_is_done(tmp_path: Path) -> None:
    actuator = SimulatedActuator(now=time.time)
    async with at_work(tmp_path, actuator) as loop:
        receipt = await loop.submit(scan(1), STAND)
        other = Journal(tmp_path / "loop.sqlite")
        assert set(other.known(receipt.findings)) == set(receipt.findings)
        assert receipt.done is not None
        await receipt.done
        assert actuator.effects.total() == 1
        await until(lambda: loop.incidents()[0].state is IncidentState.CONTAINED)
        again = await loop.submit(scan(1), STAND)
        assert again.findings == receipt.findings
        assert again.incidents == receipt.incidents
        assert loop.incidents()[0].findings == 1
        other.close()


async def test_rules_see_events_and_their_matches_are_findings(tmp_path: Path) -> None:
    actuator = SimulatedActuator(now=time.time)
    rules = Rules(load([("r", RULES.read_bytes())]).rules)
    async with at_work(tmp_path, actuator, rules=rules) as loop:
        for number in range(25):
            await loop.submit(connection(number), STAND)
        await until(lambda: actuator.effects.total() == 1)
        (incident,) = loop.incidents()
        assert (incident.title, incident.findings) == ("Scan for open ports", 1)


async def test_of_what_a_detector_may_not_speak_it_is_not_heard(tmp_path: Path) -> None:
    async with at_work(tmp_path) as loop:
        with pytest.raises(InvalidInput, match="may not speak of 'another'"):
            await loop.submit(scan(1, about="another"), STAND)
        receipt = await loop.submit(scan(2), STAND)
        finding = loop._journal.finding(receipt.findings[0])
        assert finding is not None
        assert finding.evidence[0]["data"] == {"proven": False}, "nor is its word proof"
        assert (loop.taken, loop.refused) == (1, 1)


class Dying(SimulatedActuator):
    """Does it, and is never heard of again."""

    dying = True

    async def do(self, command: Command) -> None:
        await super().do(command)
        if self.dying:
            await asyncio.Event().wait()


async def test_killed_between_an_effect_and_its_record_it_is_not_done_again(tmp_path: Path) -> None:
    actuator = Dying(now=time.time)
    async with at_work(tmp_path, actuator) as loop:
        await loop.submit(scan(1), STAND)
        await until(lambda: actuator.effects.total() == 1)
    actuator.dying = False
    async with at_work(tmp_path, actuator) as loop:
        await until(lambda: all(one.state is ReactionState.VERIFIED for one in loop.engine.book))
        assert actuator.effects.total() == 1
        assert len(loop.incidents()) == 1


async def test_a_disk_that_is_full_acknowledges_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from supercloud.model.errors import Exhausted, Unavailable

    def full(*_: object) -> None:
        raise Exhausted("the loop's journal: database or disk is full")

    actuator = SimulatedActuator(now=time.time)
    journal = Journal(tmp_path / "loop.sqlite")
    monkeypatch.setattr(journal, "commit", full)
    loop = Loop(journal=journal, policies=POLICY, rules=None, actuator=actuator, now=time.time)
    running = asyncio.create_task(loop.run())
    with pytest.raises(Unavailable, match="could not write it down"):
        await loop.submit(scan(1), STAND)
    with pytest.raises(Exhausted):
        await running
    assert not actuator.effects


# ---------------------------------------------------------------- the socket


@asynccontextmanager
async def linked(path: Path, where: Where, *, follow: bool = False) -> AsyncIterator[Link]:
    link = Link(where, "port", follow=follow)
    task = asyncio.create_task(link.run())
    try:
        yield link
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def stands(name: str, _: Any) -> Stand | None:
    return STAND if name == "port" else None


async def test_a_detector_is_answered_over_its_socket(tmp_path: Path) -> None:
    socket = tmp_path / "run" / "loop.sock"
    actuator = SimulatedActuator(now=time.time)
    async with at_work(tmp_path, actuator) as loop:
        server = await Door(loop, stands).listen_unix(socket)
        assert socket.stat().st_mode & 0o777 == 0o600
        async with server, linked(tmp_path, Where(path=socket), follow=True) as link:
            assert await asyncio.wait_for(link.reacted(scan(1)), 10) == 1
            assert actuator.effects.total() == 1
            assert await asyncio.wait_for(link.reacted(scan(1)), 10) == 0
            answer = await asyncio.wait_for(await link.send(scan(3, about="another")), 10)
            assert "may not speak of" in answer["error"]


async def test_what_was_not_answered_is_sent_again_to_who_comes_after(tmp_path: Path) -> None:
    socket = tmp_path / "loop.sock"
    async with linked(tmp_path, Where(path=socket)) as link:
        answers = [await link.send(scan(number, rule="other")) for number in range(50)]
        for _ in range(3):
            async with at_work(tmp_path) as loop:
                server = await Door(loop, stands).listen_unix(socket)
                async with server:
                    await asyncio.wait(answers, timeout=0.3)
        assert all(one.done() and one.result()["ok"] for one in answers)
    journal = Journal(tmp_path / "loop.sqlite")
    assert journal.counts()["findings"] == 50
    journal.close()


@pytest.mark.parametrize(
    "said",
    [b"\n", b"{}\n", b'{"detector": "other"}\n', b"[" * 30_000 + b"\n", b"x" * (1 << 17) + b"\n", b""],
    ids=["nothing", "nobody", "stranger", "deep", "long", "closed"],
)
async def test_strangers_are_shown_out(tmp_path: Path, said: bytes) -> None:
    socket = tmp_path / "loop.sock"
    async with at_work(tmp_path) as loop, await Door(loop, stands).listen_unix(socket):
        reader, writer = await asyncio.open_unix_connection(socket)
        writer.write(said)
        writer.write_eof()
        assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()
        assert (await loop.submit(scan(1), STAND)).findings


async def test_who_sends_nothing_but_rubbish_is_shown_out_and_others_are_heard(tmp_path: Path) -> None:
    socket = tmp_path / "loop.sock"
    async with at_work(tmp_path) as loop, await Door(loop, stands).listen_unix(socket):
        reader, writer = await asyncio.open_unix_connection(socket)
        writer.write(b'{"detector": "port"}\n')
        for _ in range(REFUSED + IN_FLIGHT + 10):
            writer.write(b'{"n": 1, "event": {"class_uid": 9}}\n')
        told = await asyncio.wait_for(reader.read(), 20)
        assert REFUSED <= told.count(b"class 9") <= REFUSED + IN_FLIGHT
        async with linked(tmp_path, Where(path=socket)) as link:
            assert (await asyncio.wait_for(await link.send(scan(1)), 10))["ok"]
        writer.close()


class Slow(SimulatedActuator):
    """Says what begins and what has ended; each takes longer than what comes after it."""

    def __init__(self) -> None:
        super().__init__(now=time.time)
        self.said: list[str] = []

    async def do(self, command: Command) -> None:
        self.said.append(f"begins {command.deed.action}")
        for _ in range({"stop": 50, "copy": 20}.get(command.deed.action, 1)):
            await asyncio.sleep(0)
        await super().do(command)
        self.said.append(f"ended {command.deed.action}")


IN_ORDER = [f"{what} {action}" for action in ("stop", "copy", "restart") for what in ("begins", "ended")]
_STEPS = [("stop", "vcpus"), ("copy", "memory"), ("restart", "device")]


def _kept_then_reset() -> PolicyFile:
    do = [{"action": action, "target": target, "for": "10m"} for action, target in _STEPS]
    policies = {"keep": {"when": {"rule": "port-scan"}, "do": do}}
    return PolicyFile.model_validate_json(json.dumps({"version": 1, "policies": policies}))


async def test_memory_is_copied_after_it_was_paused_and_before_it_is_reset(tmp_path: Path) -> None:
    actuator = Slow()
    async with at_work(tmp_path, actuator) as loop:
        loop.change(_kept_then_reset(), None)
        await loop.submit(scan(1), STAND)
        await until(lambda: len(actuator.said) >= 6)
    assert actuator.said == IN_ORDER


async def test_killed_before_any_of_it_it_is_done_in_the_same_order(tmp_path: Path) -> None:
    class Dead(SimulatedActuator):
        async def do(self, command: Command) -> None:
            await asyncio.Event().wait()

    async with at_work(tmp_path, Dead(now=time.time)) as loop:
        loop.change(_kept_then_reset(), None)
        await loop.submit(scan(1), STAND)
    actuator = Slow()
    async with at_work(tmp_path, actuator):
        await until(lambda: len(actuator.said) >= 6)
    assert actuator.said == IN_ORDER
