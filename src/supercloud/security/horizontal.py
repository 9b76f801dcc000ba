"""The horizontal loop's own part: what a blanket's incident is to it, what belongs together over blankets,
and where a reaction is done. Pure; the engine is the one that every blanket has.

A blanket speaks of the instances that it holds, and of itself. An address counts only as that of such an
instance, by the control plane's own books: so whoever lies can accuse nobody but its own.
"""

from __future__ import annotations

import ipaddress
import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from supercloud.model.errors import Refused
from supercloud.model.findings import Finding, Layer, Object, ObjectKind, Severity
from supercloud.model.incidents import Incident, IncidentState, Seen
from supercloud.model.names import Id, Ipv4
from supercloud.model.reactions import GOVERNED, LASTING, Command, Deed
from supercloud.security.stix import Indicator

_FINDINGS = uuid.UUID("0d5c6c1e-2b0f-4a75-9f2b-6f4f1f0f7c31")
_ORDERS = uuid.UUID("b21f3a56-7d7e-4b0c-8c0e-0b6f7f1f9d44")
#: The rule under which it is told that a blanket does not know what to do any more.
ESCALATED = "escalated"
#: The rule of addresses that somebody shared, which a person had imported.
SHARED = "shared-indicator"
#: What can be done at another blanket: all that lasts; and what the control plane does itself.
TAKES = LASTING | GOVERNED
#: Of these, what is done where an instance is, and goes with it.
WITH_IT = frozenset({Deed.CONTAIN, Deed.LIMIT, Deed.PAUSE})
#: Open incidents of one cloud.
OPEN = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A blanket."""

    blanket: Id
    cloud: Id
    domain: Id


class ByWhatIsShared:
    """Joining over blankets (security.openincidents): the same object, the same proven address, or the same
    rule in several places."""

    def of_finding(self, finding: Finding) -> Iterable[str]:
        yield finding.object.id
        for one in finding.evidence:
            source = one.get("src_endpoint")
            if isinstance(source, Mapping):
                yield f"address:{source.get('ip')}"
        yield f"rule:{finding.rule}"

    def of_incident(self, incident: Incident) -> Iterable[str]:
        for one in incident.objects:
            yield one.id
        for seen in incident.seen:
            yield f"rule:{seen.rule}"
            if seen.source is not None:
                yield f"address:{seen.source}"


# ---------------------------------------------------------------- what a blanket says


def sightings(
    incident: Incident, before: Incident | None, at: Place, held: Mapping[Id, Collection[Ipv4]]
) -> list[Finding]:
    """What is new in a blanket's incident since it was told last. `held`: the instances that the blanket
    holds, each with its own addresses: nothing else that it says counts."""
    known = {(one.rule, one.object): one.many for one in before.seen} if before is not None else {}
    found = [
        _sighting(incident, one, at, held)
        for one in incident.seen
        if one.many > known.get((one.rule, one.object), 0) and _may_speak_of(one.object, at, held)
    ]
    fresh = before is None or before.state is not IncidentState.ESCALATED
    if incident.state is IncidentState.ESCALATED and fresh:
        about = next((one for one in incident.objects if _may_speak_of(one, at, held)), None)
        if about is not None:
            said = Seen(
                rule=ESCALATED, layer=Layer.L1, object=about, first=incident.last_at, last=incident.last_at
            )
            found.append(replace(_sighting(incident, said, at, held), title=incident.title))
    return found


def _may_speak_of(about: Object, at: Place, held: Collection[Id]) -> bool:
    if about.kind is ObjectKind.INSTANCE:
        return about.id in held
    return about.kind is ObjectKind.MACHINE and about.id == at.blanket


def _sighting(incident: Incident, seen: Seen, at: Place, held: Mapping[Id, Collection[Ipv4]]) -> Finding:
    proven = seen.source is not None and seen.source in held.get(seen.object.id, ())
    name = f"{at.blanket}/{incident.id}/{seen.rule}/{seen.object.id}/{seen.many}"
    return Finding(
        id=str(uuid.uuid5(_FINDINGS, name)),
        layer=seen.layer,
        domain=at.domain,
        cloud=at.cloud,
        object=seen.object,
        severity=incident.severity,
        title=seen.rule if len(incident.seen) > 1 else incident.title,
        rule=seen.rule,
        at=seen.last,
        received_at=incident.last_at,
        evidence=({"src_endpoint": {"ip": seen.source}, "data": {"proven": True}},) if proven else (),
        by=at.blanket,
    )


def shared(indicator: Indicator, cloud: Id, *, now: float) -> Finding:
    """What somebody shared, on the word of who imported it."""
    about = Object(kind=ObjectKind.INDICATOR, id=str(uuid.uuid5(_FINDINGS, f"{cloud}/{indicator.address}")))
    return Finding(
        id=str(uuid.uuid5(_FINDINGS, f"{cloud}/{indicator.id}/{indicator.address}/{now}")),
        layer=Layer.L0,
        domain=cloud,
        cloud=cloud,
        object=about,
        severity=Severity.HIGH,
        title=indicator.name,
        rule=SHARED,
        at=now,
        received_at=now,
        evidence=({"src_endpoint": {"ip": indicator.address}, "data": {"proven": True}},),
    )


# ---------------------------------------------------------------- where it is done


@dataclass(frozen=True, slots=True, kw_only=True)
class Own:
    """An instance that an address or a command names, and where it is now."""

    instance: Id
    cloud: Id
    holder: Id | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Let:
    """A blanket of another cloud, and until when which reactions may be ordered there. `nets`: of its cloud's
    own networks, whose addresses are others there."""

    place: Place
    relation: Id
    until: float  # seconds since the epoch
    reactions: frozenset[str]  # model.orders.Reaction, which deeds between clouds are named by
    nets: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What the control plane knows about what one command is about: `named`, the instance, and every other
    that has its address, of this cloud or of those of `let`. `nets`: of the cloud's own networks."""

    cloud: Id
    places: Sequence[Place]  # the cloud's own blankets
    nets: Sequence[str]
    named: Sequence[Own]
    let: Sequence[Let] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One blanket at which a command is done. `relation`: by which trust, if it is another cloud's."""

    place: Place
    command: Command
    relation: Id | None = None


def targets(command: Command, known: Known) -> list[Target]:
    """
    Raises:
        Refused: nobody could do that, or it would concern somebody else.
    """
    if command.deed in GOVERNED:
        found = _governed(command, known)
    elif command.deed is Deed.DENY:
        found = _everywhere_else(command, known)
    else:
        found = _where_it_is(command, known)
    if not found:
        raise Refused("there is no blanket where it could be done")
    return found


def _everywhere_else(command: Command, known: Known) -> list[Target]:
    """At every blanket but the one that has the sender, which does better than to look at addresses. Where an
    address is somebody else's, nothing is done to it."""
    net = command.net or ""
    it = next((one for one in known.named if one.instance == command.about.id), None)
    others = {one.cloud for one in known.named if one is not it}
    cloud, holder = (None, None) if it is None else (it.cloud, it.holder)
    if known.cloud in others:
        raise Refused(f"{net} is the address of another instance of this cloud")
    if cloud != known.cloud and _in_any(net, known.nets):
        raise Refused(f"{net} is in a network of this cloud's, and not whom it was found with")
    found = {one.blanket: _target(known.cloud, command, one) for one in known.places if one.blanket != holder}
    for one in known.let:
        theirs = one.place.cloud in others or (cloud != one.place.cloud and _in_any(net, one.nets))
        if Deed.DENY in one.reactions and one.place.blanket != holder and not theirs:
            found.setdefault(one.place.blanket, _by_trust(known.cloud, command, one))
    return list(found.values())


def _where_it_is(command: Command, known: Known) -> list[Target]:
    it = next((one for one in known.named if one.instance == command.about.id), None)
    if it is None:
        raise Refused(f"{command.about.kind} {command.about.id} is no instance that is known here")
    if it.holder is None:
        raise Refused("it runs nowhere")
    own = [one for one in known.places if one.blanket == it.holder]
    if own and it.cloud == known.cloud:
        return [_target(known.cloud, command, own[0])]
    for one in known.let:
        if one.place.blanket == it.holder and it.cloud == one.place.cloud and command.deed in one.reactions:
            return [_by_trust(known.cloud, command, one)]
    raise Refused(f"its cloud does not let this one order {command.deed}")


def _governed(command: Command, known: Known) -> list[Target]:
    """The cloud's own blanket that it is about, or that has what it is about; of a domain, all that are
    there. Where nothing is left to move to, nothing is closed."""
    it = next((one for one in known.named if one.instance == command.about.id), None)
    about = command.about.id if it is None else it.holder
    at = next((one for one in known.places if one.blanket == about), None)
    if at is None or (it is not None and it.cloud != known.cloud):
        raise Refused(f"{command.about.kind} {command.about.id} is in no blanket of this cloud")
    if command.deed in {Deed.MOVE, Deed.RESTORE} and it is None:
        raise Refused("only an instance moves, or has a volume that goes back")
    whole = command.deed is Deed.EVACUATE
    found = [one for one in known.places if one is at or (whole and one.domain == at.domain)]
    if command.deed not in {Deed.ROTATE, Deed.RESTORE} and len(found) == len(known.places):
        raise Refused("this cloud has no other blanket that could take its instances")
    return [_target(known.cloud, command, one) for one in found]


def order_id(by: Id, reaction: Id, blanket: Id) -> Id:
    """Of a reaction at one blanket: two clouds may decide the same about one finding."""
    return str(uuid.uuid5(_ORDERS, f"{by}/{reaction}/{blanket}"))


def _target(by: Id, command: Command, place: Place) -> Target:
    return Target(place=place, command=replace(command, id=order_id(by, command.id, place.blanket)))


def _by_trust(by: Id, command: Command, let: Let) -> Target:
    found = _target(by, command, let.place)
    until = let.until if command.until is None else min(command.until, let.until)
    return replace(found, command=replace(found.command, until=until), relation=let.relation)


def _in_any(address: str, nets: Iterable[str]) -> bool:
    it = ipaddress.IPv4Address(address)
    return any(it in ipaddress.IPv4Network(net) for net in nets)
