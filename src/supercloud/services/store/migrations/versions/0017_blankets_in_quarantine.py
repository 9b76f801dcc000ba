"""Blankets to which nothing new comes, because a horizontal loop decided it"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("blankets", schema=None) as batch_op:
        batch_op.add_column(sa.Column("quarantined_by", sa.Text(), nullable=True))
