"""What handlers leave for the attempt that goes on with their work."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "node_checkpoints",
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("node_id", sa.Text(), nullable=False),
        sa.Column("iteration", sa.Integer(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("begun", sa.DateTime(timezone=True), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("saved_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", "node_id", "iteration", "generation", name=op.f("pk_node_checkpoints")),
        sa.ForeignKeyConstraint(
            ["tenant_id", "run_id"],
            ["execution_runs.tenant_id", "execution_runs.run_id"],
            name=op.f("fk_node_checkpoints_execution_runs"),
            ondelete="CASCADE",
        ),
        sa.CheckConstraint(
            "iteration >= 0 AND generation >= 0 AND attempt > 0 AND number > 0 AND size >= 0",
            name=op.f("ck_node_checkpoints_numbers"),
        ),
        comment="The last state that a node's handler left, by what it works on; (begun, number) says which is newer.",
    )


def downgrade() -> None:
    """Undo."""
    op.drop_table("node_checkpoints")
