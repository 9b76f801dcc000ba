"""The first tables"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "clouds",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("cpu_model", sa.Text(), nullable=False),
        sa.Column("length_s", sa.Double(), nullable=False),
        sa.Column("margin_s", sa.Double(), nullable=False),
        sa.Column("grace_s", sa.Double(), nullable=False),
        sa.Column("mesh_generation", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_clouds")),
        sa.UniqueConstraint("name", name=op.f("uq_clouds_name")),
    )
    op.create_table(
        "events",
        sa.Column("blanket", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("cloud", sa.Text(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.Column("received_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("blanket", "id", name=op.f("pk_events")),
    )
    with op.batch_alter_table("events", schema=None) as batch_op:
        batch_op.create_index("ix_events_blanket_seq", ["blanket", "seq"], unique=False)

    op.create_table(
        "images",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("virtual_bytes", sa.BigInteger(), nullable=False),
        sa.Column("complete", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_images")),
        sa.UniqueConstraint("digest", name=op.f("uq_images_digest")),
        sa.UniqueConstraint("name", name=op.f("uq_images_name")),
    )
    op.create_table(
        "meta",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_meta")),
    )
    op.create_table(
        "migrations",
        sa.Column("operation", sa.Text(), nullable=False),
        sa.Column("instance", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("verdict", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("operation", name=op.f("pk_migrations")),
    )
    with op.batch_alter_table("migrations", schema=None) as batch_op:
        batch_op.create_index(
            "uq_migrations_open",
            ["instance"],
            unique=True,
            sqlite_where=sa.text("verdict = 'open'"),
            postgresql_where=sa.text("verdict = 'open'"),
        )

    op.create_table(
        "operations",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("cloud", sa.Text(), nullable=True),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("object", sa.Text(), nullable=False),
        sa.Column("object_name", sa.Text(), nullable=False),
        sa.Column("intent", sa.JSON(), nullable=False),
        sa.Column("join_key", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("cancel_asked", sa.Boolean(), nullable=False),
        sa.Column("phase", sa.Text(), nullable=False),
        sa.Column("done", sa.Double(), nullable=True),
        sa.Column("error", sa.JSON(), nullable=True),
        sa.Column("result", sa.JSON(), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("ended_at", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_operations")),
    )
    with op.batch_alter_table("operations", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_operations_object"), ["object"], unique=False)
        batch_op.create_index(
            "uq_operations_open_key",
            ["join_key"],
            unique=True,
            sqlite_where=sa.text("ended_at IS NULL"),
            postgresql_where=sa.text("ended_at IS NULL"),
        )

    op.create_table(
        "providers",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("options", sa.JSON(), nullable=False),
        sa.Column("declaration", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_providers")),
        sa.UniqueConstraint("name", name=op.f("uq_providers_name")),
    )
    op.create_table(
        "rights",
        sa.Column("instance", sa.Text(), nullable=False),
        sa.Column("cloud", sa.Text(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("holder", sa.Text(), nullable=True),
        sa.Column("expires_at", sa.Double(), nullable=False),
        sa.Column("nonce", sa.Text(), nullable=True),
        sa.Column("last_request", sa.Text(), nullable=True),
        sa.Column("last_consumed", sa.Text(), nullable=True),
        sa.Column("hold", sa.Boolean(), nullable=False),
        sa.Column("length_s", sa.Double(), nullable=False),
        sa.Column("margin_s", sa.Double(), nullable=False),
        sa.Column("grace_s", sa.Double(), nullable=False),
        sa.Column("renew_every_s", sa.Double(), nullable=False),
        sa.Column("issued_for", sa.Text(), nullable=True),
        sa.Column("unsure", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("instance", name=op.f("pk_rights")),
    )
    op.create_table(
        "blankets",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("cloud", sa.Text(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("wanted", sa.JSON(), nullable=False),
        sa.Column("mesh_address", sa.Text(), nullable=False),
        sa.Column("endpoint", sa.Text(), nullable=True),
        sa.Column("keys", sa.JSON(), nullable=False),
        sa.Column("announcement", sa.JSON(), nullable=True),
        sa.Column("boot_id", sa.Text(), nullable=True),
        sa.Column("report", sa.JSON(), nullable=True),
        sa.Column("revoked", sa.Boolean(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["cloud"], ["clouds.id"], name=op.f("fk_blankets_cloud")),
        sa.ForeignKeyConstraint(["provider"], ["providers.id"], name=op.f("fk_blankets_provider")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_blankets")),
        sa.UniqueConstraint("cloud", "mesh_address", name=op.f("uq_blankets_cloud_mesh_address")),
        sa.UniqueConstraint("cloud", "name", name=op.f("uq_blankets_cloud_name")),
    )
    op.create_table(
        "networks",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("cloud", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("vni", sa.BigInteger(), nullable=False),
        sa.Column("cidr", sa.Text(), nullable=False),
        sa.Column("gateway", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["cloud"], ["clouds.id"], name=op.f("fk_networks_cloud")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_networks")),
        sa.UniqueConstraint("cloud", "name", name=op.f("uq_networks_cloud_name")),
        sa.UniqueConstraint("vni", name=op.f("uq_networks_vni")),
    )
    op.create_table(
        "instances",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("cloud", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("blanket", sa.Text(), nullable=True),
        sa.Column("image", sa.Text(), nullable=False),
        sa.Column("vcpus", sa.BigInteger(), nullable=False),
        sa.Column("memory_mib", sa.BigInteger(), nullable=False),
        sa.Column("user_data", sa.Text(), nullable=True),
        sa.Column("ssh_keys", sa.JSON(), nullable=False),
        sa.Column("hold", sa.Boolean(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["blanket"], ["blankets.id"], name=op.f("fk_instances_blanket")),
        sa.ForeignKeyConstraint(["cloud"], ["clouds.id"], name=op.f("fk_instances_cloud")),
        sa.ForeignKeyConstraint(["image"], ["images.id"], name=op.f("fk_instances_image")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_instances")),
        sa.UniqueConstraint("cloud", "name", name=op.f("uq_instances_cloud_name")),
    )
    op.create_table(
        "peer_links",
        sa.Column("low", sa.Text(), nullable=False),
        sa.Column("high", sa.Text(), nullable=False),
        sa.Column("cloud", sa.Text(), nullable=False),
        sa.Column("port", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["cloud"], ["clouds.id"], name=op.f("fk_peer_links_cloud")),
        sa.ForeignKeyConstraint(
            ["high"], ["blankets.id"], name=op.f("fk_peer_links_high"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["low"], ["blankets.id"], name=op.f("fk_peer_links_low"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("low", "high", name=op.f("pk_peer_links")),
        sa.UniqueConstraint("cloud", "port", name=op.f("uq_peer_links_cloud_port")),
    )
    op.create_table(
        "nics",
        sa.Column("instance", sa.Text(), nullable=False),
        sa.Column("network", sa.Text(), nullable=False),
        sa.Column("cloud", sa.Text(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("mac", sa.Text(), nullable=False),
        sa.Column("ip", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["cloud"], ["clouds.id"], name=op.f("fk_nics_cloud")),
        sa.ForeignKeyConstraint(
            ["instance"], ["instances.id"], name=op.f("fk_nics_instance"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["network"], ["networks.id"], name=op.f("fk_nics_network")),
        sa.PrimaryKeyConstraint("instance", "network", name=op.f("pk_nics")),
        sa.UniqueConstraint("network", "ip", name=op.f("uq_nics_network_ip")),
        sa.UniqueConstraint("network", "mac", name=op.f("uq_nics_network_mac")),
    )
    op.create_table(
        "published",
        sa.Column("at", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("cloud", sa.Text(), nullable=False),
        sa.Column("instance", sa.Text(), nullable=False),
        sa.Column("port", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["cloud"], ["clouds.id"], name=op.f("fk_published_cloud")),
        sa.ForeignKeyConstraint(
            ["instance"], ["instances.id"], name=op.f("fk_published_instance"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("at", name=op.f("pk_published")),
    )
    op.create_table(
        "volumes",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("cloud", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("image", sa.Text(), nullable=True),
        sa.Column("instance", sa.Text(), nullable=True),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("wanted_on", sa.Text(), nullable=True),
        sa.Column("snapshots", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["cloud"], ["clouds.id"], name=op.f("fk_volumes_cloud")),
        sa.ForeignKeyConstraint(["image"], ["images.id"], name=op.f("fk_volumes_image")),
        sa.ForeignKeyConstraint(["instance"], ["instances.id"], name=op.f("fk_volumes_instance")),
        sa.ForeignKeyConstraint(
            ["wanted_on"], ["blankets.id"], name=op.f("fk_volumes_wanted_on"), ondelete="SET NULL"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_volumes")),
        sa.UniqueConstraint("cloud", "name", name=op.f("uq_volumes_cloud_name")),
    )
    op.create_table(
        "volume_copies",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("volume", sa.Text(), nullable=False),
        sa.Column("cloud", sa.Text(), nullable=False),
        sa.Column("blanket", sa.Text(), nullable=False),
        sa.Column("operation", sa.Text(), nullable=True),
        sa.Column("current", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["blanket"], ["blankets.id"], name=op.f("fk_volume_copies_blanket")),
        sa.ForeignKeyConstraint(["cloud"], ["clouds.id"], name=op.f("fk_volume_copies_cloud")),
        sa.ForeignKeyConstraint(
            ["volume"], ["volumes.id"], name=op.f("fk_volume_copies_volume"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_volume_copies")),
    )
    with op.batch_alter_table("volume_copies", schema=None) as batch_op:
        batch_op.create_index(
            "uq_volume_copies_current",
            ["volume"],
            unique=True,
            sqlite_where=sa.text("current"),
            postgresql_where=sa.text("current"),
        )
