"""A worm comes in from outside by a hole, and spreads by itself to whatever else has that hole.

That containment means something is shown in the same run: once the loops rest, the same worm crosses.
"""

from __future__ import annotations

import time
import urllib.request
from dataclasses import dataclass
from functools import partial
from typing import Any

from supercloud.cli.demo.attackers import brings, text_of
from supercloud.cli.demo.policies import resting
from supercloud.cli.demo.scenario import CLOUD, SERVER
from supercloud.cli.demo.stage import BOOT_S, FOUND_S, Guest, NotContained, Outcome, Stage, other
from supercloud.cli.demo.traces import Sweep, done_at, is_in, merged
from supercloud.model.errors import Failed

#: In the order of their addresses. The worm goes upwards from its own, so that it comes to the one in the
#: other domain last, after all of the network's other addresses.
ABROAD, FIRST, NEXT = "abroad", "first", "next"
PORT = 8099  # attackers/hole.py
_OPEN, _MARK = "demo-hole open", "demo-worm"
#: So long a worm that was not contained takes for a round, several times over.
_ROUND_S = 240.0
_CLOSED = "contain:device"


@dataclass(frozen=True, slots=True)
class _Prey:
    """Ids and addresses, by name; and which blanket is the other domain's."""

    ids: dict[str, str]
    addresses: dict[str, str]
    there: str


def spread(stage: Stage, outcome: Outcome) -> None:
    """Whatever has it is cut off, and its address denied in the other domain before it gets there."""
    here = stage.client().get(f"/instances/{SERVER}", cloud=CLOUD)["blanket"]
    there = other(here)
    stage.say(f"{FIRST} and {NEXT} boot in {here}, {ABROAD} in {there}, each with the same hole")
    hole = brings("hole.py")
    wanted = (
        Guest(name=ABROAD, on=there, user_data=hole),
        Guest(name=FIRST, on=here, user_data=hole, port=PORT),
        Guest(name=NEXT, on=here, user_data=hole),
    )
    with stage.guests(*wanted) as made:
        names = [one.name for one in wanted]
        prey = _Prey(
            ids={name: one["id"] for name, one in zip(names, made, strict=True)},
            addresses={name: one["addresses"][0] for name, one in zip(names, made, strict=True)},
            there=there,
        )
        for name in names:
            stage.until(partial(_is_up, stage, name), BOOT_S, f"{name} to be up")
        _run(stage, outcome, prey, made[1]["published"][0].partition("->")[0])


def _is_up(stage: Stage, name: str) -> bool | None:
    return stage.has_said(name, _OPEN) or None


def _run(stage: Stage, outcome: Outcome, prey: _Prey, way_in: str) -> None:
    released = time.time()
    stage.say(f"the worm comes in by http://{way_in}/update")
    _release(way_in)
    first = stage.until(partial(_there, stage, FIRST), FOUND_S, "the worm to run")
    cut = {FIRST: _await_cut(stage, prey, FIRST)}
    following = _there(stage, NEXT)
    if following is not None:
        cut[NEXT] = _await_cut(stage, prey, NEXT)
    denied = [
        stage.until(
            partial(_denied, stage, prey, name),
            FOUND_S,
            f"the address of {name} to be denied in {prey.there}",
        )
        for name in cut
    ]
    outcome.moments_s = {
        "found": min(one["incident"]["opened_at"] for one in cut.values()) - released,
        "contained": max(done_at(one, _CLOSED) for one in cut.values()) - released,
        "denied_elsewhere": max(at for _, at in denied) - released,
    }
    acts = [
        ("outside", released, f"POST http://{way_in}/update: the worm"),
        (FIRST, first.arrived, first.says),
    ]
    if following is not None:
        outcome.moments_s["spread_to_next"] = following.arrived - released
        acts.append((NEXT, following.arrived, following.says))
    details = {one["incident"]["id"]: one for one in [*cut.values(), *(one for one, _ in denied)]}
    outcome.timeline = merged(released, details.values(), acts)
    acts += _hold(stage, cut)
    outcome.timeline = merged(released, details.values(), acts)
    acts += _let_go(stage, outcome)
    outcome.timeline = merged(released, details.values(), acts)


def _release(way_in: str) -> None:
    """
    Raises:
        Failed: the way in from outside is closed.
    """
    request = urllib.request.Request(f"http://{way_in}/update", text_of("worm.py").encode())
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            answer.read()
    except OSError as error:
        raise Failed(f"the worm did not get in by http://{way_in}: {error}") from error


def _there(stage: Stage, name: str) -> Sweep | None:
    """What the worm says there first, if it is there."""
    return next(iter(stage.says(name, _MARK, Sweep)), None)


def _await_cut(stage: Stage, prey: _Prey, name: str) -> dict[str, Any]:
    def cut(one: dict[str, Any]) -> bool:
        about = not one["incident"]["horizontal"] and prey.ids[name] in one["incident"]["objects"]
        return about and is_in(one, _CLOSED, "verified")

    return stage.await_detail(cut, f"the port of {name} to be closed")


def _denied(stage: Stage, prey: _Prey, name: str) -> tuple[dict[str, Any], float] | None:
    """The incident in which its address is denied in the other domain, and since when."""
    net = {prey.addresses[name], f"{prey.addresses[name]}/32"}
    for one in stage.details():
        held = {
            order["reaction"] for order in one["orders"] if order["blanket"] == prey.there and order["there"]
        }
        for row in one["reactions"]:
            if row["id"] in held and row["done_at"] and row["command"]["target"].get("ipv4_net") in net:
                return one, row["done_at"]
    return None


def _hold(stage: Stage, cut: dict[str, Any]) -> list[tuple[str, float, str]]:
    """It goes on trying, from everywhere where it is, and gets nowhere."""
    acts = []
    for name, one in cut.items():
        closed = done_at(one, _CLOSED)
        tried = stage.until(
            partial(_sweep, stage, name, after=closed),
            _ROUND_S,
            f"the worm in {name} to have tried once more",
        )
        if tried.taken:
            raise NotContained(f"the worm in {name} still got to {', '.join(tried.taken)}")
        acts.append((name, tried.ended, tried.says))
    if _there(stage, ABROAD) is not None:
        raise NotContained(f"the worm has crossed to {ABROAD}")
    return acts


def _let_go(stage: Stage, outcome: Outcome) -> list[tuple[str, float, str]]:
    """
    Raises:
        Failed: it does not cross then either, so that nothing was shown.
    """
    stage.say("now the loops rest, to see whether the worm would have crossed")
    with resting(stage):
        let_go = time.time()
        stage.undo()
        try:
            crossed = stage.until(partial(_there, stage, ABROAD), _ROUND_S, f"the worm to come to {ABROAD}")
        except NotContained as error:
            raise Failed(f"without the loops the worm does not cross either: {error.message}") from error
    outcome.moments_s["crossed_without_loops"] = crossed.arrived - let_go
    return [
        ("demo", let_go, "the loops rest (dry run), and what they did is undone"),
        (ABROAD, crossed.arrived, crossed.says),
    ]


def _sweep(stage: Stage, name: str, *, after: float) -> Sweep | None:
    """A whole round that began after that moment."""
    rounds = stage.says(name, _MARK, Sweep)
    return next((one for one in rounds if one.ended > one.began > after), None)
