"""Lists of what somebody started that show runs below nodes, too, have an index for these."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0036"
down_revision = "0035"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_index(
        "ix_execution_runs_creator_children",
        "execution_runs",
        ["tenant_id", "created_by", "created_at", "run_id"],
        postgresql_where=sa.text("parent_run_id IS NOT NULL"),
    )


def downgrade() -> None:
    """Undo."""
    op.drop_index("ix_execution_runs_creator_children", "execution_runs")
