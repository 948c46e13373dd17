"""Indexes of a run's events that can be used for nothing but what they are for.

A foreign key looks for an event by all of its key. Where a session first did so in an almost empty table, any index
that begins with the run was as good to PostgreSQL as the key itself, and it kept to that while the run grew: each body
that was stored read all events of its run before it.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0035"
down_revision = "0034"
branch_labels = None
depends_on = None

OF_NODE, OF_RUN = "ix_run_events_of_node", "ix_run_events_of_run"


def upgrade() -> None:
    """Apply."""
    op.drop_index(OF_NODE, "run_events")
    op.create_index(OF_NODE, "run_events", ["run_id", "node_id"], postgresql_where=sa.text("node_id IS NOT NULL"))
    op.create_index(OF_RUN, "run_events", ["run_id"], postgresql_where=sa.text("node_id IS NULL"))


def downgrade() -> None:
    """Undo."""
    op.drop_index(OF_RUN, "run_events")
    op.drop_index(OF_NODE, "run_events")
    op.create_index(OF_NODE, "run_events", ["run_id", "node_id"])
