"""A control plane as a value: what the API's requests do to a cloud, refused where the real one refuses."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from ipaddress import IPv4Network
from typing import Any

from pydantic import TypeAdapter

from supercloud.cli.declared.steps import Call, Kind
from supercloud.cli.declared.there import BlanketThere, InstanceThere, There, UnderWay, VolumeThere
from supercloud.model import levels
from supercloud.model.levels import Level
from supercloud.model.placement import Placement
from supercloud.model.quota import Quota
from supercloud.model.states import InstanceState
from supercloud.model.trust import THINGS
from supercloud.services.requests import (
    AddBlanket,
    AddProvider,
    CreateCloud,
    CreateNetwork,
    CreateVolume,
    PlaceInstance,
    RunInstance,
)
from supercloud.services.rules import boot_volume, level_of
from supercloud.services.views import TrustView, WantedCloud

IMAGES = {"debian": 64 << 20, "alpine": 32 << 20}
_STATES = {InstanceState.RUNNING, InstanceState.PAUSED, InstanceState.MIGRATING}


class Elsewhere(Exception):
    """A volume's data is not where an instance is that may be anywhere: nobody could have known."""


@dataclass
class Pretend:
    """Every method is one request; an assertion that fails is one that the control plane would refuse."""

    providers: dict[str, AddProvider] = field(default_factory=dict)
    cloud: CreateCloud | None = None
    networks: dict[str, CreateNetwork] = field(default_factory=dict)
    blankets: dict[str, AddBlanket] = field(default_factory=dict)
    blanket_states: dict[str, BlanketThere] = field(default_factory=dict)
    volumes: dict[str, CreateVolume] = field(default_factory=dict)
    owners: dict[str, str] = field(default_factory=dict)  # volume -> instance
    data: dict[str, str] = field(default_factory=dict)  # volume -> blanket
    lost: set[str] = field(default_factory=set)  # volumes whose data went with a blanket
    instances: dict[str, RunInstance] = field(default_factory=dict)
    states: dict[str, InstanceState] = field(default_factory=dict)
    user_data: dict[str, str] = field(default_factory=dict)  # in clear, as the steps had it
    under_way: dict[tuple[Kind, str], UnderWay] = field(default_factory=dict)
    trust: tuple[TrustView, ...] = ()
    counts: bool = False  # whether it keeps to the quota

    def there(self) -> There:
        attached: dict[str, tuple[str, ...]] = {}
        for volume, owner in self.owners.items():
            attached[owner] = (*attached.get(owner, ()), volume)
        wanted = self.cloud and WantedCloud(
            cloud=self.cloud,
            blankets=tuple(self.blankets.values()),
            networks=tuple(self.networks.values()),
            volumes=tuple(
                replace(one, on=None if name in self.owners else self.data.get(name) or one.on)
                for name, one in self.volumes.items()
            ),
            instances=tuple(self.instances.values()),
            attached=attached,
            user_data=tuple(sorted(self.user_data)),
        )
        return There(
            wanted=wanted,
            providers=self.providers,
            images={name: name for name in IMAGES},
            blankets={name: self.blanket_states.get(name, BlanketThere()) for name in self.blankets},
            instances={
                name: InstanceThere(state=self.states[name], boot_volume=boot_volume(name))
                for name in self.instances
            },
            volumes={
                name: VolumeThere(instance=self.owners.get(name), blanket=self.data.get(name))
                for name in self.volumes
            },
            under_way=self.under_way,
            trust=self.trust,
        )

    def do(self, call: Call) -> None:
        if call.method == "GET":
            self.under_way.clear()
            return
        words = call.path.strip("/").split("/")
        if call.method == "POST" and len(words) == 1:
            getattr(self, f"_create_{words[0]}")(dict(call.body or {}))
            if call.user_data is not None:
                assert words == ["instances"] and call.body
                self.user_data[call.body["name"]] = call.user_data
            self._fits()
            return
        assert call.user_data is None
        if words[0] == "clouds":
            self._quota_clouds(words[1], call.body)
            self._fits()
            return
        if words[0] == "trust":
            assert call.method == "POST" and words[2] == "revoke"
            left = tuple(one for one in self.trust if one.id != words[1])
            assert len(left) == len(self.trust) - 1, "what is not there cannot be revoked"
            self.trust = left
            return
        assert call.query == {"cloud": self.cloud and self.cloud.name}
        verb = "remove" if call.method == "DELETE" else words[2]
        getattr(self, f"_{verb}_{words[0]}")(words[1], **(call.body or {}))

    def _fits(self) -> None:
        """Into the quota, of which only what instances take is counted."""
        if self.counts and self.cloud is not None:
            quota, instances = self.cloud.quota, self.instances.values()
            for limit, used in (
                (quota.vcpus, sum(one.vcpus for one in instances)),
                (quota.memory_mib, sum(one.memory_mib for one in instances)),
            ):
                assert limit is None or used <= limit, f"{used} is more than {limit}"

    # ------------------------------------------------------------ making

    def _create_providers(self, body: Any) -> None:
        assert body["name"] not in self.providers
        self.providers[body["name"]] = TypeAdapter(AddProvider).validate_python(body)

    def _create_clouds(self, body: Any) -> None:
        assert self.cloud is None
        made = TypeAdapter(CreateCloud).validate_python(body)
        self.cloud = replace(made, cpu_model=made.cpu_model or "Westmere")

    def _quota_clouds(self, name: str, body: Any) -> None:
        assert self.cloud is not None and self.cloud.name == name
        self.cloud = replace(self.cloud, quota=TypeAdapter(Quota).validate_python(body))

    def _in_cloud(self, body: Any, kind: type[Any], there: dict[str, Any]) -> Any:
        assert self.cloud is not None and body["cloud"] == self.cloud.name and body["name"] not in there
        made = TypeAdapter(kind).validate_python(body)
        if kind is not AddBlanket:
            made = replace(made, level=made.level or Level.OPEN)
        there[body["name"]] = made
        return made

    def _create_networks(self, body: Any) -> None:
        cidr = IPv4Network(body["cidr"])
        assert not any(cidr.overlaps(IPv4Network(one.cidr)) for one in self.networks.values())
        self._in_cloud(body, CreateNetwork, self.networks)

    def _create_blankets(self, body: Any) -> None:
        assert ("provider" in body) != ("parent" in body)
        assert "parent" in body or body["provider"] in self.providers
        self._in_cloud(body, AddBlanket, self.blankets)

    def _create_volumes(self, body: Any) -> None:
        made = self._in_cloud(body, CreateVolume, self.volumes)
        assert made.on is None or made.on in self.blankets
        assert made.image is None or made.image in IMAGES

    def _create_instances(self, body: Any) -> None:
        made = self._in_cloud(body, RunInstance, self.instances)
        assert made.user_data is None, "a plan encrypts nothing"
        assert made.image in IMAGES and set(made.networks) <= set(self.networks)
        self._know_domains(made.placement)
        assert made.on in self.blankets if made.on else self.blankets
        taken = {one.at for other in self.instances.values() if other is not made for one in other.publish}
        assert not taken & {one.at for one in made.publish if one.at}
        ports = tuple(
            one if one.at else replace(one, at=40000 + 64 * len(self.instances) + index)
            for index, one in enumerate(made.publish)
        )
        where, size = made.on or min(self.blankets), made.disk_bytes or IMAGES[made.image]
        self.instances[made.name] = replace(made, on=where, disk_bytes=size, publish=ports)
        self.states[made.name] = InstanceState.RUNNING

    # ------------------------------------------------------------ changing

    def _resize_volumes(self, name: str, *, size_bytes: int) -> None:
        boots = {boot_volume(one): one for one in self.instances}
        if name in boots:
            instance = self.instances[boots[name]]
            assert size_bytes > (instance.disk_bytes or 0)
            self.instances[instance.name] = replace(instance, disk_bytes=size_bytes)
        else:
            assert size_bytes > self.volumes[name].size_bytes
            self.volumes[name] = replace(self.volumes[name], size_bytes=size_bytes)

    def _attach_volumes(self, name: str, *, instance: str) -> None:
        assert name not in self.owners and instance in self.instances
        where = self.instances[instance].on
        if (self.data.get(name) or self.volumes[name].on) not in {None, where}:
            raise Elsewhere
        self.owners[name] = instance
        self.data[name] = where or ""

    def _detach_volumes(self, name: str) -> None:
        del self.owners[name]

    def _migrate_instances(self, name: str, *, to: str) -> None:
        assert self.states[name] is InstanceState.RUNNING and to in self.blankets
        assert self.instances[name].on != to
        self.instances[name] = replace(self.instances[name], on=to)
        self.data |= {volume: to for volume, owner in self.owners.items() if owner == name}

    def _placement_instances(self, name: str, **body: Any) -> None:
        placed = TypeAdapter(PlaceInstance).validate_python(body)
        self._know_domains(placed.placement)
        instance = replace(self.instances[name], group=placed.group, placement=placed.placement)
        self.instances[name] = instance

    def _level_networks(self, name: str, *, level: str, lower: bool) -> None:
        self.networks[name] = _leveled(self.networks[name], level, lower)

    def _level_volumes(self, name: str, *, level: str, lower: bool) -> None:
        self.volumes[name] = _leveled(self.volumes[name], level, lower)

    def _level_instances(self, name: str, *, level: str, lower: bool) -> None:
        levels.check_own(level_of(replace(self.instances[name], level=Level(level))))
        self.instances[name] = _leveled(self.instances[name], level, lower)

    def _know_domains(self, placement: Placement) -> None:
        assert {*placement.domains, *placement.not_domains} <= set(self.providers)

    def _start_instances(self, name: str) -> None:
        assert self.states[name] is not InstanceState.RUNNING and self.instances[name].on
        self.states[name] = InstanceState.RUNNING

    def _stop_instances(self, name: str) -> None:
        self.states[name] = InstanceState.STOPPED

    # ------------------------------------------------------------ taking away

    def _remove_instances(self, name: str) -> None:
        assert self.states[name] not in _STATES
        del self.instances[name], self.states[name]
        self.user_data.pop(name, None)
        self.owners = {volume: owner for volume, owner in self.owners.items() if owner != name}

    def _remove_volumes(self, name: str) -> None:
        assert name not in self.owners
        del self.volumes[name]
        self.data.pop(name, None)

    def _remove_networks(self, name: str) -> None:
        assert not any(name in one.networks for one in self.instances.values())
        del self.networks[name]
        self._forget("network", name)

    def _forget(self, thing: str, name: str) -> None:
        """Relations go with what they are about."""
        self.trust = tuple(one for one in self.trust if (THINGS[one.kind], one.thing) != (thing, name))

    def _remove_blankets(self, name: str) -> None:
        assert not any(one.on == name for one in self.instances.values())
        assert not any(one.parent == name for one in self.blankets.values())
        self._forget("blanket", name)
        self.lost |= {volume for volume, where in self.data.items() if where == name}
        del self.blankets[name]
        self.blanket_states.pop(name, None)


def _leveled(thing: Any, level: str, lower: bool) -> Any:
    assert lower or Level(level).means(thing.level), "a lower level has to be said to be one"
    return replace(thing, level=Level(level))
