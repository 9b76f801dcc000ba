"""What can be made from a list's page: each kind's form, and the API's own request out of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from supercloud.model.levels import Level
from supercloud.model.permissions import Permission
from supercloud.model.quota import Quota
from supercloud.model.states import JOINED
from supercloud.model.trust import LONGEST_S, TrustKind, TrustState
from supercloud.ports.platform import Flavour
from supercloud.services.northbound import Northbound
from supercloud.services.pages import Page
from supercloud.services.requests import (
    AddBlanket,
    CreateCloud,
    CreateNetwork,
    CreateVolume,
    GrantTrust,
    Ref,
    RunInstance,
)
from supercloud.web.ask import Ask
from supercloud.web.deed import Making, fixed
from supercloud.web.domains import DOMAIN_MAKINGS
from supercloud.web.forms import (
    Field,
    Form,
    chosen,
    counted,
    lines,
    maybe,
    named,
    number,
    request_of,
    size,
    ticked,
    written,
)
from supercloud.web.security import SECURITY_MAKINGS

_P = Permission
_DAY_S = 86400
_NAME = Field(name="name", label="Name", required=True, hint="as in DNS: web-1")
_LEVEL = chosen("level", "Security level", [(one, one) for one in Level], value=Level.OPEN)


async def _blankets(ask: Ask, cloud: Ref, nowhere: str) -> Field:
    found = await ask.some(_P.BLANKET_READ, lambda control: control.blankets(cloud=cloud))
    return chosen("on", "Blanket", (("", nowhere), *named(each for each in found if each.state in JOINED)))


async def _images(ask: Ask) -> tuple[tuple[str, str], ...]:
    found = await ask.some(_P.IMAGE_READ, lambda control: control.images())
    return named(each for each in found if each.complete)


# ---------------------------------------------------------------- instances


async def _instance_fields(ask: Ask, cloud: Ref) -> tuple[Field, ...]:
    networks = await ask.some(_P.NETWORK_READ, lambda control: control.networks(cloud=cloud))
    return (
        _NAME,
        chosen("image", "Image", await _images(ask), required=True),
        await _blankets(ask, cloud, "where its placement allows"),
        _LEVEL,
        counted("vcpus", "vCPUs", least=1, most=64, value="1"),
        counted("memory_mib", "Memory, MiB", least=64, most=1 << 20, value="512"),
        counted(
            "disk_gib", "Disk, GiB", least=1, most=1 << 19, hint="as large as the image, if it is left out"
        ),
        Field(name="networks", label="Networks", kind="several", choices=named(networks)),
        Field(name="ssh_keys", label="ssh keys", kind="lines", hint="public ones, a line each"),
        Field(name="group", label="Group", hint="what moves together"),
    )


async def _run(control: Northbound, form: Form) -> Any:
    asked = {
        "name": written(form, "name"),
        "cloud": written(form, "cloud"),
        "image": written(form, "image"),
        "on": maybe(form, "on"),
        "level": maybe(form, "level"),
        "vcpus": number(form, "vcpus"),
        "memory_mib": number(form, "memory_mib"),
        "disk_bytes": size(form, "disk_gib"),
        "networks": form.get("networks", ()),
        "ssh_keys": lines(form, "ssh_keys"),
        "group": maybe(form, "group"),
    }
    return await control.run_instance(request_of(RunInstance, asked))


# ---------------------------------------------------------------- clouds


async def _cloud_fields(ask: Ask, _about: object) -> tuple[Field, ...]:
    clouds = await ask.some(_P.CLOUD_READ, lambda control: control.clouds())
    as_much = "as much as there is, if it is left out"
    return (
        _NAME,
        chosen("parent", "Within", (("", "no other cloud"), *named(clouds))),
        Field(name="owner", label="Owner's public key", hint="if it is not yours; within a cloud only"),
        counted("vcpus", "vCPUs, at most", hint=as_much),
        counted("memory_mib", "Memory at most, MiB"),
        counted("disk_gib", "Disk at most, GiB"),
        counted("blankets", "Blankets, at most"),
        counted("domains", "Domains, at most"),
    )


async def _create_cloud(control: Northbound, form: Form) -> Any:
    limits = {name: number(form, name) for name in ("vcpus", "memory_mib", "blankets", "domains")}
    asked = {
        "name": written(form, "name"),
        "parent": maybe(form, "parent"),
        "owner": maybe(form, "owner"),
        "quota": request_of(Quota, {**limits, "disk_bytes": size(form, "disk_gib")}),
    }
    return await control.create_cloud(request_of(CreateCloud, asked))


# ---------------------------------------------------------------- what is in clouds


async def _blanket_fields(ask: Ask, cloud: Ref) -> tuple[Field, ...]:
    """On a platform, or in a blanket of its own, of a cloud around it, or of one that lets it be there."""
    providers = await ask.some(_P.PROVIDER_READ, lambda control: control.providers())
    around = await ask.some(_P.BLANKET_READ, lambda control: control.blankets())
    room = [(one.id, f"{one.name} ({one.cloud})") for one in around if one.deeper and one.state in JOINED]
    trusts = await ask.some(_P.TRUST_READ, lambda control: control.trusts(cloud=cloud, page=_LASTING))
    mine = [one for one in trusts if one.blanket and cloud in {one.to, one.to_id}]
    lent = {one.blanket: f"{one.thing} ({one.cloud} lets it)" for one in mine}
    room += [(one, called) for one, called in lent.items() if one not in dict(room)]
    return (
        _NAME,
        chosen("provider", "Provider", (("", ""), *named(each for each in providers if each.accepted))),
        chosen("parent", "Or in blanket", (("", ""), *room)),
        chosen("flavour", "Flavour", [(each, each) for each in Flavour], value=Flavour.KVM),
        counted("vcpus", "vCPUs", least=1, most=64, value="2"),
        counted("memory_mib", "Memory, MiB", least=64, most=1 << 20, value="2048"),
        counted("disk_gib", "Disk, GiB", least=1, most=1 << 19, value="20"),
    )


async def _add_blanket(control: Northbound, form: Form) -> Any:
    asked = {
        "name": written(form, "name"),
        "cloud": written(form, "cloud"),
        "provider": maybe(form, "provider"),
        "parent": maybe(form, "parent"),
        "flavour": maybe(form, "flavour"),
        "vcpus": number(form, "vcpus"),
        "memory_mib": number(form, "memory_mib"),
        "disk_bytes": size(form, "disk_gib"),
    }
    return await control.add_blanket(request_of(AddBlanket, asked))


_LASTING = Page(state=TrustState.ACTIVE)
_NETWORK = fixed(
    _NAME, Field(name="cidr", label="Addresses", required=True, hint="private ones: 10.20.0.0/24"), _LEVEL
)


async def _create_network(control: Northbound, form: Form) -> Any:
    asked = {name: maybe(form, name) for name in ("name", "cloud", "cidr", "level")}
    return await control.create_network(request_of(CreateNetwork, asked))


async def _volume_fields(ask: Ask, cloud: Ref) -> tuple[Field, ...]:
    return (
        _NAME,
        counted("size_gib", "Size, GiB", least=1, most=1 << 19, value="10", required=True),
        chosen("image", "Begins as", (("", "an empty disk"), *await _images(ask))),
        await _blankets(ask, cloud, "where it is first attached"),
        _LEVEL,
    )


async def _create_volume(control: Northbound, form: Form) -> Any:
    asked = {name: maybe(form, name) for name in ("name", "cloud", "image", "on", "level")}
    request = request_of(CreateVolume, {**asked, "size_bytes": size(form, "size_gib")})
    return await control.create_volume(request)


_TRUST = fixed(
    chosen("kind", "Lets it", [(each, each) for each in TrustKind]),
    Field(name="to", label="The other cloud", required=True, hint="yours by its name, another's by its id"),
    Field(
        name="image",
        label="Image",
        hint="for share-image, by its name; CLOUD/IMAGE is one that is passed on",
    ),
    Field(
        name="network",
        label="Network",
        hint="for connect, the one that is reached; CLOUD/NETWORK is one that is passed on",
    ),
    Field(
        name="to_network",
        label="From its network",
        hint="for connect, yours by its name, another's by its id",
    ),
    Field(
        name="blanket",
        label="Inside blanket",
        hint="for place and migrate-to, by its name; by its id one that is passed on",
    ),
    Field(
        name="reactions",
        label="Reactions",
        hint="for order-reactions: deny:ipv4_net restart:device",
    ),
    counted("days", "Days", least=1, most=int(LONGEST_S / _DAY_S), hint="30, if it is left out"),
    Field(name="delegable", label="it may pass it on", kind="box"),
)


async def _grant(control: Northbound, form: Form) -> Any:
    days = number(form, "days")
    names = ("kind", "cloud", "to", "image", "network", "to_network", "blanket")
    asked = {name: maybe(form, name) for name in names}
    more = {
        "lasts_s": None if days is None else float(days * _DAY_S),
        "reactions": written(form, "reactions").split(),
        "delegable": ticked(form, "delegable"),
    }
    return await control.grant_trust(request_of(GrantTrust, {**asked, **more}))


_MAKINGS = (
    Making(
        "clouds", "Create a cloud", "Create", _P.CLOUD_CREATE, _create_cloud, _cloud_fields, in_cloud=False
    ),
    Making("blankets", "Add a blanket", "Add", _P.BLANKET_WRITE, _add_blanket, _blanket_fields),
    Making("networks", "Create a network", "Create", _P.NETWORK_WRITE, _create_network, _NETWORK),
    Making("volumes", "Create a volume", "Create", _P.VOLUME_WRITE, _create_volume, _volume_fields),
    Making("instances", "Run an instance", "Run", _P.VM_RUN, _run, _instance_fields),
    Making("trust", "Grant trust", "Grant", _P.TRUST_WRITE, _grant, _TRUST),
)
#: By the path of the kind of thing.
MAKINGS: Mapping[str, Making] = {each.of: each for each in (*_MAKINGS, *SECURITY_MAKINGS, *DOMAIN_MAKINGS)}
