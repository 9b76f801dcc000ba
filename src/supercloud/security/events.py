"""What detectors tell the loop: OCSF events, as findings and as what rules look at. Pure.

A detector has a `Stand`: who it is and what it may speak of. What an event says of its own domain, cloud or
layer counts for nothing, and an event about an object that the stand does not know is refused. So a detector
that lies, or that an attacker drives, is attributed and reaches no further than its stand.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from supercloud.model.errors import InvalidInput
from supercloud.model.findings import Finding, Layer, Object, check_moment
from supercloud.model.names import Id, Name
from supercloud.model.ocsf import EVENT, DetectionFinding

#: Of the ids of findings: the same event of the same detector is the same finding, however often it comes.
_FINDINGS = uuid.UUID("6f1a1f0e-5d0c-4c6e-9a57-2f0d3f0f2c11")
#: What a field holds at most of an event's text: beyond it, rules do not see.
FIELD_CHARS = 4096

M = TypeVar("M", bound=BaseModel)
Value = str | int | float | bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stand:
    """Where a detector stands. `objects` finds what it may speak of by the name that its events use; None:
    nothing of its. `proves`: the addresses in its evidence were checked where they came in, so that they are
    whose they say, and not whoever's a sender wrote there."""

    detector: Name
    layer: Layer
    domain: Id
    cloud: Id | None
    objects: Callable[[str | None], Object | None]
    proves: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One that rules look at: its fields by Sigma's names."""

    uid: str
    source: Name
    at: float  # seconds since the epoch, by the detector's clock
    stand: Stand
    about: Object
    fields: Mapping[str, Value | tuple[Value, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class EventSource:
    """A stream of events that rules can be about: what it is in Sigma, and where in OCSF its fields are.
    `protocol`: whose of the class's events are of it; None: of all that have no source of their own."""

    name: Name
    class_uid: int
    says: str
    category: str | None = None
    product: str | None = None
    service: str | None = None
    protocol: str | None = None
    fields: Mapping[str, str] = field(default_factory=dict)


#: What there is. A further source is a line here and a detector that gives its events.
SOURCES: tuple[EventSource, ...] = (
    EventSource(
        name="firewall",
        class_uid=4001,  # OCSF Network Activity
        says="connections that begin at an instance's port, seen from its blanket",
        category="firewall",
        fields={
            "src_ip": "src_endpoint.ip",
            "src_port": "src_endpoint.port",
            "src_mac": "src_endpoint.mac",
            "dst_ip": "dst_endpoint.ip",
            "dst_port": "dst_endpoint.port",
            "protocol": "connection_info.protocol_name",
            "action": "action",
        },
    ),
    EventSource(
        name="connection",
        class_uid=4001,
        says="the same, by the names that Sigma has for a host's connections; of what program is not seen",
        category="network_connection",
        fields={
            "SourceIp": "src_endpoint.ip",
            "SourcePort": "src_endpoint.port",
            "DestinationIp": "dst_endpoint.ip",
            "DestinationPort": "dst_endpoint.port",
            "Protocol": "connection_info.protocol_name",
        },
    ),
    EventSource(
        name="neighbour",
        class_uid=4001,
        says="whom of its own network an instance asks for by ARP, seen from its blanket",
        product="supercloud",
        service="arp",
        protocol="arp",
        fields={"src_ip": "src_endpoint.ip", "src_mac": "src_endpoint.mac", "dst_ip": "dst_endpoint.ip"},
    ),
    EventSource(
        name="finding",
        class_uid=2004,  # OCSF Detection Finding
        says="findings of every detector",
        product="supercloud",
        service="finding",
        fields={
            "rule": "finding_info.analytic.uid",
            "title": "finding_info.title",
            "severity": "severity_id",
            "src_ip": "evidences.0.src_endpoint.ip",
            "dst_ip": "evidences.0.dst_endpoint.ip",
            "component": "evidences.0.data.component",
            "process": "evidences.0.data.name",
            "symbol": "evidences.0.data.symbol",
        },
    ),
)


class _NetworkActivity(BaseModel):
    """OCSF class 4001, as far as we look at it."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)
    class_uid: Literal[4001]
    time: Annotated[int, Field(ge=0, le=8 * 10**12)]
    metadata: dict[str, Any]
    device: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """An event that was let in. `finding`: what it is, if it is one and not only something for rules."""

    events: tuple[Event, ...]
    finding: Finding | None


def take(raw: Any, stand: Stand, *, now: float, sources: Collection[Name] | None = None) -> Taken:
    """`sources`: of which rules want to see the event; None: of all.

    Raises:
        InvalidInput: it is no event of a class that is taken, or of nothing that this detector may speak of.
    """
    if not isinstance(raw, dict):
        raise InvalidInput("an event is a JSON object")
    EVENT.check(raw, "the event")
    match raw.get("class_uid"):
        case 2004:
            return _finding(raw, stand, now, sources)
        case 4001:
            return _activity(raw, stand, now, sources)
        case other:
            raise InvalidInput(f"events of class {other!r} are not taken", hint="2004 and 4001 are")


def finding_id(stand: Stand, uid: str) -> Id:
    """The same for the same event of the same detector."""
    return str(uuid.uuid5(_FINDINGS, f"{stand.domain}/{stand.cloud}/{stand.detector}/{uid}"))


def _finding(raw: dict[str, Any], stand: Stand, now: float, sources: Collection[Name] | None) -> Taken:
    event = _valid(DetectionFinding, raw)
    at = event.time / 1000
    check_moment(at, now)
    about = _about(stand, event.machine)
    finding = Finding(
        id=finding_id(stand, event.metadata.uid),
        layer=stand.layer,
        domain=stand.domain,
        cloud=stand.cloud,
        object=about,
        severity=event.severity,
        title=event.title,
        rule=event.rule,
        at=at,
        received_at=now,
        evidence=tuple(_evidence(one, stand) for one in event.evidences or ()),
    )
    return Taken(events=_events(raw, event.metadata.uid, at, stand, about, sources), finding=finding)


def _evidence(one: dict[str, Any], stand: Stand) -> dict[str, Any]:
    """That an address is proven is not a detector's to say of itself."""
    data = one.get("data")
    if not isinstance(data, dict) or "proven" not in data or stand.proves:
        return one
    return {**one, "data": {**data, "proven": False}}


def _activity(raw: dict[str, Any], stand: Stand, now: float, sources: Collection[Name] | None) -> Taken:
    event = _valid(_NetworkActivity, raw)
    uid = event.metadata.get("uid")
    if not isinstance(uid, str) or not 0 < len(uid) <= 200:
        raise InvalidInput("metadata.uid is missing", hint="each event has an id of its own")
    at = event.time / 1000
    check_moment(at, now)
    said = (event.device or {}).get("uid")
    about = _about(stand, said if isinstance(said, str) else None)
    return Taken(events=_events(raw, uid, at, stand, about, sources), finding=None)


def _events(  # noqa: PLR0917 - inside this module, from two places
    raw: Mapping[str, Any],
    uid: str,
    at: float,
    stand: Stand,
    about: Object,
    sources: Collection[Name] | None,
) -> tuple[Event, ...]:
    own = _own_protocol(raw)
    return tuple(
        Event(
            uid=uid,
            source=source.name,
            at=at,
            stand=stand,
            about=about,
            fields={
                **{name: _at(raw, path) for name, path in paths},
                # Of every source: which cannot be said by the event itself.
                "object": about.id,
                "layer": stand.layer.value,
            },
        )
        for source, paths in _PATHS[raw["class_uid"]]
        if (sources is None or source.name in sources) and source.protocol == own
    )


def _own_protocol(raw: Mapping[str, Any]) -> Value:
    """That of an activity which is no connection, and has a source of its own."""
    said = _at(raw, _PROTOCOL) if raw["class_uid"] == _ACTIVITY else None
    return said if said in _OWN else None


_ACTIVITY, _PROTOCOL = 4001, ("connection_info", "protocol_name")
_PATHS = {
    class_uid: [
        (source, [(name, tuple(path.split("."))) for name, path in source.fields.items()])
        for source in SOURCES
        if source.class_uid == class_uid
    ]
    for class_uid in {source.class_uid for source in SOURCES}
}
_OWN = frozenset(source.protocol for source in SOURCES if source.protocol is not None)
#: Every event has these, whatever its source.
COMMON = frozenset({"object", "layer"})


def _at(raw: Any, path: tuple[str, ...]) -> Value:
    for step in path:
        if isinstance(raw, dict):
            raw = raw.get(step)
        elif isinstance(raw, list) and step.isdigit() and int(step) < len(raw):
            raw = raw[int(step)]
        else:
            return None
    if isinstance(raw, str):
        return raw[:FIELD_CHARS]
    return raw if isinstance(raw, int | float | bool) else None


def _about(stand: Stand, said: str | None) -> Object:
    found = stand.objects(said)
    if found is None:
        raise InvalidInput(f"detector {stand.detector} may not speak of {str(said)[:64]!r}")
    return found


def _valid(kind: type[M], raw: Mapping[str, Any]) -> M:
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "event"
        raise InvalidInput(f"{where}: {first['msg']}") from error
