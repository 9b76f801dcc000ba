"""The two-dimensional view: layers down, domains across, everything in its cell.

A pure function of what the API shows. An instance that moves is in two cells: where it runs, and where it
goes to. Where an incident is open, what it is about lights up.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote, urlencode

from supercloud.model.incidents import IncidentState
from supercloud.model.levels import Level
from supercloud.model.names import Id
from supercloud.model.states import InstanceState
from supercloud.model.units import MIB, format_size
from supercloud.services.incident_views import IncidentView
from supercloud.services.southbound import DomainView, MachineView
from supercloud.services.views import BlanketView, InstanceView, OperationView, ProviderView
from supercloud.web.tones import Tone, tone_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """Of an instance, under way. `done`: 0..1 where known."""

    operation: Id
    source: str
    target: str
    to: Id  # the target
    phase: str
    done: float | None

    @property
    def percent(self) -> int | None:
        return None if self.done is None else round(100 * self.done)


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """Of a tile: the incidents about it that are open. `tone`: of the one that most wants a person."""

    said: str
    href: str
    tone: Tone


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """One thing in its cell. `key`: the same wherever the thing is, so that it is seen moving."""

    key: str
    name: str
    href: str
    state: str
    tone: Tone
    lines: tuple[str, ...] = ()
    level: str = ""  # of security: that it has, or that it can hold
    move: Move | None = None
    alarm: Alarm | None = None
    arriving: bool = False  # the place that a moving instance goes to


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Of instances: the blanket that they are in."""

    blanket: str
    tiles: tuple[Tile, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Domain:
    """One column, from the top."""

    name: str
    instances: tuple[Group, ...]
    blankets: tuple[Tile, ...]
    platform: Tile | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """`nowhere`: instances that are in no blanket, or in one that is not drawn. A provider's has none, and in
    the places of blankets the machines that they are to it."""

    domains: tuple[Domain, ...]
    nowhere: tuple[Tile, ...] = ()
    of_provider: bool = False

    @property
    def empty(self) -> bool:
        return not self.nowhere and not any(one.blankets or one.platform for one in self.domains)


def href(collection: str, ref: str, cloud: str | None = None) -> str:
    """The page of a thing. `cloud` tells two of one name apart."""
    query = f"?{urlencode({'cloud': cloud})}" if cloud else ""
    return f"/web/{collection}/{quote(ref, safe='')}{query}"


def grid_of(
    *,
    providers: Iterable[ProviderView],
    blankets: Iterable[BlanketView],
    instances: Iterable[InstanceView],
    operations: Iterable[OperationView],
    incidents: Iterable[IncidentView] = (),
) -> Grid:
    """`operations` and `incidents`: the open ones. Columns are sorted by name; domains without anything are
    shown too."""
    blankets, instances = tuple(blankets), tuple(instances)
    clouds = {one.id: one.cloud_id for one in instances} | {one.id: one.cloud_id for one in blankets}
    alarms = _alarms(incidents, clouds)
    names = {one.id: one.name for one in blankets}
    going = {one.object: one for one in operations if one.kind == "instance.migrate" and one.to in names}
    placed: defaultdict[Id, list[Tile]] = defaultdict(list)  # by blanket: names are their clouds' own
    nowhere: list[Tile] = []
    for instance in instances:
        migration = going.get(instance.id)
        tile = replace(_instance(instance, migration, names), alarm=alarms.get(instance.id))
        if instance.blanket_id in names:
            placed[instance.blanket_id].append(tile)
        else:
            at = "in no blanket" if instance.blanket is None else f"in {instance.blanket}"
            nowhere.append(replace(tile, lines=(*tile.lines, at)))
        if tile.move is not None:
            placed[tile.move.to].append(replace(tile, arriving=True))
    by_domain: defaultdict[str, list[BlanketView]] = defaultdict(list)
    for blanket in blankets:
        by_domain[blanket.provider].append(blanket)
    platforms = {one.name: one for one in providers}
    return Grid(
        domains=tuple(
            _domain(name, platforms.get(name), by_domain[name], placed, alarms)
            for name in sorted({*platforms, *by_domain})
        ),
        nowhere=tuple(nowhere),
    )


def _domain(
    name: str,
    provider: ProviderView | None,
    blankets: Sequence[BlanketView],
    placed: Mapping[Id, Sequence[Tile]],
    alarms: Mapping[Id, Alarm],
) -> Domain:
    groups = [Group(blanket=one.name, tiles=tuple(placed[one.id])) for one in blankets if placed.get(one.id)]
    return Domain(
        name=name,
        instances=tuple(groups),
        blankets=tuple(replace(_blanket(one), alarm=alarms.get(one.id)) for one in blankets),
        platform=None if provider is None else replace(_platform(provider), alarm=alarms.get(provider.id)),
    )


#: Of incidents' states, the one that most wants a person first.
_URGENT = (IncidentState.ESCALATED, IncidentState.OPEN, IncidentState.REACTING, IncidentState.CONTAINED)


def _alarms(incidents: Iterable[IncidentView], clouds: Mapping[Id, Id]) -> Mapping[Id, Alarm]:
    """By thing. `clouds`: of what is drawn, whose it is: a blanket lights up nothing of another cloud's. An
    incident about nothing that is drawn is its blanket's."""
    found: defaultdict[Id, list[IncidentView]] = defaultdict(list)
    for one in incidents:
        about = {each for each in one.objects if each == one.domain_id or clouds.get(each) == one.cloud_id}
        for each in about or {one.blanket_id}:
            found[each].append(one)
    return {each: _alarm(sorted(of, key=lambda one: _URGENT.index(one.state))) for each, of in found.items()}


def _alarm(incidents: Sequence[IncidentView]) -> Alarm:
    first = incidents[0]
    alone = len(incidents) == 1
    return Alarm(
        said=f"1 incident: {first.state}" if alone else f"{len(incidents)} incidents, one {first.state}",
        href=href("incidents", first.id)
        if alone
        else f"/web/incidents?{urlencode({'cloud': first.cloud_id})}",
        tone=tone_of(first.state),
    )


def _tile(letter: str, collection: str, view: Any, **more: Any) -> Tile:
    """Of a thing with a page and a name."""
    return Tile(key=f"{letter}-{view.id}", name=view.name, href=href(collection, view.id), **more)


def _instance(view: InstanceView, migration: OperationView | None, blankets: dict[Id, str]) -> Tile:
    move = None
    if migration is not None and migration.to is not None and view.blanket_id != migration.to:
        move = Move(
            operation=migration.id,
            source=view.blanket or "nowhere",
            target=blankets[migration.to],
            to=migration.to,
            phase=migration.phase,
            done=migration.done,
        )
    size = f"{view.vcpus} vCPU, {format_size(view.memory_mib * MIB)}"
    held = view.right_left_s is not None and view.state is InstanceState.RUNNING
    return _tile(
        "i",
        "instances",
        view,
        state=view.state,
        tone=tone_of(view.state),
        lines=(size, *([view.reason] if view.reason and not held else [])),
        level=view.level,
        move=move,
    )


def _blanket(view: BlanketView) -> Tile:
    flavour = (view.flavour or "flavour not known",)
    return _tile(
        "b",
        "blankets",
        view,
        state=view.state,
        tone=tone_of(view.state),
        lines=(*flavour, *([view.reason] if view.reason else [])),
        level=up_to(view.gives),
    )


def _platform(view: ProviderView) -> Tile:
    nesting = "nesting" if view.nesting else "no nesting"
    lines = (f"{view.kind}, {view.accelerator}, {nesting}", f"confidentiality {view.confidentiality}")
    state, tone = standing(view)
    return _tile(
        "p",
        "providers",
        view,
        state=state,
        tone=tone,
        lines=(*lines, *([view.reason] if view.reason else [])),
        level=up_to(view.gives),
    )


def standing(view: ProviderView | DomainView) -> tuple[str, Tone]:
    """Of a platform, in a word."""
    if not view.accepted:
        return "not accepted", Tone.OFF
    return ("draining", Tone.WARN) if view.draining else ("offered", Tone.GOOD)


def up_to(level: Level | None) -> str:
    """Of what a place can hold."""
    return "none" if level is None else f"up to {level}"


# ---------------------------------------------------------------- for providers


def domain_grid_of(domains: Iterable[DomainView], machines: Mapping[Id, Sequence[MachineView]]) -> Grid:
    """A provider's own domains, by name, with the machines that are rented there, by their ids."""
    return Grid(
        domains=tuple(
            Domain(
                name=one.name,
                instances=(),
                blankets=tuple(_machine(machine, one) for machine in machines.get(one.id, ())),
                platform=_own_platform(one),
            )
            for one in domains
        ),
        of_provider=True,
    )


def _machine(view: MachineView, domain: DomainView) -> Tile:
    size = f"{view.vcpus} vCPU, {format_size(view.memory_mib * MIB)}, {format_size(view.disk_bytes)} disk"
    return Tile(
        key=f"m-{view.id}",
        name=view.id,
        href=href("domains", domain.id),
        state=view.state,
        tone=tone_of(view.state),
        lines=(size, "in use" if view.in_use else "not in use", *([] if view.connected else ["agent away"])),
    )


def _own_platform(view: DomainView) -> Tile:
    where = f" in {view.location}" if view.location else ""
    lines = (f"{view.kind}{where}, {view.accelerator}", f"{view.rented.machines} machines rented")
    state, tone = standing(view)
    return _tile(
        "d",
        "domains",
        view,
        state=state,
        tone=tone,
        lines=(*lines, *([view.reason] if view.reason else [])),
    )
