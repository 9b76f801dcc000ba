"""Policies: when, do, verify, else, bounds, mode. Data, with a schema; what it means is in `decide.py`.

Where two policies want different things of one aspect of one object, the order is stated: the higher
`priority`; of equals the graver finding; of these the policy that comes first in the file. The loser is
written into the incident.
"""

from __future__ import annotations

import ipaddress
import re
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic.alias_generators import to_camel

from supercloud.model.findings import Layer, ObjectKind, Severity
from supercloud.model.names import Id, Name
from supercloud.model.reactions import LONGEST_S, POLICED, Deed

VERSION = 1
POLICIES = 500
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_SPAN = re.compile(r"(\d{1,6})([smhd])")
_SPAN_PATTERN = r"^\d{1,6}[smhd]$"


def _seconds(value: Any) -> Any:
    """`90s`, `10m`, `2h`, `1d`."""
    found = _SPAN.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError(f"{str(value)[:40]!r} is no time: write it as 90s, 10m, 2h or 1d")
    return float(found[1]) * _UNITS[found[2]]


Span = Annotated[
    float,
    BeforeValidator(_seconds),
    Field(ge=0, le=LONGEST_S),
    PlainSerializer(lambda seconds: f"{int(seconds)}s", return_type=str),
    WithJsonSchema({"type": "string", "pattern": _SPAN_PATTERN}),
]
Glob = Annotated[str, Field(min_length=1, max_length=200)]


class Part(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        alias_generator=to_camel,
        populate_by_name=True,
        use_attribute_docstrings=True,
    )


class Mode(StrEnum):
    ACT = "act"
    ASK = "ask"
    DRY_RUN = "dry-run"


class Relation(Part):
    """That another finding belongs to the same incident."""

    to: Glob
    """The rule of the other one; `*` stands for anything."""
    within: Span = 300.0
    """So long before this one, at most."""
    layer: Layer | None = None
    """The layer of the other one."""


class When(Part):
    """All that is said has to hold of a finding."""

    rule: Glob = "*"
    """Its rule, by id or name; `*` stands for anything."""
    layer: Layer | None = None
    """The layer at which it was seen: L0, L1 or L2."""
    severity: Severity = Severity.UNKNOWN
    """At least so grave."""
    object: ObjectKind | None = None
    """What it is about: domain, machine, instance or indicator."""
    relation: Relation | None = None
    """Another finding of the same incident that has to be there."""


_DO = {
    ("contain", "device"): Deed.CONTAIN,
    ("deny", "ipv4_net"): Deed.DENY,
    ("set", "rate"): Deed.LIMIT,
    ("stop", "vcpus"): Deed.PAUSE,
    ("restart", "device"): Deed.RESTART,
    ("restart", "component"): Deed.RENEW,
    ("copy", "memory"): Deed.KEEP,
    ("scan", "memory"): Deed.SCAN,
    ("set", "blanket"): Deed.MOVE,
    ("contain", "blanket"): Deed.QUARANTINE,
    ("contain", "domain"): Deed.EVACUATE,
    ("update", "keys"): Deed.ROTATE,
    ("restore", "volume"): Deed.RESTORE,
}


class Do(Part):
    """One reaction, an OpenC2 action and its target."""

    action: Literal["contain", "deny", "set", "stop", "copy", "scan", "restart", "restore", "update"]
    """OpenC2's action: contain, deny, set, stop, copy, scan, restart, restore or update."""
    target: Literal[
        "device", "ipv4_net", "rate", "vcpus", "memory", "component", "volume", "blanket", "domain", "keys"
    ]
    """Its target: device, blanket or domain (with contain), ipv4_net (with deny), rate or blanket (with set),
    vcpus (with stop), memory (with copy: evidence; with scan: by YARA's rules), device or component (with
    restart), volume (with restore), keys (with update)."""
    net: Literal["$source"] | None = None
    """Of deny: `$source`, the address that the finding came from, if it is proven to be."""
    kbytes: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    """Of set rate: kilobytes a second."""
    component: Literal["$component"] | None = None
    """Of restart component: `$component`, the program of the blanket that the finding is about."""
    snapshot: Name | None = None
    """Of restore volume: which snapshot it goes back to; without one, to its image."""
    duration: Span = Field(default=3600.0, alias="for")
    """How long it holds; then it is taken back by itself. What is done once is not done again for so long."""

    @property
    def deed(self) -> Deed:
        return _DO[(self.action, self.target)]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.action, self.target) not in _DO:
            raise ValueError(f"there is no {self.action} of {self.target}")
        if (self.deed is Deed.DENY) != (self.net is not None):
            raise ValueError("deny of ipv4_net has a net, and nothing else has")
        if (self.deed is Deed.LIMIT) != (self.kbytes is not None):
            raise ValueError("set of rate has kbytes, and nothing else has")
        if (self.deed is Deed.RENEW) != (self.component is not None):
            raise ValueError("restart of component has a component, and nothing else has")
        if self.snapshot is not None and self.deed is not Deed.RESTORE:
            raise ValueError("restore of volume has a snapshot, and nothing else has")
        if self.duration < 1:
            raise ValueError("it holds for a second at least")
        return self


class Verify(Part):
    """What must then be true."""

    quiet: Span = 0.0
    """No further finding of the rule about the object for so long after it was done."""
    within: Span = 30.0
    """By then its effect is seen, and it was quiet; else it has not worked."""


class Bounds(Part):
    """What a policy may do at most, whatever is found."""

    objects: Annotated[int, Field(ge=1, le=10_000)] = 3
    """So many objects, or addresses, at once."""
    per_hour: Annotated[int, Field(ge=1, le=100_000)] = 20
    """So many reactions an hour."""
    share: Annotated[float, Field(gt=0, le=1, strict=False)] = 0.5
    """Of both, what rests on one blanket's word, at most: of a horizontal policy."""
    never: Annotated[tuple[str, ...], Field(max_length=1000)] = ()
    """Objects (ids) and networks that nothing is done to."""

    @field_validator("never")
    @classmethod
    def _are_known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return _known(value)


_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def _known(never: tuple[str, ...]) -> tuple[str, ...]:
    for one in never:
        if not _ID.fullmatch(one):
            try:
                ipaddress.IPv4Network(one)
            except ValueError as error:
                raise ValueError(f"{one[:64]!r} is neither an id nor a network") from error
    return never


Else = Literal["undo", "escalate"]


class Policy(Part):
    """What is done about what."""

    when: When = When()
    """Which findings it is about."""
    do: Annotated[tuple[Do, ...], Field(max_length=16)] = ()
    """Reactions, in this order; none: a person is told."""
    verify: Verify = Verify()
    """What must then be true."""
    otherwise: Annotated[tuple[Else, ...], Field(max_length=2)] = Field(
        default=("undo", "escalate"), alias="else"
    )
    """If it did not work: undo (compensate), escalate (tell a person), both by default."""
    bounds: Bounds = Bounds()
    """What it may do at most."""
    mode: Mode = Mode.ACT
    """act, ask a person first, or dry-run."""
    priority: Annotated[int, Field(ge=0, le=1000)] = 100
    """Of two that want different things, the higher."""


class PolicyFile(Part):
    """What the loop does by itself. The first policies come first where nothing else decides."""

    version: Annotated[int, WithJsonSchema({"type": "integer", "const": VERSION})]
    """Of this format: 1."""
    policies: Annotated[dict[Name, Policy], Field(max_length=POLICIES)] = {}
    """By name."""
    protected: Annotated[tuple[str, ...], Field(max_length=1000)] = ()
    """Objects (ids) and networks that no policy does anything to."""

    @field_validator("version")
    @classmethod
    def _is_ours(cls, value: int) -> int:
        if value != VERSION:
            raise ValueError(f"this is version {value} of the format, and version {VERSION} is read")
        return value

    @field_validator("protected")
    @classmethod
    def _are_known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return _known(value)


NOTHING = PolicyFile(version=VERSION)


def dry(policies: PolicyFile) -> PolicyFile:
    """The same, and nothing is done by any of it: each says what it would have done."""
    found = {name: one.model_copy(update={"mode": Mode.DRY_RUN}) for name, one in policies.policies.items()}
    return policies.model_copy(update={"policies": found})


def protects(never: tuple[str, ...], *, object: Id, net: str | None) -> str | None:
    """Which entry forbids a reaction to these, or nothing."""
    for one in never:
        if _ID.fullmatch(one):
            if one == object:
                return one
        elif net is not None and ipaddress.IPv4Address(net) in ipaddress.IPv4Network(one):
            return one
    return None


assert set(_DO.values()) == POLICED  # noqa: S101 - else some deed could be named by nobody


def json_schema() -> dict[str, Any]:
    """For editors: JSON Schema, draft 2020-12."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:supercloud:schema:policy:{VERSION}",
        **PolicyFile.model_json_schema(by_alias=True),
        "title": "A policy of supercloud's loop",
    }
