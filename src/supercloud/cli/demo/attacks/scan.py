"""A compromised instance scans its network, with Debian's own nmap."""

from __future__ import annotations

from supercloud.cli.demo.attackers import brings
from supercloud.cli.demo.scenario import CLOUD, NETWORK, SERVER
from supercloud.cli.demo.stage import BOOT_S, FOUND_S, Guest, NotMade, Outcome, Stage, other
from supercloud.cli.demo.traces import Scan, done_at, is_in, merged

INTRUDER, _MARK = "intruder", "demo-scan"


def scan(stage: Stage, outcome: Outcome) -> None:
    """Found at its port, cut off there, and its address denied in the other domain."""
    there = stage.client().get(f"/instances/{SERVER}", cloud=CLOUD)["blanket"]
    here = other(there)
    stage.say(f"{INTRUDER} boots in {here}; {SERVER} is in {there}")
    network = stage.client().get(f"/networks/{NETWORK}", cloud=CLOUD)["cidr"]
    with stage.guests(Guest(name=INTRUDER, on=here, user_data=brings("scan.sh", network))) as (made,):
        _follow(stage, outcome, made["id"], there)


def _follow(stage: Stage, outcome: Outcome, intruder: str, there: str) -> None:
    def rounds() -> list[Scan]:
        return stage.says(INTRUDER, _MARK, Scan)

    what = "the intruder to scan its network"
    first = stage.until(lambda: next(iter(rounds()), None), BOOT_S, what, error=NotMade)
    if not first.nmap:
        raise NotMade(
            "the demo's guests have no nmap: end the demo, remove its image, and begin it anew with this one"
        )
    cut = stage.await_detail(
        lambda one: (
            intruder in one["incident"]["objects"]
            and not one["incident"]["horizontal"]
            and is_in(one, "contain:device", "verified")
        ),
        "its port to be closed",
    )
    denied = stage.await_detail(
        lambda one: (
            one["incident"]["horizontal"]
            and any(order["blanket"] == there and order["there"] for order in one["orders"])
        ),
        f"its address to be denied in {there}",
    )
    silent = stage.until(
        lambda: next((one for one in rounds() if one.began > first.began and one.up == 0), None),
        FOUND_S,
        "the intruder to reach nobody",
    )
    began = first.began
    acts = [(INTRUDER, one.began, one.says) for one in (first, silent)]
    outcome.timeline = merged(began, [cut, denied], acts)
    outcome.moments_s = {
        "found": cut["incident"]["opened_at"] - began,
        "contained": done_at(cut, "contain:device") - began,
        "denied_elsewhere": done_at(denied, "deny:ipv4_net") - began,
    }
