"""The security state of an instance moves with it: two real agents, with real loops, over fake drivers."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from agent_rig import World, both, spec, until, world  # noqa: F401 - `world` is a fixture
from blanket_rig import CLOUD
from incident_rig import held

from supercloud.agent.loop import LoopHands
from supercloud.model.errors import Refused, Unavailable
from supercloud.model.findings import Severity
from supercloud.model.incidents import Incident, IncidentState
from supercloud.model.names import new_id
from supercloud.model.reactions import Command, Deed
from supercloud.ports.agent import (
    InstanceRef,
    InstanceSpec,
    Landing,
    OperationRef,
    ReceiveInstance,
    RunState,
    SendInstance,
    SourceReport,
    StartInstance,
    StopInstance,
    StopMode,
)
from supercloud.ports.loop import CloseIncident, Guard, GuardRef, LoopPolicy, OrderDeed, OrderedRef
from supercloud.ports.overlay import Mesh
from supercloud.security.detectors.told import finding
from supercloud.security.link import Link, Where
from supercloud.security.simulated import SimulatedActuator
from supercloud.wire.codec import from_json
from supercloud.wire.proxies import RemoteAgent

pytestmark = pytest.mark.contract


def policy(*do: dict[str, Any]) -> LoopPolicy:
    one = {"when": {"rule": "spoofed-address"}, "do": [{"for": "10m", **reaction} for reaction in do]}
    return LoopPolicy(policy=json.dumps({"version": 1, "policies": {"contain": one}}))


CONTAIN = {"action": "contain", "target": "device"}
PAUSE = {"action": "stop", "target": "vcpus"}


async def patient(ask: Callable[[], Awaitable[None]]) -> None:
    """Of an agent that was just begun, whose loop is not there yet: as the control plane asks, again."""
    async with asyncio.timeout(20):
        while True:
            try:
                return await ask()
            except Unavailable:
                await asyncio.sleep(0.05)


class Ports(SimulatedActuator):
    """What is done at ports; standing still is the agents' own."""

    @property
    def takes(self) -> frozenset[Deed]:
        return frozenset({Deed.CONTAIN, Deed.LIMIT, Deed.DENY})


class Pair:
    """An instance in north, and what is in force about it in both blankets."""

    def __init__(self, world: World) -> None:  # noqa: F811
        self.world = world
        self.guest = spec()
        self.at = {one.id: Ports(now=time.time) for one in (world.north, world.south)}
        self.sockets: dict[str, Path] = {}
        #: What was in force in south as the instance got a port there.
        self.plugged: list[set[Deed]] = []
        for one in (world.north, world.south):
            self.sockets[one.id] = one.folder / "l.sock"
            one.loop = LoopHands(
                actuator=self.at[one.id],
                owner=lambda device: self.guest.id if device == "tone" else None,
                journal=one.folder / "loop.sqlite",
                socket=self.sockets[one.id],
                instances=lambda: (self.guest.id,),
            )
        world.south.overlay.before_port = lambda _: self.plugged.append(self.there(world.south.id))

    def there(self, blanket: str) -> set[Deed]:
        return {one.deed for one in self.at[blanket].there.values()}

    async def started(self, north: RemoteAgent, south: RemoteAgent) -> None:
        right = self.world.plane.issue(self.guest.id, self.world.north.id)
        await north.instances.start(StartInstance(spec=self.guest, right=right))
        await south.overlay.apply(Mesh(address="100.64.0.2", generation=1))

    async def found(self, number: int = 1) -> None:
        """Its blanket finds something about it."""
        event = finding(
            "port",
            uid=f"u{number}",
            rule="spoofed-address",
            title="It speaks under another's address",
            severity=Severity.HIGH,
            about="tone",
            at=time.time(),
            evidence={"src_endpoint": {"ip": "10.1.0.2"}, "data": {"proven": False}},
        )
        link = Link(Where(path=self.sockets[self.world.north.id]), "port")
        task = asyncio.create_task(link.run())
        try:
            assert (await asyncio.wait_for(await link.send(event), 20))["ok"]
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def landing(self, south: RemoteAgent, guard: Guard) -> Landing:
        """The target expects it, with what is in force about it."""
        return await south.migration.receive(
            ReceiveInstance(
                operation=guard.operation,
                spec=self.guest,
                source_address="100.64.0.1",
                expires_s=60,
                guard=guard,
            )
        )

    async def received(self, north: RemoteAgent, south: RemoteAgent) -> OperationRef:
        """On its way, with what was in force as it set out."""
        ref = OperationRef(operation=new_id(), instance=self.guest.id)
        guard = await north.loop.guard(GuardRef(operation=ref.operation, instance=self.guest.id))
        landing = await self.landing(south, guard)
        await north.migration.send(
            SendInstance(operation=ref.operation, instance=self.guest.id, landing=landing, expires_s=60)
        )
        return ref

    async def over(self, ref: OperationRef, north: RemoteAgent, south: RemoteAgent) -> SourceReport:
        """All of it has come, and the last of what was in force goes after it."""
        self.world.north.hypervisor.arrive(self.guest.id)
        report = await north.migration.source_status(ref)
        guard = await north.loop.guard(GuardRef(operation=ref.operation, instance=self.guest.id))
        await patient(lambda: south.loop.take_over(guard))
        return report

    async def resumed(self, ref: OperationRef, south: RemoteAgent) -> None:
        right = self.world.plane.commit(self.guest.id, self.world.south.id)
        await south.instances.resume(StartInstance(spec=self.guest, right=right, operation=ref.operation))

    async def incident(self, blanket: str, state: IncidentState) -> Incident:
        """As its owner is told of it."""
        async with asyncio.timeout(20):
            while True:
                told = [
                    from_json(Incident, event.data["incident"])
                    for event in self.world.plane.events.get(blanket, {}).values()
                    if event.kind == "incident"
                ]
                for one in told:
                    if one.state is state:
                        return one
                await asyncio.sleep(0.05)


@pytest.fixture
def pair(world: World) -> Pair:  # noqa: F811
    return Pair(world)


@asynccontextmanager
async def contained(pair: Pair, *do: dict[str, Any]) -> AsyncIterator[tuple[RemoteAgent, RemoteAgent]]:
    async with both(pair.world) as (north, south):
        await pair.started(north, south)
        await patient(lambda: north.loop.apply(policy(*do)))
        yield north, south


async def test_it_is_in_force_before_there_is_a_port_and_until_the_source_is_gone(pair: Pair) -> None:
    here, there = pair.world.north, pair.world.south
    async with contained(pair, CONTAIN) as (north, south):
        await pair.found()
        await until(lambda: pair.there(here.id) == {Deed.CONTAIN})
        ref = await pair.received(north, south)
        assert pair.plugged == [{Deed.CONTAIN}]
        assert there.overlay.expected == {pair.guest.id: there.overlay.ports[pair.guest.id]}
        assert (await pair.over(ref, north, south)).guarded
        await pair.resumed(ref, south)
        assert pair.there(here.id) == pair.there(there.id) == {Deed.CONTAIN}
        await north.migration.release(ref)
        await south.migration.release(ref)
        assert pair.there(here.id) == set()
        assert pair.at[there.id].effects.total() == 1, "what was taken over twice was done once"
        before = await pair.incident(here.id, IncidentState.CLOSED)
        after = await pair.incident(there.id, IncidentState.CONTAINED)
        assert after.id == before.id and after.timeline[0] == before.timeline[0], "its past came with it"
        assert after.version > 1
        await south.loop.close(CloseIncident(incident=after.id, by="ada", undo=True))
        await until(lambda: pair.there(there.id) == set())


async def test_what_is_decided_while_it_is_on_its_way_is_there_before_it_goes_on(pair: Pair) -> None:
    here, there = pair.world.north, pair.world.south
    async with contained(pair, CONTAIN) as (north, south):
        ref = await pair.received(north, south)
        assert pair.plugged == [set()]
        await pair.found()
        await until(lambda: pair.there(here.id) == {Deed.CONTAIN})
        assert (await pair.over(ref, north, south)).guarded
        assert pair.there(there.id) == {Deed.CONTAIN}
        assert await pair.world.south.hypervisor.state(pair.guest.id) is RunState.PAUSED


async def test_what_stands_still_does_not_go_on_elsewhere(pair: Pair) -> None:
    here, there = pair.world.north, pair.world.south
    async with contained(pair, PAUSE) as (north, south):
        await pair.found()
        await until(lambda: here.hypervisor.states[pair.guest.id] is RunState.PAUSED)
        ref = await pair.received(north, south)
        await pair.over(ref, north, south)
        await pair.resumed(ref, south)
        await south.migration.release(ref)
        report = await south.instances.inspect(InstanceRef(instance=pair.guest.id))
        assert (report.state, report.epoch) == (RunState.PAUSED, 2), "it has its right, and stands still"
        found = await pair.incident(there.id, IncidentState.CONTAINED)
        await south.loop.close(CloseIncident(incident=found.id, by="ada", undo=True))
        await until(lambda: there.hypervisor.states[pair.guest.id] is RunState.RUNNING)


async def test_if_it_does_not_come_it_is_in_force_where_it_stays_and_nowhere_else(pair: Pair) -> None:
    here, there = pair.world.north, pair.world.south
    async with contained(pair, CONTAIN) as (north, south):
        await pair.found()
        await until(lambda: pair.there(here.id) == {Deed.CONTAIN})
        ref = await pair.received(north, south)
        await north.migration.cancel(ref)
        await north.migration.release(ref)
        await south.migration.release(ref)
        assert (pair.there(here.id), pair.there(there.id)) == ({Deed.CONTAIN}, set())
        assert pair.guest.id not in there.overlay.ports


async def test_what_was_undone_here_since_does_not_come_again(pair: Pair) -> None:
    """The source tells its last after the instance has gone on."""
    there = pair.world.south
    async with contained(pair, CONTAIN) as (north, south):
        await pair.found()
        ref = await pair.received(north, south)
        await pair.over(ref, north, south)
        await pair.resumed(ref, south)
        found = await pair.incident(there.id, IncidentState.CONTAINED)
        await south.loop.close(CloseIncident(incident=found.id, by="ada", undo=True))
        await until(lambda: pair.there(there.id) == set())
        await south.loop.take_over(
            await north.loop.guard(GuardRef(operation=ref.operation, instance=pair.guest.id))
        )
        assert pair.there(there.id) == set()


async def test_killed_at_the_target_it_is_there_when_it_is_back(pair: Pair) -> None:
    here, there = pair.world.north, pair.world.south
    async with pair.world.north.agent() as north:
        async with pair.world.south.agent() as south:
            await pair.started(north, south)
            await patient(lambda: north.loop.apply(policy(CONTAIN)))
            await pair.found()
            await until(lambda: pair.there(here.id) == {Deed.CONTAIN})
            ref = await pair.received(north, south)
        async with pair.world.south.agent() as south:
            await pair.over(ref, north, south)
            await pair.resumed(ref, south)
            found = await pair.incident(there.id, IncidentState.CONTAINED)
            assert pair.at[there.id].effects.total() == 1
            await south.loop.close(CloseIncident(incident=found.id, by="ada", undo=True))
            await until(lambda: pair.there(there.id) == set())


def _about(guest: InstanceSpec, deed: Deed, **more: Any) -> Guard:
    one = held(guest.id, cloud=CLOUD, blanket=new_id(), deed=deed)
    changed = tuple(replace(of, command=replace(of.command, **more)) for of in one.reactions)
    return Guard(
        operation=new_id(), instance=guest.id, at=time.time(), held=(replace(one, reactions=changed),)
    )


async def test_what_is_about_somebody_else_does_not_come_with_it(pair: Pair) -> None:
    there = pair.world.south
    async with contained(pair) as (north, south):
        await pair.received(north, south)
        other = replace(_about(pair.guest, Deed.CONTAIN), instance=new_id())
        for lie in (other, _about(pair.guest, Deed.DENY, net="10.1.0.3")):
            with pytest.raises(Refused, match="does not come with"):
                await patient(lambda lie=lie: south.loop.take_over(lie))  # type: ignore[misc]
        assert pair.there(there.id) == set()
        await south.loop.take_over(_about(pair.guest, Deed.DENY, net="10.1.0.2"))
        assert pair.there(there.id) == {Deed.DENY}, "its own address is its own"


async def test_what_was_ordered_goes_with_it_under_the_names_of_where_it_goes(pair: Pair) -> None:
    here, there = pair.world.north, pair.world.south
    async with contained(pair) as (north, south):
        about = held(pair.guest.id, cloud=CLOUD, blanket=here.id).reactions[0].command.about
        first = Command(id=new_id(), deed=Deed.CONTAIN, about=about)
        await north.loop.order(OrderDeed(command=first, left_s=600, by=CLOUD))
        assert (
            await north.migration.source_status(OperationRef(operation=new_id(), instance=about.id))
        ).guarded
        second = replace(first, id=new_id())
        order = OrderDeed(command=second, left_s=600, by=CLOUD)
        ref = OperationRef(operation=new_id(), instance=pair.guest.id)
        guard = Guard(operation=ref.operation, instance=pair.guest.id, at=time.time(), ordered=(order,))
        landing = await pair.landing(south, guard)
        assert pair.plugged == [{Deed.CONTAIN}]
        await north.migration.send(
            SendInstance(operation=ref.operation, instance=pair.guest.id, landing=landing, expires_s=60)
        )
        await pair.over(ref, north, south)
        await pair.resumed(ref, south)
        await north.migration.release(ref)
        await south.migration.release(ref)
        assert (pair.there(here.id), pair.there(there.id)) == (set(), {Deed.CONTAIN})
        assert not await north.loop.ordered(OrderedRef(command=first.id))
        await south.loop.recall(OrderedRef(command=second.id))
        assert pair.there(there.id) == set()


# ---------------------------------------------------------------- an instance that starts


def _start(pair: Pair, place: str, guard: Guard | None = None) -> StartInstance:
    right = pair.world.plane.issue(pair.guest.id, place)
    return StartInstance(spec=pair.guest, right=right, guard=guard)


async def test_what_an_instance_starts_with_is_in_force_before_it_has_a_port(pair: Pair) -> None:
    """Its blanket was lost, and another one has never heard of it."""
    there = pair.world.south
    async with contained(pair) as (_, south):
        await pair.world.plane.agents[pair.world.north.id].instances.stop(
            StopInstance(instance=pair.guest.id, mode=StopMode.DESTROY)
        )
        _given_up(pair)
        guard = _about(pair.guest, Deed.CONTAIN)
        report = await south.instances.start(_start(pair, there.id, guard))
        assert report.state is RunState.RUNNING and pair.plugged == [{Deed.CONTAIN}]
        assert (await south.report()).guards_starts
        found = await pair.incident(there.id, IncidentState.CONTAINED)
        assert found.id == guard.held[0].incident.id, "its incident goes on here"
        await south.loop.close(CloseIncident(incident=found.id, by="ada", undo=True))
        await until(lambda: pair.there(there.id) == set())


def _given_up(pair: Pair) -> None:
    record = pair.world.plane.rights[pair.guest.id]
    pair.world.plane.rights[pair.guest.id] = replace(record, holder=None, nonce=None)


async def _begun_again(pair: Pair, north: RemoteAgent, guard: Guard | None = None) -> RunState:
    await north.instances.stop(StopInstance(instance=pair.guest.id, mode=StopMode.DESTROY))
    _given_up(pair)
    return (await north.instances.start(_start(pair, pair.world.north.id, guard))).state


async def test_what_a_reboot_undid_is_in_force_again_before_it_has_a_port(pair: Pair) -> None:
    """What its own loop does about it, and what was ordered: neither is anywhere but in the journal."""
    here = pair.world.north
    plugged: list[set[Deed]] = []
    here.overlay.before_port = lambda _: plugged.append(pair.there(here.id))
    async with contained(pair, CONTAIN) as (north, _):
        await pair.found()
        await pair.incident(here.id, IncidentState.CONTAINED)
        about = held(pair.guest.id, cloud=CLOUD, blanket=here.id).reactions[0].command.about
        limit = Command(id=new_id(), deed=Deed.LIMIT, about=about, kbytes=10)
        await north.loop.order(OrderDeed(command=limit, left_s=600, by=CLOUD))
        pair.at[here.id].there.clear()
        plugged.clear()
        assert await _begun_again(pair, north) is RunState.RUNNING
        assert plugged == [{Deed.CONTAIN, Deed.LIMIT}]


async def test_back_where_it_was_its_incident_is_told_as_it_is(pair: Pair) -> None:
    """Though it was closed there as the instance left, under a version that elsewhere it never came to."""
    here = pair.world.north

    def last() -> Incident:
        told = [one for one in pair.world.plane.events[here.id].values() if one.kind == "incident"]
        incidents = [from_json(Incident, one.data["incident"]) for one in told]
        return max(incidents, key=lambda one: one.version)

    async with contained(pair, CONTAIN) as (north, south):
        for number in range(5):
            await pair.found(number)
        await pair.incident(here.id, IncidentState.CONTAINED)
        guard = await north.loop.guard(GuardRef(operation=new_id(), instance=pair.guest.id))
        ref = await pair.received(north, south)
        await pair.over(ref, north, south)
        await pair.resumed(ref, south)
        await north.migration.release(ref)
        await pair.incident(here.id, IncidentState.CLOSED)
        closed = last()
        assert closed.state is IncidentState.CLOSED
        await south.instances.stop(StopInstance(instance=pair.guest.id, mode=StopMode.DESTROY))
        _given_up(pair)
        await north.instances.start(_start(pair, here.id, guard))
        assert pair.there(here.id) == {Deed.CONTAIN}
        await until(lambda: last().state is IncidentState.CONTAINED)
        assert last().id == closed.id and last().version > closed.version


async def test_what_stands_still_is_started_so(pair: Pair) -> None:
    there = pair.world.south
    async with contained(pair) as (north, south):
        await north.instances.stop(StopInstance(instance=pair.guest.id, mode=StopMode.DESTROY))
        _given_up(pair)
        report = await south.instances.start(_start(pair, there.id, _about(pair.guest, Deed.PAUSE)))
        assert report.state is RunState.PAUSED and there.hypervisor.boots == [pair.guest.id]
        found = await pair.incident(there.id, IncidentState.CONTAINED)
        await south.loop.close(CloseIncident(incident=found.id, by="ada", undo=True))
        await until(lambda: there.hypervisor.states[pair.guest.id] is RunState.RUNNING)


async def test_what_was_undone_here_does_not_come_again_though_nobody_was_told_yet(pair: Pair) -> None:
    here = pair.world.north
    async with contained(pair, CONTAIN) as (north, _):
        await pair.found()
        found = await pair.incident(here.id, IncidentState.CONTAINED)
        old = await north.loop.guard(GuardRef(operation=new_id(), instance=pair.guest.id))
        assert len(old.held) == 1
        await north.loop.close(CloseIncident(incident=found.id, by="ada", undo=True))
        await until(lambda: pair.there(here.id) == set())
        assert await _begun_again(pair, north, old) is RunState.RUNNING
        assert pair.there(here.id) == set()


async def test_a_blanket_without_a_loop_starts_nothing_that_something_is_in_force_about(
    world: World,  # noqa: F811
) -> None:
    guest = spec()
    async with both(world) as (north, _):
        right = world.plane.issue(guest.id, world.north.id)
        request = StartInstance(spec=guest, right=right, guard=_about(guest, Deed.CONTAIN))
        assert not (await north.report()).guards_starts
        with pytest.raises(Refused, match="no loop"):
            await north.instances.start(request)
        assert world.north.hypervisor.boots == []
