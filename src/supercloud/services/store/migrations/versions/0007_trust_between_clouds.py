"""Trust relations between clouds; of a backup's image, the cloud whose alone its key is"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Unknown for images of before: of a backup among them, the key store alone knows whose its key is.
    with op.batch_alter_table("images", schema=None) as batch_op:
        batch_op.add_column(sa.Column("key_of", sa.Text(), nullable=True))
    op.create_table(
        "trust_relations",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("cloud", sa.Text(), nullable=False),
        sa.Column("to", sa.Text(), nullable=False),
        sa.Column("image", sa.Text(), nullable=False),
        sa.Column("parent", sa.Text(), nullable=True),
        sa.Column("root", sa.Text(), nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("depth", sa.BigInteger(), nullable=False),
        sa.Column("delegable", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("expires_at", sa.Double(), nullable=False),
        sa.Column("revoked_at", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(["cloud"], ["clouds.id"], name=op.f("fk_trust_relations_cloud")),
        sa.ForeignKeyConstraint(["image"], ["images.id"], name=op.f("fk_trust_relations_image")),
        sa.ForeignKeyConstraint(["origin"], ["clouds.id"], name=op.f("fk_trust_relations_origin")),
        sa.ForeignKeyConstraint(
            ["parent"],
            ["trust_relations.id"],
            name=op.f("fk_trust_relations_parent"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(["to"], ["clouds.id"], name=op.f("fk_trust_relations_to")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_trust_relations")),
    )
    with op.batch_alter_table("trust_relations", schema=None) as batch_op:
        for column in ("cloud", "to", "image", "root", "origin"):
            batch_op.create_index(batch_op.f(f"ix_trust_relations_{column}"), [column], unique=False)
        batch_op.create_index("ix_trust_relations_created_at_id", ["created_at", "id"], unique=False)
