"""Blankets that are inside another one"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("blankets", schema=None) as batch_op:
        batch_op.add_column(sa.Column("parent", sa.Text(), nullable=True))
        batch_op.add_column(sa.Column("depth", sa.BigInteger(), nullable=False, server_default="0"))
        batch_op.add_column(sa.Column("inner_endpoints", sa.JSON(), nullable=True))
        batch_op.create_foreign_key(batch_op.f("fk_blankets_parent"), "blankets", ["parent"], ["id"])
        batch_op.create_index(batch_op.f("ix_blankets_parent"), ["parent"], unique=False)
