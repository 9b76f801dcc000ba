"""What is there, as the plan needs it: the cloud as it was wanted, and the state of its things."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter

from supercloud.cli.declared.steps import Kind
from supercloud.client import Client
from supercloud.model.errors import Denied, NotFound
from supercloud.model.names import Id, Name
from supercloud.model.states import BlanketState, InstanceState
from supercloud.model.trust import TrustKind, TrustState
from supercloud.services.requests import AddProvider
from supercloud.services.views import (
    BlanketView,
    ImageView,
    InstanceView,
    OperationView,
    ProviderView,
    TrustView,
    VolumeView,
    WantedCloud,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlanketThere:
    state: BlanketState = BlanketState.READY
    joined: bool = True  # ever: something may be in it
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceThere:
    state: InstanceState = InstanceState.RUNNING
    boot_volume: Name | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeThere:
    instance: Name | None = None
    blanket: Name | None = None  # where its data is


@dataclass(frozen=True, slots=True, kw_only=True)
class UnderWay:
    """An operation that has not ended, with its kind, e.g. `instance.run`."""

    operation: Id
    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class There:
    wanted: WantedCloud | None = None  # None: there is no such cloud
    providers: Mapping[Name, AddProvider] = field(default_factory=dict)
    images: Mapping[str, str] = field(default_factory=dict)  # complete or shared ones, by name and by digest
    shared_before: Mapping[str, str] = field(default_factory=dict)  # what is there may have begun with these
    blankets: Mapping[Name, BlanketThere] = field(default_factory=dict)
    instances: Mapping[Name, InstanceThere] = field(default_factory=dict)
    volumes: Mapping[Name, VolumeThere] = field(default_factory=dict)
    trust: tuple[TrustView, ...] = ()  # what it lets others do, of its own
    guests: Mapping[Name, tuple[Id, ...]] = field(default_factory=dict)  # others' blankets inside its own
    under_way: Mapping[tuple[Kind, Name], UnderWay] = field(default_factory=dict)


def look(client: Client, cloud: Name) -> There:
    """
    Raises:
        SupercloudError: as the client.
    """
    providers = _list(client, ProviderView, "/providers")
    images = [one for one in _list(client, ImageView, "/images") if one.complete]
    relations = _relations(client, cloud)
    shared, before = _shared(relations, cloud)
    there = There(
        providers={
            one.name: AddProvider(
                name=one.name,
                kind=one.kind,
                options=one.options,
                location=one.location,
                price=one.price,
            )
            for one in providers
        },
        images={
            **shared,
            **{ref: one.name for one in images for ref in (one.name, one.digest)},
        },
        shared_before=before,
    )
    wanted = _wanted(client, cloud)
    if wanted is None:
        return there
    # Operations first: one that ends while we look is then seen twice, and not missed.
    operations = {one.object: one for one in _list(client, OperationView, "/operations", open_only="true")}
    blankets = _list(client, BlanketView, "/blankets", cloud=cloud)
    instances = _list(client, InstanceView, "/instances", cloud=cloud)
    volumes = _list(client, VolumeView, "/volumes", cloud=cloud)
    named: list[tuple[Kind, Any]] = [
        *((Kind.BLANKET, one) for one in blankets),
        *((Kind.INSTANCE, one) for one in instances),
        *((Kind.VOLUME, one) for one in volumes),
    ]
    return There(
        wanted=wanted,
        providers=there.providers,
        images=there.images,
        shared_before=before,
        blankets={
            one.name: BlanketThere(state=one.state, joined=one.flavour is not None, reason=one.reason)
            for one in blankets
        },
        instances={
            one.name: InstanceThere(
                state=one.state, boot_volume=next(iter(one.volumes), None), reason=one.reason
            )
            for one in instances
        },
        volumes={one.name: VolumeThere(instance=one.instance, blanket=one.blanket) for one in volumes},
        trust=tuple(
            one
            for one in relations
            if one.cloud == cloud and one.state is TrustState.ACTIVE and one.parent is None
        ),
        guests={one.thing: one.guests for one in relations if one.cloud == cloud and one.guests},
        under_way={
            (kind, one.name): UnderWay(operation=found.id, kind=found.kind)
            for kind, one in named
            if (found := operations.get(one.id)) is not None
        },
    )


def _relations(client: Client, cloud: Name) -> list[TrustView]:
    """That it grants, and that it is granted."""
    try:
        return _list(client, TrustView, "/trust", cloud=cloud)
    except (NotFound, Denied):  # there is no such cloud yet, or a token that does not allow it
        return []


def _shared(found: list[TrustView], cloud: Name) -> tuple[dict[str, str], dict[str, str]]:
    """Images that other clouds share with this one, and did: as the file names them, CLOUD/IMAGE."""
    now: dict[str, str] = {}
    before: dict[str, str] = {}
    for one in found:
        if one.to == cloud and one.kind is TrustKind.SHARE_IMAGE and one.digest is not None:
            name = f"{one.cloud}/{one.thing}"
            to = now if one.state is TrustState.ACTIVE else before
            to |= dict.fromkeys((name, f"{one.cloud_id}/{one.thing}", one.digest), name)
    return now, before


def _wanted(client: Client, cloud: Name) -> WantedCloud | None:
    """None: there is no such cloud."""
    try:
        found = client.get(f"/clouds/{cloud}/wanted")
    except NotFound:
        return None
    return TypeAdapter(WantedCloud).validate_python(found)


def _list(client: Client, kind: type[Any], path: str, **query: object) -> list[Any]:
    return TypeAdapter(list[kind]).validate_python(client.all(path, **query))  # type: ignore[valid-type]
