"""Agent port: what the control plane asks of a blanket's agent, as the values that travel.

Four small groups (instances, volumes, overlay, migration), each a Protocol; `Agent` is all of them, and
`ports.overlay` has what is about the overlay. The agent implements them over its blanket drivers and the
keeper; the control plane sees a remote proxy of the same protocols; the simulator implements them in memory.
Every method is idempotent: a step that ran may run again. The method's wire name is `group.method`, its one
argument and its answer are these values.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Protocol

from supercloud.model.limits import Limits
from supercloud.model.migration import Source, Target
from supercloud.model.names import (
    Digest,
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
)
from supercloud.model.right import RunRight
from supercloud.ports.loop import Guard
from supercloud.ports.overlay import OverlayAgent
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
    ciphertext: Annotated[str, Limits(max_length=88_000)] = field(repr=False)  # base64


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

    What is paused needs no user data to go on: its seed was made before it came to be. `guard`: of what
    starts, in force before it has a port here.
    """

    spec: InstanceSpec
    right: RunRight
    operation: Id | None = None
    user_data: UserData | None = None
    user_data_key: SealedKey | None = None
    guard: Guard | None = None


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
        """Hand the right to the keeper, then boot. Volumes and networks are there already. What is in force
        about it is so before it has a port; what stands still by that does not run on return.

        Raises: Refused (nothing here could hold what comes with it), Failed, Unavailable.
        """
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
class RestoreVolume:
    """`snapshot` None: to what its base image holds, with no snapshot left. `size_bytes`: what it has then,
    at least. `instance`: whose it is."""

    volume: Id
    copy: Id
    key: SealedKey
    size_bytes: SizeBytes
    snapshot: Name | None
    base: Digest | None = None
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
    offset: Annotated[int, Limits(ge=0)] = 0


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

    async def restore(self, request: RestoreVolume) -> VolumeReport:
        """The copy holds what it held then; what was written since is gone. The same again does the same, and
        nothing more as long as nobody wrote to it.

        Raises: Refused (a process has it open), NotFound (no such snapshot, or no base), Failed.
        """
        ...

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
    guard: Guard | None = None  # in force before the instance has a port here


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
    """`guarded`: its loop does something about it, or was ordered to."""

    source: Source
    transfer_over: bool
    progress: Progress = field(default_factory=Progress)
    reason: str = ""
    guarded: bool = False


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

    async def retire(self, request: OperationRef) -> SourceReport:
        """On the source, once it was committed elsewhere: wait for the hypervisor to end what was sent, and
        end it if that does not come. Answered when no process of it is left."""
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
    """A group that an agent may lack: one that was built to stay as it is, or is older than this."""

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
    guards_starts: bool = False  # whether it heeds `StartInstance.guard`: older agents do not
    takes_tools: bool = False  # whether it and its image have a place for tools (ports.tools)
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
