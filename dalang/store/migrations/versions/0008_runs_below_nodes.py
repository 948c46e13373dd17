"""Runs below nodes (sub-plans, maps, loops): which run and node each is below."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    for column in (
        sa.Column("parent_run_id", sa.Uuid()),
        sa.Column("parent_node_id", sa.Text()),
        sa.Column("top_run_id", sa.Uuid()),
        sa.Column("iteration", sa.Integer()),
        sa.Column("elements", sa.Integer()),
    ):
        op.add_column("execution_runs", column)
    op.create_check_constraint(
        op.f("ck_execution_runs_child_is_linked"),
        "execution_runs",
        "(parent_run_id IS NULL) = (parent_node_id IS NULL) AND (parent_run_id IS NULL) = (top_run_id IS NULL)",
    )
    op.create_index("ix_execution_runs_children", "execution_runs", ["tenant_id", "parent_run_id", "parent_node_id"])
    op.create_index(
        "ix_execution_runs_roots",
        "execution_runs",
        ["tenant_id", "created_at", "run_id"],
        postgresql_where=sa.text("parent_run_id IS NULL"),
    )


def downgrade() -> None:
    """Undo."""
    op.drop_index("ix_execution_runs_roots", "execution_runs")
    op.drop_index("ix_execution_runs_children", "execution_runs")
    op.drop_constraint(op.f("ck_execution_runs_child_is_linked"), "execution_runs")
    for name in ("parent_run_id", "parent_node_id", "top_run_id", "iteration", "elements"):
        op.drop_column("execution_runs", name)
