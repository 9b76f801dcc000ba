"""Trust relations that are about a network, and connect it with another cloud's"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("trust_relations", schema=None) as batch_op:
        for column in ("network", "to_network"):
            batch_op.add_column(sa.Column(column, sa.Text(), nullable=True))
            batch_op.create_foreign_key(
                batch_op.f(f"fk_trust_relations_{column}"), "networks", [column], ["id"]
            )
            batch_op.create_index(batch_op.f(f"ix_trust_relations_{column}"), [column], unique=False)
