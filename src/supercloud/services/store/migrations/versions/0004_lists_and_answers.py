"""Indices for lists in parts, and answers that are kept so that a request can be repeated"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_INDICES = (
    ("operations", ["created_at", "id"]),
    ("events", ["received_at", "id"]),
    ("clouds", ["name", "id"]),
    ("images", ["name", "id"]),
)


def upgrade() -> None:
    for table, columns in _INDICES:
        op.create_index("_".join(("ix", table, *columns)), table, columns)
    op.create_table(
        "answers",
        sa.Column("principal", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("run", sa.Text(), nullable=False),
        sa.Column("begun_at", sa.Double(), nullable=False),
        sa.Column("made", sa.JSON(), nullable=True),
        sa.Column("status", sa.BigInteger(), nullable=True),
        sa.Column("media_type", sa.Text(), nullable=True),
        sa.Column("body", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("principal", "key", name=op.f("pk_answers")),
    )
    op.create_index("ix_answers_begun_at", "answers", ["begun_at"])
