"""Blankets that their owners' own libvirt tools were let in to"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("blankets", schema=None) as batch_op:
        batch_op.add_column(sa.Column("tools", sa.Boolean(), server_default=sa.false(), nullable=False))
