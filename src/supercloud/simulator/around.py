"""The blanket that another one is inside of, as far as that one depends on it: its clock and its real keeper.

The one inside has its RTC from the system clock of the one around, which stands still with that: until the
keeper there has seen the stop, by the RTC of its own, and has set it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from supercloud.keeper.journal import Journal
from supercloud.keeper.keeper import Hands, Keeper
from supercloud.keeper.rights import Rights, Seen
from supercloud.model.names import Id, new_id
from supercloud.ports.clock import Instant
from supercloud.simulator.loop import Machine, Process

if TYPE_CHECKING:
    from supercloud.simulator.blanket import SimBlanket


class _Clock:
    """ports.clock.HolderClock of a blanket that no other one is around."""

    def __init__(self, around: Around) -> None:
        self._around = around

    def now(self) -> float:
        return self._around.machine.now()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def instant(self) -> Instant:
        return Instant(self._around.boot, self.now())

    def rtc_s(self) -> float:
        return float(int(1_000_000 + self._around.loop.true_s))


class _NoInstances:
    """keeper.monitors.Monitors where only the machine of a blanket runs, which is no instance."""

    def seen(self) -> dict[Id, Seen]:
        return {}

    def monitor(self, instance: Id) -> None:
        return None

    async def look(self) -> None:
        return

    async def run(self) -> None:
        await asyncio.Event().wait()


class Around:
    """`behind_s`: how far its system clock stands behind."""

    def __init__(self, inside: SimBlanket, folder: Path) -> None:
        self._inside = inside
        self._folder = folder
        self.loop = inside.loop
        self.boot = new_id()
        self.behind_s = 0.0
        self._stopped_at = 0.0
        self.machine = Machine(self.loop, f"around {inside.name}")
        Process(self.loop, self.machine, f"{self.machine.name}.keeper").spawn(self._keep())

    async def _keep(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        nonces = iter(range(1 << 62))
        keeper = Keeper(
            clock=_Clock(self),
            journal=Journal(self._folder / "around.sqlite"),
            hands=Hands(permit=_permit, feed=lambda: None, catch_up=self._catch_up),
            rights=lambda at, restored: Rights(
                nonce=lambda: f"{next(nonces):032x}", at=at, restored=restored, renew_every_s=10.0
            ),
            monitors=lambda _: _NoInstances(),  # type: ignore[arg-type,return-value]
        )
        await keeper.run()

    def _catch_up(self) -> None:
        if not self._inside.bugs.clock_around_stays_behind:
            self.behind_s = 0.0

    def stop(self) -> None:
        """Its L0 stops it, and all that is in it."""
        if not self.machine.stopped:
            self._stopped_at = self.loop.true_s
            self.machine.stop()

    def go_on(self) -> None:
        if self.machine.stopped:
            self.behind_s += self.loop.true_s - self._stopped_at
            self.machine.go_on()


async def _permit(_: Mapping[Id, float]) -> None:
    """It has no instances."""
