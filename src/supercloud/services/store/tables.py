"""The tables. Every row of a cloud's thing carries its cloud's id, and names are unique within a cloud.

No column holds a secret: keys are with the owner's key store, and join secrets live in birth data only.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    ForeignKey,
    Index,
    MetaData,
    Text,
    UniqueConstraint,
    false,
    text,
    true,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {str: Text, int: BigInteger, dict[str, Any]: JSON, list[str]: JSON}  # noqa: RUF012


#: `with_for_update` of whatever others refer to: PostgreSQL lets rows that refer to it be written meanwhile,
#: so that transactions which lock a cloud and a thing in it in either order do not wait for each other.
LOCKED: dict[str, Any] = {"key_share": True}


class Meta(Base):
    """What the store remembers of itself: its incarnation, restores, the end of a quarantine."""

    __tablename__ = "meta"
    key: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[str]


class Principal(Base):
    """A person or a program with a key. Who has the key's private part is it."""

    __tablename__ = "principals"
    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    key: Mapped[str] = mapped_column(unique=True)
    roles: Mapped[list[str]]
    created_at: Mapped[float]


class MintedToken(Base):
    """That a token was minted; the token itself is with its holder. `id`: its first revocation id."""

    __tablename__ = "tokens"
    id: Mapped[str] = mapped_column(primary_key=True)
    principal: Mapped[str] = mapped_column(ForeignKey("principals.id", ondelete="CASCADE"), index=True)
    only: Mapped[list[str] | None]
    clouds: Mapped[list[str] | None]
    minted_at: Mapped[float]
    expires_at: Mapped[float]


class Revocation(Base):
    """A block of tokens that count no more. Kept until they would have expired anyhow."""

    __tablename__ = "revocations"
    id: Mapped[str] = mapped_column(primary_key=True)
    revoked_at: Mapped[float]
    expires_at: Mapped[float]


class Provider(Base):
    __tablename__ = "providers"
    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    kind: Mapped[str]
    options: Mapped[dict[str, Any]]
    declaration: Mapped[dict[str, Any]]
    #: The provider's principal; None: the operators'.
    owner: Mapped[str | None] = mapped_column(ForeignKey("principals.id"), index=True)
    #: An operator has let it run VMs; until then its declaration has no flavour.
    accepted: Mapped[bool] = mapped_column(server_default=true(), default=True)
    capacity: Mapped[dict[str, Any] | None]  # model.domains.Capacity
    takes: Mapped[list[str] | None]  # model.orders.Reaction: the orders that it takes
    #: What is said of it: model.placement.Location, and Price.
    location: Mapped[str | None]
    price: Mapped[dict[str, Any] | None]
    draining_since: Mapped[float | None]  # nothing new comes there, and what is there moves away
    created_at: Mapped[float]


class Maintenance(Base):
    """A window in which a domain may be down."""

    __tablename__ = "maintenance"
    id: Mapped[str] = mapped_column(primary_key=True)
    provider: Mapped[str] = mapped_column(ForeignKey("providers.id", ondelete="CASCADE"), index=True)
    begins_at: Mapped[float]
    ends_at: Mapped[float]
    drain_ahead_s: Mapped[float | None]  # so long before it begins what runs there moves away
    reason: Mapped[str] = mapped_column(default="")
    state: Mapped[str]  # model.domains.WindowState
    drains: Mapped[bool] = mapped_column(default=False)  # it closed the domain, and will open it again
    created_at: Mapped[float]


class Cloud(Base):
    __tablename__ = "clouds"
    __table_args__ = (UniqueConstraint("owner", "name"), Index("ix_clouds_name_id", "name", "id"))
    id: Mapped[str] = mapped_column(primary_key=True)
    #: None: it was made before there were principals, or by the control plane itself: operators have it.
    owner: Mapped[str | None] = mapped_column(ForeignKey("principals.id"))
    #: The cloud that it is in, of whose quota its own is a slice.
    parent: Mapped[str | None] = mapped_column(ForeignKey("clouds.id"), index=True)
    quota: Mapped[dict[str, Any] | None]  # model.quota.Quota
    name: Mapped[str]
    cpu_model: Mapped[str]
    length_s: Mapped[float]
    margin_s: Mapped[float]
    grace_s: Mapped[float]
    #: Grows with every change that a blanket's overlay has to learn of.
    mesh_generation: Mapped[int] = mapped_column(default=1)
    created_at: Mapped[float]


class Blanket(Base):
    __tablename__ = "blankets"
    __table_args__ = (UniqueConstraint("cloud", "name"), UniqueConstraint("cloud", "mesh_address"))
    id: Mapped[str] = mapped_column(primary_key=True)
    cloud: Mapped[str] = mapped_column(ForeignKey("clouds.id"))
    #: The domain that it is in, at whatever depth.
    provider: Mapped[str] = mapped_column(ForeignKey("providers.id"))
    #: The blanket that it is inside of, whose machine its own is; None: its provider's platform runs it.
    parent: Mapped[str | None] = mapped_column(ForeignKey("blankets.id"), index=True)
    depth: Mapped[int] = mapped_column(server_default="0", default=0)  # how many blankets are around it
    name: Mapped[str]
    state: Mapped[str]
    wanted: Mapped[dict[str, Any]]  # flavour, vcpus, memory, disk: what its machine was asked to be
    mesh_address: Mapped[str]
    endpoint: Mapped[str | None]  # of its WireGuard, as other blankets reach it
    inner_endpoints: Mapped[list[str] | None]  # the same of those inside it: ports.platform.Machine.inner
    keys: Mapped[list[str]]  # WireGuard keys that its peers accept now, newest last
    announcement: Mapped[dict[str, Any] | None]  # its own signed word for them, relayed as it is
    boot_id: Mapped[str | None]
    report: Mapped[dict[str, Any] | None]  # ports.agent.BlanketReport, as of its last connection
    revoked: Mapped[bool] = mapped_column(default=False)
    #: Its owner's own libvirt tools were let in once: whatever they did there stays done.
    tools: Mapped[bool] = mapped_column(server_default=false(), default=False)
    #: The reaction of its cloud's horizontal loop by which nothing new comes there; None: it is open.
    quarantined_by: Mapped[str | None]
    reason: Mapped[str] = mapped_column(default="")
    created_at: Mapped[float]


class PeerLink(Base):
    """The VXLAN port of a pair of blankets: one for each peer, so that entries of two never mix."""

    __tablename__ = "peer_links"
    __table_args__ = (UniqueConstraint("cloud", "port"),)
    low: Mapped[str] = mapped_column(ForeignKey("blankets.id", ondelete="CASCADE"), primary_key=True)
    high: Mapped[str] = mapped_column(
        ForeignKey("blankets.id", ondelete="CASCADE"), primary_key=True, index=True
    )
    cloud: Mapped[str] = mapped_column(ForeignKey("clouds.id"))
    port: Mapped[int]


class Image(Base):
    __tablename__ = "images"
    __table_args__ = (UniqueConstraint("owner", "name"), Index("ix_images_name_id", "name", "id"))
    id: Mapped[str] = mapped_column(primary_key=True)
    owner: Mapped[str | None] = mapped_column(ForeignKey("principals.id"))  # as of a cloud
    name: Mapped[str]
    digest: Mapped[str] = mapped_column(unique=True)
    size_bytes: Mapped[int]
    virtual_bytes: Mapped[int]
    complete: Mapped[bool] = mapped_column(default=False)
    #: Of a backup: the cloud whose alone its key is. No foreign key: the key outlives the cloud.
    key_of: Mapped[str | None]
    created_at: Mapped[float]


class Network(Base):
    __tablename__ = "networks"
    __table_args__ = (UniqueConstraint("cloud", "name"),)
    id: Mapped[str] = mapped_column(primary_key=True)
    cloud: Mapped[str] = mapped_column(ForeignKey("clouds.id"))
    name: Mapped[str]
    vni: Mapped[int] = mapped_column(unique=True)
    cidr: Mapped[str]
    gateway: Mapped[str]
    level: Mapped[str] = mapped_column(server_default="open", default="open")  # model.levels.Level
    created_at: Mapped[float]


class Instance(Base):
    __tablename__ = "instances"
    __table_args__ = (UniqueConstraint("cloud", "name"),)
    id: Mapped[str] = mapped_column(primary_key=True)
    cloud: Mapped[str] = mapped_column(ForeignKey("clouds.id"))
    name: Mapped[str]
    state: Mapped[str]
    #: Where it is, or was last; its volumes' current copies are there.
    blanket: Mapped[str | None] = mapped_column(ForeignKey("blankets.id"), index=True)
    image: Mapped[str] = mapped_column(ForeignKey("images.id"))
    vcpus: Mapped[int]
    memory_mib: Mapped[int]
    #: Encrypted, in base64; the owner's key store has its key, under the digest.
    user_data: Mapped[str | None]
    user_data_digest: Mapped[str | None] = mapped_column(unique=True, index=True)
    ssh_keys: Mapped[list[str]]
    hold: Mapped[bool] = mapped_column(default=False)
    group: Mapped[str | None]  # what moves together
    placement: Mapped[dict[str, Any] | None]  # model.placement.Placement
    placed: Mapped[dict[str, Any] | None]  # why it is, or is about to be, where: by blanket
    level: Mapped[str] = mapped_column(server_default="open", default="open")
    reason: Mapped[str] = mapped_column(default="")
    created_at: Mapped[float]


class NicRow(Base):
    """An instance's port on a network: its MAC and IP stay as it moves."""

    __tablename__ = "nics"
    __table_args__ = (UniqueConstraint("network", "ip"), UniqueConstraint("network", "mac"))
    instance: Mapped[str] = mapped_column(ForeignKey("instances.id", ondelete="CASCADE"), primary_key=True)
    network: Mapped[str] = mapped_column(ForeignKey("networks.id"), primary_key=True)
    cloud: Mapped[str] = mapped_column(ForeignKey("clouds.id"), index=True)
    position: Mapped[int]
    mac: Mapped[str]
    ip: Mapped[str]


class Volume(Base):
    __tablename__ = "volumes"
    __table_args__ = (UniqueConstraint("cloud", "name"),)
    id: Mapped[str] = mapped_column(primary_key=True)
    cloud: Mapped[str] = mapped_column(ForeignKey("clouds.id"))
    name: Mapped[str]
    size_bytes: Mapped[int]
    image: Mapped[str | None] = mapped_column(ForeignKey("images.id"))
    instance: Mapped[str | None] = mapped_column(ForeignKey("instances.id"), index=True)
    position: Mapped[int] = mapped_column(default=0)  # among its instance's disks; 0 boots
    wanted_on: Mapped[str | None] = mapped_column(ForeignKey("blankets.id", ondelete="SET NULL"))
    snapshots: Mapped[list[str]]
    level: Mapped[str] = mapped_column(server_default="open", default="open")  # 0 has its instance's
    created_at: Mapped[float]
    lost: Mapped[str | None]  # why nobody has its data any more


class VolumeCopy(Base):
    """One blanket's copy of a volume, with a key of its own.

    `current`: the copy that is the volume. `made`: its blanket has made it, so it is there or lost.
    """

    __tablename__ = "volume_copies"
    __table_args__ = (
        Index(
            "uq_volume_copies_current",
            "volume",
            unique=True,
            sqlite_where=text("current"),
            postgresql_where=text("current"),
        ),
    )
    id: Mapped[str] = mapped_column(primary_key=True)
    volume: Mapped[str] = mapped_column(ForeignKey("volumes.id", ondelete="CASCADE"), index=True)
    cloud: Mapped[str] = mapped_column(ForeignKey("clouds.id"))
    blanket: Mapped[str] = mapped_column(ForeignKey("blankets.id"), index=True)
    operation: Mapped[str | None]  # the migration that it was made for
    current: Mapped[bool]
    made: Mapped[bool] = mapped_column(server_default=false())


class Published(Base):
    __tablename__ = "published"
    at: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    cloud: Mapped[str] = mapped_column(ForeignKey("clouds.id"))
    instance: Mapped[str] = mapped_column(ForeignKey("instances.id", ondelete="CASCADE"), index=True)
    port: Mapped[int]


class Right(Base):
    """model.right.RightRecord, the terms it was made under, and what idempotence needs."""

    __tablename__ = "rights"
    instance: Mapped[str] = mapped_column(primary_key=True)
    cloud: Mapped[str]
    epoch: Mapped[int] = mapped_column(default=0)
    holder: Mapped[str | None] = mapped_column(index=True)
    expires_at: Mapped[float] = mapped_column(default=0.0)
    nonce: Mapped[str | None]
    last_request: Mapped[str | None]
    last_consumed: Mapped[str | None]
    hold: Mapped[bool] = mapped_column(default=False)
    length_s: Mapped[float]
    margin_s: Mapped[float]
    grace_s: Mapped[float]
    renew_every_s: Mapped[float]
    issued_for: Mapped[str | None]  # the operation whose right this is
    #: The store came back and may miss what was committed last: see services.store.rights.
    unsure: Mapped[bool] = mapped_column(default=False)


class MigrationRow(Base):
    """The row that commit and abort compete for."""

    __tablename__ = "migrations"
    __table_args__ = (
        Index(
            "uq_migrations_open",
            "instance",
            unique=True,
            sqlite_where=text("verdict = 'open'"),
            postgresql_where=text("verdict = 'open'"),
        ),
    )
    operation: Mapped[str] = mapped_column(primary_key=True)
    instance: Mapped[str]
    source: Mapped[str]
    target: Mapped[str]
    epoch: Mapped[int]
    verdict: Mapped[str]


class Operation(Base):
    """What users see of a durable operation. `intent` is its input: ids and sizes, never a secret."""

    __tablename__ = "operations"
    __table_args__ = (
        Index(
            "uq_operations_open_key",
            "join_key",
            unique=True,
            sqlite_where=text("ended_at IS NULL"),
            postgresql_where=text("ended_at IS NULL"),
        ),
        Index("ix_operations_created_at_id", "created_at", "id"),
    )
    id: Mapped[str] = mapped_column(primary_key=True)
    cloud: Mapped[str | None]
    kind: Mapped[str]
    object: Mapped[str] = mapped_column(index=True)
    object_name: Mapped[str]
    parent: Mapped[str | None] = mapped_column(index=True)  # the operation that it is a part of
    intent: Mapped[dict[str, Any]]
    #: Two open operations never share one: asking again joins, and one object is not pulled two ways.
    join_key: Mapped[str]
    state: Mapped[str]
    cancel_asked: Mapped[bool] = mapped_column(default=False)
    phase: Mapped[str] = mapped_column(default="")
    done: Mapped[float | None]
    error: Mapped[dict[str, Any] | None]
    result: Mapped[dict[str, Any] | None]
    created_at: Mapped[float]
    ended_at: Mapped[float | None]


class Trust(Base):
    """model.trust.Relation. `root`: the first of those that it descends from, or itself; `origin`: its cloud.

    Whoever changes anything of what descends from a root has the root's row locked.
    """

    __tablename__ = "trust_relations"
    __table_args__ = (Index("ix_trust_relations_created_at_id", "created_at", "id"),)
    id: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    cloud: Mapped[str] = mapped_column(ForeignKey("clouds.id"), index=True)
    to: Mapped[str] = mapped_column(ForeignKey("clouds.id"), index=True)
    #: What it is about: of kind share-image.
    image: Mapped[str | None] = mapped_column(ForeignKey("images.id"), index=True)
    #: The same of kinds place and migrate-to.
    blanket: Mapped[str | None] = mapped_column(ForeignKey("blankets.id"), index=True)
    #: The same of kind connect, and the trusted cloud's, whose instances may begin connections to it. Of the
    #: other kinds it is about the cloud where it began.
    network: Mapped[str | None] = mapped_column(ForeignKey("networks.id"), index=True)
    to_network: Mapped[str | None] = mapped_column(ForeignKey("networks.id"), index=True)
    reactions: Mapped[list[str] | None]  # of kind order-reactions: model.orders.Reaction
    parent: Mapped[str | None] = mapped_column(ForeignKey("trust_relations.id", ondelete="CASCADE"))
    root: Mapped[str] = mapped_column(index=True)
    origin: Mapped[str] = mapped_column(ForeignKey("clouds.id"), index=True)
    depth: Mapped[int]
    delegable: Mapped[bool]
    created_at: Mapped[float]
    expires_at: Mapped[float]
    revoked_at: Mapped[float | None]


class EventRow(Base):
    """What agents reported, once each."""

    __tablename__ = "events"
    __table_args__ = (
        Index("ix_events_blanket_seq", "blanket", "seq"),
        Index("ix_events_received_at_id", "received_at", "id"),
    )
    blanket: Mapped[str] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(primary_key=True)
    cloud: Mapped[str]
    seq: Mapped[int]
    kind: Mapped[str]
    at: Mapped[float]
    data: Mapped[dict[str, Any]]
    received_at: Mapped[float]


class Answer(Base):
    """How a request was answered that said by a key of its own that it might come again.

    `made`: what its transactions made so far; `status` is None until it is answered by the control plane that
    took it, in its `run`.
    """

    __tablename__ = "answers"
    principal: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    fingerprint: Mapped[str]
    run: Mapped[str]
    begun_at: Mapped[float] = mapped_column(index=True)
    made: Mapped[list[str] | None]
    status: Mapped[int | None]
    media_type: Mapped[str | None]
    body: Mapped[str | None]
