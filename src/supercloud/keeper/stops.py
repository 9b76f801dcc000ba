"""Sees that this machine was stopped from outside: its own clock stood still while another went on. Pure."""

from __future__ import annotations

from dataclasses import dataclass

#: The RTC counts whole seconds, and reading it may be late; a real stop longer than this loses every right.
TOLERANCE_S = 2.5
#: How much the two clocks may drift apart without a stop, as a share of the time that passed.
_DRIFT = 500e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """One reading of every clock that the keeper has."""

    boot_id: str
    boottime_s: float  # stands still while the machine is stopped
    rtc_s: float  # goes on meanwhile; whole seconds will do


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """RTC minus BOOTTIME as it was when the machine ran. Kept in the journal, so a restart sees stops too."""

    boot_id: str
    offset_s: float
    at_s: float  # BOOTTIME


def compare(baseline: Baseline | None, now: Moment) -> tuple[Baseline, bool]:
    """The baseline to keep, and whether the machine was stopped since `baseline`.

    Stops add up: the baseline follows a growing offset only as fast as clocks drift. It follows a shrinking
    one (the host's clock was set back) at once, which can only make later stops look longer.
    """
    offset_s = now.rtc_s - now.boottime_s
    fresh = Baseline(boot_id=now.boot_id, offset_s=offset_s, at_s=now.boottime_s)
    if baseline is None or baseline.boot_id != now.boot_id:
        return fresh, False
    gap_s = offset_s - baseline.offset_s
    if gap_s > TOLERANCE_S:
        return fresh, True
    passed_s = max(0.0, now.boottime_s - baseline.at_s)
    kept_s = baseline.offset_s + min(gap_s, passed_s * _DRIFT)
    return Baseline(boot_id=now.boot_id, offset_s=kept_s, at_s=now.boottime_s), False
