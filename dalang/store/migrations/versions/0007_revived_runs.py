"""Runs that begin with what another run came to (redrive, undo of a terminated run), and checkpoints of runs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.add_column("execution_runs", sa.Column("root_run_id", sa.Uuid()))
    op.add_column("execution_runs", sa.Column("redrive_of", sa.Uuid()))
    op.add_column("execution_runs", sa.Column("undo_of", sa.Uuid()))
    op.add_column("execution_runs", sa.Column("origin", postgresql.JSONB()))
    for column in ("redrive_of", "undo_of"):
        name = f"uq_execution_runs_tenant_id_{column}"
        op.create_unique_constraint(name, "execution_runs", ["tenant_id", column])
    op.create_table(
        "run_checkpoints",
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("node_status_counts", postgresql.JSONB(), nullable=False, server_default=sa.text("'{}'::jsonb")),
        sa.Column("note", sa.Text(), nullable=False, server_default=sa.text("''")),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("now()")),
        sa.PrimaryKeyConstraint("run_id", "name", name="pk_run_checkpoints"),
        sa.ForeignKeyConstraint(
            ["tenant_id", "run_id"],
            ["execution_runs.tenant_id", "execution_runs.run_id"],
            name="fk_run_checkpoints_execution_runs",
            ondelete="CASCADE",
        ),
        sa.CheckConstraint("epoch >= 0 AND seq >= 0", name=op.f("ck_run_checkpoints_numbers")),
        comment="Named points in the chains of runs, from which a redrive can start: a point is all, as events do not "
        "change.",
    )


def downgrade() -> None:
    """Undo."""
    op.drop_table("run_checkpoints")
    for column in ("redrive_of", "undo_of"):
        op.drop_constraint(f"uq_execution_runs_tenant_id_{column}", "execution_runs")
    for column in ("root_run_id", "redrive_of", "undo_of", "origin"):
        op.drop_column("execution_runs", column)
