"""The tables of what passes between providers and users for the sake of security: findings, orders, acts."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ForeignKey, Index, UniqueConstraint
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
    """A privileged act that a provider asks for: model.acts.Statement, unsigned."""

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
