"""Indicators that others share: imported for a cloud's horizontal policy, exported of an incident."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from api_rig import problem
from horizontal_rig import DENY, Fleet, policy, set_horizontal, until
from provider_rig import Estate, estate

pytestmark = pytest.mark.contract
OUTSIDE = "198.51.100.7"


@pytest.fixture
async def people(database_url: str, tmp_path: Path) -> AsyncIterator[Estate]:
    async with estate(database_url, tmp_path) as made:
        yield made


@pytest.fixture
async def fleet(people: Estate) -> Fleet:
    return Fleet(people)


def bundle(*addresses: str) -> dict[str, Any]:
    since = datetime.fromtimestamp(time.time() - 60, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    objects = [
        {
            "type": "indicator",
            "spec_version": "2.1",
            "id": f"indicator--{uuid.uuid4()}",
            "created": since,
            "modified": since,
            "pattern": f"[ipv4-addr:value = '{one}']",
            "pattern_type": "stix",
            "valid_from": since,
        }
        for one in addresses
    ]
    return {"bundle": json.dumps({"type": "bundle", "id": f"bundle--{uuid.uuid4()}", "objects": objects})}


def shared(**more: Any) -> dict[str, Any]:
    said = policy(DENY, **more)
    said["policies"]["spread"]["when"]["rule"] = "shared-indicator"
    return said


async def test_what_is_shared_is_denied_everywhere_by_policy(people: Estate, fleet: Fleet) -> None:
    refused = await people.alice.post("/clouds/c/indicators", json=bundle(OUTSIDE))
    problem(refused, 409, "conflict")
    await set_horizontal(people.alice, "c", shared())
    answer = await people.alice.post("/clouds/c/indicators", json=bundle(OUTSIDE, "127.0.0.1"))
    assert answer.is_success, answer.text
    assert answer.json()["addresses"] == [OUTSIDE]
    assert [one["why"] for one in answer.json()["unused"]] == ["127.0.0.1 is nobody's address"]

    async def everywhere() -> bool:
        return fleet.denied("c1") == fleet.denied("c2") == {OUTSIDE}

    await until(everywhere)
    found = await fleet.the_one(people.alice, "contained")
    assert [one["object_kind"] for one in found["seen"]] == ["indicator"]
    assert not fleet.denied("b1")
    again = await people.alice.post("/clouds/c/indicators", json=bundle(OUTSIDE))
    assert again.is_success
    await fleet.horizontal.do_due()
    assert fleet.double("c2").loop.effects.total() == 1


async def test_ones_own_addresses_and_more_than_the_bounds_are_left_alone(
    people: Estate, fleet: Fleet
) -> None:
    lan = await fleet.network("c", "10.20.0.0/24")
    await fleet.held("c", "c1", lan, "10.20.0.5")
    await set_horizontal(
        people.alice, "c", {**shared(bounds={"objects": 2}), "protected": ["203.0.113.0/24"]}
    )
    many = ["10.20.0.5", "10.20.0.77", "203.0.113.9", *(f"198.51.100.{number}" for number in range(1, 6))]
    assert (await people.alice.post("/clouds/c/indicators", json=bundle(*many))).is_success
    found = await fleet.the_one(people.alice, "escalated")

    async def bounded() -> bool:
        return len(fleet.denied("c1")) == 2 == len(fleet.denied("c2"))

    await until(bounded)
    assert all((one or "").startswith("198.51.100.") for one in fleet.denied("c1"))
    assert len(found["reactions"]) == len(many)


async def test_nobody_imports_for_anothers_cloud_and_rubbish_is_refused(people: Estate) -> None:
    await set_horizontal(people.alice, "c", shared())
    problem(await people.bob.post("/clouds/c/indicators", json=bundle(OUTSIDE)), 404, "not-found")
    for bad in ("", "{}", "[" * 9000):
        problem(await people.alice.post("/clouds/c/indicators", json={"bundle": bad}), 422, "invalid-input")


async def test_an_incident_is_exported_and_imported_by_another_cloud(people: Estate, fleet: Fleet) -> None:
    lan = await fleet.network("c", "10.20.0.0/24")
    worm = await fleet.held("c", "c1", lan, "10.20.0.5")
    await fleet.tells("c1", worm, "10.20.0.5")
    (row,) = (await people.alice.get("/incidents")).json()
    path = f"/incidents/{row['id']}/export"
    made = (await people.alice.get(path)).json()
    assert made["type"] == "bundle"
    assert '"c1"' not in json.dumps(made) and "vm1" not in json.dumps(made), "nobody's names"
    event = (await people.alice.get(path, params={"format": "ocsf"})).json()
    assert (event["class_uid"], event["status_id"]) == (2005, 1)
    problem(await people.bob.get(path), 404, "not-found")
    problem(await people.alice.get(path, params={"format": "pdf"}), 422, "invalid-input")
    await set_horizontal(people.bob, "b", shared())
    answer = await people.bob.post("/clouds/b/indicators", json={"bundle": json.dumps(made)})
    assert answer.json()["addresses"] == ["10.20.0.5"]

    async def denied() -> bool:
        return fleet.denied("b1") == {"10.20.0.5"}

    await until(denied)
