"""Copies of volumes that were made: what is not there any more is lost, and not to be made anew"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Those of before that are the volume count as made: one whose making was cut off by the upgrade has to be
    # removed by its owner, but none that had data is made anew.
    with op.batch_alter_table("volume_copies", schema=None) as batch_op:
        batch_op.add_column(sa.Column("made", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.execute("UPDATE volume_copies SET made = current")
    with op.batch_alter_table("volumes", schema=None) as batch_op:
        batch_op.add_column(sa.Column("lost", sa.Text(), nullable=True))
