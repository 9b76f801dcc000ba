"""Policies of blankets and clouds: what users ask about them, and what they are shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from supercloud.model.names import Id, Name
from supercloud.ports.loop import POLICY_BYTES, RULES_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class SetPolicy:
    """Both as JSON: a policy by the schema of `supercloud schema policy`; rules as `supercloud policy set`
    makes them of Sigma and YARA. Without rules, the usual ones. `dry_run`: nothing is done, whatever its
    modes are."""

    policy: Annotated[str, Field(max_length=POLICY_BYTES)]
    rules: Annotated[str, Field(max_length=RULES_BYTES)] | None = None
    dry_run: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RollBack:
    """To an earlier version, as a new one. `dry_run` None: as that was."""

    version: Annotated[int, Field(ge=1, le=10**9)]
    dry_run: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyView:
    """`waits`: the blanket is away, and goes by it as soon as it is back."""

    blanket: Name
    cloud_id: Id
    policy: dict[str, Any]
    rules: int | None  # how many of its own; None: the usual ones
    yara: bool  # whether guests' memory is scanned by rules of YARA's
    waits: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyAtView:
    """What a blanket is to go by. `own`: by a policy of its own, and not by its cloud's."""

    blanket: Name
    blanket_id: Id
    own: bool
    version: int
    waits: bool
    problem: str  # why it does not take it


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudPolicyView:
    """`version` 0: none was ever set. `policy` None: none counts. `horizontal`: what the cloud does over all
    of its blankets; else what each of them does that has none of its own."""

    cloud: Name
    cloud_id: Id
    horizontal: bool
    version: int
    policy: dict[str, Any] | None
    rules: int | None
    yara: bool
    dry_run: bool
    set_at: float | None
    by: str | None
    blankets: tuple[PolicyAtView, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionView:
    """`policies` None: it took them away."""

    version: int
    set_at: float
    by: str
    policies: int | None
    rules: int | None
    yara: bool
    dry_run: bool
