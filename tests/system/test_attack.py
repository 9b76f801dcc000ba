"""Attacks on the demo's own VMs, with a guest's and a blanket's own tools: each is contained."""

from __future__ import annotations

import json
from typing import Any

import pytest
from conftest import BLANKETS, CLOUD, SERVER, Estate

pytestmark = [pytest.mark.system, pytest.mark.timeout(9000)]
#: Five of them, three with instances of their own to boot, and one that waits until somebody looks.
ATTACK_S = 8400.0


def test_what_attacks_the_demo_is_contained(estate: Estate) -> None:
    ended = estate.run("demo", "attack", "-o", "json", timeout_s=ATTACK_S)
    assert ended.returncode == 0, f"{ended.stdout[-3000:]}\n{ended.stderr[-2000:]}"
    found = json.loads(ended.stdout)
    assert found["contained"] is True
    attacks = {one["name"]: one for one in found["attacks"]}
    for name, check in _CHECKS.items():
        check(attacks.pop(name))
    assert attacks == {}
    _nothing_is_left(estate)


def _says(attack: dict[str, Any], text: str) -> bool:
    return any(text in line["says"] for line in attack["timeline"])


def _scan(scan: dict[str, Any]) -> None:
    assert 0 < scan["moments_s"]["found"] <= scan["moments_s"]["contained"] + 1
    assert {line["where"] for line in scan["timeline"]} > {"cloud", "intruder"}
    assert _says(scan, "nmap 7.")


def _process(process: dict[str, Any]) -> None:
    assert 0 < process["moments_s"]["found"] <= process["moments_s"]["stopped"] + 1
    assert _says(process, "hidden from the tree of pids: worker") and _says(process, "ps does not show")


def _worm(worm: dict[str, Any]) -> None:
    moments = worm["moments_s"]
    assert 0 < moments["found"] <= moments["contained"] + 1
    assert moments["contained"] > 0 and moments["denied_elsewhere"] > 0
    assert moments["crossed_without_loops"] > 0, "it would have crossed"
    assert {"worm-first", "worm-abroad", "cloud", "outside"} < {line["where"] for line in worm["timeline"]}


def _component(component: dict[str, Any]) -> None:
    assert _says(component, "component-crashed")


def _domain(domain: dict[str, Any]) -> None:
    assert _says(domain, "changed-measured-file")
    assert domain["moments_s"]["found"] <= domain["moments_s"]["left"]


_CHECKS = {"scan": _scan, "process": _process, "worm": _worm, "component": _component, "domain": _domain}


def _nothing_is_left(estate: Estate) -> None:
    """Of it: the demo is as it was, but for where the server is."""
    shown = json.loads(estate.run("vm", "ls", "--cloud", CLOUD, "-o", "json").stdout)
    assert {one["name"] for one in shown} == {"server", "client"}
    assert [one["state"] for one in shown if one["name"] == SERVER] == ["running"]
    blankets = json.loads(estate.run("blanket", "ls", "-o", "json").stdout)
    assert {one["name"]: one["quarantined_by"] for one in blankets} == dict.fromkeys(BLANKETS)
    incidents = json.loads(estate.run("incident", "ls", "--cloud", CLOUD, "--open", "-o", "json").stdout)
    assert [one["title"] for one in incidents if one["horizontal"]] == []
