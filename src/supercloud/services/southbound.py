"""What providers can ask of the control plane: the values, and the one face that the southbound API serves.

A provider sees the domains that it has, and of what runs there what it rents out anyway: machines by the ids
that its platform has them under, their size and state, and numbers of these. Nothing here has a field for a
name that a user chose, or for anything inside of a machine; what a value has no field for cannot be shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Protocol

from pydantic import Field

from supercloud.model.domains import Capacity, Rented, WindowState
from supercloud.model.names import Id, MemoryMib, Name, SizeBytes, Text, Vcpus
from supercloud.model.ocsf import DetectionFinding
from supercloud.model.orders import Reaction
from supercloud.model.placement import Confidentiality, Location, Price
from supercloud.model.states import BlanketState, OperationState
from supercloud.services.feed import Place, Watch
from supercloud.services.northbound import LAST
from supercloud.services.pages import EVERYTHING, Page, Part
from supercloud.services.requests import Options, PlatformKind, Ref
from supercloud.services.security_views import (
    AskAct,
    AskedActView,
    CommandView,
    DeliveredView,
    ExportView,
    Response,
    TakenOrders,
)

#: Seconds since the epoch, of this century or the next.
Moment = Annotated[float, Field(ge=0, le=8e9, allow_inf_nan=False)]
Ahead = Annotated[float, Field(ge=0, le=7 * 86400, allow_inf_nan=False)]

#: No limit is said.
UNSAID = Capacity()


# ---------------------------------------------------------------- what is asked


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterDomain:
    """A domain with its platform. It runs machines once an operator has accepted it."""

    name: Name
    kind: PlatformKind
    options: Options = field(default_factory=dict)
    location: Location | None = None
    price: Price | None = None
    capacity: Capacity = UNSAID


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainTerms:
    """What a provider says of its domain, all of it: what is left out is not said any more."""

    location: Location | None = None
    price: Price | None = None
    capacity: Capacity = UNSAID


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanWindow:
    """The domain may be down from `begins_at` to `ends_at`. From `drain_ahead_s` before on nothing new comes
    there, and what runs there moves away; None: it may stay."""

    domain: Ref
    begins_at: Moment
    ends_at: Moment
    drain_ahead_s: Ahead | None = None
    reason: Annotated[Text, Field(max_length=200)] = ""  # for users to read


# ---------------------------------------------------------------- what is shown


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainView:
    id: Id
    name: Name
    kind: str
    options: dict[str, str]
    accepted: bool
    accelerator: str
    nesting: bool
    confidentiality: Confidentiality
    abilities: tuple[str, ...]
    reason: str
    location: str | None
    price: Price | None
    capacity: Capacity
    rented: Rented
    draining: bool  # nothing new comes there; by a drain, what runs there moves away
    takes: tuple[Reaction, ...]  # the orders that its provider takes
    created_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineView:
    """A VM of the domain's platform that somebody rents, by the platform's own id of it."""

    id: Id
    domain: Name
    state: BlanketState
    connected: bool  # its agent is
    vcpus: Vcpus
    memory_mib: MemoryMib
    disk_bytes: SizeBytes
    in_use: bool  # something is in it that a drain would move, or that stays with it
    created_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthView:
    """What the platform itself says at this moment, beside what is known of its machines."""

    id: Id
    domain: Name
    reachable: bool
    why: str  # it is not
    running: int  # machines, as the platform says
    stopped: int
    frozen: int
    unknown: int  # machines of the platform that nobody rents
    missing: int  # machines that somebody rents and the platform does not have
    connected: int  # machines whose agent is connected


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainView:
    """Of its parts, which are users', nothing is shown."""

    id: Id
    domain: Name
    domain_id: Id
    state: OperationState
    done: float | None
    in_use: int  # machines that something is still in
    error: str | None
    created_at: float
    ended_at: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowView:
    id: Id
    domain: Name
    begins_at: float
    ends_at: float
    drain_ahead_s: float | None
    reason: str
    state: WindowState
    created_at: float


class Southbound(Protocol):
    """Everything that providers can ask. Raises, all methods: the errors of model.errors.

    Every caller has one of its own, in which the domains of others do not exist.
    """

    async def register_domain(self, request: RegisterDomain) -> DomainView: ...
    async def domains(self, *, page: Page = EVERYTHING) -> Part[DomainView]: ...
    async def domain(self, ref: Ref) -> DomainView: ...
    async def set_domain(self, ref: Ref, terms: DomainTerms) -> DomainView: ...
    async def remove_domain(self, ref: Ref) -> None: ...
    async def drain_domain(self, ref: Ref) -> DrainView: ...
    async def undrain_domain(self, ref: Ref) -> DomainView: ...
    async def machines(self, ref: Ref, *, page: Page = EVERYTHING) -> Part[MachineView]:
        """By id."""
        ...

    async def health(self, ref: Ref) -> HealthView: ...

    async def plan_window(self, request: PlanWindow) -> WindowView: ...
    async def windows(self, *, domain: Ref | None = None, page: Page = LAST) -> Part[WindowView]:
        """The last to begin first."""
        ...

    async def window(self, window: Id) -> WindowView: ...
    async def cancel_window(self, window: Id) -> None:
        """What it closed is open again."""
        ...

    async def drains(self, *, page: Page = LAST) -> Part[DrainView]:
        """The newest first."""
        ...

    async def drain(self, drain: Id, *, wait_s: float = 0.0) -> DrainView: ...
    async def cancel_drain(self, drain: Id) -> DrainView: ...

    async def deliver(
        self, events: Sequence[DetectionFinding], *, domain: Ref | None = None
    ) -> list[DeliveredView]:
        """Findings, all or none of them. What came before under its uid is answered as it is."""
        ...

    async def delivered(self, *, domain: Ref | None = None, page: Page = LAST) -> Part[DeliveredView]: ...
    async def delivered_one(self, finding: Id) -> DeliveredView: ...

    async def take_orders(self, ref: Ref, taken: TakenOrders) -> TakenOrders: ...
    async def commands(
        self, *, domain: Ref | None = None, every: bool = False, page: Page = LAST
    ) -> Part[CommandView]:
        """The newest first; open ones, or `every` one."""
        ...

    async def command(self, command: Id) -> CommandView: ...
    async def respond(self, command: Id, response: Response) -> CommandView: ...

    async def ask_act(self, request: AskAct) -> AskedActView: ...
    async def asked_acts(self, *, domain: Ref | None = None, page: Page = LAST) -> Part[AskedActView]: ...
    async def asked_act(self, act: Id) -> AskedActView: ...
    async def withdraw_act(self, act: Id) -> AskedActView: ...
    async def perform_act(self, act: Id) -> AskedActView:
        """Raises: Refused (no consent, by who enforces it; or nobody does), Conflict."""
        ...

    async def asked_export(self, act: Id) -> ExportView:
        """Raises: NotFound (nothing came of it)."""
        ...

    async def watch(self, *, after: Place | None = None) -> Watch:
        """As northbound.Northbound.watch."""
        ...
