"""What is in force about an instance outlives the blanket that had it: kept by the control plane, and given
to the next one before the instance has a port there."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from blanket_double import Double
from control_rig import Bench
from incident_rig import incident_event
from sqlalchemy import select, update

from supercloud.agent.loop import told
from supercloud.model.incidents import Incident, IncidentState
from supercloud.model.names import Id, new_id
from supercloud.model.reactions import LEFT, LONGEST_S, Command, Deed, Reaction, ReactionState
from supercloud.model.states import InstanceState, OperationState
from supercloud.ports.controller import Event
from supercloud.services import guards, inbox
from supercloud.services.incident_views import CloseIt
from supercloud.services.store.security import GuardRow
from supercloud.services.store.tables import Volume
from supercloud.wire.codec import from_json, to_json

pytestmark = pytest.mark.contract


class Story:
    """Of one incident about an instance, as a blanket tells it version by version."""

    def __init__(self, bench: Bench, instance: Id) -> None:
        self.bench = bench
        self.instance = instance
        self.own = new_id()
        self.reaction = new_id()
        self.version = 0

    async def told_by(
        self,
        double: Double,
        state: ReactionState = ReactionState.VERIFIED,
        *,
        until: float | None = None,
        at: float | None = None,
        deed: dict[str, Any] | None = None,
        **more: Any,
    ) -> None:
        self.version += 1
        birth = double.birth
        event = incident_event(
            self.own,
            cloud=birth.cloud,
            blanket=birth.blanket,
            version=self.version,
            instance=self.instance,
            reaction=state,
        )
        (said,) = event.data["reactions"]
        one = from_json(Reaction, said)
        command = replace(one.command, id=self.reaction, until=until or one.command.until, **(deed or {}))
        event.data["reactions"] = [to_json(Reaction, replace(one, command=command, **more))]
        event = replace(event, at=at or event.at)
        await inbox.take(self.bench.parts.store, birth.blanket, birth.cloud, [event], at=time.time())

    async def kept(self) -> Sequence[Reaction]:
        async with self.bench.parts.store.read() as session:
            held = await guards.kept(session, self.instance)
        assert all(one.incident.id == self.own for one in held)
        return [one for of in held for one in of.reactions]


async def _two(bench: Bench) -> tuple[Double, Double, Story]:
    north, south = await bench.blanket("north"), await bench.blanket("south")
    story = Story(bench, await bench.run())
    return north, south, story


async def _data_elsewhere(bench: Bench) -> None:
    """What was lost with its blanket is somewhere else after all, as a replica would have it."""
    async with bench.parts.store.write() as session:
        await session.execute(update(Volume).values(lost=None))


async def test_an_instance_whose_blanket_was_lost_starts_with_what_was_in_force(bench: Bench) -> None:
    north, south, story = await _two(bench)
    await story.told_by(north)
    bench.site.guards[story.instance] = {story.reaction}
    await bench.done(await bench.control.remove_blanket("north", force=True))
    await _data_elsewhere(bench)
    await bench.done(await bench.control.start_instance("web"))
    assert (await bench.control.instance("web")).blanket == "south"
    assert bench.site.unguarded == [] and south.loop.holds(story.instance) == {story.reaction}


async def test_a_blanket_that_forgot_it_is_told(bench: Bench) -> None:
    """Its machine ended, and what came back had an older disk."""
    north, _, story = await _two(bench)
    await story.told_by(north)
    bench.site.guards[story.instance] = {story.reaction}
    await bench.done(await bench.control.stop_blanket("north", force=True))
    await bench.done(await bench.control.start_blanket("north"))
    assert north.loop.holds(story.instance) == set()
    await bench.done(await bench.control.start_instance("web"))
    assert bench.site.unguarded == [] and north.loop.holds(story.instance) == {story.reaction}


async def test_it_is_kept_until_it_is_told_that_it_is_over(bench: Bench) -> None:
    north, _, story = await _two(bench)
    for state in (ReactionState.INTENDED, ReactionState.DONE, ReactionState.VERIFIED, ReactionState.UNDOING):
        await story.told_by(north, state)
        assert [one.id for one in await story.kept()] == [story.reaction], state
    await story.told_by(north, ReactionState.UNDONE, why="closed by ada", ended_at=time.time())
    assert await story.kept() == []


async def test_that_an_instance_left_is_no_end_of_what_is_in_force_about_it(bench: Bench) -> None:
    north, _, story = await _two(bench)
    await story.told_by(north)
    await story.told_by(north, ReactionState.UNDONE, why=LEFT, ended_at=time.time())
    assert len(await story.kept()) == 1


async def test_only_the_blanket_that_has_it_says_what_is_in_force_about_it(bench: Bench) -> None:
    north, south, story = await _two(bench)
    await story.told_by(south)
    assert await story.kept() == [], "it never had it"
    await story.told_by(north)
    await story.told_by(south, ReactionState.UNDONE, why="undone by a liar", ended_at=time.time())
    assert len(await story.kept()) == 1
    await bench.done(await bench.control.migrate_instance("web", to="south"))
    await story.told_by(north, ReactionState.UNDONE, why="it had been there", ended_at=time.time())
    assert len(await story.kept()) == 1
    await story.told_by(south, ReactionState.UNDONE, why="closed by ada", ended_at=time.time())
    assert await story.kept() == []


async def test_of_addresses_only_its_own_come_with_it(bench: Bench) -> None:
    """Another's would have it start nowhere: no blanket takes that over."""
    north, _, story = await _two(bench)
    await story.told_by(north, deed={"deed": Deed.DENY, "net": "10.77.0.7"})
    assert await story.kept() == []
    (nic,) = north.specs[story.instance].nics
    await story.told_by(north, deed={"deed": Deed.DENY, "net": nic.ip})
    assert [one.command.net for one in await story.kept()] == [nic.ip]


async def test_it_ends_in_its_time_and_no_sooner_by_a_clock_that_is_behind(bench: Bench) -> None:
    north, _, story = await _two(bench)
    now = time.time()
    await story.told_by(north, until=now + 600 - 5000, at=now - 5000)
    (one,) = await story.kept()
    assert one.command.until == pytest.approx(now + 600, abs=30)
    await story.told_by(north, until=now + 600, at=now + 5000)
    (one,) = await story.kept()
    assert one.command.until == pytest.approx(now + 600, abs=30)
    await story.told_by(north, until=now + 1e9)
    (one,) = await story.kept()
    assert one.command.until == pytest.approx(now + LONGEST_S, abs=30)
    await story.told_by(north, until=now - 10)
    assert await story.kept() == []


async def test_an_agent_of_before_starts_nothing_that_something_is_in_force_about(bench: Bench) -> None:
    north, _, story = await _two(bench)
    await story.told_by(north)
    await bench.done(await bench.control.stop_instance("web"))
    north.differs["guards_starts"] = False
    view = await bench.done(await bench.control.start_instance("web"), OperationState.FAILED)
    assert "blanket upgrade" in str(view.error) and bench.site.running(story.instance) == []
    await story.told_by(north, ReactionState.LAPSED, why="its time is over", ended_at=time.time())
    await bench.done(await bench.control.start_instance("web"))


async def test_a_person_closes_what_a_lost_blanket_left_open(bench: Bench) -> None:
    """Nobody else can: its own loop is no more."""
    north, south, story = await _two(bench)
    await story.told_by(north)
    await bench.done(await bench.control.remove_blanket("north", force=True))
    (row,) = await bench.control.incidents(open_only=True)
    assert (await bench.control.close_incident(row.id, CloseIt(undo=True))).incident.state is (
        IncidentState.CLOSED
    )
    assert await bench.control.incidents(open_only=True) == []
    await _data_elsewhere(bench)
    await bench.done(await bench.control.start_instance("web"))
    assert south.loop.holds(story.instance) == set()


async def test_what_stands_still_is_shown_so(bench: Bench) -> None:
    north, _, story = await _two(bench)
    await bench.done(await bench.control.stop_instance("web"))
    north.stands_still.add(story.instance)
    await bench.done(await bench.control.start_instance("web"))
    assert (await bench.control.instance("web")).state is InstanceState.PAUSED


async def test_it_goes_with_the_instance_and_one_that_lies_loses_its_own(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    north, _, story = await _two(bench)
    monkeypatch.setattr(guards, "KEPT", 2)
    for _ in range(3):
        story.reaction = new_id()
        await story.told_by(north)
    assert len(await story.kept()) == 2
    await bench.done(await bench.control.remove_instance("web", force=True))
    async with bench.parts.store.read() as session:
        assert list(await session.scalars(select(GuardRow))) == []


def test_what_is_in_force_is_told_before_what_has_ended() -> None:
    """However many were, and however small it has to be."""
    event = incident_event(new_id(), cloud=new_id(), blanket=new_id())
    incident = from_json(Incident, event.data["incident"])
    (first,) = [from_json(Reaction, one) for one in event.data["reactions"]]

    def one(state: ReactionState, number: int) -> Reaction:
        command: Command = replace(first.command, id=new_id(), deed=Deed.DENY, net=f"10.0.0.{number}")
        return replace(first, command=command, state=state, why="x" * 300)

    live = [one(ReactionState.VERIFIED, number) for number in range(10)]
    ended = [one(ReactionState.LAPSED, number) for number in range(100)]
    said = told(incident, [*live, *ended])
    assert len(json.dumps(said)) < 15 << 10
    kept = [from_json(Reaction, of).id for of in said["reactions"]]
    assert kept[:10] == [of.id for of in live]
    assert Event(id=new_id(), seq=1, kind="incident", at=0.0, data=said)
