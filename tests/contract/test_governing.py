"""What the control plane does by a horizontal loop: moves instances, closes blankets, changes keys."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from blanket_double import Double
from control_rig import Bench, World, furnish
from horizontal_rig import until
from incident_rig import held, incident_event
from placing_rig import blanket, run
from sqlalchemy import update

from supercloud.agent.loop import KIND, told
from supercloud.model.errors import Refused
from supercloud.model.findings import Layer, Object, ObjectKind, Severity
from supercloud.model.incidents import Incident, IncidentState, Seen
from supercloud.model.names import new_id
from supercloud.model.placement import Placement
from supercloud.model.reactions import Deed, ReactionState
from supercloud.model.states import OperationState
from supercloud.ports.controller import Event
from supercloud.services import inbox
from supercloud.services.incident_views import CloseIt
from supercloud.services.policy_views import SetPolicy
from supercloud.services.requests import AddProvider
from supercloud.services.store.tables import Volume

pytestmark = pytest.mark.contract
QUARANTINE = {"action": "contain", "target": "blanket", "for": "1h"}
EVACUATE = {"action": "contain", "target": "domain", "for": "1h"}
MOVE = {"action": "set", "target": "blanket", "for": "10m"}
ROTATE = {"action": "update", "target": "keys", "for": "1h"}
CONTAIN = {"action": "contain", "target": "device", "for": "10m"}


@dataclass
class Fleet:
    """Blankets n1 and n2 on p, s1 on q."""

    bench: Bench
    blankets: dict[str, Double]

    async def policy(self, *do: dict[str, Any], rule: str = "changed-measured-file") -> None:
        said = {
            "version": 1,
            "policies": {"meet": {"when": {"rule": rule}, "do": list(do), "else": ["escalate"]}},
        }
        await self.bench.control.set_cloud_policy("c", SetPolicy(policy=json.dumps(said)), horizontal=True)

    async def finds(
        self, name: str, instance: str | None = None, rule: str = "changed-measured-file"
    ) -> None:
        """A blanket's loop finds something about itself, or about an instance of its."""
        double, now = self.blankets[name], time.time()
        about = Object(kind=ObjectKind.MACHINE, id=double.birth.blanket)
        if instance is not None:
            about = Object(kind=ObjectKind.INSTANCE, id=instance)
        incident = Incident(
            id=new_id(),
            domain=double.birth.blanket,
            cloud=double.birth.cloud,
            state=IncidentState.OPEN,
            severity=Severity.CRITICAL,
            title=rule,
            opened_at=now,
            last_at=now,
            objects=(about,),
            seen=(Seen(rule=rule, layer=Layer.L1, object=about, first=now, last=now),),
            findings=1,
        )
        event = Event(id=new_id(), seq=1, kind=KIND, at=now, data=told(incident, []))
        parts = self.bench.parts
        await inbox.take(parts.store, double.birth.blanket, double.birth.cloud, [event], at=now)
        parts.horizontal.changed()

    async def reaction(self, state: str) -> dict[str, Any]:
        """The one reaction of the one horizontal incident, once it is in a state."""
        found: list[Any] = []

        async def there() -> bool:
            control = self.bench.control
            rows = [one for one in await control.incidents() if one.horizontal]
            found[:] = [one for row in rows for one in (await control.incident(row.id)).reactions]
            return bool(found) and all(str(one.state) == state for one in found)

        await until(
            there,
            lambda: f"{[(str(one.state), one.why) for one in found]}, not {state}",
            seconds=120,  # whole migrations, beside whatever else this machine does
        )
        (one,) = found
        return {"why": one.why, "id": one.id}

    async def close(self) -> None:
        (row,) = [one for one in await self.bench.control.incidents(open_only=True) if one.horizontal]
        await self.bench.control.close_incident(row.id, CloseIt(undo=True))

    async def where(self) -> dict[str, str | None]:
        return {one.name: one.blanket for one in await self.bench.control.instances()}

    async def closed(self) -> set[str]:
        return {one.name for one in await self.bench.control.blankets() if one.quarantined_by is not None}


@pytest.fixture
async def fleet(world: World) -> AsyncIterator[Fleet]:
    async with world.up() as made:
        await furnish(made, world.keys)
        await made.control.add_provider(AddProvider(name="q", kind="simulated"))
        names = ("n1", "n2", "s1")
        doubles = await asyncio.gather(*(blanket(made, name) for name in names))
        yield Fleet(made, dict(zip(names, doubles, strict=True)))


async def test_a_blanket_is_closed_and_its_instances_move_away(fleet: Fleet) -> None:
    await run(fleet.bench, "web", "n1")
    await run(fleet.bench, "db", "n1")
    await run(fleet.bench, "far", "s1")
    await fleet.policy(QUARANTINE)
    await fleet.finds("n1")
    done = await fleet.reaction("verified")
    where = await fleet.where()
    assert where["web"] != "n1" and where["db"] != "n1" and where["far"] == "s1"
    assert await fleet.closed() == {"n1"}
    assert (await fleet.bench.control.blanket("n1")).quarantined_by == done["id"]
    with pytest.raises(Refused, match="n1 takes no instance: it is in quarantine by reaction"):
        await fleet.bench.control.migrate_instance("web", to="n1")
    assert await run(fleet.bench, "new") != "n1"
    kinds = [one.kind for one in await fleet.bench.control.operations()]
    assert (kinds.count("blanket.leave"), kinds.count("instance.migrate")) == (1, 2)
    await fleet.close()
    await fleet.reaction("undone")
    assert await fleet.closed() == set()
    assert await fleet.where() == where | {"new": (await fleet.where())["new"]}, "nobody is moved back"
    await fleet.bench.done(await fleet.bench.control.migrate_instance("web", to="n1"))


async def test_a_domain_is_left_and_nobody_goes_to_another_blanket_of_it(fleet: Fleet) -> None:
    await run(fleet.bench, "web", "n1")
    await run(fleet.bench, "db", "n2")
    await fleet.policy(EVACUATE)
    await fleet.finds("n1")
    await fleet.reaction("verified")
    assert await fleet.where() == {"web": "s1", "db": "s1"}
    assert await fleet.closed() == {"n1", "n2"}


async def test_one_instance_moves(fleet: Fleet) -> None:
    instance = fleet.bench.control
    await run(fleet.bench, "web", "n1")
    await run(fleet.bench, "db", "n1")
    web = (await instance.instance("web")).id
    await fleet.policy(MOVE, rule="compromised-*")
    await fleet.finds("n1", web, rule="compromised-host")
    await fleet.reaction("verified")
    where = await fleet.where()
    assert where["web"] != "n1" and where["db"] == "n1"
    assert await fleet.closed() == set()


async def test_the_keys_of_the_mesh_are_changed(fleet: Fleet) -> None:
    before = {name: one.key for name, one in fleet.blankets.items()}
    await fleet.policy(ROTATE)
    await fleet.finds("s1")
    await fleet.reaction("verified")
    assert all(one.key != before[name] for name, one in fleet.blankets.items())


async def test_where_nothing_is_left_to_go_to_nothing_is_closed(fleet: Fleet) -> None:
    """Whoever could have every blanket closed would have hurt the owner more than any attack."""
    control = fleet.bench.control
    for name in ("n1", "n2"):
        await fleet.bench.done(await control.remove_blanket(name))
    await run(fleet.bench, "web", "s1")
    await fleet.policy(EVACUATE)
    await fleet.finds("s1")
    refused = await fleet.reaction("undone")
    assert "no other blanket" in refused["why"]
    assert await fleet.closed() == set() and await fleet.where() == {"web": "s1"}


async def test_what_could_not_move_is_told_and_the_blanket_stays_closed(fleet: Fleet) -> None:
    await run(fleet.bench, "web", "n1", placement=_only("p"))
    await fleet.policy(EVACUATE)
    await fleet.finds("n1")
    await fleet.reaction("unverified")
    assert await fleet.closed() == {"n1", "n2"} and await fleet.where() == {"web": "n1"}
    (operation,) = [
        one for one in await fleet.bench.control.operations(kind="blanket.leave") if one.error is not None
    ]
    assert operation.state is OperationState.FAILED and "domain q is not among p" in str(operation.error)
    (row,) = [one for one in await fleet.bench.control.incidents() if one.horizontal]
    assert row.state is IncidentState.ESCALATED


async def test_what_was_ordered_about_an_instance_follows_it(fleet: Fleet) -> None:
    """Contained where it was, it is contained where it comes, before it goes on; and no more where it was."""
    await run(fleet.bench, "web", "n1", networks=("lan",))
    web = (await fleet.bench.control.instance("web")).id
    await fleet.policy(CONTAIN)
    await fleet.finds("n1", web)
    await fleet.reaction("verified")
    n1, s1 = fleet.blankets["n1"], fleet.blankets["s1"]
    (before,) = n1.loop.there.values()
    deeds: list[set[str]] = []
    noted = s1.note_guard
    s1.note_guard = lambda instance, moment: (  # type: ignore[method-assign]
        deeds.append({str(one.command.deed) for one in s1.loop.there.values()}),
        noted(instance, moment),
    )
    await fleet.bench.done(await fleet.bench.control.migrate_instance("web", to="s1"))
    assert deeds == [{"contain:device"}, {"contain:device"}], "as it is plugged in, and as it goes on"

    async def moved() -> bool:
        return not n1.loop.there and len(s1.loop.there) == 1

    await until(moved, lambda: f"{n1.loop.there} {s1.loop.there}")
    (after,) = s1.loop.there.values()
    assert after.command.id != before.command.id and after.command.about.id == web
    await fleet.reaction("verified")
    await fleet.close()

    async def undone() -> bool:
        return not s1.loop.there

    await until(undone, lambda: str(s1.loop.there))


async def test_what_was_ordered_about_an_instance_is_there_as_it_starts_elsewhere(fleet: Fleet) -> None:
    """Its blanket was lost, and with that whatever was ordered there."""
    bench = fleet.bench
    await run(bench, "web", "n1", networks=("lan",))
    web = (await bench.control.instance("web")).id
    await fleet.policy(CONTAIN)
    await fleet.finds("n1", web)
    await fleet.reaction("verified")
    await bench.done(await bench.control.remove_blanket("n1", force=True))
    async with bench.parts.store.write() as session:
        await session.execute(update(Volume).values(lost=None))  # they are elsewhere after all
    deeds: list[set[str]] = []
    others = (fleet.blankets["n2"], fleet.blankets["s1"])  # whatever the lost one still does
    for double in others:
        double.note_guard = lambda _, moment, of=double: deeds.append(  # type: ignore[method-assign]
            {moment, *(str(one.command.deed) for one in of.loop.there.values())}
        )
    await bench.done(await bench.control.start_instance("web"))
    assert deeds == [{"started", "contain:device"}]
    await fleet.reaction("verified")
    await fleet.close()

    async def undone() -> bool:
        return not any(one.loop.there for one in others)

    await until(undone, lambda: "what was ordered is there still")


async def test_what_is_told_again_by_where_it_came_is_not_seen_anew(fleet: Fleet) -> None:
    await run(fleet.bench, "web", "n1")
    web = (await fleet.bench.control.instance("web")).id
    await fleet.policy(CONTAIN, rule="port-scan")
    control, parts = fleet.bench.control, fleet.bench.parts
    n1, s1 = fleet.blankets["n1"], fleet.blankets["s1"]
    one = held(web, cloud=n1.birth.cloud, blanket=n1.birth.blanket)
    for double, version in ((n1, 1), (s1, 2)):
        incident = told(_version(one.incident, version), [])
        event = Event(id=new_id(), seq=1, kind=KIND, at=time.time(), data=incident)
        await inbox.take(parts.store, double.birth.blanket, double.birth.cloud, [event], at=time.time())
        parts.horizontal.changed()
        await fleet.reaction("verified")
        if version == 1:
            await fleet.bench.done(await control.migrate_instance("web", to="s1"))
    (row,) = [one for one in await control.incidents() if one.horizontal]
    assert row.findings == 1


def _version(incident: Incident, version: int) -> Incident:
    return replace(incident, version=version)


def _only(domain: str) -> Placement:
    return Placement(domains=(domain,))


RESTORE = {"action": "restore", "target": "volume", "for": "1h"}


async def test_an_instance_goes_back_to_its_image_and_runs_again(fleet: Fleet) -> None:
    """Once, in one operation, where it was, under another right."""
    control = fleet.bench.control
    await run(fleet.bench, "web", "n1")
    web = await control.instance("web")
    await fleet.policy(RESTORE, rule="compromised-*")
    await fleet.finds("n1", web.id, rule="compromised-host")
    await fleet.reaction("verified")
    (root,) = web.volumes
    assert fleet.blankets["n1"].restored == [((await control.volume(root)).id, None)]
    after = await control.instance("web")
    assert (str(after.state), after.blanket, after.epoch) == ("running", "n1", web.epoch + 1)
    (operation,) = await control.operations(kind="instance.restore")
    assert operation.state is OperationState.SUCCEEDED


async def test_what_it_cannot_go_back_to_is_told_and_it_runs_on(fleet: Fleet) -> None:
    await run(fleet.bench, "web", "n1")
    web = await fleet.bench.control.instance("web")
    await fleet.policy({**RESTORE, "snapshot": "good"}, rule="compromised-*")
    await fleet.finds("n1", web.id, rule="compromised-host")
    told = await fleet.reaction("undone")
    assert "has no snapshot good" in told["why"]
    assert (await fleet.bench.control.instance("web")).epoch == web.epoch
    assert not fleet.blankets["n1"].restored


async def test_evidence_that_is_being_kept_comes_first(fleet: Fleet) -> None:
    """It ends with the machine: as long as its blanket is at it, nothing is begun."""
    control, double = fleet.bench.control, fleet.blankets["n1"]
    await run(fleet.bench, "web", "n1")
    web = await control.instance("web")
    own = new_id()

    async def keeps(state: ReactionState, version: int) -> None:
        event = incident_event(
            own, cloud=double.birth.cloud, blanket=double.birth.blanket, instance=web.id,
            reaction=state, version=version, state=IncidentState.REACTING,
        )  # fmt: skip
        event.data["reactions"][0]["command"]["deed"] = Deed.KEEP.value
        await inbox.take(
            fleet.bench.parts.store, double.birth.blanket, double.birth.cloud, [event], at=time.time()
        )

    await keeps(ReactionState.INTENDED, 1)
    await fleet.policy(RESTORE, rule="compromised-*")
    await fleet.finds("n1", web.id, rule="compromised-host")

    async def decided() -> bool:
        rows = [one for one in await control.incidents() if one.horizontal]
        return any([(await control.incident(row.id)).orders for row in rows])

    await until(decided, lambda: "it was not decided")
    for _ in range(3):
        await fleet.bench.parts.horizontal._govern()
    assert not await control.operations(kind="instance.restore") and not double.restored
    await keeps(ReactionState.VERIFIED, 2)
    await fleet.reaction("verified")
    assert len(double.restored) == 1
