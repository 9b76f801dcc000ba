"""What the keeper and the agent ask of each other over the keeper's socket."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from supercloud.model.names import Epoch, Id
from supercloud.model.right import RunRight
from supercloud.ports.agent import InstanceRef
from supercloud.ports.controller import RenewRights, RightsRenewed

SOCKET = Path("/run/supercloud/keeper.sock")


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """`counted_from_s`: see keeper.rights.Rights.grant. `resume`: have it go on at once, if it stands still
    and has its memory; a guest waits for it."""

    right: RunRight
    counted_from_s: float | None = None
    resume: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RightReport:
    instance: Id
    epoch: Epoch
    may_run: bool
    left_s: float
    reason: str = ""  # why it may not run


@dataclass(frozen=True, slots=True, kw_only=True)
class KeeperReport:
    held: tuple[RightReport, ...] = ()
    epochs: dict[Id, Epoch] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Happened:
    """Something the keeper did or saw; `id` makes a repeat harmless."""

    id: Id
    kind: str
    at: float  # wall clock, for people
    data: dict[str, Any]


class KeeperPort(Protocol):
    """The keeper answers. Wire names are `keeper.<method>`."""

    async def grant(self, request: Grant) -> RightReport:
        """Take a right; answered once it is durable and good for running.

        Raises:
            RightRefused: the store refused it, or a higher epoch is known here.
            Unavailable: it could not be renewed in time, or not written down.
        """
        ...

    async def park(self, request: InstanceRef) -> bool:
        """Whether what was sent executes nothing here any more, whoever tells it to, unless its migration is
        decided for this blanket; durable before it is answered. Ask once everything has been sent."""
        ...

    async def forget(self, request: InstanceRef) -> None:
        """The caller proved that the process ended. Repeating is harmless."""
        ...

    async def report(self) -> KeeperReport: ...


class Relay(Protocol):
    """The agent answers. Wire names are `relay.<method>`."""

    async def renew(self, request: RenewRights) -> RightsRenewed:
        """Pass the heartbeat on to the control plane. Raises: Unavailable, OutcomeUnknown."""
        ...

    async def happened(self, request: Happened) -> None:
        """Put it into the outbox; answered once that is durable."""
        ...
