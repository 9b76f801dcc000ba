"""What users ask of the control plane: values that say what is wanted, each of its own endpoint."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from pydantic import Field

from supercloud.model.levels import Level
from supercloud.model.names import (
    Cidr,
    Digest,
    MemoryMib,
    Name,
    Port,
    PublicKey,
    SizeBytes,
    Text,
    Vcpus,
)
from supercloud.model.orders import Reaction
from supercloud.model.permissions import Permission
from supercloud.model.placement import ANYWHERE, Location, Placement, Price
from supercloud.model.quota import UNLIMITED, Quota
from supercloud.model.trust import LONGEST_S, TrustKind
from supercloud.ports.agent import UserData
from supercloud.ports.platform import Flavour
from supercloud.ports.tools import ForeignName

#: How users name what exists: by its name, its id, or an image by its digest.
Ref = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9:-]{0,70}$")]
#: An image of one's own, as any thing; or CLOUD/IMAGE, one that this cloud shares (model.trust).
ImageRef = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9:-]{0,70}(/[a-z0-9][a-z0-9-]{0,62})?$")]
#: A network of one's own, as any thing; or CLOUD/NETWORK, one that this cloud lets be reached (model.trust).
NetworkRef = ImageRef
#: Of a right's terms; what is sensible is for the cloud to say.
Seconds = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
#: As QEMU and libvirt name them.
CpuModel = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
PlatformKind = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,31}$")]
OptionName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
OptionValue = Annotated[Text, Field(max_length=4096)]
#: Of a platform. No other names: what pydantic says of names alone leaves others open.
Options = Annotated[
    dict[OptionName, OptionValue],
    Field(max_length=64, json_schema_extra={"additionalProperties": False}),
]
#: One line of an `authorized_keys` file.
SshKey = Annotated[str, Field(pattern=r"^[^\x00-\x1f]*$", max_length=16384)]


@dataclass(frozen=True, slots=True, kw_only=True)
class AddProvider:
    """A domain with its platform. `options` are the platform driver's, checked by it."""

    name: Name
    kind: PlatformKind
    options: Options = field(default_factory=dict)
    location: Location | None = None
    price: Price | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderTerms:
    """What its operator says of a provider, all of it: what is left out is not said any more."""

    location: Location | None = None
    price: Price | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AddPrincipal:
    """A person or a program, by its key. Everybody may have clouds, but a provider, which has domains and
    sees no cloud; an operator administers as well."""

    name: Name
    key: PublicKey
    operator: bool = False
    provider: bool = False


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

    token: Annotated[str, Field(pattern=r"^[A-Za-z0-9_=-]+$", max_length=8192)] | None = None
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
    """On a provider's platform, or inside `parent`, a blanket of the cloud's own or of one that it is within:
    one of the two is said."""

    name: Name
    cloud: Ref
    provider: Ref | None = None
    parent: Ref | None = None
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
    level: Level | None = None  # None: the lowest


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateVolume:
    name: Name
    cloud: Ref
    size_bytes: SizeBytes
    on: Ref | None = None  # blanket; None: where it is first attached
    image: ImageRef | None = None
    level: Level | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Publish:
    """`port` of the instance, reachable at `at` on the control plane's loopback (0: any free port)."""

    port: Port
    at: Annotated[int, Field(ge=0, le=65535)] = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInstance:
    name: Name
    cloud: Ref
    image: ImageRef
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
    level: Level | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AdoptVm:
    """Make an instance of what tools made in `blanket`: of its one disk, its memory and its processors.

    `vm`: its name or its id there. What an instance has besides is as of `RunInstance`; the image that its
    disk becomes is called `name` as well.
    """

    vm: ForeignName
    blanket: Ref
    cloud: Ref
    name: Name
    on: Ref | None = None
    networks: Annotated[tuple[Ref, ...], Field(max_length=64)] = ()
    ssh_keys: Annotated[tuple[SshKey, ...], Field(max_length=64)] = ()
    hold: bool = False
    level: Level | None = None


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


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantTrust:
    """`cloud` lets the cloud `to` do something: one's own by its name, anybody's by its id. `lasts_s` None:
    for 30 days, or as long as what is passed on. What was shared with `cloud` itself is passed on, if it may.

    `image` is for share-image. For connect, `network` is what may be reached, and `to_network` the network of
    `to` from which it may: one's own by its name, anybody's by its id. `reactions`, and at least one, are for
    order-reactions. `of`: the cloud that this kind and see-findings are about, by its id where it is not
    `cloud` itself, so that what it let is passed on. `blanket` is for place and migrate-to: one of `cloud`'s,
    or by its id one that is passed on.
    """

    kind: TrustKind
    cloud: Ref
    to: Ref
    image: ImageRef | None = None
    network: NetworkRef | None = None
    to_network: Ref | None = None
    of: Ref | None = None
    blanket: Ref | None = None
    reactions: Annotated[tuple[Reaction, ...], Field(max_length=len(Reaction))] = ()
    lasts_s: Annotated[float, Field(gt=0, le=LONGEST_S, allow_inf_nan=False)] | None = None
    delegable: bool = False
