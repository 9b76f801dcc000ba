"""What the demo's owner lets the loops do by themselves while it is attacked, and what it was before."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from supercloud.cli.demo.scenario import CLOUD
from supercloud.cli.demo.stage import FOUND_S, Stage
from supercloud.model.errors import Failed

_SWEEPS = {"objects": 10, "perHour": 100}
_CUT_OFF = [{"action": "contain", "target": "device", "for": "1h"}]
_DENY = [{"action": "deny", "target": "ipv4_net", "net": "$source", "for": "1h"}]
#: In each blanket.
VERTICAL = {
    "version": 1,
    "policies": {
        "contain-scanner": {"when": {"rule": "port-scan", "layer": "L2"}, "do": _CUT_OFF, "bounds": _SWEEPS},
        "contain-sweeper": {
            "when": {"rule": "neighbour-sweep", "layer": "L2"},
            "do": _CUT_OFF,
            "bounds": _SWEEPS,
        },
        "stop-a-compromised-kernel": {
            "when": {"rule": "compromised-kernel", "layer": "L2"},
            "do": [{"action": "stop", "target": "vcpus", "for": "1h"}],
        },
        "begin-anew": {
            "when": {"rule": "component-down", "layer": "L1"},
            "do": [{"action": "restart", "target": "component", "component": "$component", "for": "5m"}],
        },
    },
}
#: Over all of them.
HORIZONTAL = {
    "version": 1,
    "policies": {
        "meet-a-scanner-elsewhere": {
            "when": {"rule": "port-scan", "layer": "L2"},
            "do": _DENY,
            "else": ["escalate"],
            "bounds": _SWEEPS,
        },
        "meet-a-sweeper-elsewhere": {
            "when": {"rule": "neighbour-sweep", "layer": "L2"},
            "do": _DENY,
            "else": ["escalate"],
            "bounds": _SWEEPS,
        },
        "leave-a-hostile-domain": {
            "when": {"rule": "changed-measured-file", "layer": "L1", "severity": "critical"},
            "do": [{"action": "contain", "target": "domain", "for": "1h"}],
            "else": ["escalate"],
        },
    },
}


@contextmanager
def in_force(stage: Stage) -> Iterator[None]:
    """Both; in the end each is as before."""
    before = {horizontal: _policy(stage, horizontal) for horizontal in (False, True)}
    try:
        _put(stage, dry_run=False)
        yield
    finally:
        for horizontal, view in before.items():
            path, client = f"/clouds/{CLOUD}/policy", stage.client()
            if view["policy"] is None:
                client.delete(path, horizontal=horizontal)
            else:
                client.post(f"{path}/rollback", {"version": view["version"]}, horizontal=horizontal)


@contextmanager
def resting(stage: Stage) -> Iterator[None]:
    """The loops find and decide, and do nothing (dry run)."""
    _put(stage, dry_run=True)
    try:
        yield
    finally:
        _put(stage, dry_run=False)


def _put(stage: Stage, *, dry_run: bool) -> None:
    for horizontal, said in ((False, VERTICAL), (True, HORIZONTAL)):
        body = {"policy": json.dumps(said), "dry_run": dry_run}
        stage.client().put(f"/clouds/{CLOUD}/policy", body, horizontal=horizontal)
    stage.until(lambda: _told(stage), FOUND_S, "the blankets to take the policy")


def _policy(stage: Stage, horizontal: bool) -> dict[str, Any]:
    found: dict[str, Any] = stage.client().get(f"/clouds/{CLOUD}/policy", horizontal=horizontal)
    return found


def _told(stage: Stage) -> bool | None:
    problems = [(one["waits"], one["problem"]) for one in _policy(stage, False)["blankets"]]
    if broken := [problem for _, problem in problems if problem]:
        raise Failed(f"a blanket does not take the policy: {broken[0]}")
    return None if any(waits for waits, _ in problems) else True
