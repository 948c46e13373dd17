"""What handlers logged."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0034"
down_revision = "0033"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "node_logs",
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("position", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("node_id", sa.Text(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("level", sa.Text(), nullable=False),
        sa.Column("logger", sa.Text(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("error", sa.Text()),
        sa.PrimaryKeyConstraint("run_id", "position", name="pk_node_logs"),
        sa.ForeignKeyConstraint(
            ["tenant_id", "run_id"],
            ["execution_runs.tenant_id", "execution_runs.run_id"],
            name="fk_node_logs_execution_runs",
            ondelete="CASCADE",
        ),
        comment="What handlers logged, a row for each line, in the order in which the lines of a run came here.",
    )
    op.create_index("ix_node_logs_run_id_node_id_position", "node_logs", ["run_id", "node_id", "position"])


def downgrade() -> None:
    """Undo."""
    op.drop_table("node_logs")
