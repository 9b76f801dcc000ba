"""What a provider says of a domain of its own: how much it has, and when it may be down. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from supercloud.model.errors import Exhausted, InvalidInput
from supercloud.model.quota import Count, Mebibytes

#: Of a window, at most; and so far ahead it can be announced.
LONGEST_S, AHEAD_S = 31 * 86400.0, 400 * 86400.0
#: A clock that is a little behind still announces for now.
_LATE_S = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rented:
    """Of a domain, by all its machines, running or not."""

    machines: Count = 0
    vcpus: Count = 0
    memory_mib: Mebibytes = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What a domain rents out at most. None: it does not say."""

    machines: Count | None = None
    vcpus: Count | None = None
    memory_mib: Mebibytes | None = None

    def check(self, now: Rented, more: Rented) -> None:
        """
        Raises:
            Exhausted: it does not have so much. How much others have of it is not said.
        """
        for what, limit, used, asked in (
            ("machines", self.machines, now.machines, more.machines),
            ("vCPUs", self.vcpus, now.vcpus, more.vcpus),
            ("MiB of memory", self.memory_mib, now.memory_mib, more.memory_mib),
        ):
            if limit is not None and used + asked > limit:
                raise Exhausted(
                    f"its provider has too few {what} left: {asked} asked", hint="choose another provider"
                )


class WindowState(StrEnum):
    PLANNED = "planned"
    CLOSED = "closed"  # nothing new comes to the domain; what has to leave is leaving
    OVER = "over"


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Moments are seconds since the epoch. `drain_ahead_s`: so long before it begins, what runs there moves
    away; None: it stays, and may stop."""

    begins_at: float
    ends_at: float
    drain_ahead_s: float | None = None

    @property
    def closes_at(self) -> float:
        """From when on nothing new comes there."""
        return self.begins_at - (self.drain_ahead_s or 0.0)

    def check(self, now: float) -> None:
        """
        Raises:
            InvalidInput: it cannot be kept.
        """
        if not self.begins_at < self.ends_at <= self.begins_at + LONGEST_S:
            raise InvalidInput(f"a window ends after it begins, and within {LONGEST_S / 86400:.0f} days")
        if not now - _LATE_S <= self.begins_at <= now + AHEAD_S:
            raise InvalidInput(f"a window begins in the next {AHEAD_S / 86400:.0f} days")

    def overlaps(self, other: Window) -> bool:
        return self.closes_at < other.ends_at and other.closes_at < self.ends_at
