"""Quotas and clouds in clouds; where instances may be; operations that are parts of others"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("providers", schema=None) as batch_op:
        batch_op.add_column(sa.Column("location", sa.Text(), nullable=True))
        batch_op.add_column(sa.Column("price", sa.JSON(), nullable=True))
        batch_op.add_column(sa.Column("draining_since", sa.Double(), nullable=True))
    with op.batch_alter_table("clouds", schema=None) as batch_op:
        batch_op.add_column(sa.Column("parent", sa.Text(), nullable=True))
        batch_op.add_column(sa.Column("quota", sa.JSON(), nullable=True))
        batch_op.create_index(batch_op.f("ix_clouds_parent"), ["parent"], unique=False)
        batch_op.create_foreign_key(batch_op.f("fk_clouds_parent"), "clouds", ["parent"], ["id"])
    with op.batch_alter_table("instances", schema=None) as batch_op:
        batch_op.add_column(sa.Column("group", sa.Text(), nullable=True))
        batch_op.add_column(sa.Column("placement", sa.JSON(), nullable=True))
        batch_op.add_column(sa.Column("placed", sa.JSON(), nullable=True))
    with op.batch_alter_table("operations", schema=None) as batch_op:
        batch_op.add_column(sa.Column("parent", sa.Text(), nullable=True))
        batch_op.create_index(batch_op.f("ix_operations_parent"), ["parent"], unique=False)
