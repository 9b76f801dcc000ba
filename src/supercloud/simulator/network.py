"""Links between machines, and connections over them: late, in order, silent while cut, closed in the end."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from random import Random

from supercloud.model.errors import Unavailable
from supercloud.simulator.loop import Process, SimLoop
from supercloud.simulator.trace import Trace

#: What the real connections take to notice that the other end is silent (pings, then their timeout).
_SILENCE_S = 25.0
_PING_S = 5.0


class Network:
    """Which pairs of machines hear each other. Names are those of machines."""

    def __init__(self, loop: SimLoop, random: Random, trace: Trace) -> None:
        self._loop = loop
        self._random = random
        self.trace = trace
        self._cut: set[frozenset[str]] = set()
        #: Seconds by which frames from one machine to another come late, beyond the usual.
        self.late: dict[tuple[str, str], float] = {}
        self._waiting: list[Callable[[], None]] = []
        #: When each pair heard each other again last; absent: always did.
        self.healed_at: dict[frozenset[str], float] = {}

    def cut(self, one: str, other: str) -> None:
        self._cut.add(frozenset((one, other)))

    def heal(self, one: str, other: str) -> None:
        pair = frozenset((one, other))
        self._cut.discard(pair)
        self.healed_at[pair] = self._loop.true_s
        waiting, self._waiting = self._waiting, []
        for act in waiting:
            act()

    def hears(self, one: str, other: str) -> bool:
        return frozenset((one, other)) not in self._cut

    def latency_s(self, *, local: bool = False) -> float:
        """Mostly short; now and then as long as a busy path makes it."""
        if local:
            return self._random.uniform(0.0001, 0.002)
        return self._random.uniform(0.005, 0.03) + (self._random.random() < 0.02) * self._random.uniform(0, 2)

    def later(self, seconds: float, act: Callable[[], None]) -> None:
        """In nobody's process: kernels and wires."""
        self._loop.call_at(self._loop.true_s + seconds, act, context=self._loop.outside._context)

    def when_heard(self, one: str, other: str, act: Callable[[], None]) -> None:
        if self.hears(one, other):
            act()
        else:
            self._waiting.append(lambda: self.when_heard(one, other, act))

    def connect(self, one: Process, other: Process, *, what: str) -> tuple[Wire, Wire]:
        """Raises: Unavailable."""
        if other.dead or not self.hears(one.machine.name, other.machine.name):
            raise Unavailable(f"{other.name} cannot be reached")
        left, right = Wire(self, one, what), Wire(self, other, what)
        left.join(right)
        return left, right


class Wire:
    """wire.rpc.Transport: one end of a connection between two processes."""

    def __init__(self, network: Network, process: Process, what: str) -> None:
        self._network = network
        self.process = process
        self._what = what
        self._inbox: deque[str] = deque()
        self._woken = asyncio.Event()
        self._reason: str | None = None
        self._other: Wire
        self._last_due = 0.0
        self._heard_at = 0.0

    def join(self, other: Wire) -> None:
        self._other, other._other = other, self
        for end in (self, other):
            end.process.on_end.append(lambda end=end: end._hang_up("its process ended"))  # type: ignore[misc]
        if self._far:
            self._heard_at = other._heard_at = self._network._loop.true_s
            self._network.later(_PING_S, self._ping)

    @property
    def _far(self) -> bool:
        return self.process.machine is not self._other.process.machine

    def _hears(self) -> bool:
        return self._network.hears(self.process.machine.name, self._other.process.machine.name)

    def _ping(self) -> None:
        """Both ends' keepalive at once: who is silent for too long is given up by the other, alone."""
        if self._reason is not None and self._other._reason is not None:
            return
        now = self._network._loop.true_s
        for end, peer in ((self, self._other), (self._other, self)):
            if self._hears() and peer._reason is not None:
                end._close("closed")  # the answer of a kernel that knows no such connection
            elif self._hears() and peer.process.runs:
                end._heard_at = now
            elif now - end._heard_at > _SILENCE_S and end.process.runs:
                end._close("the other end is silent")
        self._network.later(_PING_S, self._ping)

    async def send(self, frame: str) -> None:
        if self._reason is not None:
            raise Unavailable(self._reason)
        network = self._network
        await network.trace.step("send", self._what, frame)
        if self._reason is not None:
            raise Unavailable(self._reason)
        now = network._loop.true_s
        late_s = network.late.get((self.process.machine.name, self._other.process.machine.name), 0.0)
        due = max(now + late_s + network.latency_s(local=not self._far), self._last_due + 1e-6)
        self._last_due = due
        network.later(due - now, lambda: self._arrive(frame))

    def _arrive(self, frame: str) -> None:
        self._network.when_heard(
            self.process.machine.name, self._other.process.machine.name, lambda: self._other._take(frame)
        )

    def _take(self, frame: str) -> None:
        if self._reason is None and not self.process.dead:
            self._inbox.append(frame)
            self._woken.set()

    async def receive(self) -> str:
        while not self._inbox:
            if self._reason is not None:
                raise Unavailable(self._reason)
            self._woken.clear()
            await self._woken.wait()
        frame = self._inbox.popleft()
        await self._network.trace.step("hear", self._what, frame)
        return frame

    async def close(self, reason: str = "") -> None:
        self._hang_up(reason)

    def _hang_up(self, reason: str) -> None:
        """This end closes; the other hears of it when the wire lets it."""
        if self._reason is not None:
            return
        self._close(reason or "closed")
        other = self._other
        network = self._network
        network.later(
            max(network.latency_s(local=not self._far), self._last_due - network._loop.true_s),
            lambda: network.when_heard(
                self.process.machine.name, other.process.machine.name, lambda: other._close("closed")
            ),
        )

    def _close(self, reason: str) -> None:
        if self._reason is None:
            self._reason = reason
            self._woken.set()
