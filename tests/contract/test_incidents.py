"""Incidents in the control plane: told by agents, read by whose cloud it is, closed where they are."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from api_rig import problem
from incident_rig import incident_event
from provider_rig import Estate, estate
from stream_rig import watching

from supercloud.model.incidents import Entry, EntryKind, IncidentState
from supercloud.model.names import new_id
from supercloud.services import inbox, incidents

pytestmark = pytest.mark.contract


@pytest.fixture
async def people(database_url: str, tmp_path: Path) -> AsyncIterator[Estate]:
    async with estate(database_url, tmp_path) as made:
        yield made


async def tell(people: Estate, own: str, **more: Any) -> int:
    """As the agent of Alice's blanket."""
    blanket, cloud = people.machines["c1"], people.clouds["c"]
    event = incident_event(own, cloud=cloud, blanket=blanket, **more)
    return await inbox.take(people.api.bench.parts.store, blanket, cloud, [event], at=time.time())


async def test_an_incident_is_read_by_whose_cloud_it_is_and_nobody_else(people: Estate) -> None:
    assert await tell(people, new_id()) == 1
    (found,) = (await people.alice.get("/incidents")).json()
    assert (found["state"], found["severity"], found["cloud"]) == ("contained", "high", "c")
    assert (found["blanket"], found["layers"], found["findings"]) == ("c1", ["L2"], 3)
    path = f"/incidents/{found['id']}"
    whole = (await people.alice.get(path)).json()
    assert whole["incident"] == found
    (reaction,) = whole["reactions"]
    assert (reaction["policy"], reaction["reaction"], reaction["state"]) == (
        "contain",
        "contain:device",
        "verified",
    )
    assert reaction["command"]["action"] == "contain"
    assert whole["timeline"][0]["says"] == "high: Scan for open ports"
    for who in (people.bob, people.carol):
        assert (await who.get("/incidents")).json() == []
        problem(await who.get(path), 404, "not-found")
        problem(await who.post(f"{path}/close", json={}), 404, "not-found")
    assert (await people.alice.get("/incidents", params={"state": "open"})).json() == []


async def test_the_latest_word_counts_and_repeats_change_nothing(people: Estate) -> None:
    own = new_id()
    await tell(people, own, version=5, title="later")
    await tell(people, own, version=3, title="earlier", state=IncidentState.OPEN)
    await tell(people, own, version=5, title="a repeat")
    (found,) = (await people.alice.get("/incidents")).json()
    assert (found["title"], found["state"]) == ("later", "contained")


async def test_a_blanket_says_nothing_about_anothers_incident(people: Estate) -> None:
    own = new_id()
    await tell(people, own, version=1)
    blanket, cloud = people.machines["b1"], people.clouds["b"]
    event = incident_event(
        own, cloud=people.clouds["c"], blanket=people.machines["c1"], version=9, title="lies"
    )
    await inbox.take(people.api.bench.parts.store, blanket, cloud, [event], at=time.time())
    (kept,) = (await people.alice.get("/incidents")).json()
    (his,) = (await people.bob.get("/incidents")).json()
    assert kept["title"] == "Scan for open ports"
    assert (his["title"], his["cloud"], his["blanket"]) == ("lies", "b", "b1"), "it is its own word"
    assert kept["id"] != his["id"]


@pytest.mark.parametrize(
    "data",
    [{}, {"incident": None}, {"incident": {"id": "x"}}, {"incident": [], "reactions": 5}],
    ids=["nothing", "null", "odd", "list"],
)
async def test_what_cannot_be_read_is_acknowledged_and_gone(people: Estate, data: dict[str, Any]) -> None:
    blanket, cloud = people.machines["c1"], people.clouds["c"]
    event = replace(incident_event(new_id(), cloud=cloud, blanket=blanket), data=data)
    assert await inbox.take(people.api.bench.parts.store, blanket, cloud, [event], at=time.time()) == 1
    assert (await people.alice.get("/incidents")).json() == []


async def test_detectors_words_are_one_line(people: Estate) -> None:
    entry = Entry(at=1.0, kind=EntryKind.FINDING, says="a\nb\x1b[31mc")
    await tell(people, new_id(), title="x\ny\x1b[2J", timeline=(entry,))
    (found,) = (await people.alice.get("/incidents")).json()
    assert found["title"] == "x y [2J"
    whole = (await people.alice.get(f"/incidents/{found['id']}")).json()
    assert whole["timeline"][0]["says"] == "a b [31mc"


async def test_a_flood_pushes_out_its_own_and_the_closed_ones_first(
    people: Estate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(incidents, "KEPT", 3)
    still = new_id()
    await tell(people, still, title="still open", last_at=1.0)
    for number in range(6):
        await tell(
            people,
            new_id(),
            title=str(number),
            state=IncidentState.CLOSED,
            closed_at=2.0,
            last_at=2.0 + number,
        )
    titles = {one["title"] for one in (await people.alice.get("/incidents")).json()}
    assert titles == {"still open", "4", "5"}


async def test_closing_is_told_to_the_blanket(people: Estate) -> None:
    own = new_id()
    await tell(people, own)
    (found,) = (await people.alice.get("/incidents")).json()
    answer = await people.alice.post(f"/incidents/{found['id']}/close", json={"undo": True})
    assert answer.is_success, answer.text
    double = people.api.bench.site.machines[people.machines["c1"]]
    (asked,) = double.loop.closed
    assert (asked.incident, asked.undo) == (own, True)
    assert asked.by.startswith("principal ")


async def test_an_answer_is_told_to_the_blanket(people: Estate) -> None:
    await tell(people, new_id())
    (found,) = (await people.alice.get("/incidents")).json()
    path = f"/incidents/{found['id']}"
    (reaction,) = (await people.alice.get(path)).json()["reactions"]
    where = f"{path}/reactions/{reaction['id']}/answer"
    assert (await people.alice.post(where, json={"yes": False})).is_success
    problem(await people.bob.post(where, json={"yes": True}), 404, "not-found")
    problem(
        await people.alice.post(f"{path}/reactions/{new_id()}/answer", json={"yes": True}), 404, "not-found"
    )
    (asked,) = people.api.bench.site.machines[people.machines["c1"]].loop.answered
    assert (asked.reaction, asked.yes) == (reaction["id"], False)


async def test_who_watches_is_told_as_it_changes_and_nobody_else_is(people: Estate) -> None:
    own = new_id()
    async with watching(people.alice, kind="incident") as stream:
        await stream.next()
        begun = str(people.api.bench.parts.feed.now)
        await tell(people, own, state=IncidentState.OPEN)
        opened = await stream.change(kind="incident")
        assert (opened["act"], opened["name"], opened["state"]) == ("added", "Scan for open ports", "open")
        assert opened["data"]["severity"] == "high" and opened["data"]["blanket"] == people.machines["c1"]
        await tell(people, own, version=2)
        changed = await stream.change(kind="incident")
        assert (changed["id"], changed["act"], changed["state"]) == (opened["id"], "changed", "contained")
        await tell(people, own, version=2, title="a repeat")  # is nothing that changed
        await tell(people, own, version=3, state=IncidentState.CLOSED, closed_at=time.time())
        closed = await stream.change(kind="incident")
        assert (closed["state"], closed["data"]["version"]) == ("closed", 3)
    async with watching(people.bob, since=begun, lasts_s=0) as stream:
        assert not [one for one in await stream.rest() if one.data.get("kind") == "incident"]


async def test_those_that_are_not_closed_are_listed_alone(people: Estate) -> None:
    await tell(people, new_id(), title="done with", state=IncidentState.CLOSED, closed_at=2.0)
    await tell(people, new_id(), title="goes on")
    every = (await people.alice.get("/incidents")).json()
    still = (await people.alice.get("/incidents", params={"open_only": "true"})).json()
    assert len(every) == 2 and [one["title"] for one in still] == ["goes on"]
