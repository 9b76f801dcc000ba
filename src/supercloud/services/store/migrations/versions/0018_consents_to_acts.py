"""Consents to privileged acts, and what acts gave, sealed"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("acts", schema=None) as batch_op:
        batch_op.add_column(sa.Column("page", sa.BigInteger(), nullable=True))
        batch_op.add_column(sa.Column("pages", sa.BigInteger(), nullable=True))
        batch_op.add_column(sa.Column("enforced", sa.Boolean(), server_default=sa.false(), nullable=False))
        batch_op.add_column(sa.Column("epoch", sa.BigInteger(), nullable=True))
        batch_op.add_column(sa.Column("consent", sa.Text(), nullable=True))
        batch_op.add_column(sa.Column("reason", sa.Text(), nullable=True))
    op.create_table(
        "act_exports",
        sa.Column("act", sa.Text(), nullable=False),
        sa.Column("export", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["act"], ["acts.id"], name=op.f("fk_act_exports_act"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("act", name=op.f("pk_act_exports")),
    )
