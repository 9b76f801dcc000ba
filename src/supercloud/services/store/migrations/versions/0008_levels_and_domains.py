"""Security levels, of which what was there before has the lowest, and domains of providers"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in ("networks", "instances", "volumes"):
        with op.batch_alter_table(table, schema=None) as batch_op:
            batch_op.add_column(sa.Column("level", sa.Text(), nullable=False, server_default="open"))
    with op.batch_alter_table("providers", schema=None) as batch_op:
        batch_op.add_column(sa.Column("owner", sa.Text(), nullable=True))
        # Those of before were added by operators.
        batch_op.add_column(sa.Column("accepted", sa.Boolean(), nullable=False, server_default=sa.true()))
        batch_op.add_column(sa.Column("capacity", sa.JSON(), nullable=True))
        batch_op.create_foreign_key(batch_op.f("fk_providers_owner"), "principals", ["owner"], ["id"])
        batch_op.create_index(batch_op.f("ix_providers_owner"), ["owner"], unique=False)
    op.create_table(
        "maintenance",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("begins_at", sa.Double(), nullable=False),
        sa.Column("ends_at", sa.Double(), nullable=False),
        sa.Column("drain_ahead_s", sa.Double(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("drains", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["provider"], ["providers.id"], name=op.f("fk_maintenance_provider"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_maintenance")),
    )
    with op.batch_alter_table("maintenance", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_maintenance_provider"), ["provider"], unique=False)
