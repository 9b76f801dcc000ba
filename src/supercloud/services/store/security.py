"""The tables of what passes between providers and users for the sake of security: findings, orders, acts."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ForeignKey, Index, UniqueConstraint, false
from sqlalchemy.orm import Mapped, mapped_column

from supercloud.services.store.tables import Base


class FindingRow(Base):
    """model.findings.Finding, who said so, and the OCSF event as it came."""

    __tablename__ = "findings"
    __table_args__ = (
        UniqueConstraint("domain", "source", "uid"),
        Index("ix_findings_received_at_id", "received_at", "id"),
        Index("ix_findings_domain_received_at", "domain", "received_at"),
    )
    id: Mapped[str] = mapped_column(primary_key=True)
    domain: Mapped[str] = mapped_column(ForeignKey("providers.id", ondelete="CASCADE"))
    source: Mapped[str]  # model.findings.Source
    uid: Mapped[str]  # of the event; what comes under it again is the same
    cloud: Mapped[str | None]  # None: of the domain as a whole
    clouds: Mapped[list[str]]  # whom it concerns, as it came; `finding_clouds` says the same
    layer: Mapped[str]
    object_kind: Mapped[str]
    object: Mapped[str]
    severity: Mapped[int]  # model.findings.Severity.rank
    title: Mapped[str]
    rule: Mapped[str | None]
    at: Mapped[float]
    received_at: Mapped[float]
    event: Mapped[dict[str, Any]]


class FindingCloud(Base):
    """That a finding concerns a cloud."""

    __tablename__ = "finding_clouds"
    cloud: Mapped[str] = mapped_column(ForeignKey("clouds.id", ondelete="CASCADE"), primary_key=True)
    finding: Mapped[str] = mapped_column(
        ForeignKey("findings.id", ondelete="CASCADE"), primary_key=True, index=True
    )


class IncidentRow(Base):
    """An incident of a blanket's own loop, as its agent told it last; `own`: its id there. `said`: the
    incident (model.incidents.Incident) and its reactions, whole. Of a cloud's horizontal loop `blanket` and
    `domain` are the cloud itself, and it is all of that loop's memory."""

    __tablename__ = "incidents"
    __table_args__ = (
        UniqueConstraint("blanket", "own"),
        Index("ix_incidents_opened_at_id", "opened_at", "id"),
        Index("ix_incidents_blanket_last_at", "blanket", "last_at"),
    )
    id: Mapped[str] = mapped_column(primary_key=True)
    own: Mapped[str]
    blanket: Mapped[str]
    cloud: Mapped[str] = mapped_column(ForeignKey("clouds.id", ondelete="CASCADE"), index=True)
    domain: Mapped[str]
    state: Mapped[str]
    severity: Mapped[int]  # model.findings.Severity.rank
    title: Mapped[str]
    version: Mapped[int]
    opened_at: Mapped[float]
    last_at: Mapped[float]
    closed_at: Mapped[float | None]
    received_at: Mapped[float]
    said: Mapped[dict[str, Any]]

    @property
    def horizontal(self) -> bool:
        return self.blanket == self.cloud


class GuardRow(Base):
    """A reaction that is in force about an instance, or asked for, as the blanket that has that told it last
    (services.guards). `incident`: as that names it. `said`: both, whole."""

    __tablename__ = "guards"
    instance: Mapped[str] = mapped_column(ForeignKey("instances.id", ondelete="CASCADE"), primary_key=True)
    reaction: Mapped[str] = mapped_column(primary_key=True)
    incident: Mapped[str]
    until: Mapped[float]  # by the store's clock
    said: Mapped[dict[str, Any]]


class PolicyRow(Base):
    """One version of what loops go by: of a cloud's blankets, of one of them alone (`blanket`), or of what
    the cloud does over all of them (`horizontal`). The highest `number` of each counts."""

    __tablename__ = "policies"
    __table_args__ = (Index("ix_policies_cloud_number", "cloud", "number"),)
    id: Mapped[str] = mapped_column(primary_key=True)
    cloud: Mapped[str] = mapped_column(ForeignKey("clouds.id", ondelete="CASCADE"))
    blanket: Mapped[str | None] = mapped_column(ForeignKey("blankets.id", ondelete="CASCADE"), index=True)
    horizontal: Mapped[bool]
    number: Mapped[int]
    policy: Mapped[str | None]  # security.policy.PolicyFile as JSON; None: taken away
    rules: Mapped[str | None]  # security.terms.RuleSet as JSON; None: the usual ones
    dry_run: Mapped[bool]
    by: Mapped[str]
    at: Mapped[float]


class AppliedPolicy(Base):
    """The version that a blanket took last (PolicyRow.id), or why it did not."""

    __tablename__ = "applied_policies"
    blanket: Mapped[str] = mapped_column(ForeignKey("blankets.id", ondelete="CASCADE"), primary_key=True)
    policy: Mapped[str]
    problem: Mapped[str]  # empty: it goes by it
    at: Mapped[float]


class SightingRow(Base):
    """What a blanket's loop found, on its way into a cloud's horizontal one. `relation`: by which trust, if
    the blanket is another cloud's."""

    __tablename__ = "sightings"
    __table_args__ = (
        Index("ix_sightings_cloud_at", "cloud", "at"),
        Index("ix_sightings_blanket_cloud", "blanket", "cloud"),
    )
    id: Mapped[str] = mapped_column(primary_key=True)
    cloud: Mapped[str] = mapped_column(ForeignKey("clouds.id", ondelete="CASCADE"))
    blanket: Mapped[str]
    relation: Mapped[str | None]
    finding: Mapped[dict[str, Any]]  # model.findings.Finding
    at: Mapped[float]


class LoopOrderRow(Base):
    """What a blanket is to do because a cloud's horizontal loop decided it. It is there as long as its
    reaction is in force. `doing`: what it is still to be asked (security.engine.Doing); None: nothing."""

    __tablename__ = "loop_orders"
    __table_args__ = (
        Index("ix_loop_orders_cloud_reaction", "cloud", "reaction"),
        Index("ix_loop_orders_blanket_doing", "blanket", "doing"),
    )
    id: Mapped[str] = mapped_column(primary_key=True)
    cloud: Mapped[str] = mapped_column(ForeignKey("clouds.id", ondelete="CASCADE"))
    incident: Mapped[str] = mapped_column(index=True)  # IncidentRow.id
    reaction: Mapped[str]
    blanket: Mapped[str] = mapped_column(ForeignKey("blankets.id", ondelete="CASCADE"))
    relation: Mapped[str | None] = mapped_column(index=True)  # by which trust, if it is another cloud's
    command: Mapped[dict[str, Any]]  # model.reactions.Command
    until: Mapped[float]
    doing: Mapped[str | None]
    asked: Mapped[bool]  # it may have begun
    there: Mapped[bool | None]  # its effect, as the blanket said last
    looked_at: Mapped[float | None]
    problem: Mapped[str]
    tries: Mapped[int]
    again_at: Mapped[float]


class OrderRow(Base):
    """What a provider is to do to a machine: model.orders. `machine` is its blanket, which may be gone."""

    __tablename__ = "orders"
    __table_args__ = (
        Index("ix_orders_created_at_id", "created_at", "id"),
        Index("ix_orders_state_deadline", "state", "deadline"),
    )
    id: Mapped[str] = mapped_column(primary_key=True)
    domain: Mapped[str] = mapped_column(ForeignKey("providers.id", ondelete="CASCADE"), index=True)
    cloud: Mapped[str] = mapped_column(ForeignKey("clouds.id", ondelete="CASCADE"), index=True)
    #: The cloud in whose name it was asked for, maybe gone: by trust (`relation`) another than `cloud`.
    asker: Mapped[str] = mapped_column(index=True)
    relation: Mapped[str | None] = mapped_column(index=True)
    machine: Mapped[str] = mapped_column(index=True)
    reaction: Mapped[str]
    command: Mapped[dict[str, Any]]  # OpenC2, as its provider reads it
    state: Mapped[str]
    reason: Mapped[str] = mapped_column(default="")
    response: Mapped[dict[str, Any] | None]  # OpenC2, as its provider said it
    created_at: Mapped[float]
    deadline: Mapped[float]
    taken_at: Mapped[float | None]
    ended_at: Mapped[float | None]


class ActRow(Base):
    """A privileged act that a provider asks for: model.acts.Statement, and what its user says to it."""

    __tablename__ = "acts"
    __table_args__ = (
        Index("ix_acts_created_at_id", "created_at", "id"),
        Index("ix_acts_state_deadline", "state", "deadline"),
    )
    id: Mapped[str] = mapped_column(primary_key=True)
    domain: Mapped[str] = mapped_column(ForeignKey("providers.id", ondelete="CASCADE"), index=True)
    cloud: Mapped[str] = mapped_column(ForeignKey("clouds.id", ondelete="CASCADE"), index=True)
    machine: Mapped[str] = mapped_column(index=True)
    operation: Mapped[str]  # model.acts.ActKind
    arguments: Mapped[str]
    purpose: Mapped[str]
    not_before: Mapped[int]
    expires_at: Mapped[int]
    nonce: Mapped[str] = mapped_column(unique=True)
    state: Mapped[str]
    created_at: Mapped[float]
    deadline: Mapped[float]  # `expires_at`, as moments are kept
    ended_at: Mapped[float | None]
    page: Mapped[int | None]  # of 4 KiB; and how many
    pages: Mapped[int | None]
    #: The machine's platform has a monitor that does it with its user's consent alone.
    enforced: Mapped[bool] = mapped_column(server_default=false(), default=False)
    epoch: Mapped[int | None]  # the launch that the consent is for
    consent: Mapped[str | None]  # base64: trust.consent
    reason: Mapped[str | None]  # why it failed


class ActExport(Base):
    """What an act gave: sealed to the user's key, so that nobody here can read it."""

    __tablename__ = "act_exports"
    act: Mapped[str] = mapped_column(ForeignKey("acts.id", ondelete="CASCADE"), primary_key=True)
    export: Mapped[dict[str, Any]]  # services.security_views.ExportView
