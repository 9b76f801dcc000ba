"""A cloud as the file that declares it; what is as by default is left out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from supercloud.cli.declared import trusted
from supercloud.cli.declared.models import VERSION
from supercloud.cli.declared.tree import scalar
from supercloud.cli.sizes import exact_size
from supercloud.model.levels import Level
from supercloud.model.names import MIB, Name
from supercloud.model.placement import ANYWHERE, Placement, Price
from supercloud.model.quota import Quota
from supercloud.services.requests import (
    AddBlanket,
    AddProvider,
    CreateCloud,
    CreateNetwork,
    CreateVolume,
    Publish,
    RunInstance,
)
from supercloud.services.views import TrustView, WantedCloud

#: As a request has them that says no more than it must; what it must say differs from this.
_BLANKET = AddBlanket(name="", cloud="")
_NETWORK = CreateNetwork(name="", cloud="", cidr="")
_VOLUME = CreateVolume(name="", cloud="", size_bytes=0)
_INSTANCE = RunInstance(name="", cloud="", image="")
_WIDE = 1 << 20  # lines are not folded
_ODD_BREAKS = frozenset("\r\x85\u2028\u2029\ufeff")


def document(
    wanted: WantedCloud, providers: Mapping[Name, AddProvider], trust: Iterable[TrustView] = ()
) -> dict[str, Any]:
    """What the file says, as plain values. Of the providers, those that it names. User data is
    not in it: nobody but its instance's blankets can read it; nor for how long others are still trusted."""
    used = {one.provider for one in wanted.blankets}
    for one in wanted.instances:
        used |= {*one.placement.domains, *one.placement.not_domains}
    sections = {
        "providers": {
            name: _changed(_provider(one), _provider(AddProvider(name="", kind="")))
            for name, one in providers.items()
            if name in used
        },
        "blankets": {one.name: _changed(_blanket(one), _blanket(_BLANKET)) for one in wanted.blankets},
        "networks": {one.name: _changed(_network(one), _network(_NETWORK)) for one in wanted.networks},
        "volumes": {one.name: _changed(_volume(one), _volume(_VOLUME)) for one in wanted.volumes},
        "instances": {
            one.name: _changed(_instance(one, wanted.attached.get(one.name, ())), _instance(_INSTANCE, ()))
            for one in wanted.instances
        },
        "trust": dict(trusted.written(trust)),
    }
    cloud = _changed(_cloud(wanted.cloud), _cloud(CreateCloud(name="")))
    return {"version": VERSION, "cloud": cloud, **{name: one for name, one in sections.items() if one}}


def lacks(wanted: WantedCloud) -> str | None:
    """In a sentence what `document` lacks of it, if it lacks something."""
    if not wanted.user_data:
        return None
    return (
        f"user data is not in an export: to make the like elsewhere, "
        f"add `userData` or `userDataFile` to {', '.join(wanted.user_data)}"
    )


def text(content: Mapping[str, Any], remark: str | None = None) -> str:
    """As YAML that readers of either version of YAML read alike, under one line of remark."""
    written: str = yaml.dump(
        content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False, width=_WIDE
    )
    return f"# {remark}\n{written}" if remark else written


def _cloud(cloud: CreateCloud) -> dict[str, Any]:
    return {
        "name": cloud.name,
        "cpuModel": cloud.cpu_model,
        "rightLength": _number(cloud.right_length_s),
        "rightMargin": _number(cloud.right_margin_s),
        "rightGrace": _number(cloud.right_grace_s),
        "in": cloud.parent,
        "quota": _quota(cloud.quota),
    }


def _quota(quota: Quota) -> dict[str, Any]:
    """Empty: it has no bounds."""
    said = {
        "vcpus": quota.vcpus,
        "memory": None if quota.memory_mib is None else exact_size(quota.memory_mib * MIB),
        "disk": None if quota.disk_bytes is None else exact_size(quota.disk_bytes),
        "blankets": quota.blankets,
        "domains": quota.domains,
    }
    return {name: limit for name, limit in said.items() if limit is not None}


def _provider(provider: AddProvider) -> dict[str, Any]:
    price = provider.price
    return {
        "kind": provider.kind,
        "options": dict(provider.options),
        "location": provider.location,
        "price": None if price is None else _changed(_price(price), _price(Price(currency=""))),
    }


def _price(price: Price) -> dict[str, Any]:
    return {"currency": price.currency, "vcpuHour": price.vcpu_hour, "gibHour": price.gib_hour}


def _placement(placement: Placement) -> dict[str, Any]:
    level = placement.confidentiality
    return {
        "domains": list(placement.domains),
        "notDomains": list(placement.not_domains),
        "locations": list(placement.locations),
        "maxCost": None if placement.max_cost is None else str(placement.max_cost),
        "confidentiality": None if level is None else level.value,
        "apartFrom": list(placement.apart_from),
        "apartBy": placement.apart_by.value,
    }


def _blanket(blanket: AddBlanket) -> dict[str, Any]:
    return {
        "provider": blanket.provider,
        "in": blanket.parent,
        "flavour": blanket.flavour.value,
        "vcpus": blanket.vcpus,
        "memory": exact_size(blanket.memory_mib * MIB),
        "disk": exact_size(blanket.disk_bytes),
        "debugShell": blanket.debug_shell,
    }


def _network(network: CreateNetwork) -> dict[str, Any]:
    return {"cidr": network.cidr, "level": _level(network.level)}


def _volume(volume: CreateVolume) -> dict[str, Any]:
    return {
        "size": exact_size(volume.size_bytes),
        "image": volume.image,
        "blanket": volume.on,
        "level": _level(volume.level),
    }


def _level(level: Level | None) -> str | None:
    """The lowest one is that of what is made without any."""
    return None if level in {None, Level.OPEN} else level.value


def _instance(instance: RunInstance, volumes: tuple[Name, ...]) -> dict[str, Any]:
    return {
        "image": instance.image,
        "blanket": instance.on,
        "memory": exact_size(instance.memory_mib * MIB),
        "vcpus": instance.vcpus,
        "disk": None if instance.disk_bytes is None else exact_size(instance.disk_bytes),
        "networks": list(instance.networks),
        "publish": [port(one) for one in instance.publish],
        "volumes": list(volumes),
        "sshKeys": list(instance.ssh_keys),
        "hold": instance.hold,
        "level": _level(instance.level),
        "group": instance.group,
        "placement": _changed(_placement(instance.placement), _placement(ANYWHERE)),
    }


def port(publish: Publish) -> str | int:
    return f"{publish.at}:{publish.port}" if publish.at else publish.port


def _changed(said: dict[str, Any], default: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in said.items() if value != default[key]}


def _number(seconds: float) -> float:
    return int(seconds) if seconds.is_integer() else seconds


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]
    """Quotes whatever either version of YAML would take for something else than text."""

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> str:
        tag: str = super().resolve(kind, value, implicit)
        plain_text = kind is yaml.ScalarNode and implicit[0] and tag == "tag:yaml.org,2002:str"
        if plain_text and not isinstance(scalar(value), str):
            return "tag:yaml.org,2002:null"
        return tag

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
    if _ODD_BREAKS.intersection(value):
        style: str | None = '"'  # where they are written as escapes, which no reader folds
    else:
        style = "|" if "\n" in value else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _represent_text)
