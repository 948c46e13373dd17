"""How Alembic reaches the database: over the connection that ``dalang.store.migrate`` opened, in its transaction."""

from __future__ import annotations

from alembic import context

from dalang.store import admission_tables, inbound_tables  # noqa: F401 - they are part of the metadata
from dalang.store.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
