"""What the file's cloud lets others do: entries of `trust`, and the part of a plan that grants and revokes.

A relation has no name of its own; that of its entry is the file's. One that is there is an entry's if it lets
the same cloud do the same with the same thing. How long it lasts is said when it is granted: one that has
ended is granted anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Annotated, Any, Self

from pydantic import Field, model_validator
from pydantic.alias_generators import to_camel

from supercloud.cli.declared.draft import Draft, key
from supercloud.cli.declared.part import Part
from supercloud.cli.declared.steps import Act, Call, Key, Kind
from supercloud.cli.declared.written import Lasts
from supercloud.cli.trustgraph import what
from supercloud.model.names import Name
from supercloud.model.orders import Reaction
from supercloud.model.trust import THINGS, USUAL_S, TrustKind
from supercloud.services.requests import GrantTrust, ImageRef, Ref
from supercloud.services.views import TrustView

#: Which key says what a relation of a kind is about, besides the cloud itself.
_ABOUT = {
    TrustKind.SHARE_IMAGE: ("image",),
    TrustKind.CONNECT: ("network", "to_network"),
    TrustKind.ORDER_REACTIONS: ("reactions",),
    TrustKind.PLACE: ("blanket",),
    TrustKind.MIGRATE_TO: ("blanket",),
}
_NAME_MAX = 63


class Trust(Part):
    """What this cloud lets another one do."""

    to: Ref
    """The cloud that is trusted: one of yours by its name, another's by its id."""
    kind: TrustKind
    """What it may do."""
    image: ImageRef | None = None
    """Of share-image: what it may begin instances and volumes with."""
    network: Name | None = None
    """Of connect: the network of this file to whose instances connections may be begun."""
    to_network: Ref | None = None
    """Of connect: the network of the other cloud from which they may; another's by its id."""
    blanket: Name | None = None
    """Of place and migrate-to: the blanket of this file inside which it may have its own."""
    reactions: Annotated[tuple[Reaction, ...], Field(max_length=len(Reaction))] = ()
    """Of order-reactions: what it may order, e.g. restart:device."""
    lasts: Lasts = USUAL_S
    """How long from when it is granted, e.g. 90d."""
    delegable: bool = False
    """It may pass that on."""

    @model_validator(mode="after")
    def _says_what_it_is_about(self) -> Self:
        needed = _ABOUT.get(self.kind, ())
        if missing := [one for one in needed if not getattr(self, one)]:
            raise ValueError(f"{self.kind} needs `{to_camel(missing[0])}`")
        others = [one for keys in _ABOUT.values() for one in keys if one not in needed]
        if beside := [one for one in others if getattr(self, one)]:
            raise ValueError(f"`{to_camel(beside[0])}` is nothing that {self.kind} has")
        return self

    def request(self, cloud: Name) -> GrantTrust:
        return GrantTrust(
            kind=self.kind,
            cloud=cloud,
            to=self.to,
            image=self.image,
            network=self.network,
            to_network=self.to_network,
            blanket=self.blanket,
            reactions=self.reactions,
            lasts_s=self.lasts,
            delegable=self.delegable,
        )


def steps(
    draft: Draft, wanted: Mapping[Name, GrantTrust], now: Iterable[TrustView], *, cloud: Key, prune: bool
) -> None:
    """Grants after what they need; what is there and in no entry is revoked, if it is to be pruned."""
    left = list(now)
    for name, one in wanted.items():
        found = next((there for there in left if _is(one, there)), None)
        if found is not None:
            left.remove(found)
            continue
        body = {key: value for key, value in asdict(one).items() if value is not None}
        call = Call(method="POST", path="/trust", body=body, durable=False)
        needs = {cloud, *_made(one)}
        draft.step(Act.CREATE, Kind.TRUST, name, f"{one.to} may {_words(one)}", call, needs=needs)
    for there in left:
        may = f"{there.to} may {what(asdict(there))}"
        if not prune:
            draft.leave(Kind.TRUST, there.id, f"({may})")
            continue
        call = Call(method="POST", path=f"/trust/{there.id}/revoke", durable=False)
        draft.step(Act.REMOVE, Kind.TRUST, there.id, f"{may} no more", call)


def _is(wanted: GrantTrust, there: TrustView) -> bool:
    if wanted.kind is not there.kind or wanted.to not in {there.to, there.to_id}:
        return False
    if wanted.delegable != there.delegable or set(wanted.reactions) != set(there.reactions):
        return False
    match THINGS[wanted.kind]:
        case "image":
            return (wanted.image or "").rpartition("/")[2] in {there.thing, there.digest}
        case "network":
            other = there.to_network
            ends = {other.name, other.id} if other is not None else set()
            return wanted.network == there.thing and wanted.to_network in ends
        case "blanket":
            return wanted.blanket == there.thing
    return True


def _made(one: GrantTrust) -> Iterator[Key]:
    """What of the file is made before it."""
    if one.network:
        yield key(Act.CREATE, Kind.NETWORK, one.network)
    if one.blanket:
        yield key(Act.CREATE, Kind.BLANKET, one.blanket)


def _words(one: GrantTrust) -> str:
    thing = one.image or one.network or one.blanket or ", ".join(one.reactions)
    return f"{one.kind}{f' {thing}' if thing else ''}"


def written(relations: Iterable[TrustView]) -> Iterator[tuple[Name, dict[str, Any]]]:
    """Entries for those that are this cloud's own to give, under names that say what they are."""
    names: set[Name] = set()
    for one in relations:
        if one.parent is not None:
            continue
        name = _free(f"{one.kind}-{one.thing}-{one.to}"[:_NAME_MAX].rstrip("-"), names)
        names.add(name)
        yield name, _entry(one)


def _free(name: Name, taken: set[Name]) -> Name:
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name[: _NAME_MAX - 4].rstrip('-')}-{number}"
    return free


def _entry(one: TrustView) -> dict[str, Any]:
    said: dict[str, Any] = {"to": one.to, "kind": one.kind.value}
    match THINGS[one.kind]:
        case "image":
            said["image"] = one.thing
        case "network":
            said |= {"network": one.thing}
            if one.to_network is not None:
                said["toNetwork"] = one.to_network.name
        case "blanket":
            said["blanket"] = one.thing
    if one.reactions:
        said["reactions"] = [reaction.value for reaction in one.reactions]
    if one.delegable:
        said["delegable"] = True
    return said
