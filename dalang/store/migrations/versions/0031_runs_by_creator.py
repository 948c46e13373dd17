"""Lists of what somebody started show no runs below nodes: their index holds none."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0031"
down_revision = "0030"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_index(
        "ix_execution_runs_creator",
        "execution_runs",
        ["tenant_id", "created_by", "created_at", "run_id"],
        postgresql_where=sa.text("parent_run_id IS NULL"),
    )
    op.drop_index("ix_execution_runs_tenant_id_created_by_created_at", "execution_runs")


def downgrade() -> None:
    """Undo."""
    op.create_index(
        "ix_execution_runs_tenant_id_created_by_created_at", "execution_runs", ["tenant_id", "created_by", "created_at"]
    )
    op.drop_index("ix_execution_runs_creator", "execution_runs")
