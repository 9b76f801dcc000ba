"""What one blanket's port said, related to the observer's clock. Pure: the moment of arrival is an argument.

The blanket's clock is related by pings, as NTP does it: of the recent round trips the shortest bounds the
offset best, and half of it is the uncertainty that goes with each fact. That clock stands still while the
machine is frozen and begins anew when it is reset or rolled back, so a fact waits for a ping that was sent
after it arrived, and an offset that contradicts the ones before takes their place.
"""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass

from supercloud.model.names import Id
from supercloud.observer.timeline import Fact

_KEPT_OFFSETS = 20  # ten seconds: drift within is below a millisecond


@dataclass(frozen=True, slots=True)
class _Offset:
    """ours = theirs + seconds, give or take `uncertain_s`."""

    seconds: float
    uncertain_s: float

    def contradicts(self, other: _Offset) -> bool:
        return abs(self.seconds - other.seconds) > self.uncertain_s + other.uncertain_s


@dataclass(frozen=True, slots=True)
class _Said:
    instance: Id
    running: bool
    theirs_s: float
    arrived_s: float


class Account:
    """One blanket's."""

    def __init__(self, blanket: Id) -> None:
        self._blanket = blanket
        self._offsets: deque[_Offset] = deque(maxlen=_KEPT_OFFSETS)
        self._waiting: list[_Said] = []
        self._running: set[Id] = set()
        self._facts: list[Fact] = []

    @property
    def related(self) -> bool:
        """Whether the blanket has answered yet."""
        return bool(self._offsets)

    def facts(self) -> list[Fact]:
        """All so far; of the last half second, as well as it can be related by now."""
        return self._facts + (self._related(self._waiting) if self._offsets else [])

    def take(self, line: bytes, *, now_s: float) -> None:
        """One line, as it came in."""
        try:
            said = json.loads(line)
            theirs_s = float(said["at_s"])
            if "pong" in said:
                self._pong(float(said["pong"]), theirs_s, said["running"], now_s)
            else:
                self._hear(str(said["instance"]), bool(said["running"]), theirs_s, now_s)
        except (ValueError, KeyError, TypeError):
            return  # the first line after (re)opening may be a fragment

    def ended(self, *, now_s: float) -> None:
        """The machine ended: nothing of it runs any more."""
        self._relate(self._waiting)
        for instance in sorted(self._running):
            self._facts.append(self._fact(_Said(instance, False, now_s, now_s), now_s, 0.0))
        self._offsets.clear()
        self._waiting.clear()
        self._running.clear()

    def _pong(self, asked_s: float, theirs_s: float, running: list[Id], now_s: float) -> None:
        """`running` is all that runs there: what a reset ended or a rollback brought back is told by it."""
        half_s = (now_s - asked_s) / 2
        offset = _Offset(now_s - half_s - theirs_s, half_s)
        if any(offset.contradicts(known) for known in self._offsets):
            self._relate([said for said in self._waiting if said.theirs_s > theirs_s])  # by the clock it was
            self._waiting = [said for said in self._waiting if said.theirs_s <= theirs_s]
            self._offsets.clear()
        self._offsets.append(offset)
        for instance in sorted(self._running ^ set(running)):
            self._hear(instance, instance in running, theirs_s, now_s)
        self._relate([said for said in self._waiting if said.arrived_s <= asked_s])
        self._waiting = [said for said in self._waiting if said.arrived_s > asked_s]

    def _hear(self, instance: Id, running: bool, theirs_s: float, now_s: float) -> None:
        self._waiting.append(_Said(instance, running, theirs_s, now_s))
        if running:
            self._running.add(instance)
        else:
            self._running.discard(instance)

    def _relate(self, said: list[_Said]) -> None:
        if self._offsets:
            self._facts += self._related(said)

    def _related(self, said: list[_Said]) -> list[Fact]:
        best = min(self._offsets, key=lambda offset: offset.uncertain_s)
        return [self._fact(one, one.theirs_s + best.seconds, best.uncertain_s) for one in said]

    def _fact(self, said: _Said, at_s: float, uncertain_s: float) -> Fact:
        return Fact(
            at_s=at_s,
            uncertain_s=uncertain_s,
            blanket=self._blanket,
            instance=said.instance,
            running=said.running,
        )


def ping(now_s: float) -> bytes:
    """The line that asks for a pong."""
    return json.dumps({"ping": now_s}).encode() + b"\n"
