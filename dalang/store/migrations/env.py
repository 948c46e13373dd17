"""How Alembic reaches the database: over the connection that ``dalang.store.migrate`` opened, in its transaction."""

from __future__ import annotations

from alembic import context

from dalang.store.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
