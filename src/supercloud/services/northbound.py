"""What users can ask of the control plane: the values, and the one face that the API serves.

A thing is named by its id or by its name; instances, blankets, networks and volumes have names that are
unique in their cloud only, so `cloud` may be needed to tell two apart. What takes long is answered with an
`OperationView` at once and carried on durably; asking for the same thing again joins the same operation.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Protocol

from pydantic import Field

from supercloud.model.names import (
    Cidr,
    Digest,
    Epoch,
    Id,
    MemoryMib,
    Name,
    Port,
    PublicKey,
    SizeBytes,
    Text,
    Vcpus,
)
from supercloud.model.permissions import Permission, Role
from supercloud.model.placement import ANYWHERE, Confidentiality, Location, Placement, Price
from supercloud.model.quota import UNLIMITED, Amounts, Quota
from supercloud.model.states import BlanketState, InstanceState, OperationState
from supercloud.ports.agent import StopMode, StreamKind, UserData
from supercloud.ports.platform import Flavour
from supercloud.services.feed import Place, Watch
from supercloud.services.pages import EVERYTHING, Page, Part

#: How users name what exists: by its name, its id, or an image by its digest.
Ref = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9:-]{0,70}$")]
#: Of a right's terms; what is sensible is for the cloud to say.
Seconds = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
#: As QEMU and libvirt name them.
CpuModel = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
PlatformKind = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,31}$")]
OptionName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
OptionValue = Annotated[Text, Field(max_length=4096)]
#: One line of an `authorized_keys` file.
SshKey = Annotated[str, Field(pattern=r"^[^\x00-\x1f]*$", max_length=16384)]

#: As many operations as anybody looks through.
LAST = Page(limit=1000)


# ---------------------------------------------------------------- what is asked


@dataclass(frozen=True, slots=True, kw_only=True)
class AddProvider:
    """A domain with its platform. `options` are the platform driver's, checked by it."""

    name: Name
    kind: PlatformKind
    options: Annotated[dict[OptionName, OptionValue], Field(max_length=64)] = field(default_factory=dict)
    location: Location | None = None
    price: Price | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderTerms:
    """What its operator says of a provider, all of it: what is left out is not said any more."""

    location: Location | None = None
    price: Price | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AddPrincipal:
    """A person or a program, by its key. Everybody may have clouds; an operator administers as well."""

    name: Name
    key: PublicKey
    operator: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MintToken:
    """For `principal` (None: who asks), bound to its key. `only` and `clouds` bound it; None: no bound."""

    principal: Ref | None = None
    only: Annotated[tuple[Permission, ...], Field(min_length=1, max_length=64)] | None = None
    clouds: Annotated[tuple[Ref, ...], Field(min_length=1, max_length=64)] | None = None
    lasts_s: Annotated[float, Field(gt=0, le=400 * 86400, allow_inf_nan=False)] = 90 * 86400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokeToken:
    """Either the token itself, of which the last block is revoked, or how the id of a minted one begins."""

    token: Annotated[str, Field(pattern=r"^[A-Za-z0-9_=-]{1,8192}$")] | None = None
    id: Annotated[str, Field(pattern=r"^[0-9a-f]{8,160}$")] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateCloud:
    """Within `parent`, its quota is a slice of that one's, and `owner` (None: who asks) may be another
    principal, by its key: who has the parent reaches it too, and its owner never the parent."""

    name: Name
    cpu_model: CpuModel | None = None  # the baseline of every instance; None: the project's default
    right_length_s: Seconds = 60.0
    right_margin_s: Seconds = 15.0
    right_grace_s: Seconds = 300.0
    parent: Ref | None = None
    owner: PublicKey | None = None
    quota: Quota = UNLIMITED


@dataclass(frozen=True, slots=True, kw_only=True)
class AddBlanket:
    name: Name
    cloud: Ref
    provider: Ref
    flavour: Flavour = Flavour.KVM
    vcpus: Vcpus = 2
    memory_mib: MemoryMib = 2048
    disk_bytes: SizeBytes = 20 << 30
    debug_shell: bool = False  # root on its console, for whoever holds the platform too


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterImage:
    """An image that the owner's side has checked, converted to qcow2 and encrypted; its bytes follow."""

    name: Name
    digest: Digest  # of the encrypted file
    size_bytes: SizeBytes  # of the encrypted file
    virtual_bytes: SizeBytes  # what a guest sees


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateNetwork:
    name: Name
    cloud: Ref
    cidr: Cidr


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateVolume:
    name: Name
    cloud: Ref
    size_bytes: SizeBytes
    on: Ref | None = None  # blanket; None: where it is first attached
    image: Ref | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Publish:
    """`port` of the instance, reachable at `at` on the control plane's loopback (0: any free port)."""

    port: Port
    at: Annotated[int, Field(ge=0, le=65535)] = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInstance:
    name: Name
    cloud: Ref
    image: Ref
    on: Ref | None = None
    memory_mib: MemoryMib = 512
    vcpus: Vcpus = 1
    disk_bytes: SizeBytes | None = None  # None: as large as the image
    networks: Annotated[tuple[Ref, ...], Field(max_length=64)] = ()
    publish: Annotated[tuple[Publish, ...], Field(max_length=64)] = ()
    user_data: UserData | None = None  # for an instance of this name, its key with the owner's key store
    ssh_keys: Annotated[tuple[SshKey, ...], Field(max_length=64)] = ()
    hold: bool = False  # run on while nobody can be reached: `hold` instead of `strict`
    group: Name | None = None  # what moves together
    placement: Placement = ANYWHERE


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceInstance:
    """Where an instance may be from now on, and its group: all of it anew."""

    group: Name | None = None
    placement: Placement = ANYWHERE


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveGroup:
    """Each instance of the group to one of `to` by its placement; without, away from where the group is."""

    cloud: Ref
    group: Name
    to: Annotated[tuple[Ref, ...], Field(max_length=64)] = ()


# ---------------------------------------------------------------- what is shown


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
class ProviderView:
    id: Id
    name: Name
    kind: str
    options: dict[str, str]
    accelerator: str
    nesting: bool
    confidentiality: Confidentiality
    abilities: tuple[str, ...]
    reason: str
    blankets: int
    location: str | None
    price: Price | None
    draining: bool  # nothing new comes there, and what is there moves away


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
    provider: str
    state: BlanketState
    flavour: Flavour | None  # as its agent reported it
    connected: bool
    agent_version: str | None
    mesh_address: str
    confidentiality: Confidentiality
    instances: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageView:
    id: Id
    name: Name
    digest: Digest
    size_bytes: int
    virtual_bytes: int
    complete: bool  # all of its bytes are here
    present_bytes: int = 0  # so many are here: an upload goes on from there


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkView:
    id: Id
    name: Name
    cloud: str
    cidr: Cidr
    gateway: str
    vni: int
    instances: int


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeView:
    id: Id
    name: Name
    cloud: str
    size_bytes: int
    image: str | None
    instance: str | None
    blanket: str | None  # where its current copy is
    snapshots: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceView:
    id: Id
    name: Name
    cloud: str
    state: InstanceState
    blanket: str | None
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
    reason: str
    created_at: float


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


class Stream(Protocol):
    """An open stream of bytes to an instance: its console, or a TCP port of it."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def write(self, data: bytes) -> None: ...

    async def close(self) -> None: ...


class Northbound(Protocol):
    """Everything the API serves. Raises, all methods: the errors of model.errors.

    About fifty methods because it is the union of nine small resources; the API has one router for each.
    Every caller has one of its own, in which nothing exists that it may not see. Lists are sorted by name;
    what is in clouds, by its cloud's id and then by name.
    """

    async def status(self) -> StatusView: ...

    async def operations(
        self, *, open_only: bool = False, kind: str | None = None, cloud: Ref | None = None, page: Page = LAST
    ) -> Part[OperationView]:
        """The newest first; by when they began and id."""
        ...

    async def operation(self, operation: Id, *, wait_s: float = 0.0) -> OperationView:
        """With `wait_s`, answers when phase, share done or state changed, or after so long (at most 30 s)."""
        ...

    async def cancel(self, operation: Id) -> OperationView: ...

    async def watch(self, *, after: Place | None = None, cloud: Ref | None = None) -> tuple[Watch, Id | None]:
        """Changes from `after`, or from now on, of everybody's things: what the caller may be told of them is
        for its token to say. With the id of `cloud`. Close it.

        Raises:
            Exhausted: too many watch already.
        """
        ...

    async def add_principal(self, request: AddPrincipal) -> PrincipalView: ...
    async def principals(self, *, page: Page = EVERYTHING) -> Part[PrincipalView]: ...
    async def principal(self, ref: Ref) -> PrincipalView: ...
    async def rekey_principal(self, ref: Ref, *, key: PublicKey) -> PrincipalView:
        """Its tokens count no more."""
        ...

    async def remove_principal(self, ref: Ref) -> None: ...

    async def mint_token(self, request: MintToken) -> MintedView: ...
    async def tokens(self, *, page: Page = EVERYTHING) -> Part[TokenView]: ...
    async def revoke_token(self, request: RevokeToken) -> RevokedView: ...

    async def add_provider(self, request: AddProvider) -> ProviderView: ...
    async def providers(self, *, page: Page = EVERYTHING) -> Part[ProviderView]: ...
    async def provider(self, ref: Ref) -> ProviderView: ...
    async def set_provider(self, ref: Ref, terms: ProviderTerms) -> ProviderView: ...
    async def remove_provider(self, ref: Ref) -> None: ...
    async def drain_provider(self, ref: Ref) -> OperationView:
        """Nothing new comes there, and what runs there moves away, live."""
        ...

    async def undrain_provider(self, ref: Ref) -> ProviderView: ...

    async def create_cloud(self, request: CreateCloud) -> CloudView: ...
    async def clouds(self, *, page: Page = EVERYTHING) -> Part[CloudView]: ...
    async def cloud(self, ref: Ref) -> CloudView: ...
    async def wanted_cloud(self, ref: Ref) -> WantedCloud: ...
    async def set_quota(self, ref: Ref, quota: Quota) -> CloudView:
        """All of it anew; of a nested cloud, for who has its parent."""
        ...

    async def remove_cloud(self, ref: Ref) -> None: ...
    async def rotate_keys(self, cloud: Ref) -> OperationView: ...

    async def add_blanket(self, request: AddBlanket) -> OperationView: ...
    async def blankets(self, *, cloud: Ref | None = None, page: Page = EVERYTHING) -> Part[BlanketView]: ...
    async def blanket(self, ref: Ref, *, cloud: Ref | None = None) -> BlanketView: ...
    async def remove_blanket(
        self, ref: Ref, *, cloud: Ref | None = None, force: bool = False
    ) -> OperationView: ...
    async def start_blanket(self, ref: Ref, *, cloud: Ref | None = None) -> OperationView:
        """Its machine runs again from its kept disk, e.g. after its host rebooted."""
        ...

    async def stop_blanket(
        self, ref: Ref, *, cloud: Ref | None = None, force: bool = False
    ) -> OperationView: ...
    async def upgrade_blanket(self, ref: Ref, *, cloud: Ref | None = None) -> OperationView:
        """Its agent and its keeper go on with this control plane's own code; its instances run on."""
        ...

    async def reports(
        self, *, cloud: Ref | None = None, blanket: Ref | None = None, page: Page = LAST
    ) -> Part[ReportView]:
        """What agents reported, the newest first, as far back as it is kept; `page.name`: a report's kind."""
        ...

    async def blanket_console(self, ref: Ref, *, cloud: Ref | None = None) -> Stream: ...

    async def register_image(self, request: RegisterImage) -> ImageView: ...
    async def upload_image(self, digest: Digest, offset: int, content: AsyncIterator[bytes]) -> ImageView:
        """Append from `offset` (what is here already, see `image`); complete once the digest is right."""
        ...

    async def images(self, *, page: Page = EVERYTHING) -> Part[ImageView]: ...
    async def image(self, ref: Ref) -> ImageView: ...
    async def remove_image(self, ref: Ref) -> None: ...

    async def create_network(self, request: CreateNetwork) -> NetworkView: ...
    async def networks(self, *, cloud: Ref | None = None, page: Page = EVERYTHING) -> Part[NetworkView]: ...
    async def network(self, ref: Ref, *, cloud: Ref | None = None) -> NetworkView: ...
    async def remove_network(self, ref: Ref, *, cloud: Ref | None = None) -> None: ...

    async def create_volume(self, request: CreateVolume) -> VolumeView: ...
    async def volumes(self, *, cloud: Ref | None = None, page: Page = EVERYTHING) -> Part[VolumeView]: ...
    async def volume(self, ref: Ref, *, cloud: Ref | None = None) -> VolumeView: ...
    async def attach_volume(self, ref: Ref, *, instance: Ref, cloud: Ref | None = None) -> OperationView: ...
    async def detach_volume(self, ref: Ref, *, cloud: Ref | None = None) -> OperationView: ...
    async def resize_volume(
        self, ref: Ref, *, size_bytes: SizeBytes, cloud: Ref | None = None
    ) -> OperationView: ...
    async def snapshot_volume(
        self, ref: Ref, *, snapshot: Name, cloud: Ref | None = None
    ) -> OperationView: ...
    async def back_up_volume(self, ref: Ref, *, image: Name, cloud: Ref | None = None) -> OperationView:
        """What it holds now, as a new image that its cloud can use; no running instance may have it open."""
        ...

    async def remove_volume(self, ref: Ref, *, cloud: Ref | None = None) -> OperationView: ...

    async def run_instance(self, request: RunInstance) -> OperationView: ...
    async def instances(self, *, cloud: Ref | None = None, page: Page = EVERYTHING) -> Part[InstanceView]: ...
    async def instance(self, ref: Ref, *, cloud: Ref | None = None) -> InstanceView: ...
    async def start_instance(self, ref: Ref, *, cloud: Ref | None = None) -> OperationView: ...
    async def stop_instance(
        self, ref: Ref, *, cloud: Ref | None = None, mode: StopMode = StopMode.SHUTDOWN
    ) -> OperationView: ...
    async def reboot_instance(self, ref: Ref, *, cloud: Ref | None = None) -> OperationView: ...
    async def remove_instance(
        self, ref: Ref, *, cloud: Ref | None = None, force: bool = False
    ) -> OperationView: ...
    async def migrate_instance(self, ref: Ref, *, to: Ref, cloud: Ref | None = None) -> OperationView: ...
    async def place_instance(
        self, ref: Ref, request: PlaceInstance, *, cloud: Ref | None = None
    ) -> InstanceView:
        """It stays where it is, whether or not it still may be there."""
        ...

    async def move_group(self, request: MoveGroup) -> OperationView: ...
    async def open_stream(
        self, ref: Ref, *, kind: StreamKind, port: int | None = None, cloud: Ref | None = None
    ) -> Stream: ...
