"""Trust relations that are about a blanket, in which another cloud may have its own"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("trust_relations", schema=None) as batch_op:
        batch_op.add_column(sa.Column("blanket", sa.Text(), nullable=True))
        batch_op.create_foreign_key(batch_op.f("fk_trust_relations_blanket"), "blankets", ["blanket"], ["id"])
        batch_op.create_index(batch_op.f("ix_trust_relations_blanket"), ["blanket"], unique=False)
