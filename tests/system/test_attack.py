"""Attacks on the demo's own VMs, with a guest's and a blanket's own tools: each is contained."""

from __future__ import annotations

import json

import pytest
from conftest import BLANKETS, CLOUD, SERVER, Estate

pytestmark = [pytest.mark.system, pytest.mark.timeout(4200)]
#: Three of them, the first with an instance of its own to boot.
ATTACK_S = 3600.0


def test_what_attacks_the_demo_is_contained(estate: Estate) -> None:
    ended = estate.run("demo", "attack", "-o", "json", timeout_s=ATTACK_S)
    assert ended.returncode == 0, f"{ended.stdout[-3000:]}\n{ended.stderr[-2000:]}"
    found = json.loads(ended.stdout)
    assert found["contained"] is True
    scan, kill, turn = found["attacks"]
    assert 0 < scan["moments_s"]["found"] <= scan["moments_s"]["contained"] + 1
    assert {line["where"] for line in scan["timeline"]} > {"cloud", "intruder"}
    assert any("component-crashed" in line["says"] for line in kill["timeline"])
    assert any("changed-measured-file" in line["says"] for line in turn["timeline"])
    assert turn["moments_s"]["found"] <= turn["moments_s"]["left"]
    _nothing_is_left(estate)


def _nothing_is_left(estate: Estate) -> None:
    """Of it: the demo is as it was, but for where the server is."""
    shown = json.loads(estate.run("vm", "ls", "--cloud", CLOUD, "-o", "json").stdout)
    assert {one["name"] for one in shown} == {"server", "client"}
    assert [one["state"] for one in shown if one["name"] == SERVER] == ["running"]
    blankets = json.loads(estate.run("blanket", "ls", "-o", "json").stdout)
    assert {one["name"]: one["quarantined_by"] for one in blankets} == dict.fromkeys(BLANKETS)
    incidents = json.loads(estate.run("incident", "ls", "--cloud", CLOUD, "--open", "-o", "json").stdout)
    assert [one["title"] for one in incidents if one["horizontal"]] == []
