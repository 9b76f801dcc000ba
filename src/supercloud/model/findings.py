"""Findings: what a detector saw, at which layer, in which domain, and whom it concerns. Pure.

What findings mean together, over layers and domains, is an incident; what is done about it, a reaction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from supercloud.model.errors import InvalidInput
from supercloud.model.names import Id


class Layer(StrEnum):
    """Where a detector stands that saw it."""

    L0 = "L0"  # the platform
    L1 = "L1"  # a blanket
    L2 = "L2"  # an instance


class Source(StrEnum):
    """Who says so, and so who vouches for it: what one says is shown to nobody as another's word."""

    PROVIDER = "provider"  # over the southbound API, of its own domain
    AGENT = "agent"  # of a blanket
    MONITOR = "monitor"  # below a platform's admin, as its driver tells it


class ObjectKind(StrEnum):
    DOMAIN = "domain"  # so it concerns every cloud that has a blanket there
    MACHINE = "machine"  # of a platform; its user calls it a blanket, and has it under the same id
    INSTANCE = "instance"
    INDICATOR = "indicator"  # an address that somebody shared: nobody here has it


class Severity(StrEnum):
    """As OCSF's `severity_id`, from the least to the greatest."""

    UNKNOWN = "unknown"
    INFORMATIONAL = "informational"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"
    FATAL = "fatal"

    @property
    def rank(self) -> int:
        """OCSF's own number of it."""
        return _ORDER.index(self)

    @classmethod
    def ranked(cls, rank: int) -> Severity:
        """Of OCSF's number. 99 is a severity that OCSF has no word for: nobody knows how grave that is."""
        return _ORDER[rank] if 0 <= rank < len(_ORDER) else cls.UNKNOWN


_ORDER = tuple(Severity)


@dataclass(frozen=True, slots=True, kw_only=True)
class Object:
    """What a finding is about."""

    kind: ObjectKind
    id: Id


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One. Moments are seconds since the epoch: `at` by the clock of who saw it, `received_at` by ours.

    `title`, `rule` and `evidence` are the detector's own words: text to be shown, and never to be followed.
    """

    id: Id
    layer: Layer
    domain: Id
    cloud: Id | None  # None: of the domain as a whole
    object: Object
    severity: Severity
    title: str
    rule: str | None  # which of its rules, or other analytics, found it
    at: float
    received_at: float
    evidence: tuple[Mapping[str, Any], ...] = ()  # as OCSF's `evidences`
    by: Id | None = None  # the blanket whose word it is; None: who decides about it saw it itself


#: A finding is told within so long of what it saw; a detector's clock may be ahead by so much.
BEHIND_S, AHEAD_S = 31 * 86400.0, 3600.0


def check_moment(at: float, now: float) -> None:
    """
    Raises:
        InvalidInput: that is too far from now to be true.
    """
    if at > now + AHEAD_S:
        raise InvalidInput(
            f"it is {at - now:.0f} s in the future",
            hint="set the detector's clock; `time` is in milliseconds",
        )
    if at < now - BEHIND_S:
        raise InvalidInput(
            f"it is older than {BEHIND_S / 86400:.0f} days", hint="`time` is in milliseconds since the epoch"
        )
