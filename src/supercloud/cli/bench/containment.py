"""`supercloud bench containment`: a worm in a cloud of a thousand blankets, and what each loop leaves of it.

Simulated are the network, the clock and the machines. The rules, the engine of every blanket, the horizontal
loop's joining, deciding and choosing of blankets, and the policies are the product's own code.

The worm picks addresses at random and infects what is vulnerable and can be reached, as Code Red did: 358
probes a minute from each infected machine, as it is modelled by Zou, Gong, Towsley and Gao (The Monitoring
and Early Detection of Internet Worms, IEEE/ACM ToN 13(5), 2005; the figure still has to be checked there).
How full its address space is and how many are vulnerable are assumptions.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, field
from typing import Any

from supercloud.cli.bench.containment_sides import (
    CLOUD,
    HORIZONTAL,
    VERTICAL,
    Address,
    Control,
    Side,
)
from supercloud.cli.output import Bar
from supercloud.model.names import new_id
from supercloud.security.horizontal import Own, Place

#: Which loops are at work, by the names of the results.
WAYS: dict[str, frozenset[str]] = {
    "none": frozenset(),
    "vertical": frozenset({"vertical"}),
    "horizontal": frozenset({"horizontal"}),
    "both": frozenset({"vertical", "horizontal"}),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What is simulated. Times in seconds; `probes_per_s` of each infected instance; `space`: addresses among
    which it picks; `vulnerable`: the share of instances; `first`: how many are infected at the beginning."""

    blankets: int = 1000
    domains: int = 20
    instances: int = 10_000
    probes_per_s: float = 358 / 60
    space: int = 1 << 16
    vulnerable: float = 0.25
    first: int = 10
    lasts_s: float = 120.0
    seed: int = 1
    #: From the 30th address to the port that is closed: the 99th percentile of `bench loop`.
    react_s: float = 0.01
    #: An agent tells of an incident at most so often (agent.loop), so that this is the longest it waits.
    tell_s: float = 2.0
    #: Deciding, committing and asking a blanket: an assumption.
    order_s: float = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainmentResult:
    """`infected_share`: of the vulnerable instances, at the end, by which loops were at work. `curve`: the
    same each second. `half_s`: when half were; None: never. `contained`, `denied`: what was done."""

    terms: dict[str, Any]
    infected_share: dict[str, float]
    half_s: dict[str, float | None]
    contained: dict[str, int]
    denied: dict[str, int]
    curve: dict[str, list[float]] = field(default_factory=dict)

    def public(self) -> dict[str, Any]:
        return asdict(self)


def measure(bar: Bar, terms: Terms | None = None) -> ContainmentResult:
    terms = terms or Terms()
    runs: dict[str, Outbreak] = {}
    for done, (name, loops) in enumerate(WAYS.items()):
        bar(f"a worm, loops: {name}", done / len(WAYS))
        runs[name] = Outbreak(terms, loops)
        runs[name].run()
    return ContainmentResult(
        terms=asdict(terms),
        infected_share={name: round(one.curve[-1], 4) for name, one in runs.items()},
        half_s={
            name: next((float(at) for at, share in enumerate(one.curve) if share >= 0.5), None)
            for name, one in runs.items()
        },
        contained={name: one.contained for name, one in runs.items()},
        denied={name: one.control.denied for name, one in runs.items()},
        curve={name: [round(share, 4) for share in one.curve] for name, one in runs.items()},
    )


class Outbreak:
    """One run: an agenda of moments, the blankets' loops, and the worm."""

    def __init__(self, terms: Terms, loops: Collection[str]) -> None:
        self._terms = terms
        self._chance = random.Random(terms.seed)  # noqa: S311 - a simulation that can be repeated
        self.now = 0.0
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        places = [
            Place(blanket=new_id(), cloud=CLOUD, domain=str(one % terms.domains))
            for one in range(terms.blankets)
        ]
        self.control = Control(HORIZONTAL if "horizontal" in loops else None, places, self)
        self.sides = [
            Side(place, VERTICAL if "vertical" in loops else None, self, watches=bool(loops))
            for place in places
        ]
        self.control.knows(self.sides)
        self._holder = dict[str, str]()
        self.curve: list[float] = []
        self._made()

    def _made(self) -> None:
        """Instances with addresses of their own, spread evenly over the blankets."""
        terms, chance = self._terms, self._chance
        numbers = chance.sample(range(terms.space), terms.instances)
        weak = set(chance.sample(range(terms.instances), int(terms.instances * terms.vulnerable)))
        self._by_number: dict[int, Address] = {}
        for index, number in enumerate(numbers):
            side = self.sides[index % terms.blankets]
            one = Address(instance=new_id(), number=number, side=side, vulnerable=index in weak)
            side.holds[one.instance] = one
            self._holder[one.instance] = side.place.blanket
            self._by_number[number] = one
        self._weak = len(weak)
        self._infected = 0
        vulnerable = [one for one in self._by_number.values() if one.vulnerable]
        for one in chance.sample(vulnerable, terms.first):
            self._infect(one)

    # ------------------------------------------------------------ the world, as loops and worm see it

    @property
    def react_s(self) -> float:
        return self._terms.react_s

    @property
    def tell_s(self) -> float:
        return self._terms.tell_s

    @property
    def order_s(self) -> float:
        return self._terms.order_s

    def later(self, seconds: float, what: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._agenda, (self.now + seconds, self._number, what))

    def own(self, instance: str) -> Own | None:
        """Where the control plane's books have it."""
        return Own(instance=instance, cloud=CLOUD, holder=self._holder.get(instance))

    @property
    def contained(self) -> int:
        return sum(one.contained for one in self.sides)

    # ------------------------------------------------------------ the worm

    def run(self) -> None:
        for second in range(int(self._terms.lasts_s) + 1):
            while self._agenda and self._agenda[0][0] <= second:
                self.now, _, what = heapq.heappop(self._agenda)
                what()
            self.now = float(second)
            self.curve.append(self._infected / self._weak)

    def _infect(self, one: Address) -> None:
        one.infected = True
        self._infected += 1
        self._next_probe(one)

    def _next_probe(self, one: Address) -> None:
        self.later(self._chance.expovariate(self._terms.probes_per_s), lambda: self._probe(one))

    def _probe(self, one: Address) -> None:
        if (opens := one.side.closed_until(one.instance)) > self.now:
            self.later(opens - self.now, lambda: self._next_probe(one))  # till then nothing follows of it
            return
        number = self._chance.randrange(self._terms.space)
        target = self._by_number.get(number)
        one.side.sees(one, number)
        if target is not None and target.vulnerable and not target.infected and self._reaches(one, target):
            self._infect(target)
        self._next_probe(one)

    def _reaches(self, one: Address, target: Address) -> bool:
        """No port of either is closed, and no filter on the way denies the sender's address."""
        if max(one.side.closed_until(one.instance), target.side.closed_until(target.instance)) > self.now:
            return False
        return not (target.side.denies(one.net) or one.side.denies(one.net))
