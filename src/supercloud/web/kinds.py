"""What users have lists and pages of: where each comes from, under which permission, what is shown of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from supercloud.api.pages import TEXT, TEXTS, TIMED
from supercloud.model.kinds import Kind as Changed
from supercloud.model.permissions import Permission
from supercloud.services.pages import Page, Part
from supercloud.services.requests import Ref
from supercloud.web import going_back, memory, shown
from supercloud.web.ask import Ask
from supercloud.web.domains import DOMAIN_KINDS
from supercloud.web.evidence import EVIDENCE_KIND
from supercloud.web.incidents import INCIDENT_KIND
from supercloud.web.kind import Beside, Kind, Section
from supercloud.web.principals import PRINCIPAL_KINDS, who_may
from supercloud.web.security import SECURITY_KINDS

_OPERATION_COLUMNS = ("Operation", "About", "State", "Phase", "Began", "Ended")
#: Of a history, and of what is under way.
_NEWEST, _OPEN = Page(limit=20), Page(limit=1000)


def _operations(title: str, caption: str, found: Sequence[Any], nothing: str) -> Section:
    rows = [shown.operation_row(one) for one in found]
    return Section(title=title, caption=caption, columns=_OPERATION_COLUMNS, rows=rows, nothing=nothing)


async def under_way(ask: Ask, cloud: Ref | None) -> tuple[Part[Any], Section]:
    """The open operations, and the first of them as they are shown."""
    found: Part[Any] = await ask.some(
        Permission.OPERATION_READ,
        lambda control: control.operations(open_only=True, cloud=cloud, page=_OPEN),
    )
    newest = found[: _NEWEST.limit]
    return found, _operations("Under way", "Operations under way", newest, "Nothing is under way.")


def _history(which: Callable[[Any], dict[str, Any]]) -> Callable[[Ask, Any], Awaitable[list[Section]]]:
    """The operations about a thing. `which`: of all, those."""

    async def of(ask: Ask, view: Any) -> list[Section]:
        found = await ask.some(
            Permission.OPERATION_READ, lambda control: control.operations(page=_NEWEST, **which(view))
        )
        title = "Operations, the newest first"
        return [_operations("History", title, found, "Nothing was done to it yet.")]

    return of


_of_it = _history(lambda view: {"about": view.id})
_in_cloud = _history(lambda view: {"cloud": view.id})


async def _of_cloud(ask: Ask, view: Any) -> list[Section]:
    return [await who_may(ask, view), *await _in_cloud(ask, view)]


async def _of_volume(ask: Ask, view: Any) -> list[Section]:
    return [await going_back.snapshots(ask, view), *await _of_it(ask, view)]


async def _of_instance(ask: Ask, view: Any) -> list[Section]:
    return [*await _of_it(ask, view), *await memory.of_instance(ask, view)]


_KINDS = (
    Kind(
        path="clouds",
        one="cloud",
        title="Clouds",
        read=Permission.CLOUD_READ,
        key=TEXTS,
        watched=(
            Changed.CLOUD,
            Changed.BLANKET,
            Changed.INSTANCE,
            Changed.OPERATION,
            Changed.TOKEN,
            Changed.TRUST,
        ),
        columns=("Name", "Owner", "Within", "Blankets", "Instances"),
        listed=lambda control, _, page: control.clouds(page=page),
        shown=lambda control, ref, _: control.cloud(ref),
        row=shown.cloud_row,
        facts=shown.cloud_facts,
        sections=_of_cloud,
        in_cloud=False,
    ),
    Kind(
        path="providers",
        one="provider",
        title="Providers",
        read=Permission.PROVIDER_READ,
        key=TEXT,
        watched=(Changed.PROVIDER, Changed.MAINTENANCE, Changed.BLANKET, Changed.OPERATION),
        columns=(
            "Name",
            "Platform",
            "Accelerator",
            "Location",
            "Confidentiality",
            "Level",
            "State",
            "Blankets",
        ),
        listed=lambda control, _, page: control.providers(page=page),
        shown=lambda control, ref, _: control.provider(ref),
        row=shown.provider_row,
        facts=shown.provider_facts,
        sections=_of_it,
        in_cloud=False,
    ),
    Kind(
        path="blankets",
        one="blanket",
        title="Blankets",
        read=Permission.BLANKET_READ,
        key=TEXTS,
        watched=(Changed.BLANKET, Changed.INSTANCE, Changed.OPERATION),
        columns=("Name", "Cloud", "Provider", "State", "Flavour", "Level", "Instances"),
        listed=lambda control, cloud, page: control.blankets(cloud=cloud, page=page),
        shown=lambda control, ref, cloud: control.blanket(ref, cloud=cloud),
        row=shown.blanket_row,
        facts=shown.blanket_facts,
        sections=_of_it,
        beside=(Beside("console", "Console", Permission.BLANKET_CONSOLE),),
    ),
    Kind(
        path="images",
        one="image",
        title="Images",
        read=Permission.IMAGE_READ,
        key=TEXTS,
        watched=(Changed.IMAGE,),
        columns=("Name", "As guests see it", "Encrypted file", "Complete"),
        listed=lambda control, _, page: control.images(page=page),
        shown=lambda control, ref, _: control.image(ref),
        row=shown.image_row,
        facts=shown.image_facts,
        sections=_of_it,
        in_cloud=False,
    ),
    Kind(
        path="networks",
        one="network",
        title="Networks",
        read=Permission.NETWORK_READ,
        key=TEXTS,
        watched=(Changed.NETWORK, Changed.INSTANCE),
        columns=("Name", "Cloud", "Addresses", "Level", "Instances"),
        listed=lambda control, cloud, page: control.networks(cloud=cloud, page=page),
        shown=lambda control, ref, cloud: control.network(ref, cloud=cloud),
        row=shown.network_row,
        facts=shown.network_facts,
        sections=_of_it,
        beside=(Beside("level", "Security level", Permission.NETWORK_READ),),
    ),
    Kind(
        path="volumes",
        one="volume",
        title="Volumes",
        read=Permission.VOLUME_READ,
        key=TEXTS,
        watched=(Changed.VOLUME, Changed.OPERATION),
        columns=("Name", "Cloud", "Size", "Level", "Instance", "Blanket"),
        listed=lambda control, cloud, page: control.volumes(cloud=cloud, page=page),
        shown=lambda control, ref, cloud: control.volume(ref, cloud=cloud),
        row=shown.volume_row,
        facts=shown.volume_facts,
        sections=_of_volume,
        beside=(Beside("level", "Security level", Permission.VOLUME_READ),),
    ),
    Kind(
        path="instances",
        one="instance",
        title="Instances",
        read=Permission.VM_READ,
        key=TEXTS,
        watched=(Changed.INSTANCE, Changed.OPERATION, Changed.INCIDENT, Changed.REPORT),
        columns=("Name", "Cloud", "State", "Level", "Blanket", "Addresses", "Group"),
        listed=lambda control, cloud, page: control.instances(cloud=cloud, page=page),
        shown=lambda control, ref, cloud: control.instance(ref, cloud=cloud),
        row=shown.instance_row,
        facts=shown.instance_facts,
        sections=_of_instance,
        beside=(
            Beside("console", "Console", Permission.VM_CONSOLE),
            Beside("level", "Security level", Permission.VM_READ),
        ),
    ),
    Kind(
        path="operations",
        one="operation",
        title="Operations",
        read=Permission.OPERATION_READ,
        key=TIMED,
        watched=(Changed.OPERATION,),
        columns=_OPERATION_COLUMNS,
        listed=lambda control, cloud, page: control.operations(cloud=cloud, page=page),
        shown=lambda control, ref, _: control.operation(ref),
        row=shown.operation_row,
        facts=shown.operation_facts,
        sections=_history(lambda view: {"about": view.object}),
        called=shown.operation,
    ),
    Kind(
        path="trust",
        one="trust relation",
        title="Trust",
        read=Permission.TRUST_READ,
        key=TIMED,
        watched=(Changed.TRUST,),
        columns=("Relation", "State", "May be passed on", "Ends"),
        listed=lambda control, cloud, page: control.trusts(cloud=cloud, page=page),
        shown=lambda control, ref, _: control.trust(ref),
        row=shown.trust_row,
        facts=shown.trust_facts,
        called=shown.relation,
    ),
)
#: By path, in the order in which they are offered.
KINDS: Mapping[str, Kind] = {
    one.path: one
    for one in (
        *_KINDS,
        INCIDENT_KIND,
        EVIDENCE_KIND,
        *SECURITY_KINDS,
        *PRINCIPAL_KINDS,
        *DOMAIN_KINDS,
    )
}
