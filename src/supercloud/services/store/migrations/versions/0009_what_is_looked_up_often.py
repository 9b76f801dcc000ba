"""Indices of what is looked up for each blanket, instance and volume, of which there are thousands"""

from __future__ import annotations

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_LOOKED_UP = (
    ("peer_links", "high"),
    ("instances", "blanket"),
    ("nics", "cloud"),
    ("volumes", "instance"),
    ("volume_copies", "volume"),
    ("volume_copies", "blanket"),
    ("published", "instance"),
    ("rights", "holder"),
)


def upgrade() -> None:
    for table, column in _LOOKED_UP:
        op.create_index(op.f(f"ix_{table}_{column}"), table, [column], unique=False)
