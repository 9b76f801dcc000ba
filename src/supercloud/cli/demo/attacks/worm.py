"""A worm comes in from outside by a hole, and spreads by itself to whatever else has that hole.

That containment means something is shown in the same run: once the loops rest, the same worm crosses.
"""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

from supercloud.cli.demo.attackers import brings, text_of
from supercloud.cli.demo.policies import resting
from supercloud.cli.demo.scenario import CLOUD, SERVER
from supercloud.cli.demo.stage import BOOT_S, FOUND_S, Guest, NotContained, NotMade, Outcome, Stage, other
from supercloud.cli.demo.traces import Sweep, merged

#: In the order of their addresses. The worm goes upwards from its own, so that it comes to the one in the
#: other domain last, after all of the network's other addresses.
ABROAD, FIRST, NEXT = "worm-abroad", "worm-first", "worm-next"
PORT = 8099  # attackers/hole.py
_OPEN, _MARK = "demo-hole open", "demo-worm"
#: So long a worm that was not contained takes for a round, several times over.
_ROUND_S = 240.0


@dataclass(frozen=True, slots=True)
class _Prey:
    name: str
    id: str
    address: str


def spread(stage: Stage, outcome: Outcome) -> None:
    """Whatever has it is cut off, and its address denied in the other domain before it gets there."""
    # Two boot where the fewer run: they boot together, and who is slow is late for all.
    there = stage.client().get(f"/instances/{SERVER}", cloud=CLOUD)["blanket"]
    here = other(there)
    stage.say(f"{FIRST} and {NEXT} boot in {here}, {ABROAD} in {there}, each with the same hole")
    hole = brings("hole.py")
    wanted = (
        Guest(name=ABROAD, on=there, user_data=hole),
        Guest(name=FIRST, on=here, user_data=hole, port=PORT),
        Guest(name=NEXT, on=here, user_data=hole),
    )
    with ExitStack() as rests, stage.guests(*wanted) as made:
        for one in wanted:
            stage.until(partial(_is_up, stage, one.name), BOOT_S, f"{one.name} to be up", error=NotMade)
        prey = {one["name"]: _Prey(one["name"], one["id"], one["addresses"][0]) for one in made}
        story = _Story(stage, outcome, prey, there)
        try:
            story.let_in(made[1]["published"][0].partition("->")[0])
            story.see_it_cut_off()
            story.see_it_held()
            rests.enter_context(resting(stage))
            story.let_go()
        finally:
            story.tell()


def _is_up(stage: Stage, name: str) -> bool | None:
    return stage.has_said(name, _OPEN) or None


class _Story:
    """Of one worm, in the order of its methods; each raises as attacks do."""

    def __init__(self, stage: Stage, outcome: Outcome, prey: Mapping[str, _Prey], there: str) -> None:
        self._stage = stage
        self._outcome = outcome
        self._prey = prey
        self._there = there
        self._began = time.time()
        self._acts: list[tuple[str, float, str]] = []
        self._incidents: dict[str, dict[str, Any]] = {}
        self._cut: dict[str, float] = {}  # since when whom

    def let_in(self, way_in: str) -> None:
        """
        Raises:
            NotMade: the way in from outside is closed.
        """
        self._stage.say(f"the worm comes in by http://{way_in}/update")
        self._began = time.time()
        self._acts.append(("outside", self._began, f"POST http://{way_in}/update: the worm"))
        request = urllib.request.Request(f"http://{way_in}/update", text_of("worm.py").encode())
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
                answer.read()
        except OSError as error:
            raise NotMade(f"the worm did not get in by http://{way_in}: {error}") from error
        came = self._stage.until(partial(self._came, FIRST), FOUND_S, "the worm to run", error=NotMade)
        self._acts.append((FIRST, came.arrived, came.says))

    def see_it_cut_off(self) -> None:
        """Where it is, and denied where it is not."""
        moments = self._outcome.moments_s
        found = self._see_cut(FIRST)
        if (following := self._came(NEXT)) is not None:
            self._acts.append((NEXT, following.arrived, following.says))
            moments["spread_to_next"] = following.arrived - self._began
            self._see_cut(NEXT)
        moments["found"] = found - self._began
        moments["contained"] = max(self._cut.values()) - self._began
        denied = 0.0
        for name in self._cut:
            what = f"the address of {name} to be denied in {self._there}"
            one, at = self._stage.until(partial(self._denied, self._prey[name]), FOUND_S, what)
            self._incidents[one["incident"]["id"]] = one
            denied = max(denied, at)
        moments["denied_elsewhere"] = denied - self._began

    def see_it_held(self) -> None:
        """It goes on trying, from everywhere where it is, and gets nowhere."""
        for name, since in self._cut.items():
            what = f"the worm in {name} to have tried once more"
            tried = self._stage.until(partial(self._swept, name, since), _ROUND_S, what)
            self._acts.append((name, tried.ended, tried.says))
            if tried.taken:
                raise NotContained(f"the worm in {name} still got to {', '.join(tried.taken)}")
        if (crossed := self._came(ABROAD)) is not None:
            self._acts.append((ABROAD, crossed.arrived, crossed.says))
            raise NotContained(f"the worm has crossed to {ABROAD}")

    def let_go(self) -> None:
        """Now that the loops rest.

        Raises:
            NotMade: it does not cross then either, so that nothing was shown.
        """
        self._stage.say("now the loops rest, to see whether the worm would have crossed")
        let_go = time.time()
        self._acts.append(("demo", let_go, "the loops rest (dry run), and what they did is undone"))
        self._stage.undo()
        what = f"the worm to come to {ABROAD}, as it should without the loops"
        crossed = self._stage.until(partial(self._came, ABROAD), _ROUND_S, what, error=NotMade)
        self._acts.append((ABROAD, crossed.arrived, crossed.says))
        self._outcome.moments_s["crossed_without_loops"] = crossed.arrived - let_go

    def tell(self) -> None:
        self._outcome.timeline = merged(self._began, self._incidents.values(), self._acts)

    # ------------------------------------------------------------ what is looked at

    def _see_cut(self, name: str) -> float:
        """When it was found."""
        what = f"the port of {name} to be closed"
        one, at = self._stage.until(partial(self._closed, self._prey[name]), FOUND_S, what)
        self._incidents[one["incident"]["id"]] = one
        self._cut[name] = at
        return float(one["incident"]["opened_at"])

    def _closed(self, prey: _Prey) -> tuple[dict[str, Any], float] | None:
        """The incident because of which its port is closed, and since when."""
        for one in self._stage.details():
            for row in () if one["incident"]["horizontal"] else one["reactions"]:
                if (row["reaction"], row["about"], row["state"]) == ("contain:device", prey.id, "verified"):
                    return one, row["done_at"]
        return None

    def _denied(self, prey: _Prey) -> tuple[dict[str, Any], float] | None:
        """The incident because of which its address is denied in the other domain, and since when."""
        for one in self._stage.details():
            held = {
                order["reaction"]
                for order in one["orders"]
                if order["blanket"] == self._there and order["there"]
            }
            for row in one["reactions"]:
                about = row["reaction"], row["about"]
                if row["id"] in held and row["done_at"] and about == ("deny:ipv4_net", prey.address):
                    return one, row["done_at"]
        return None

    def _came(self, name: str) -> Sweep | None:
        """What the worm says there first, if it is there."""
        return next(iter(self._stage.says(name, _MARK, Sweep)), None)

    def _swept(self, name: str, after: float) -> Sweep | None:
        """A whole round that began after that moment."""
        rounds = self._stage.says(name, _MARK, Sweep)
        return next((one for one in rounds if one.ended > one.began > after), None)
