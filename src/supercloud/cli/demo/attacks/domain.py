"""A domain turns hostile: a program of its blanket is changed, as whoever owns the domain could."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any

from supercloud.cli.demo.load import Seen
from supercloud.cli.demo.scenario import BLANKETS, CLOUD, SERVER, SHELL_ON
from supercloud.cli.demo.stage import FOUND_S, NotContained, Outcome, Stage, nobody
from supercloud.cli.demo.traces import done_at, is_in, merged
from supercloud.cli.shell import Shell

#: What a blanket's programs are made of; and where the image has it.
_MEASURED, _IN_IMAGE = "/usr/lib/supercloud/boot", "/run/supercloud/image/usr/lib/supercloud/boot"
_LEFT, _LEAVES = "contain:x-supercloud:domain", "blanket.leave"
_AWAY_S = 1200.0


def turn(stage: Stage, outcome: Outcome) -> None:
    """Its instances move away, live, and nothing new comes there."""
    _bring_server(stage)
    lines = stage.load()
    before = _leavings(stage).keys()
    with Shell.on(stage.client(), SHELL_ON, cloud=CLOUD) as shell:
        try:
            shell.run(f"echo '# implant' >>{_MEASURED}")
            began = time.time()
            left = stage.until(
                lambda: _left(stage, before), _AWAY_S, f"domain {BLANKETS[SHELL_ON]} to be left"
            )
            _settle(stage, outcome, began, left, lines)
        finally:
            shell.run(f"cat {_IN_IMAGE} >{_MEASURED}")


def _left(stage: Stage, before: Collection[str]) -> dict[str, Any] | None:
    """What has led to it, once everybody is gone.

    Raises:
        NotContained: somebody stays, and nothing more is tried.
    """
    for identity, leaving in _leavings(stage).items():
        if identity not in before and leaving["state"] in {"failed", "cancelled"}:
            why = (leaving["error"] or {}).get("message", "it was given up")
            raise NotContained(f"domain {BLANKETS[SHELL_ON]} was not left: {why} (operation {identity})")
    return stage.detail(lambda one: one["incident"]["horizontal"] and is_in(one, _LEFT, "verified"))


def _leavings(stage: Stage) -> dict[str, dict[str, Any]]:
    """Operations by which instances left blankets, by their ids."""
    return {one["id"]: one for one in stage.client().all("/operations", kind=_LEAVES)}


def _settle(stage: Stage, outcome: Outcome, began: float, left: dict[str, Any], lines: list[Seen]) -> None:
    found = stage.await_detail(
        lambda one: one["incident"]["blanket"] == SHELL_ON, f"what {SHELL_ON} itself found"
    )
    outcome.timeline = merged(
        began, [found, left], [(SHELL_ON, began, f"root: echo '# implant' >>{_MEASURED}")]
    )
    outcome.moments_s = {
        "found": found["incident"]["opened_at"] - began,
        "left": done_at(left, _LEFT) - began,
    }
    server = stage.client().get(f"/instances/{SERVER}", cloud=CLOUD)
    if server["blanket"] == SHELL_ON or server["state"] != "running":
        raise NotContained(f"{SERVER} is {server['state']} in {server['blanket']}")
    answered = lines[-1].answered if lines else 0
    after = stage.until(lambda: _answered(stage, answered), FOUND_S, "the client to be answered again")
    outcome.moments_s["longest_gap"] = max(one.max_gap_ms for one in after[len(lines) :]) / 1000
    if after[-1].lost + after[-1].wrong > (lines[-1].lost + lines[-1].wrong if lines else 0):
        raise NotContained("requests were lost on the way")


def _answered(stage: Stage, more_than: int) -> list[Seen] | None:
    lines = stage.load()
    return lines if lines and lines[-1].answered > more_than else None


def _bring_server(stage: Stage) -> None:
    """To where it is to be attacked."""
    client = stage.client()
    if client.get(f"/instances/{SERVER}", cloud=CLOUD)["blanket"] != SHELL_ON:
        stage.say(f"{SERVER} moves to {SHELL_ON}, which will be attacked")
        client.wait(client.post(f"/instances/{SERVER}/migrate", {"to": SHELL_ON}, cloud=CLOUD), nobody)
