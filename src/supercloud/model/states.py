"""Life cycles as transition tables. What a table does not list is forbidden, and tests say so."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeVar

from supercloud.model.errors import Conflict


class InstanceState(StrEnum):
    """Where an instance (L2) is in its life, as the store sees it."""

    CREATED = "created"  # recorded; nothing exists in a blanket yet
    PREPARING = "preparing"  # its volumes and network are being made in a blanket
    STARTING = "starting"  # a right was issued; the holder has not acknowledged running
    RUNNING = "running"
    MIGRATING = "migrating"
    PAUSED = "paused"  # the keeper or the owner paused it; memory is kept
    STOPPING = "stopping"
    STOPPED = "stopped"
    FENCED = "fenced"  # its right ran out at an unreachable holder and there is no replica to start from
    FAILED = "failed"  # an operation gave up; the reason is with the operation
    REMOVED = "removed"


class BlanketState(StrEnum):
    """Where a blanket (L1) is in its life."""

    CREATED = "created"
    BOOTING = "booting"  # its machine runs; the agent has not joined
    READY = "ready"  # the agent is connected
    UNREACHABLE = "unreachable"  # joined before, not connected now
    STOPPED = "stopped"  # its owner stopped its machine; its disk is kept
    REVOKED = "revoked"  # its identity is no longer accepted (rolled back, cloned, or removed by its owner)
    FAILED = "failed"
    REMOVED = "removed"


class OperationState(StrEnum):
    """A durable operation. `CANCELLING` still has to reach one of the three ends."""

    PENDING = "pending"
    RUNNING = "running"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


_I = InstanceState
INSTANCE_TRANSITIONS: Mapping[InstanceState, frozenset[InstanceState]] = {
    _I.CREATED: frozenset({_I.PREPARING, _I.FAILED, _I.REMOVED}),
    _I.PREPARING: frozenset({_I.STARTING, _I.STOPPED, _I.FAILED, _I.REMOVED}),
    _I.STARTING: frozenset({_I.RUNNING, _I.STOPPED, _I.FENCED, _I.FAILED}),
    _I.RUNNING: frozenset({_I.MIGRATING, _I.PAUSED, _I.STOPPING, _I.STOPPED, _I.FENCED, _I.FAILED}),
    _I.MIGRATING: frozenset({_I.RUNNING, _I.PAUSED, _I.STOPPED, _I.STARTING, _I.FENCED, _I.FAILED}),
    _I.PAUSED: frozenset({_I.RUNNING, _I.STOPPING, _I.STOPPED, _I.FENCED, _I.FAILED}),
    _I.STOPPING: frozenset({_I.STOPPED, _I.RUNNING, _I.FENCED, _I.FAILED}),
    _I.STOPPED: frozenset({_I.STARTING, _I.PREPARING, _I.REMOVED, _I.FAILED}),
    _I.FENCED: frozenset({_I.RUNNING, _I.PAUSED, _I.STARTING, _I.STOPPED, _I.REMOVED, _I.FAILED}),
    _I.FAILED: frozenset({_I.PREPARING, _I.STARTING, _I.RUNNING, _I.STOPPED, _I.REMOVED}),
    _I.REMOVED: frozenset(),
}

#: Of these, an instance has no process, and its memory is its blanket's to give to others.
AT_REST = frozenset({_I.CREATED, _I.STOPPED, _I.FAILED})

_B = BlanketState
BLANKET_TRANSITIONS: Mapping[BlanketState, frozenset[BlanketState]] = {
    _B.CREATED: frozenset({_B.BOOTING, _B.FAILED, _B.REMOVED}),
    _B.BOOTING: frozenset({_B.READY, _B.STOPPED, _B.FAILED, _B.REVOKED, _B.REMOVED}),
    _B.READY: frozenset({_B.UNREACHABLE, _B.STOPPED, _B.REVOKED, _B.FAILED, _B.REMOVED}),
    _B.UNREACHABLE: frozenset({_B.READY, _B.STOPPED, _B.REVOKED, _B.FAILED, _B.REMOVED}),
    _B.STOPPED: frozenset({_B.READY, _B.UNREACHABLE, _B.REVOKED, _B.FAILED, _B.REMOVED}),
    _B.REVOKED: frozenset({_B.REMOVED}),
    _B.FAILED: frozenset({_B.BOOTING, _B.READY, _B.REVOKED, _B.REMOVED}),
    _B.REMOVED: frozenset(),
}

#: A blanket has joined and is still accepted: its agent is connected, or may be again in a moment.
JOINED = frozenset({_B.READY, _B.UNREACHABLE})
#: The same, or it comes back when its owner wants: what is decided for a whole cloud is for it, too.
LASTING = JOINED | {_B.STOPPED}

_O = OperationState
OPERATION_TRANSITIONS: Mapping[OperationState, frozenset[OperationState]] = {
    _O.PENDING: frozenset({_O.RUNNING, _O.CANCELLING, _O.FAILED, _O.CANCELLED}),
    _O.RUNNING: frozenset({_O.CANCELLING, _O.SUCCEEDED, _O.FAILED, _O.CANCELLED}),
    _O.CANCELLING: frozenset({_O.SUCCEEDED, _O.FAILED, _O.CANCELLED}),
    _O.SUCCEEDED: frozenset(),
    _O.FAILED: frozenset(),
    _O.CANCELLED: frozenset(),
}

S = TypeVar("S", bound=StrEnum)


def move(table: Mapping[S, frozenset[S]], now: S, to: S) -> S:
    """`to`, if the table allows it from `now`; staying put is always allowed.

    Raises:
        Conflict: the table forbids the transition.
    """
    if to is not now and to not in table[now]:
        raise Conflict(f"cannot go from {now} to {to}")
    return to
