"""What a blanket does because it was decided elsewhere: kept, done again after a reboot, ended in time."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
from test_vertical_loop import BLANKET, CLOUD, ONE, World, sent, spoof, until

from supercloud.agent import ordered
from supercloud.agent.loop import VerticalLoop
from supercloud.model.errors import Conflict, Exhausted, Failed, NotFound, Refused
from supercloud.model.findings import Object, ObjectKind
from supercloud.model.names import Id
from supercloud.model.reactions import Command, Deed
from supercloud.ports.loop import LoopPolicy, OrderDeed, OrderedRef

pytestmark = pytest.mark.contract
ELSEWHERE = str(uuid.UUID(int=77))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.outbox.close()


def agent(world: World) -> AbstractAsyncContextManager[VerticalLoop]:
    return world.agent()


def deny(number: int, *, left_s: float = 600.0, net: str = "10.20.0.5") -> OrderDeed:
    about = Object(kind=ObjectKind.INSTANCE, id=ELSEWHERE)
    command = Command(id=str(uuid.UUID(int=1000 + number)), deed=Deed.DENY, about=about, net=net, until=1.0)
    return OrderDeed(command=command, left_s=left_s, by=CLOUD)


def contain(number: int, about: Id = ONE) -> OrderDeed:
    one = Object(kind=ObjectKind.INSTANCE, id=about)
    command = Command(id=str(uuid.UUID(int=1000 + number)), deed=Deed.CONTAIN, about=one)
    return OrderDeed(command=command, left_s=600, by=CLOUD)


def ref(order: OrderDeed) -> OrderedRef:
    return OrderedRef(command=order.command.id)


async def test_it_is_done_once_seen_and_taken_back(world: World) -> None:
    async with agent(world) as loop:
        for _ in range(3):
            await loop.order(deny(1))
        assert world.actuator.effects.total() == 1
        (held,) = world.actuator.there.values()
        assert held.until is not None and 590 < held.until - time.time() <= 600, "by this blanket's clock"
        assert await loop.ordered(ref(deny(1)))
        assert not await loop.ordered(ref(deny(2)))
        for _ in range(2):
            await loop.recall(ref(deny(1)))
        assert not world.actuator.there
        assert not await loop.ordered(ref(deny(1)))
    told = [event.data for event in await world.outbox.pending() if event.kind == ordered.KIND]
    assert told == [{"deed": "deny:ipv4_net", "about": "10.20.0.5", "by": CLOUD}], "its owner reads it once"


async def test_what_the_policy_here_protects_is_left_alone(world: World) -> None:
    async with agent(world) as loop:
        protected = ["10.20.0.0/24", ONE]
        await loop.apply(LoopPolicy(policy=json.dumps({"version": 1, "protected": protected})))
        for order in (deny(1), contain(2)):
            with pytest.raises(Refused, match="protects"):
                await loop.order(order)
        await loop.order(deny(3, net="198.51.100.7"))
    assert world.actuator.effects.total() == 1


async def test_after_a_reboot_it_is_done_again_and_ends_when_it_would_have(world: World) -> None:
    async with agent(world) as loop:
        await loop.order(deny(1))
    (before,) = world.actuator.there.values()
    world.actuator.there.clear()  # a packet filter forgets
    async with agent(world) as loop:
        await until(lambda: bool(world.actuator.there))
        (after,) = world.actuator.there.values()
        assert after == before
        assert await loop.ordered(ref(deny(1)))


async def test_it_ends_by_itself_though_nobody_comes(world: World) -> None:
    async with agent(world) as loop:
        await loop.order(deny(1, left_s=0.3))
        await until(lambda: world.actuator.undone.total() == 1)
        assert not await loop.ordered(ref(deny(1)))
        await loop.order(deny(2, left_s=0.3))
    async with agent(world):  # away as its time came
        await until(lambda: world.actuator.undone.total() == 2)


async def test_what_cannot_be_ended_now_is_ended_later(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ordered, "_AGAIN_S", 0.05)
    async with agent(world) as loop:
        await loop.order(deny(1, left_s=0.2))
        await loop.order(deny(2, left_s=0.2, net="10.20.0.6"))
        world.actuator.failing = Failed("no")
        await until(lambda: time.time() > max(one.until or 0 for one in world.actuator.there.values()))
        assert not world.actuator.undone
        world.actuator.failing = None
        await until(lambda: world.actuator.undone.total() == 2)


async def test_what_its_own_loop_does_already_is_not_done_twice(world: World) -> None:
    policy = {
        "version": 1,
        "policies": {"a": {"do": [{"action": "contain", "target": "device", "for": "10m"}]}},
    }
    async with agent(world) as loop, world.detector() as link:
        await loop.apply(LoopPolicy(policy=json.dumps(policy)))
        await sent(link, spoof(1))
        await until(lambda: world.actuator.effects.total() == 1)
        with pytest.raises(Conflict, match="by itself"):
            await loop.order(contain(1))
    assert world.actuator.effects.total() == 1


async def test_what_is_not_here_is_not_kept(world: World) -> None:
    async with agent(world) as loop:
        world.actuator.failing = NotFound("it is not here")
        with pytest.raises(NotFound):
            await loop.order(contain(1, about=BLANKET))
        world.actuator.failing = None
        assert not await loop.ordered(ref(contain(1)))
        await loop.order(contain(1))
        assert await loop.ordered(ref(contain(1)))


async def test_so_many_and_no_more(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ordered, "MOST", 3)
    async with agent(world) as loop:
        for number in range(3):
            await loop.order(deny(number, net=f"10.20.0.{10 + number}"))
        with pytest.raises(Exhausted):
            await loop.order(deny(9))
