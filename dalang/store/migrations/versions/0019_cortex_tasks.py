"""Tasks of a Cortex that stand for runs and nodes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "cortex_tasks",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("node_id", sa.Text(), nullable=False),
        sa.Column("task_id", sa.Text()),
        sa.Column("told", sa.Text(), nullable=False, server_default=sa.text("''")),
        sa.Column("head_epoch", sa.Integer(), nullable=False, server_default=sa.text("0")),
        sa.Column("head_seq", sa.BigInteger(), nullable=False, server_default=sa.text("0")),
        sa.Column("failures", sa.Integer(), nullable=False, server_default=sa.text("0")),
        sa.Column("again_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("now()")),
        sa.Column("ended_at", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("run_id", "node_id", name="pk_cortex_tasks"),
        sa.ForeignKeyConstraint(
            ["tenant_id", "run_id"],
            ["execution_runs.tenant_id", "execution_runs.run_id"],
            name="fk_cortex_tasks_execution_runs",
            ondelete="CASCADE",
        ),
        sa.CheckConstraint("failures >= 0", name=op.f("ck_cortex_tasks_failures")),
        comment="Tasks of a Cortex that stand for runs (an empty node_id) and their nodes; `told` is what it was told "
        "last. The row of a run says up to which event it was told, and when it is looked at again.",
    )


def downgrade() -> None:
    """Undo."""
    op.drop_table("cortex_tasks")
