"""Policies of clouds, and what their horizontal loops see and order"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "policies",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("cloud", sa.Text(), nullable=False),
        sa.Column("blanket", sa.Text(), nullable=True),
        sa.Column("horizontal", sa.Boolean(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("policy", sa.Text(), nullable=True),
        sa.Column("rules", sa.Text(), nullable=True),
        sa.Column("dry_run", sa.Boolean(), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["cloud"], ["clouds.id"], name=op.f("fk_policies_cloud"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(
            ["blanket"], ["blankets.id"], name=op.f("fk_policies_blanket"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_policies")),
    )
    op.create_index("ix_policies_cloud_number", "policies", ["cloud", "number"], unique=False)
    op.create_index(op.f("ix_policies_blanket"), "policies", ["blanket"], unique=False)
    op.create_table(
        "applied_policies",
        sa.Column("blanket", sa.Text(), nullable=False),
        sa.Column("policy", sa.Text(), nullable=False),
        sa.Column("problem", sa.Text(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["blanket"], ["blankets.id"], name=op.f("fk_applied_policies_blanket"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("blanket", name=op.f("pk_applied_policies")),
    )
    op.create_table(
        "sightings",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("cloud", sa.Text(), nullable=False),
        sa.Column("blanket", sa.Text(), nullable=False),
        sa.Column("relation", sa.Text(), nullable=True),
        sa.Column("finding", sa.JSON(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["cloud"], ["clouds.id"], name=op.f("fk_sightings_cloud"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sightings")),
    )
    op.create_index("ix_sightings_cloud_at", "sightings", ["cloud", "at"], unique=False)
    op.create_index("ix_sightings_blanket_cloud", "sightings", ["blanket", "cloud"], unique=False)
    op.create_table(
        "loop_orders",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("cloud", sa.Text(), nullable=False),
        sa.Column("incident", sa.Text(), nullable=False),
        sa.Column("reaction", sa.Text(), nullable=False),
        sa.Column("blanket", sa.Text(), nullable=False),
        sa.Column("relation", sa.Text(), nullable=True),
        sa.Column("command", sa.JSON(), nullable=False),
        sa.Column("until", sa.Double(), nullable=False),
        sa.Column("doing", sa.Text(), nullable=True),
        sa.Column("asked", sa.Boolean(), nullable=False),
        sa.Column("there", sa.Boolean(), nullable=True),
        sa.Column("looked_at", sa.Double(), nullable=True),
        sa.Column("problem", sa.Text(), nullable=False),
        sa.Column("tries", sa.BigInteger(), nullable=False),
        sa.Column("again_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["cloud"], ["clouds.id"], name=op.f("fk_loop_orders_cloud"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["blanket"], ["blankets.id"], name=op.f("fk_loop_orders_blanket"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_loop_orders")),
    )
    op.create_index("ix_loop_orders_cloud_reaction", "loop_orders", ["cloud", "reaction"], unique=False)
    op.create_index("ix_loop_orders_blanket_doing", "loop_orders", ["blanket", "doing"], unique=False)
    op.create_index(op.f("ix_loop_orders_incident"), "loop_orders", ["incident"], unique=False)
    op.create_index(op.f("ix_loop_orders_relation"), "loop_orders", ["relation"], unique=False)
