"""What users are shown: values as the API answers with them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from supercloud.model.levels import Level
from supercloud.model.names import (
    Cidr,
    Digest,
    Epoch,
    Id,
    Name,
    PublicKey,
)
from supercloud.model.orders import Reaction
from supercloud.model.permissions import Permission, Role
from supercloud.model.placement import Confidentiality, Placement, Price
from supercloud.model.quota import Amounts, Quota
from supercloud.model.states import BlanketState, InstanceState, OperationState
from supercloud.model.trust import TrustKind, TrustState
from supercloud.ports.agent import RunState
from supercloud.ports.platform import Flavour
from supercloud.services.requests import (
    AddBlanket,
    CreateCloud,
    CreateNetwork,
    CreateVolume,
    RunInstance,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationView:
    id: Id
    kind: str  # "blanket.add", "instance.run", "instance.migrate", …
    object: Id
    object_name: str
    state: OperationState
    phase: str
    done: float | None  # 0..1 where known
    error: dict[str, str] | None  # code, message, hint
    result: dict[str, Any] | None
    created_at: float  # wall clock, seconds since the epoch
    ended_at: float | None
    parent: Id | None = None  # the operation that it is a part of
    to: Id | None = None  # of a migration: the blanket that it goes to


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedCloud:
    """All that a cloud has, as it would have to be asked for to have it again. An instance is where it is
    now, with its boot volume's size; `volumes` are the others, and `attached` says which instance has which.
    `user_data` names the instances that have some: in no request here, since it is for one instance only.
    """

    cloud: CreateCloud
    blankets: tuple[AddBlanket, ...]
    networks: tuple[CreateNetwork, ...]
    volumes: tuple[CreateVolume, ...]
    instances: tuple[RunInstance, ...]
    attached: dict[str, tuple[str, ...]]
    user_data: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MaintenanceView:
    """When a provider may be down (seconds since the epoch). From `closes_at` on nothing new comes there."""

    closes_at: float
    begins_at: float
    ends_at: float
    drains: bool  # what runs there is moved away before
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderView:
    id: Id
    name: Name
    kind: str
    options: dict[str, str]
    accelerator: str
    nesting: bool
    nested_levels: int  # so many blankets deep it goes inside a blanket there, and why no deeper
    nested_reason: str
    confidentiality: Confidentiality
    abilities: tuple[str, ...]
    reason: str
    blankets: int
    location: str | None
    price: Price | None
    draining: bool  # nothing new comes there, and what is there moves away
    accepted: bool  # else its provider has registered it, and no operator let it run blankets yet
    gives: Level | None  # the highest that a new blanket there could hold
    takes: tuple[Reaction, ...]  # the orders that its provider takes
    maintenance: tuple[MaintenanceView, ...]  # the next first


@dataclass(frozen=True, slots=True, kw_only=True)
class PrincipalView:
    id: Id
    name: Name
    key: PublicKey
    roles: tuple[Role, ...]
    clouds: int
    created_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenView:
    id: str  # revocation id of its first block
    principal: str
    only: tuple[Permission, ...] | None
    clouds: tuple[Id, ...] | None
    minted_at: float  # wall clock, seconds since the epoch
    expires_at: float
    revoked: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class MintedView(TokenView):
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokedView:
    id: str
    revoked: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudView:
    id: Id
    name: Name
    owner: Name | None  # None: nobody's, so the operators'
    parent: Name | None  # the cloud that it is in, as far as the caller knows it
    cpu_model: str
    right_length_s: float
    right_margin_s: float
    right_grace_s: float
    blankets: int
    instances: int
    quota: Quota
    used: Amounts  # by itself, and by the slices of the clouds within it


@dataclass(frozen=True, slots=True, kw_only=True)
class BlanketView:
    id: Id
    name: Name
    cloud: str
    cloud_id: Id
    provider: str
    parent: Name | None  # the blanket that it is in, as far as the caller knows it
    depth: int  # how many blankets are around it
    deeper: int  # how many levels of blankets there can be in it
    state: BlanketState
    flavour: Flavour | None  # as its agent reported it
    connected: bool
    agent_version: str | None
    mesh_address: str
    confidentiality: Confidentiality
    instances: int
    gives: Level | None  # the highest that it can hold, of what is alone there; None: not even the lowest
    reason: str
    tools: bool = False  # libvirt tools of its owner's own were let in
    quarantined_by: Id | None = None  # the reaction by which nothing new comes there


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignVmView:
    """What libvirt tools made in a blanket: no instance, and under no right of ours."""

    id: Id
    name: str
    state: RunState
    vcpus: int
    memory_mib: int
    disk_bytes: int
    adoptable: bool
    obstacle: str  # why it is not


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignVmsView:
    blanket: Name
    cloud: str
    tools: bool  # whether any were let in
    vms: tuple[ForeignVmView, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageView:
    id: Id
    name: Name
    digest: Digest
    size_bytes: int
    virtual_bytes: int
    complete: bool  # all of its bytes are here
    present_bytes: int = 0  # so many are here: an upload goes on from there
    key_of: Id | None = None  # of a backup: the cloud whose alone its key is


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """A network as another cloud sees it."""

    id: Id
    name: Name
    cidr: Cidr


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustView:
    """One is shown to who has either of its ends, or the cloud where it began."""

    id: Id
    kind: TrustKind
    cloud: Name  # who grants it
    cloud_id: Id
    to: Name
    to_id: Id
    thing: Name  # what it is about: the name of an image, a network, a blanket or a cloud
    digest: Digest | None  # of an image
    network: Range | None  # that may be reached
    to_network: Range | None  # from which it may be
    of_id: Id | None  # of a cloud
    blanket: Id | None  # inside which the trusted cloud may have blankets
    guests: tuple[Id, ...]  # that it has there, though the relation may have ended
    reactions: tuple[Reaction, ...]  # of kind order-reactions: which
    delegable: bool
    parent: Id | None  # the relation that this one passes on
    depth: int  # links from the cloud whose thing it is
    state: TrustState
    closed: str | None  # why it lets nothing through, although it is active
    needs_approval: bool  # its key is one cloud's alone: the key store's owner lets it out
    created_at: float  # seconds since the epoch
    expires_at: float
    revoked_at: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkLink:
    """A network of another cloud with which one is connected."""

    relation: Id  # by which
    cloud: Name
    network: Name
    cidr: Cidr
    inward: bool  # whether its instances begin connections; else they are reached
    expires_at: float  # seconds since the epoch
    closed: str | None  # why nothing passes although it lasts


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkView:
    id: Id
    name: Name
    cloud: str
    cloud_id: Id
    cidr: Cidr
    gateway: str
    vni: int
    instances: int
    level: Level
    links: tuple[NetworkLink, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeView:
    id: Id
    name: Name
    cloud: str
    cloud_id: Id
    size_bytes: int
    image: str | None
    instance: str | None
    blanket: str | None  # where its current copy is
    snapshots: tuple[str, ...]
    lost: str | None  # why nobody has its data any more
    level: Level


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceView:
    id: Id
    name: Name
    cloud: str
    cloud_id: Id
    state: InstanceState
    blanket: str | None
    blanket_id: Id | None
    epoch: Epoch
    right_left_s: float | None  # of the current holder, as the store counts it
    hold: bool
    vcpus: int
    memory_mib: int
    image: str
    addresses: tuple[str, ...]
    macs: tuple[str, ...]
    networks: tuple[str, ...]
    volumes: tuple[str, ...]
    published: tuple[str, ...]  # "127.0.0.1:8080->80"
    group: Name | None
    placement: Placement
    placed: str  # why it was placed where it is
    level: Level
    reason: str
    created_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanView:
    """Of an instance's memory, asked for: its blanket reports it (`memory.scanned`) once it has ended."""

    scan: Id
    instance: Id
    blanket_id: Id


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportView:
    """What a blanket's agent reported, or the control plane saw of it."""

    id: Id
    kind: str  # "instance.paused", "right.expired", "agent.started", …
    blanket: str
    cloud: str
    at: float  # the blanket's wall clock, seconds since the epoch
    received_at: float
    data: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusView:
    version: str
    database: str  # "sqlite" or "postgresql", never the URL
    started_at: float
    quarantine_left_s: float  # rights do not move until then (after a restore)
    clouds: int
    blankets: int
    blankets_connected: int
    instances: int
    instances_running: int
    operations_open: int
    ports_missing: tuple[int, ...] = ()  # published ones that another program of this machine has
