"""From what is declared and what is there to the steps between: a pure function.

Nothing is taken away unless it is to be pruned, and what cannot be changed is refused, with what to do.
Whether a declared instance runs is its owner's: one that is made is started, one whose start failed is
started again, one that was stopped stays stopped.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from typing import Any

from supercloud.cli.declared import trusted
from supercloud.cli.declared.draft import Draft, key, named
from supercloud.cli.declared.read import Declared
from supercloud.cli.declared.remove import Removal
from supercloud.cli.declared.steps import Act, Call, Key, Kind, Plan
from supercloud.cli.declared.there import InstanceThere, There
from supercloud.cli.declared.wrong import near
from supercloud.cli.sizes import exact_size
from supercloud.model.levels import Level
from supercloud.model.names import MIB, Name
from supercloud.model.quota import Quota
from supercloud.model.states import BlanketState, InstanceState
from supercloud.model.units import format_size
from supercloud.services.requests import AddBlanket, AddProvider, CreateVolume, Publish, RunInstance
from supercloud.services.views import WantedCloud

#: Where a start did not come to its end, and no operation is there any more that would bring it there.
_NOT_STARTED = frozenset(
    {InstanceState.CREATED, InstanceState.PREPARING, InstanceState.STARTING, InstanceState.FAILED}
)
_LEVELS = (Act.RAISE, Act.LOWER)
_MADE_ANEW = "change the file back, or supercloud {} rm {} and apply makes it anew"


def plan(declared: Declared, there: There, *, prune: bool = False) -> Plan:
    """The steps from `there` to `declared`; none where it is so already."""
    planner = _Planner(declared, there, prune=prune)
    return planner.plan()


class _Planner:
    def __init__(self, declared: Declared, there: There, *, prune: bool) -> None:
        self._declared = declared
        self._wanted = declared.wanted
        self._there = there
        self._now = there.wanted or WantedCloud(
            cloud=declared.wanted.cloud, blankets=(), networks=(), volumes=(), instances=(), attached={}
        )
        self._ends = {one.name: one.on for one in self._now.instances}
        self._ends |= {one.name: one.on for one in self._wanted.instances if one.on}
        self._volumes_now = named(self._now.volumes)
        self._draft = Draft(declared.wanted.cloud.name, there)
        self._removal = Removal(self._draft, declared.wanted, self._now, prune=prune)
        self._cloud: Key = key(Act.CREATE, Kind.CLOUD, declared.wanted.cloud.name)

    def plan(self) -> Plan:
        self._providers()
        self._cloud_itself()
        self._removal.instances()
        self._networks()
        self._blankets()
        self._volumes()
        self._instances()
        trusted.steps(
            self._draft,
            self._declared.trust,
            self._there.trust,
            cloud=self._cloud,
            prune=self._removal.prunes,
        )
        self._removal.rest()
        self._smaller_quota()
        return self._draft.plan()

    # ------------------------------------------------------------ what stands alone

    def _providers(self) -> None:
        for name, wanted in self._declared.providers.items():
            now = self._there.providers.get(name)
            if now is None:
                self._draft.step(Act.CREATE, Kind.PROVIDER, name, wanted.kind, _create(Kind.PROVIDER, wanted))
            elif now.kind != wanted.kind:
                self._fixed(Kind.PROVIDER, name, "kind", now.kind, wanted.kind)
            elif now.options != wanted.options:
                self._fixed(Kind.PROVIDER, name, "options", now.options, wanted.options)
            else:
                self._terms(now, wanted)

    def _terms(self, now: AddProvider, wanted: AddProvider) -> None:
        """What a provider says of itself is for all clouds, so that no cloud's file changes it."""
        for field, there, here in (
            ("location", now.location, wanted.location),
            ("price", now.price, wanted.price),
        ):
            if here not in {None, there}:
                why = f"{field} is not what the file says"
                self._draft.refuse(
                    Kind.PROVIDER, wanted.name, field, why, f"supercloud provider set {wanted.name}"
                )

    def _cloud_itself(self) -> None:
        wanted, now = self._wanted.cloud, self._now.cloud
        if self._there.wanted is None:
            call = _create(Kind.CLOUD, wanted)
            self._draft.step(
                Act.CREATE, Kind.CLOUD, wanted.name, f"rights last {wanted.right_length_s:g} s", call
            )
            return
        for field, there, here in (
            ("cpuModel", now.cpu_model, wanted.cpu_model),
            ("rightLength", now.right_length_s, wanted.right_length_s),
            ("rightMargin", now.right_margin_s, wanted.right_margin_s),
            ("rightGrace", now.right_grace_s, wanted.right_grace_s),
        ):
            if here not in {None, there}:
                why = f"{field} is {there} and cannot become {here}"
                self._draft.refuse(Kind.CLOUD, wanted.name, field, why, "change the file back")
        if wanted.parent not in {None, now.parent}:
            why = f"it is in {now.parent or 'no other cloud'}, not in {wanted.parent}"
            self._draft.refuse(
                Kind.CLOUD, wanted.name, "in", f"{why}, and stays there", "change the file back"
            )
        self._quota()

    def _quota(self) -> None:
        """What there is more of, before anything is made that takes from it. What the file does not say
        stays as it is."""
        now, wanted = self._now.cloud.quota, self._declared.quota
        if wanted is not None and (more := now.or_more(wanted)) != now:
            self._cloud = self._set_quota(Act.RESIZE, now, more)

    def _smaller_quota(self) -> None:
        """What there is less of, once nothing that is taken away is in it any more."""
        wanted = self._declared.quota
        if self._there.wanted is None or wanted is None:
            return
        now = self._now.cloud.quota.or_more(wanted)
        if wanted != now:
            kinds = (Kind.INSTANCE, Kind.VOLUME, Kind.BLANKET)
            gone = {one for kind in kinds for one in self._draft.keys(Act.REMOVE, kind)}
            self._set_quota(Act.SHRINK, now, wanted, {self._cloud, *gone})

    def _set_quota(self, act: Act, now: Quota, wanted: Quota, needs: Iterable[Key] = ()) -> Key:
        name = self._wanted.cloud.name
        call = Call(method="PUT", path=f"/clouds/{name}/quota", body=asdict(wanted), durable=False)
        said = f"quota, {_quota(now)} to {_quota(wanted)}"
        return self._draft.step(act, Kind.CLOUD, name, said, call, needs=needs)

    def _networks(self) -> None:
        there = named(self._now.networks)
        for name, wanted in named(self._wanted.networks).items():
            now = there.get(name)
            if now is None:
                needs = {self._cloud, *self._removal.overlapping(ipaddress.IPv4Network(wanted.cidr))}
                call = _create(Kind.NETWORK, wanted)
                self._draft.step(Act.CREATE, Kind.NETWORK, name, wanted.cidr, call, needs=needs)
                continue
            if now.cidr != wanted.cidr:
                self._fixed(Kind.NETWORK, name, "cidr", now.cidr, wanted.cidr)
            users = [one.name for one in self._now.instances if name in one.networks]
            self._level(Kind.NETWORK, name, now.level, wanted.level, users)

    def _level(
        self, kind: Kind, name: Name, now: Level | None, wanted: Level | None, instances: list[Name]
    ) -> None:
        """Before anything is placed or moved because of it. What the file does not say stays as it is."""
        there = now or Level.OPEN
        if wanted is None or wanted is there:
            return
        act = Act.RAISE if wanted.means(there) else Act.LOWER
        body = {"level": wanted.value, "lower": act is Act.LOWER}
        call = replace(self._draft.post(kind, name, "level", body), method="PUT", durable=False)
        said = f"security level, {there} to {wanted}"
        self._draft.step(act, kind, name, said, call, instances=instances)

    # ------------------------------------------------------------ blankets

    def _blankets(self) -> None:
        there = named(self._now.blankets)
        for name, wanted in named(self._wanted.blankets).items():
            known = {*self._declared.providers, *self._there.providers}
            if wanted.provider is not None and wanted.provider not in known:
                todo = f"add it under `providers`; {near(wanted.provider, self._there.providers)}"
                why = f"there is no provider {wanted.provider}"
                self._draft.refuse(Kind.BLANKET, name, "provider", why, todo)
            elif name not in there:
                self._add_blanket(wanted)
            elif not self._blanket_differs(there[name], wanted):
                self._as_it_should_be(wanted)

    def _add_blanket(self, wanted: AddBlanket, *more: Key) -> None:
        where = wanted.provider or f"blanket {wanted.parent}"
        what = (
            f"in {where}, {wanted.flavour}, {_vcpus(wanted.vcpus)}, "
            f"{format_size(wanted.memory_mib * MIB)} memory, {format_size(wanted.disk_bytes)} disk"
        )
        needs = {self._cloud, *more}
        if wanted.provider is not None:
            needs.add(key(Act.CREATE, Kind.PROVIDER, wanted.provider))
        if wanted.parent is not None:
            needs.add(key(Act.CREATE, Kind.BLANKET, wanted.parent))
        call = _create(Kind.BLANKET, wanted)
        self._draft.step(Act.CREATE, Kind.BLANKET, wanted.name, what, call, needs=needs)

    def _blanket_differs(self, now: AddBlanket, wanted: AddBlanket) -> bool:
        differences = [
            ("provider", now.provider, wanted.provider),
            ("in", now.parent, wanted.parent),
            ("flavour", now.flavour, wanted.flavour),
            ("vcpus", now.vcpus, wanted.vcpus),
            ("memory", exact_size(now.memory_mib * MIB), exact_size(wanted.memory_mib * MIB)),
            ("disk", exact_size(now.disk_bytes), exact_size(wanted.disk_bytes)),
            ("debugShell", now.debug_shell, wanted.debug_shell),
        ]
        found = [one for one in differences if one[1] != one[2]]
        for field, there, here in found:
            self._fixed(Kind.BLANKET, wanted.name, field, there, here)
        return bool(found)

    def _as_it_should_be(self, wanted: AddBlanket) -> None:
        """But for its state: one that was never there after all is made again."""
        name = wanted.name
        state = self._there.blankets[name]
        if self._draft.comes_to_be(Kind.BLANKET, name):
            return
        if state.state is BlanketState.FAILED and not state.joined:
            why = f"it did not come to be: {state.reason}"
            gone = self._draft.step(
                Act.CLEAR, Kind.BLANKET, name, why, self._draft.delete(Kind.BLANKET, name)
            )
            self._add_blanket(wanted, gone)
        elif state.state in {BlanketState.FAILED, BlanketState.REVOKED}:
            hint = f"supercloud blanket rm {name} --force, whose volumes are lost, and apply adds it anew"
            self._draft.refuse(Kind.BLANKET, name, None, f"it is {state.state}: {state.reason}", hint)

    # ------------------------------------------------------------ volumes

    def _volumes(self) -> None:
        there = self._volumes_now
        for name, wanted in named(self._wanted.volumes).items():
            now = there.get(name)
            if now is None:
                self._create_volume(wanted)
            else:
                self._change_volume(now, wanted)

    def _create_volume(self, wanted: CreateVolume) -> None:
        if not self._image_is_there(Kind.VOLUME, wanted.name, wanted.image):
            return
        what = format_size(wanted.size_bytes) + (f", from {wanted.image}" if wanted.image else "")
        call = _create(Kind.VOLUME, wanted)
        needs = {self._cloud, *self._place(wanted.on)} if wanted.on else {self._cloud}
        self._draft.step(Act.CREATE, Kind.VOLUME, wanted.name, what, call, needs=needs)

    def _change_volume(self, now: CreateVolume, wanted: CreateVolume) -> None:
        name = wanted.name
        if self._image(wanted.image) != self._image(now.image):
            self._fixed(Kind.VOLUME, name, "image", now.image, wanted.image)
        owner = self._there.volumes[name].instance
        self._level(Kind.VOLUME, name, now.level, wanted.level, [owner] if owner else [])
        if owner is None and wanted.on not in {None, now.on}:
            hint = f"attach it to an instance there, or change the file back; supercloud volume show {name}"
            why = f"it is for blanket {now.on or 'whichever it is first attached in'}, not {wanted.on}"
            self._draft.refuse(Kind.VOLUME, name, "blanket", why, hint)
        sizes = now.size_bytes, wanted.size_bytes
        self._grow(Kind.VOLUME, name, "size", sizes, volume=name, owner=owner)

    def _grow(
        self,
        kind: Kind,
        name: Name,
        field: str,
        sizes: tuple[int, int],
        *,
        volume: Name,
        owner: Name | None,
    ) -> None:
        now, wanted = sizes
        said = f"{exact_size(now)} to {exact_size(wanted)}"
        if wanted < now:
            self._draft.refuse(kind, name, field, f"it cannot shrink from {said}", "change the file back")
        elif wanted > now:
            call = self._draft.post(Kind.VOLUME, volume, "resize", {"size_bytes": wanted})
            instances = [owner] if owner else []
            self._draft.step(Act.RESIZE, Kind.VOLUME, volume, said, call, instances=instances)

    # ------------------------------------------------------------ instances

    def _instances(self) -> None:
        there = named(self._now.instances)
        for name, wanted in named(self._wanted.instances).items():
            now = there.get(name)
            if now is None:
                self._run(wanted)
            else:
                self._change(now, wanted)
        for name in named(self._wanted.instances):
            self._disks(name)

    def _run(self, wanted: RunInstance) -> None:
        if not self._image_is_there(Kind.INSTANCE, wanted.name, wanted.image):
            return
        what = (
            f"{wanted.image} in {wanted.on or 'the emptiest blanket that fits'}, {_vcpus(wanted.vcpus)}, "
            f"{format_size(wanted.memory_mib * MIB)} memory"
        )
        user_data = self._declared.user_data.get(wanted.name)
        what += "" if user_data is None else ", with user data"
        needs = {
            self._cloud,
            *self._place(wanted.on),
            *self._domains(wanted),
            *(key(act, Kind.NETWORK, one) for one in wanted.networks for act in (Act.CREATE, *_LEVELS)),
            *self._removal.making_room(),
        }
        call = replace(_create(Kind.INSTANCE, wanted), user_data=user_data)
        self._draft.step(
            Act.CREATE, Kind.INSTANCE, wanted.name, what, call, needs=needs, instances=[wanted.name]
        )

    def _change(self, now: RunInstance, wanted: RunInstance) -> None:
        name = wanted.name
        for field, there, here in _differences(now, wanted):
            self._fixed(Kind.INSTANCE, name, field, there, here)
        if self._image(wanted.image) != self._image(now.image):
            self._fixed(Kind.INSTANCE, name, "image", now.image, wanted.image)
        if name in self._declared.user_data and name not in self._now.user_data:
            why = "it was made without user data, which is for the first boot only"
            self._draft.refuse(Kind.INSTANCE, name, "userData", why, _MADE_ANEW.format("vm", name))
        state = self._there.instances[name]
        if self._draft.comes_to_be(Kind.INSTANCE, name):
            return
        if (now.group, now.placement) != (wanted.group, wanted.placement):
            self._place_anew(wanted)
        self._level(Kind.INSTANCE, name, now.level, wanted.level, [name])
        if state.state in _NOT_STARTED:
            why = f"it is {state.state}" + (f": {state.reason}" if state.reason else "")
            call = self._draft.post(Kind.INSTANCE, name, "start")
            needs = self._place(now.on, made=True)
            self._draft.step(Act.START, Kind.INSTANCE, name, why, call, needs=needs, instances=[name])
        self._move(now, wanted, state)
        if wanted.disk_bytes and now.disk_bytes and state.boot_volume:
            sizes = now.disk_bytes, wanted.disk_bytes
            self._grow(Kind.INSTANCE, name, "disk", sizes, volume=state.boot_volume, owner=name)

    def _place_anew(self, wanted: RunInstance) -> None:
        """Before it moves, which is then to where it may be from now on."""
        body = {"group": wanted.group, "placement": asdict(wanted.placement)}
        call = self._draft.post(Kind.INSTANCE, wanted.name, "placement", body)
        self._draft.step(
            Act.PLACE,
            Kind.INSTANCE,
            wanted.name,
            f"where it may be, group {wanted.group or 'none'}",
            replace(call, method="PUT", durable=False),
            needs=self._domains(wanted),
            instances=[wanted.name],
        )

    def _move(self, now: RunInstance, wanted: RunInstance, state: InstanceThere) -> None:
        name = wanted.name
        if wanted.on in {None, now.on}:
            return
        if now.on is None:
            hint = f"supercloud vm rm {name} --force, and apply makes it anew"
            self._draft.refuse(Kind.INSTANCE, name, "blanket", "it is in no blanket", hint)
        elif not (state.state in {InstanceState.RUNNING, *_NOT_STARTED} or self._draft.is_busy(name)):
            why = f"it is {state.state} in {now.on}, and only a running one moves to {wanted.on}"
            self._draft.refuse(Kind.INSTANCE, name, "blanket", why, f"supercloud vm start {name}")
        else:
            call = self._draft.post(Kind.INSTANCE, name, "migrate", {"to": wanted.on})
            needs = self._place(wanted.on)
            said = f"{now.on} to {wanted.on}, live"
            self._draft.step(Act.MIGRATE, Kind.INSTANCE, name, said, call, needs=needs, instances=[name])

    def _disks(self, name: Name) -> None:
        """In their order. One that the file gives to another instance is taken off first."""
        now = self._now.attached.get(name, ())
        for volume in self._wanted.attached.get(name, ()):
            if volume in now or self._is_elsewhere(volume, name):
                continue
            there = self._there.volumes.get(volume)
            freed = self._removal.freed(volume)
            needs = {*(key(act, Kind.VOLUME, volume) for act in (Act.CREATE, *_LEVELS)), *freed}
            if there is not None and there.instance is not None and not freed:
                needs.add(self._removal.detach(volume, there.instance))
            call = self._draft.post(Kind.VOLUME, volume, "attach", {"instance": name})
            self._draft.step(
                Act.ATTACH, Kind.VOLUME, volume, f"to {name}", call, needs=needs, instances=[name]
            )

    def _is_elsewhere(self, volume: Name, name: Name) -> bool:
        """Whether its data is not where the instance is, or will be, as far as that can be told."""
        there = self._there.volumes.get(volume)
        if there is None:
            return False
        data = self._ends.get(there.instance or "") or there.blanket or self._volumes_now[volume].on
        target = self._ends.get(name)
        if not data or not target or data == target:
            return False
        why = f"volume {volume} is in blanket {data}, and this instance in {target}"
        self._draft.refuse(Kind.INSTANCE, name, "volumes", why, f"write `blanket: {data}`, or leave it out")
        return True

    # ------------------------------------------------------------ helpers

    def _fixed(self, kind: Kind, name: Name, field: str, there: object, here: object) -> None:
        command = "vm" if kind is Kind.INSTANCE else kind.value
        why = (
            f"{field} differs and"
            if field == "sshKeys"
            else f"{field} is {_said(there)}, not {_said(here)}, and"
        )
        hint = _MADE_ANEW.format(command, name)
        self._draft.refuse(kind, name, field, f"{why} cannot be changed", hint)

    def _place(self, blanket: Name | None, *, made: bool = False) -> Iterator[Key]:
        """What comes before something is placed: there have to be blankets, and what is new (not `made` yet)
        is not put into one that is about to go."""
        if blanket is not None:
            yield key(Act.CREATE, Kind.BLANKET, blanket)
            return
        yield from self._draft.keys(Act.CREATE, Kind.BLANKET)
        if not made:
            yield from self._removal.blanket_keys()

    def _domains(self, wanted: RunInstance) -> set[Key]:
        """Those that its placement names."""
        named_there = {*wanted.placement.domains, *wanted.placement.not_domains}
        return {key(Act.CREATE, Kind.PROVIDER, one) for one in named_there}

    def _image(self, ref: str | None) -> str | None:
        """By its name, however it is named."""
        return self._there.images.get(ref) or self._there.shared_before.get(ref, ref) if ref else None

    def _image_is_there(self, kind: Kind, name: Name, ref: str | None) -> bool:
        if ref is None or ref in self._there.images:
            return True
        names = set(self._there.images.values())
        get = (
            "supercloud trust ls shows what is shared"
            if "/" in ref
            else f"supercloud image import FILE --name {ref}"
        )
        hint = get + (f", or {near(ref, names)}" if names else "")
        self._draft.refuse(kind, name, "image", f"there is no image {ref}", hint)
        return False


def _create(kind: Kind, request: Any) -> Call:
    body = {name: value for name, value in asdict(request).items() if value is not None}
    path = "/clouds" if kind is Kind.CLOUD else f"/{kind.section}"
    return Call(method="POST", path=path, body=body, durable=kind in {Kind.BLANKET, Kind.INSTANCE})


def _differences(now: RunInstance, wanted: RunInstance) -> Iterator[tuple[str, object, object]]:
    """Of what an instance is made with, once."""
    for field, there, here in (
        ("memory", exact_size(now.memory_mib * MIB), exact_size(wanted.memory_mib * MIB)),
        ("vcpus", now.vcpus, wanted.vcpus),
        ("networks", now.networks, wanted.networks),
        ("sshKeys", now.ssh_keys, wanted.ssh_keys),
        ("hold", now.hold, wanted.hold),
    ):
        if there != here:
            yield field, there, here
    if not _publishes(now.publish, wanted.publish):
        yield "publish", _ports(now.publish), _ports(wanted.publish)


def _publishes(now: tuple[Publish, ...], wanted: tuple[Publish, ...]) -> bool:
    """Whether it is so already, where any free port will do if none was chosen."""
    left = Counter((one.port, one.at) for one in now) - Counter(
        (one.port, one.at) for one in wanted if one.at
    )
    chosen = Counter((one.port, one.at) for one in wanted if one.at)
    if chosen - Counter((one.port, one.at) for one in now):
        return False
    anywhere = Counter(one.port for one in wanted if not one.at)
    return Counter(port for port, _ in left.elements()) == anywhere


def _ports(publish: tuple[Publish, ...]) -> list[str]:
    return [f"{one.at}:{one.port}" if one.at else str(one.port) for one in publish]


def _said(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {one}" for name, one in sorted(value.items())) or "nothing"
    if isinstance(value, list | tuple):
        return ", ".join(str(one) for one in value) or "none"
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _quota(quota: Quota) -> str:
    said = (
        (quota.vcpus, _vcpus),
        (quota.memory_mib, lambda mib: f"{exact_size(mib * MIB)} memory"),
        (quota.disk_bytes, lambda size: f"{exact_size(size)} disk"),
        (quota.blankets, lambda count: f"{count} blankets"),
        (quota.domains, lambda count: f"{count} domains"),
    )
    return ", ".join(words(limit) for limit, words in said if limit is not None) or "no bound"


def _vcpus(count: int) -> str:
    return "1 vCPU" if count == 1 else f"{count} vCPUs"
