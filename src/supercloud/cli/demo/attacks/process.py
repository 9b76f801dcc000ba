"""A process hides in a guest's kernel, by a module that the attacker brings, and is found from outside."""

from __future__ import annotations

from supercloud.cli.demo.attackers import brings
from supercloud.cli.demo.scenario import CLOUD, SERVER
from supercloud.cli.demo.stage import BOOT_S, Guest, NotContained, NotMade, Outcome, Stage, other
from supercloud.cli.demo.traces import Hidden, done_at, is_in, merged

HIDEOUT, _MARK = "hideout", "demo-hidden"
_PAUSED = "stop:x-supercloud:vcpus"
#: An emulated blanket looks at its guests every ten minutes, and a first look takes it some more.
_LOOKED_S = 3000.0


def hide(stage: Stage, outcome: Outcome) -> None:
    """It is found by what the kernel keeps of it elsewhere, and its guest is stopped with its memory kept."""
    on = other(stage.client().get(f"/instances/{SERVER}", cloud=CLOUD)["blanket"])
    stage.say(f"{HIDEOUT} boots in {on}")
    with stage.guests(Guest(name=HIDEOUT, on=on, user_data=brings("hide.py"))) as (made,):
        _follow(stage, outcome, made["id"])


def _follow(stage: Stage, outcome: Outcome, instance: str) -> None:
    def told() -> list[Hidden]:
        return stage.says(HIDEOUT, _MARK, Hidden)

    first = stage.until(lambda: next(iter(told()), None), BOOT_S, "the process to hide", error=NotMade)
    if first.problem or first.shown:
        raise NotMade(f"the process could not hide: {first.problem or 'ps shows it'}")
    stage.say(f"process {first.pid} is hidden; whoever looks from outside has to come by")
    found = stage.await_detail(
        lambda one: (
            instance in one["incident"]["objects"]
            and not one["incident"]["horizontal"]
            and is_in(one, _PAUSED, "verified")
        ),
        "it to be found and its guest to be stopped",
        timeout_s=_LOOKED_S,
    )
    stopped = done_at(found, _PAUSED)
    last = told()[-1]
    outcome.timeline = merged(
        first.hidden_at,
        [found],
        [(HIDEOUT, first.hidden_at, f"root: process {first.pid} is off its pid")]
        + [(HIDEOUT, one.at, one.says) for one in (first, last)],
    )
    outcome.moments_s = {
        "found": found["incident"]["opened_at"] - first.hidden_at,
        "stopped": stopped - first.hidden_at,
    }
    if not any(one["rule"] == "hidden-process" for one in found["seen"]):
        raise NotContained("its guest was stopped for something else")
    if last.shown:
        raise NotContained(
            "the process did not stay hidden in its guest, so that anybody could have found it"
        )
