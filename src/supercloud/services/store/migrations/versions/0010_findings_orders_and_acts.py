"""Findings, orders and privileged acts; trust that is about no image; the orders that a domain takes"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("providers", schema=None) as batch_op:
        batch_op.add_column(sa.Column("takes", sa.JSON(), nullable=True))
    with op.batch_alter_table("trust_relations", schema=None) as batch_op:
        batch_op.alter_column("image", existing_type=sa.Text(), nullable=True)
        batch_op.add_column(sa.Column("reactions", sa.JSON(), nullable=True))
    _findings()
    _orders()
    _acts()


def _findings() -> None:
    op.create_table(
        "findings",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("domain", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("uid", sa.Text(), nullable=False),
        sa.Column("cloud", sa.Text(), nullable=True),
        sa.Column("clouds", sa.JSON(), nullable=False),
        sa.Column("layer", sa.Text(), nullable=False),
        sa.Column("object_kind", sa.Text(), nullable=False),
        sa.Column("object", sa.Text(), nullable=False),
        sa.Column("severity", sa.BigInteger(), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("rule", sa.Text(), nullable=True),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("received_at", sa.Double(), nullable=False),
        sa.Column("event", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["domain"], ["providers.id"], name=op.f("fk_findings_domain"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_findings")),
        sa.UniqueConstraint("domain", "source", "uid", name=op.f("uq_findings_domain_source_uid")),
    )
    op.create_index("ix_findings_received_at_id", "findings", ["received_at", "id"], unique=False)
    op.create_index("ix_findings_domain_received_at", "findings", ["domain", "received_at"], unique=False)
    op.create_table(
        "finding_clouds",
        sa.Column("cloud", sa.Text(), nullable=False),
        sa.Column("finding", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["cloud"], ["clouds.id"], name=op.f("fk_finding_clouds_cloud"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["finding"], ["findings.id"], name=op.f("fk_finding_clouds_finding"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("cloud", "finding", name=op.f("pk_finding_clouds")),
    )
    op.create_index(op.f("ix_finding_clouds_finding"), "finding_clouds", ["finding"], unique=False)


def _orders() -> None:
    op.create_table(
        "orders",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("domain", sa.Text(), nullable=False),
        sa.Column("cloud", sa.Text(), nullable=False),
        sa.Column("asker", sa.Text(), nullable=False),
        sa.Column("relation", sa.Text(), nullable=True),
        sa.Column("machine", sa.Text(), nullable=False),
        sa.Column("reaction", sa.Text(), nullable=False),
        sa.Column("command", sa.JSON(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("response", sa.JSON(), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("deadline", sa.Double(), nullable=False),
        sa.Column("taken_at", sa.Double(), nullable=True),
        sa.Column("ended_at", sa.Double(), nullable=True),
        *_ends("orders"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_orders")),
    )
    _indices("orders", "domain", "cloud", "asker", "relation", "machine")


def _acts() -> None:
    op.create_table(
        "acts",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("domain", sa.Text(), nullable=False),
        sa.Column("cloud", sa.Text(), nullable=False),
        sa.Column("machine", sa.Text(), nullable=False),
        sa.Column("operation", sa.Text(), nullable=False),
        sa.Column("arguments", sa.Text(), nullable=False),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("not_before", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("nonce", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("deadline", sa.Double(), nullable=False),
        sa.Column("ended_at", sa.Double(), nullable=True),
        *_ends("acts"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_acts")),
        sa.UniqueConstraint("nonce", name=op.f("uq_acts_nonce")),
    )
    _indices("acts", "domain", "cloud", "machine")


def _ends(table: str) -> list[sa.ForeignKeyConstraint]:
    """They go with their domain and with their cloud."""
    return [
        sa.ForeignKeyConstraint([column], [f"{to}.id"], name=op.f(f"fk_{table}_{column}"), ondelete="CASCADE")
        for column, to in (("domain", "providers"), ("cloud", "clouds"))
    ]


def _indices(table: str, *columns: str) -> None:
    for column in columns:
        op.create_index(op.f(f"ix_{table}_{column}"), table, [column], unique=False)
    op.create_index(f"ix_{table}_created_at_id", table, ["created_at", "id"], unique=False)
    op.create_index(f"ix_{table}_state_deadline", table, ["state", "deadline"], unique=False)
