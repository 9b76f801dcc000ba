"""What users can ask of the control plane: the one face that the API serves.

A thing is named by its id or by its name; instances, blankets, networks and volumes have names that are
unique in their cloud only, so `cloud` may be needed to tell two apart. What takes long is answered with an
`OperationView` at once and carried on durably; asking for the same thing again joins the same operation.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Protocol

from supercloud.model.findings import Layer, Severity
from supercloud.model.incidents import ExportFormat
from supercloud.model.levels import Level, Thing
from supercloud.model.names import (
    Digest,
    Id,
    Name,
    Nonce,
    PublicKey,
    SizeBytes,
)
from supercloud.model.quota import Quota
from supercloud.model.trust import TrustKind
from supercloud.ports.agent import StopMode, StreamKind
from supercloud.ports.tools import HandedNumber
from supercloud.services.feed import Place, Watch
from supercloud.services.level_views import LevelChange, LevelView, SetLevel
from supercloud.services.pages import EVERYTHING, Page, Part

if TYPE_CHECKING:
    from supercloud.services.southbound import Southbound

from supercloud.services.incident_views import (
    AnswerIt,
    CloseIt,
    EvidenceView,
    ImportedView,
    ImportIndicators,
    IncidentDetail,
    IncidentView,
    KeptView,
)
from supercloud.services.policy_views import (
    CloudPolicyView,
    PolicyView,
    RollBack,
    SetPolicy,
    VersionView,
)
from supercloud.services.requests import (
    AddBlanket,
    AddPrincipal,
    AddProvider,
    AdoptVm,
    CreateCloud,
    CreateNetwork,
    CreateVolume,
    GrantTrust,
    MintToken,
    MoveGroup,
    PlaceInstance,
    ProviderTerms,
    Ref,
    RegisterImage,
    RevokeToken,
    RunInstance,
)
from supercloud.services.security_views import (
    ActView,
    AskChallenge,
    ChallengeView,
    ExportView,
    FindingView,
    GrantAct,
    OrderView,
    PlaceOrder,
)
from supercloud.services.views import (
    BlanketView,
    CloudView,
    ForeignVmsView,
    ImageView,
    InstanceView,
    MintedView,
    NetworkView,
    OperationView,
    PrincipalView,
    ProviderView,
    ReportView,
    RevokedView,
    ScanView,
    StatusView,
    TokenView,
    TrustView,
    VolumeView,
    WantedCloud,
)

#: As many operations as anybody looks through.
LAST = Page(limit=1000)


class Stream(Protocol):
    """An open stream of bytes to an instance: its console, or a TCP port of it."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def write(self, data: bytes) -> None: ...

    async def close(self) -> None: ...


class Northbound(Protocol):
    """Everything the API serves. Raises, all methods: the errors of model.errors.

    About sixty methods because it is the union of a dozen small resources; the API has one router for each.
    Every caller has one of its own, in which nothing exists that it may not see. Lists are sorted by name;
    what is in clouds, by its cloud's id and then by name.
    """

    async def status(self) -> StatusView: ...

    def southbound(self) -> Southbound:
        """What the same caller can ask as a provider."""
        ...

    async def operations(
        self,
        *,
        open_only: bool = False,
        kind: str | None = None,
        cloud: Ref | None = None,
        about: Id | None = None,
        page: Page = LAST,
    ) -> Part[OperationView]:
        """The newest first; by when they began and id. `about`: the object, which may be gone."""
        ...

    async def operation(
        self, operation: Id, *, wait_s: float = 0.0, seen_phase: str | None = None
    ) -> OperationView:
        """With `wait_s`, answers when phase, share done or state changed, or after so long (at most 30 s).

        `seen_phase`: what the caller knows already; in any other phase it is answered at once.
        """
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
    async def token(self, prefix: str) -> TokenView:
        """By as much of its id as tells it apart."""
        ...

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
    async def accept_provider(self, ref: Ref) -> ProviderView: ...

    async def create_cloud(self, request: CreateCloud) -> CloudView: ...
    async def clouds(self, *, page: Page = EVERYTHING) -> Part[CloudView]: ...
    async def cloud(self, ref: Ref) -> CloudView: ...
    async def wanted_cloud(self, ref: Ref) -> WantedCloud: ...
    async def set_quota(self, ref: Ref, quota: Quota) -> CloudView:
        """All of it anew; of a nested cloud, for who has its parent."""
        ...

    async def remove_cloud(self, ref: Ref) -> None: ...
    async def rotate_keys(self, cloud: Ref) -> OperationView: ...

    async def grant_trust(self, request: GrantTrust) -> TrustView: ...
    async def trusts(
        self, *, cloud: Ref | None = None, kind: TrustKind | None = None, page: Page = EVERYTHING
    ) -> Part[TrustView]:
        """By when they were made; with `cloud`, those that it grants and those that trust it."""
        ...

    async def trust(self, relation: Id) -> TrustView: ...
    async def revoke_trust(self, relation: Id) -> TrustView:
        """With all that descends from it. The same again is harmless."""
        ...

    async def findings(
        self,
        *,
        cloud: Ref | None = None,
        domain: Ref | None = None,
        layer: Layer | None = None,
        severity: Severity | None = None,
        since: float | None = None,
        page: Page = LAST,
    ) -> Part[FindingView]:
        """The newest first. `severity`: at least; `since`: received from then on, seconds since the epoch."""
        ...

    async def finding(self, finding: Id) -> FindingView: ...
    async def finding_event(self, finding: Id) -> dict[str, Any]:
        """The OCSF event, as it came."""
        ...

    async def incidents(
        self, *, cloud: Ref | None = None, open_only: bool = False, page: Page = LAST
    ) -> Part[IncidentView]:
        """The newest first."""
        ...

    async def incident(self, incident: Id) -> IncidentDetail: ...
    async def close_incident(self, incident: Id, request: CloseIt) -> IncidentDetail:
        """Told to its blanket. Raises: Unavailable (which is away, so that nobody could undo anything)."""
        ...

    async def answer_reaction(self, incident: Id, reaction: Id, request: AnswerIt) -> IncidentDetail:
        """Told to its blanket. Raises: Conflict (it does not ask any more), Unavailable."""
        ...

    async def evidence(self, incident: Id) -> list[EvidenceView]:
        """What its blanket keeps. Raises: Unavailable."""
        ...

    async def kept(self, *, cloud: Ref | None = None, blanket: Ref | None = None) -> KeptView:
        """The same of every incident, of one cloud's or one blanket's: whatever is connected is asked."""
        ...

    async def kept_one(self, evidence: Id) -> EvidenceView:
        """Raises: NotFound; Unavailable (a blanket is away that may have it)."""
        ...

    async def evidence_stream(self, incident: Id, evidence: Id, *, offset: int) -> Stream:
        """The file, sealed, from `offset` on. Raises: InvalidInput, Unavailable."""
        ...

    async def remove_evidence(self, incident: Id, evidence: Id) -> None:
        """For ever. Raises: Unavailable."""
        ...

    async def policy(self, blanket: Ref, *, cloud: Ref | None = None) -> PolicyView:
        """As the blanket has it. Raises: Unavailable."""
        ...

    async def set_policy(self, blanket: Ref, request: SetPolicy, *, cloud: Ref | None = None) -> PolicyView:
        """Its own, which goes before its cloud's; at once, or as soon as it connects. Raises: InvalidInput,
        Conflict (it does not take it)."""
        ...

    async def clear_policy(self, blanket: Ref, *, cloud: Ref | None = None) -> PolicyView:
        """It goes by its cloud's again."""
        ...

    async def policy_versions(self, blanket: Ref, *, cloud: Ref | None = None) -> list[VersionView]:
        """The newest first, as many as are kept."""
        ...

    async def roll_back_policy(
        self, blanket: Ref, request: RollBack, *, cloud: Ref | None = None
    ) -> PolicyView: ...

    async def cloud_policy(self, cloud: Ref, *, horizontal: bool = False) -> CloudPolicyView: ...
    async def set_cloud_policy(
        self, cloud: Ref, request: SetPolicy, *, horizontal: bool = False
    ) -> CloudPolicyView:
        """Of each of its blankets that has none of its own, now or later; or, `horizontal`, of the cloud over
        all of them. Raises: InvalidInput."""
        ...

    async def clear_cloud_policy(self, cloud: Ref, *, horizontal: bool = False) -> CloudPolicyView: ...
    async def cloud_policy_versions(self, cloud: Ref, *, horizontal: bool = False) -> list[VersionView]: ...
    async def roll_back_cloud_policy(
        self, cloud: Ref, request: RollBack, *, horizontal: bool = False
    ) -> CloudPolicyView:
        """Raises: Conflict (there is no such version)."""
        ...

    async def export_incident(self, incident: Id, *, format_: ExportFormat) -> dict[str, Any]:
        """In another's format, without names."""
        ...

    async def import_indicators(self, cloud: Ref, request: ImportIndicators) -> ImportedView:
        """The cloud's horizontal policy decides about them. Raises: InvalidInput, Conflict (it has none)."""
        ...

    async def place_order(self, request: PlaceOrder) -> OrderView: ...
    async def orders(
        self, *, cloud: Ref | None = None, open_only: bool = False, page: Page = LAST
    ) -> Part[OrderView]:
        """The newest first; with `cloud`, those about its machines and those in its name."""
        ...

    async def order(self, order: Id) -> OrderView: ...
    async def cancel_order(self, order: Id) -> OrderView: ...

    async def acts(self, *, cloud: Ref | None = None, page: Page = LAST) -> Part[ActView]:
        """The newest first."""
        ...

    async def act(self, act: Id) -> ActView: ...
    async def refuse_act(self, act: Id) -> ActView: ...
    async def challenge_act(self, act: Id, request: AskChallenge) -> ChallengeView:
        """Raises: Refused (nobody enforces it), Conflict (another consent on its machine waits)."""
        ...

    async def grant_act(self, act: Id, request: GrantAct) -> ActView: ...
    async def act_export(self, act: Id) -> ExportView:
        """Raises: NotFound (nothing came of it)."""
        ...

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

    async def let_tools_in(self, ref: Ref, *, cloud: Ref | None = None) -> None:
        """Its owner's own libvirt tools, which are as good as root there: from now on it holds no level
        above `open`."""
        ...

    async def tools_stream(
        self,
        ref: Ref,
        *,
        cloud: Ref | None = None,
        connection: Nonce | None = None,
        handed: HandedNumber | None = None,
    ) -> Stream:
        """A connection to its libvirt, as the tools' user, called `connection`; or the socket that libvirt
        handed over in it, as its so manieth from 0."""
        ...

    async def foreign_vms(self, ref: Ref, *, cloud: Ref | None = None) -> ForeignVmsView: ...
    async def adopt_vm(self, request: AdoptVm) -> OperationView:
        """Make an instance of what tools made; what they made is gone by the time that it runs."""
        ...

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
    async def restore_volume(
        self, ref: Ref, *, snapshot: Name | None, cloud: Ref | None = None
    ) -> OperationView:
        """To a snapshot, or (None) to its image, which leaves no snapshot: what was written since is gone."""
        ...

    async def back_up_volume(self, ref: Ref, *, image: Name, cloud: Ref | None = None) -> OperationView:
        """What it holds now, as a new image that its cloud can use; no running instance may have it open."""
        ...

    async def remove_volume(self, ref: Ref, *, cloud: Ref | None = None) -> OperationView: ...

    async def run_instance(self, request: RunInstance) -> OperationView: ...
    async def instances(
        self,
        *,
        cloud: Ref | None = None,
        blanket: Ref | None = None,
        group: Name | None = None,
        page: Page = EVERYTHING,
    ) -> Part[InstanceView]: ...
    async def instance(self, ref: Ref, *, cloud: Ref | None = None) -> InstanceView: ...
    async def start_instance(self, ref: Ref, *, cloud: Ref | None = None) -> OperationView: ...
    async def stop_instance(
        self, ref: Ref, *, cloud: Ref | None = None, mode: StopMode = StopMode.SHUTDOWN
    ) -> OperationView: ...
    async def reboot_instance(self, ref: Ref, *, cloud: Ref | None = None) -> OperationView: ...
    async def scan_instance(self, ref: Ref, *, cloud: Ref | None = None) -> ScanView:
        """Of its memory by its blanket's YARA rules, now. Raises: Conflict, Refused, Unavailable."""
        ...

    async def restore_instance(
        self, ref: Ref, *, snapshot: Name | None, cloud: Ref | None = None
    ) -> OperationView:
        """Ended, the volume that it boots from put back as by `restore_volume`, and started where it was."""
        ...

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

    async def set_level(
        self, thing: Thing, ref: Ref, request: SetLevel, *, cloud: Ref | None = None
    ) -> LevelChange:
        """It stays where it is; what has to move because of it is said."""
        ...

    async def explain_level(
        self, thing: Thing, ref: Ref, *, level: Level | None = None, cloud: Ref | None = None
    ) -> LevelView:
        """What its level, or another one, means, and what each blanket of its cloud can give of it."""
        ...

    async def open_stream(
        self, ref: Ref, *, kind: StreamKind, port: int | None = None, cloud: Ref | None = None
    ) -> Stream: ...
