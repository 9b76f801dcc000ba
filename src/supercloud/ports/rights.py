"""Rights store port: the one place that says who may run an instance.

Each method is one transaction on the control plane's store, loads its rows under lock, decides with the
pure functions of `model.right`, and may be repeated with the same arguments without harm. The simulation
runs the same sagas over an implementation in memory; a contract suite holds both to one behaviour.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from supercloud.model.names import Epoch, Id
from supercloud.model.right import Renewal, RightRecord, RunRight
from supercloud.ports.controller import RenewalAnswer


class Verdict(StrEnum):
    """The one row that commit and abort of a migration compete for."""

    OPEN = "open"
    COMMITTED = "committed"  # the epoch moved to the target
    ABORTED = "aborted"  # the instance goes on at the source, at its old epoch
    COLD_STARTED = "cold-started"  # the epoch moved, but to a fresh boot at the source's volume: memory lost


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What was decided of a migration. `right` is the new right of a commit or a cold start."""

    verdict: Verdict
    right: RunRight | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Who holds an instance's right, and how long until nobody can (0: it is free now).

    `free_in_s` is None where time alone never frees it (`hold`).
    """

    record: RightRecord
    free_in_s: float | None


class RightsStore(Protocol):
    """Raises, all methods: NotFound (no such instance), Unavailable (the store)."""

    async def standing(self, instance: Id) -> Standing: ...

    async def issue(self, instance: Id, *, to: Id, operation: Id) -> RunRight:
        """Epoch + 1 to blanket `to`. The same operation asking again gets the same right, not another.

        Raises:
            RightRefused: somebody may still hold it, or the store is in quarantine after a restore.
        """
        ...

    async def renew(self, *, by: Id, renewals: Sequence[Renewal]) -> list[RenewalAnswer]:
        """All of a blanket's renewals. A clone is answered `cloned`, and its blanket must be revoked."""
        ...

    async def surrender(self, instance: Id, *, by: Id, epoch: Epoch) -> None:
        """The holder made sure that nothing runs.

        Raises:
            RightRefused: `by` does not hold that epoch.
        """
        ...

    async def open_migration(self, operation: Id, *, instance: Id, source: Id, target: Id) -> Decision:
        """Make the row that commit and abort compete for; the epoch it is about is the current one.

        Raises:
            RightRefused: `source` does not hold the right.
            Conflict: another migration of this instance is open.
        """
        ...

    async def decision(self, operation: Id) -> Decision: ...

    async def commit(self, operation: Id, *, source_gone: bool) -> Decision:
        """Move the epoch to the target, unless the row was decided before; returns what stands.

        `source_gone`: the source's agent said that its process ended or is parked. Without it the source's
        right plus margin must be over.

        Raises:
            RightRefused: neither; or the store is in quarantine.
        """
        ...

    async def abort(self, operation: Id) -> Decision:
        """Leave the right where it is, unless the row was decided before; returns what stands."""
        ...

    async def cold_start(self, operation: Id, *, source_gone: bool) -> Decision:
        """As `commit`, but the new right is the source blanket's, for a fresh boot from its volume."""
        ...
