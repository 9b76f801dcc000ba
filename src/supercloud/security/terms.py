"""Rules as the loop keeps and sends them: conditions as small frozen values, no longer anybody's syntax.

Whoever has Sigma's syntax makes these of it (`sigma.py`, where people are); a blanket gets them as JSON and
needs no parser. `match.py` makes functions of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from supercloud.model.findings import Severity
from supercloud.model.names import Name

YARA_CHARS = 512 << 10
_Text = Annotated[str, Field(max_length=4096)]
_Field = Annotated[str, Field(min_length=1, max_length=200)]


class Op(StrEnum):
    LT = "lt"
    LTE = "lte"
    GT = "gt"
    GTE = "gte"
    NEQ = "neq"


@dataclass(frozen=True, slots=True, kw_only=True)
class Like:
    """Text with wildcards: `*` and `?` are such, and `\\` before one, or before itself, makes it plain."""

    kind: Literal["like"] = "like"
    pattern: _Text
    cased: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Regex:
    """RE2's syntax: what needs backtracking is no regular expression here."""

    kind: Literal["regex"] = "regex"
    pattern: _Text


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    kind: Literal["number"] = "number"
    value: float
    op: Op | None = None  # None: equal


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    kind: Literal["flag"] = "flag"
    value: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Cidr:
    kind: Literal["cidr"] = "cidr"
    net: Annotated[str, Field(max_length=64)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Null:
    """Not there, or nothing."""

    kind: Literal["null"] = "null"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exists:
    kind: Literal["exists"] = "exists"
    value: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Same:
    """As another field of the event has it."""

    kind: Literal["same"] = "same"
    field: _Field


Test = Annotated[
    Like | Regex | Number | Flag | Cidr | Null | Exists | Same,
    Field(discriminator="kind"),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Has:
    """A field that passes a test; without one, any text of the event."""

    kind: Literal["has"] = "has"
    field: _Field | None
    test: Test


@dataclass(frozen=True, slots=True, kw_only=True)
class All:
    kind: Literal["all"] = "all"
    of: tuple[Term, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Some:
    kind: Literal["any"] = "any"
    of: tuple[Term, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Not:
    kind: Literal["not"] = "not"
    of: Term


Term = Annotated[Has | All | Some | Not, Field(discriminator="kind")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """`id` is what correlations and policies call it. `reports`: whether a match is a finding by itself."""

    id: Annotated[str, Field(min_length=1, max_length=200)]
    title: Annotated[str, Field(min_length=1, max_length=256)]
    severity: Severity
    source: Name
    condition: Term
    reports: bool = True
    name: Annotated[str, Field(max_length=200)] | None = None


class Counting(StrEnum):
    """Sigma's types of correlation that can be decided while events come in."""

    EVENT_COUNT = "event_count"
    VALUE_COUNT = "value_count"
    TEMPORAL = "temporal"
    TEMPORAL_ORDERED = "temporal_ordered"


@dataclass(frozen=True, slots=True, kw_only=True)
class Correlation:
    """Of matches of `rules` within `seconds` that agree in `group_by`. `least`: so many events or values.

    `aliases`: for a name in `group_by`, the field that it is in the events of each rule.
    """

    id: Annotated[str, Field(min_length=1, max_length=200)]
    title: Annotated[str, Field(min_length=1, max_length=256)]
    severity: Severity
    counting: Counting
    rules: Annotated[tuple[str, ...], Field(min_length=1, max_length=64)]
    group_by: Annotated[tuple[_Field, ...], Field(max_length=8)] = ()
    seconds: Annotated[float, Field(gt=0, le=31 * 86400)]
    least: Annotated[int, Field(ge=1, le=100_000)] = 1
    values_of: _Field | None = None  # of value_count: whose values are counted
    aliases: dict[str, dict[str, str]] = field(default_factory=dict)
    reports: bool = True
    name: Annotated[str, Field(max_length=200)] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleSet:
    """What is applied at once. Correlations come after what they are made of. `yara`: rules of YARA's over
    guests' memory, as their text: compiled nowhere but where it is used (security.memoryscan)."""

    rules: Annotated[tuple[Rule, ...], Field(max_length=20_000)] = ()
    correlations: Annotated[tuple[Correlation, ...], Field(max_length=2_000)] = ()
    yara: Annotated[str, Field(max_length=YARA_CHARS)] = ""
