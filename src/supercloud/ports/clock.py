"""Time, as ports: tests and the simulation jump it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class Clock(Protocol):
    """A monotonic clock and a way to wait on it."""

    def now(self) -> float:
        """Seconds since an arbitrary start; never goes back."""
        ...

    async def sleep(self, seconds: float) -> None: ...


@dataclass(frozen=True, slots=True)
class Instant:
    """A moment that survives a restart of the process but not a reboot of the machine."""

    boot_id: str
    boottime_s: float  # CLOCK_BOOTTIME


class HolderClock(Clock, Protocol):
    """The keeper's view of time. CLOCK_BOOTTIME stops when L0 stops the VM; the RTC goes on."""

    def instant(self) -> Instant: ...

    def rtc_s(self) -> float:
        """Seconds of a clock that goes on while this machine is stopped. One-second resolution will do."""
        ...


@dataclass(frozen=True, slots=True)
class StoreTime:
    """The store's clock, with the incarnation it belongs to.

    Another `incarnation` (the machine rebooted, the database failed over or was restored) means that
    what was committed last may be missing, and that `now_s` may not compare with stored times.
    """

    incarnation: str
    now_s: float
