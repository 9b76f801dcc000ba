"""Live migration's one commit point, as a pure table (docs/adr/0008-migration.md).

Commit and abort compete for one row; the outcome is looked up from what is seen on both sides, never assumed.
"""

from __future__ import annotations

from enum import StrEnum


class Source(StrEnum):
    """The source's QEMU process, as its agent (or the passing of time) shows it."""

    ALIVE = "alive"
    #: It has sent everything, and the keeper holds its disks so that it executes nothing more unless the
    #: migration is decided for the source (`keeper.fence`).
    PARKED = "parked"
    GONE = "gone"  # the process ended, or its right plus margin is over
    UNKNOWN = "unknown"  # the agent does not answer and the right is not over


class Target(StrEnum):
    """The target's copy."""

    COMPLETE = "complete"  # all memory and disk arrived; paused
    INCOMING = "incoming"  # still receiving
    LOST = "lost"  # no such process, or its blanket is gone for good
    UNKNOWN = "unknown"


class Outcome(StrEnum):
    WAIT = "wait"  # nothing to decide yet: the transfer runs, or a right has to run out first
    ABORT = "abort"  # go on at the source
    COMMIT = "commit"  # forward: the epoch moves to the target
    COLD_START = "cold-start"  # at epoch + 1 from the source's volume; reported as "memory lost"


def settle(source: Source, target: Target, *, transfer_over: bool) -> Outcome:
    """What both sides add up to.

    `transfer_over`: the job ended, failed or was cancelled, so waiting longer cannot complete it.

    A source that is alive only waits while the transfer runs; afterwards it goes on. One that is parked can
    still do so, and does unless the target has everything. A target that cannot be seen while the source is
    gone is waited for: declaring it lost is for its right to run out.
    """
    if source is Source.ALIVE or (source is Source.PARKED and target is not Target.COMPLETE):
        return Outcome.ABORT if transfer_over else Outcome.WAIT
    if source is Source.UNKNOWN:
        return Outcome.WAIT
    match target:
        case Target.COMPLETE:
            return Outcome.COMMIT
        case Target.LOST:
            return Outcome.COLD_START
        case Target.INCOMING:
            # The sender is dead, so what has not arrived never will.
            return Outcome.COLD_START if transfer_over else Outcome.WAIT
        case Target.UNKNOWN:
            return Outcome.WAIT
