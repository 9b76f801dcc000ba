"""User data is a secret

What is here in clear goes, since nobody could encrypt it but who has its owner's key store.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    connection = op.get_bind()
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("PRAGMA secure_delete = ON")  # nor in pages that are free now
    op.execute("UPDATE instances SET user_data = NULL")
    op.add_column("instances", sa.Column("user_data_digest", sa.Text(), nullable=True))
    op.create_index(op.f("ix_instances_user_data_digest"), "instances", ["user_data_digest"], unique=True)
