"""What happened, in order: the event log that a replay prints, and the steps at which faults are put in."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable

from supercloud.simulator.loop import current


class Trace:
    """`step` is called for whatever a fault can come before: frames, transactions, acts of hypervisors."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self.lines: list[str] = []
        self.names: list[str] = []  # of the steps since `begin`
        self.steps = 0
        self._armed: list[tuple[str, int, Callable[[], None]]] = []
        self._counting = False

    def begin(self) -> None:
        """Steps are remembered from here: the operation under test is asked for."""
        self.names.clear()
        self._counting = True

    def arm(self, name: str, occurrence: int, act: Callable[[], None]) -> None:
        """Have `act` done just before the step of this name comes for the n-th time (from 1)."""
        self._armed.append((name, occurrence, act))

    def disarm(self) -> list[Callable[[], None]]:
        """What never came."""
        left, self._armed = self._armed, []
        return [act for _, _, act in left]

    async def step(self, kind: str, what: str, frame: str = "") -> None:
        """The process that takes this step may be killed or hung just before it: then it goes no further."""
        process = current()
        self.count(f"{process.name}: {kind} {what}" + (f" {_gist(frame)}" if frame else ""))
        if not process.runs:
            await asyncio.sleep(0)

    def count(self, name: str) -> None:
        """A step of no process of ours: a kernel, an L0, a libvirt."""
        self.steps += 1
        if self._counting:
            self.names.append(name)
            times = self.names.count(name) if any(armed[0] == name for armed in self._armed) else 0
            due = [armed for armed in self._armed if armed[:2] == (name, times)]
            self._armed = [armed for armed in self._armed if armed not in due]
            for _, _, act in due:
                act()
        self.say(name)

    def say(self, text: str) -> None:
        self.lines.append(f"{self._now():9.3f}  {text}")

    def digest(self) -> str:
        """Two runs that did the same have the same."""
        return hashlib.sha256("\n".join(self.lines).encode()).hexdigest()[:16]


def _gist(frame: str) -> str:
    said = json.loads(frame)
    if "call" in said:
        return str(said["call"])
    if "error" in said:
        return f"error {said['error'].get('code')}"
    return "answer"
