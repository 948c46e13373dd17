"""The events of one node of a run, and those of no node, are found by an index, not among all of the run's."""

from __future__ import annotations

from alembic import op

revision = "0033"
down_revision = "0032"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_index("ix_run_events_of_node", "run_events", ["run_id", "node_id"])


def downgrade() -> None:
    """Undo."""
    op.drop_index("ix_run_events_of_node", "run_events")
