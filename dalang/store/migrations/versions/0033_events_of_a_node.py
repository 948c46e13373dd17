"""The events of one node of a run are found by an index, not among all of the run's."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0033"
down_revision = "0032"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_index(
        "ix_run_events_of_node", "run_events", ["run_id", "node_id"], postgresql_where=sa.text("node_id IS NOT NULL")
    )


def downgrade() -> None:
    """Undo."""
    op.drop_index("ix_run_events_of_node", "run_events")
