"""Agent port: what the control plane asks of a blanket's agent, as the values that travel.

Four small groups (instances, volumes, overlay, migration), each a Protocol; `Agent` is all of them. The
agent implements them over its blanket drivers and the keeper; the control plane sees a remote proxy of the
same protocols; the simulator implements them in memory. Every method is idempotent: a step that ran may
run again. The method's wire name is `group.method`, its one argument and its answer are these values.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Protocol

from pydantic import Field

from supercloud.model.migration import Source, Target
from supercloud.model.names import (
    Cidr,
    Digest,
    Endpoint,
    Epoch,
    Id,
    Ipv4,
    Mac,
    MemoryMib,
    Name,
    Nonce,
    Port,
    SizeBytes,
    Vcpus,
    WireguardKey,
)
from supercloud.model.right import RunRight
from supercloud.ports.platform import Flavour

# ---------------------------------------------------------------- secrets


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedKey:
    """A key only the blanket it is sealed to can open; `purpose` is bound into the seal."""

    blanket: Id
    purpose: str  # "image:<digest>", "volume:<id>:<copy>" or "user-data:<instance>:<digest>"
    ciphertext: str  # base64


#: Of an instance's cloud-init user data, in clear.
USER_DATA_BYTES = 64 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class UserData:
    """An instance's cloud-init user data, encrypted where its owner is (trust.userdata)."""

    digest: Digest  # of the encrypted bytes: what the owner's key store keeps the key under
    ciphertext: Annotated[str, Field(max_length=88_000)] = field(repr=False)  # base64


# ---------------------------------------------------------------- instances


class RunState(StrEnum):
    """What the hypervisor really shows, not what anybody wants."""

    ABSENT = "absent"
    DEFINED = "defined"  # known, no process
    RUNNING = "running"
    PAUSED = "paused"
    INCOMING = "incoming"  # receiving a migration


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    volume: Id
    size_bytes: SizeBytes
    boot: bool = False
    read_only: bool = False


#: How many ports an instance may have: the keeper renews a permit for each with every right.
NICS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Nic:
    network: Id
    mac: Mac
    ip: Ipv4


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceSpec:
    """An unmodified guest. `cpu_model` is the cloud's named baseline, never the host's own."""

    id: Id
    name: Name
    cloud: Id
    vcpus: Vcpus
    memory_mib: MemoryMib
    cpu_model: str
    disks: tuple[Disk, ...]
    nics: tuple[Nic, ...] = ()
    ssh_keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceReport:
    instance: Id
    state: RunState
    epoch: Epoch | None = None  # of the right held here, if any
    right_left_s: float | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StartInstance:
    """`operation`: the migration whose commit issued the right; its target has counted since before that.

    What is paused needs no user data to go on: its seed was made before it came to be.
    """

    spec: InstanceSpec
    right: RunRight
    operation: Id | None = None
    user_data: UserData | None = None
    user_data_key: SealedKey | None = None


class StopMode(StrEnum):
    SHUTDOWN = "shutdown"  # ACPI, then destroyed after `timeout_s`
    DESTROY = "destroy"


@dataclass(frozen=True, slots=True, kw_only=True)
class StopInstance:
    instance: Id
    mode: StopMode = StopMode.SHUTDOWN
    timeout_s: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceRef:
    instance: Id


class InstancesAgent(Protocol):
    async def start(self, request: StartInstance) -> InstanceReport:
        """Hand the right to the keeper, then boot. Volumes and networks are there already."""
        ...

    async def resume(self, request: StartInstance) -> InstanceReport:
        """Continue a paused instance under this right (after a commit, or after a healed link)."""
        ...

    async def stop(self, request: StopInstance) -> InstanceReport:
        """End its process, then have the keeper forget the right: an answer proves that nothing runs."""
        ...

    async def reboot(self, request: InstanceRef) -> InstanceReport: ...

    async def remove(self, request: InstanceRef) -> None:
        """Forget a stopped instance: definition, seed, port. Volumes are removed by name."""
        ...

    async def inspect(self, request: InstanceRef) -> InstanceReport: ...

    async def list(self) -> list[InstanceReport]: ...


# ---------------------------------------------------------------- volumes and images


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceImage:
    """Fetch an encrypted base image by digest (from the control plane's store) unless it is here."""

    digest: Digest
    size_bytes: SizeBytes  # of the encrypted file


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeVolume:
    """Make this blanket's copy of a volume: LUKS qcow2, over a base image if one is named.

    `copy` names the copy, whose key is `key`; `base_key` opens the base image.
    """

    volume: Id
    copy: Id
    size_bytes: SizeBytes
    key: SealedKey
    base: Digest | None = None
    base_key: SealedKey | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenVolume:
    """Load the copy's keys into this blanket's memory, so that the hypervisor can open it."""

    volume: Id
    copy: Id
    key: SealedKey
    base: Digest | None = None
    base_key: SealedKey | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeRef:
    volume: Id
    copy: Id


@dataclass(frozen=True, slots=True, kw_only=True)
class ResizeVolume:
    volume: Id
    size_bytes: SizeBytes
    instance: Id | None = None  # given: grow it live


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotVolume:
    volume: Id
    snapshot: Name
    instance: Id | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BackUpVolume:
    """Make of what `copy` holds now another copy, `into`: whole, without a base, fit to be an image.

    `into_key` is that copy's own. `instance` is who has the volume, running or not.
    """

    volume: Id
    copy: Id
    key: SealedKey
    into: Id
    into_key: SealedKey
    base: Digest | None = None
    base_key: SealedKey | None = None
    instance: Id | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeImage:
    """A copy whose file is an image now. `signature`: the blanket's word for it, see trust.vouch."""

    digest: Digest
    size_bytes: SizeBytes  # of the encrypted file
    virtual_bytes: SizeBytes
    signature: str  # base64 Ed25519


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupReport:
    done: float  # the share, in 0..1
    image: MadeImage | None = None  # once it is made


@dataclass(frozen=True, slots=True, kw_only=True)
class SendCopy:
    """Dial back with a stream named `stream` that carries the copy's file from `offset` on, then ends."""

    stream: Nonce
    volume: Id
    copy: Id
    offset: Annotated[int, Field(ge=0)] = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachVolume:
    instance: Id
    disk: Disk


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeReport:
    volume: Id
    copy: Id
    size_bytes: SizeBytes
    allocated_bytes: SizeBytes
    snapshots: tuple[Name, ...] = ()


class VolumesAgent(Protocol):
    async def place_image(self, request: PlaceImage) -> None: ...

    async def make(self, request: MakeVolume) -> VolumeReport: ...

    async def open(self, request: OpenVolume) -> None: ...

    async def remove(self, request: VolumeRef) -> None:
        """Delete this copy and forget its key."""
        ...

    async def resize(self, request: ResizeVolume) -> VolumeReport: ...

    async def snapshot(self, request: SnapshotVolume) -> VolumeReport: ...

    async def back_up(self, request: BackUpVolume) -> BackupReport:
        """Begin it unless it is under way; answers once it is made, or after ten seconds.

        A failure is told once, and asking again begins anew. Removing `into` gives it up.
        """
        ...

    async def send(self, request: SendCopy) -> None:
        """Returns once the stream is open."""
        ...

    async def attach(self, request: AttachVolume) -> None: ...

    async def detach(self, request: AttachVolume) -> None: ...

    async def list(self) -> list[VolumeReport]: ...


# ---------------------------------------------------------------- overlay


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    """A blanket's own word for its WireGuard keys, so that whoever relays them cannot put others in.

    Signed with the identity key of `certificate_pem`, which the cloud's authority issued.
    """

    blanket: Id
    key: WireguardKey
    next_key: WireguardKey | None = None
    generation: int  # grows with every change of the keys
    signature: str  # base64 Ed25519
    certificate_pem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Another blanket of the same cloud. `keys`: the ones to accept now, newest last (see rotation)."""

    blanket: Id
    address: Ipv4  # inside the mesh
    endpoint: Endpoint | None
    keys: tuple[WireguardKey, ...]
    #: UDP port of the VXLAN link between this blanket and the peer; the same number on both sides.
    vxlan_port: Port
    #: The peer's agent made it, this blanket's agent checks `keys` against it.
    announcement: Announcement | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    id: Id
    name: Name
    vni: int
    cidr: Cidr
    gateway: Ipv4  # the same address and MAC in every blanket
    outward: bool = True  # whether its instances reach the world, and names outside of it


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """Where an instance's MAC and IP are accepted from. Only a higher epoch replaces it."""

    instance: Id
    name: Name
    network: Id
    mac: Mac
    ip: Ipv4
    blanket: Id | None
    epoch: Epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignPeer:
    """A blanket of another cloud that holds instances of a network which is connected with one of ours."""

    blanket: Id
    cloud: Id  # which its certificate has to name
    endpoint: Endpoint | None
    keys: tuple[WireguardKey, ...]
    announcement: Announcement | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreigner:
    """An instance of another cloud: its address is accepted from that blanket alone, as of a Location."""

    instance: Id
    network: Id
    ip: Ipv4
    blanket: Id
    epoch: Epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """A trust relation of kind `connect`: instances of one network may begin connections to another's."""

    relation: Id
    network: Id  # of this cloud
    other: Id  # the other cloud's
    cidr: Cidr  # of that
    inward: bool  # whether the other's instances begin; else ours do
    left_s: float  # until it ends, counted from when this is received


@dataclass(frozen=True, slots=True, kw_only=True)
class Abroad:
    """What of other clouds a blanket has to do with."""

    peers: tuple[ForeignPeer, ...] = ()
    instances: tuple[Foreigner, ...] = ()
    passages: tuple[Passage, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Mesh:
    """The whole wanted state of one blanket's overlay, applied as a difference."""

    address: Ipv4
    generation: int  # grows with every change; an older one is ignored
    peers: tuple[Peer, ...] = ()
    networks: tuple[Network, ...] = ()
    locations: tuple[Location, ...] = ()
    abroad: Abroad = Abroad()


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshReport:
    generation: int
    key: WireguardKey  # the key this blanket uses now
    next_key: WireguardKey | None = None
    #: Peers, another cloud's as well, with a handshake in the last three minutes.
    alive: tuple[Id, ...] = ()
    #: For the other blankets; the agent adds it to what its overlay driver reports.
    announcement: Announcement | None = None


class OverlayAgent(Protocol):
    async def apply(self, request: Mesh) -> MeshReport: ...

    async def locate(self, request: Location) -> None:
        """Apply one location now (the fast path of a migration); an older epoch is ignored."""
        ...

    async def prepare_key(self) -> MeshReport:
        """Make the next key, do not use it yet. Repeating returns the same next key."""
        ...

    async def switch_key(self) -> MeshReport:
        """Use the next key from now on. Without a next key: nothing happens."""
        ...

    async def report(self) -> MeshReport: ...


# ---------------------------------------------------------------- migration


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiveInstance:
    """Make the target ready: forwards for one operation, open to one peer, until `expires_s` from now."""

    operation: Id
    spec: InstanceSpec
    source_address: Ipv4  # inside the mesh
    expires_s: float
    user_data: UserData | None = None
    user_data_key: SealedKey | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Landing:
    """Where the target listens for this operation, inside the mesh."""

    operation: Id
    address: Ipv4
    libvirt_port: Port
    memory_port: Port
    disk_port: Port


@dataclass(frozen=True, slots=True, kw_only=True)
class SendInstance:
    operation: Id
    instance: Id
    landing: Landing
    expires_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationRef:
    operation: Id
    instance: Id


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    total_bytes: int = 0
    done_bytes: int = 0
    downtime_ms: float | None = None  # as the hypervisor reports it


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceReport:
    source: Source
    transfer_over: bool
    progress: Progress = field(default_factory=Progress)
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetReport:
    target: Target
    reason: str = ""


class MigrationAgent(Protocol):
    async def receive(self, request: ReceiveInstance) -> Landing:
        """On the target, once its volume copies exist and are open for incoming copy."""
        ...

    async def send(self, request: SendInstance) -> SourceReport:
        """On the source: start the transfer and return; it outlives the caller. Repeating adopts it."""
        ...

    async def source_status(self, request: OperationRef) -> SourceReport:
        """Answers at once when something changed since the last call, or after ten seconds."""
        ...

    async def target_status(self, request: OperationRef) -> TargetReport: ...

    async def cancel(self, request: OperationRef) -> SourceReport:
        """On the source: end the transfer if it still can be; look at the answer, do not assume."""
        ...

    async def release(self, request: OperationRef) -> None:
        """On either side: close this operation's forwards; on an uncommitted target, end the copy."""
        ...


# ---------------------------------------------------------------- byte streams


class StreamKind(StrEnum):
    CONSOLE = "console"  # the instance's serial console, both ways
    TCP = "tcp"  # a connection to the instance's address and `port`
    LOG = "log"  # what its console said so far, then the end


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenStream:
    """Dial back with a stream of bytes named `stream` (single use, unguessable)."""

    stream: Nonce
    kind: StreamKind
    instance: Id
    port: Port | None = None


class StreamsAgent(Protocol):
    async def open(self, request: OpenStream) -> None:
        """Returns once the far end is there, so that a refused connection is an error here."""
        ...


# ---------------------------------------------------------------- its own code


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """The code of a blanket's programs, as one read-only image that is fetched like a base image."""

    digest: Digest
    size_bytes: SizeBytes


class UpgradeAgent(Protocol):
    """The one group that an agent may lack: one that was built to stay as it is, or is older than this."""

    async def place(self, request: Bundle) -> None:
        """Fetch it, and see that its programs start here. Nothing runs on it yet."""
        ...

    async def switch(self, request: Bundle) -> None:
        """Restart keeper and agent on what was placed; instances run on. Returns before that happens: the
        next agent's report says which bundle it runs. One that is not welcomed gives way to the former."""
        ...


# ---------------------------------------------------------------- all of them


@dataclass(frozen=True, slots=True, kw_only=True)
class BlanketReport:
    blanket: Id
    flavour: Flavour
    agent_version: str
    boot_id: str
    cpu_models: tuple[str, ...]
    memory_mib: int
    memory_free_mib: int
    disk_free_bytes: int
    bundle: Digest | None = None  # the code that it runs; None where that is not known
    closes_networks: bool = False  # whether it heeds `Network.outward`, which older agents do not
    #: Whether blankets can run inside it (ports.machines), else why not.
    nests: bool = False
    nests_not: str = "its agent is older than that"


class Agent(Protocol):
    """Everything a blanket's agent does for the control plane."""

    @property
    def instances(self) -> InstancesAgent: ...
    @property
    def volumes(self) -> VolumesAgent: ...
    @property
    def overlay(self) -> OverlayAgent: ...
    @property
    def migration(self) -> MigrationAgent: ...
    @property
    def streams(self) -> StreamsAgent: ...

    async def report(self) -> BlanketReport: ...
