"""Alembic's entry: always with a connection that the caller opened and commits."""

from __future__ import annotations

from alembic import context

from supercloud.services.store.tables import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
