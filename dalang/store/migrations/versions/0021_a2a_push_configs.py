"""Where A2A clients want to be told of a task."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "a2a_push_configs",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("config_id", sa.Text(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("token", sa.Text()),
        sa.Column("scheme", sa.Text()),
        sa.Column("credentials", sa.Text()),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("now()")),
        sa.Column("sent_epoch", sa.Integer(), nullable=False, server_default=sa.text("0")),
        sa.Column("sent_seq", sa.BigInteger(), nullable=False, server_default=sa.text("0")),
        sa.Column("attempts", sa.Integer(), nullable=False, server_default=sa.text("0")),
        sa.Column("last_error", sa.Text()),
        sa.Column("due_at", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("tenant_id", "run_id", "config_id", name="pk_a2a_push_configs"),
        sa.ForeignKeyConstraint(
            ["tenant_id", "run_id"],
            ["execution_runs.tenant_id", "execution_runs.run_id"],
            name="fk_a2a_push_configs_execution_runs",
            ondelete="CASCADE",
        ),
        comment="Where A2A clients want to be told of a task, and how far they were. Whoever tells one moves due_at "
        "ahead meanwhile; null: its run has ended, or it was tried too often.",
    )
    op.create_index(
        "ix_a2a_push_configs_due", "a2a_push_configs", ["due_at"], postgresql_where=sa.text("due_at IS NOT NULL")
    )


def downgrade() -> None:
    """Undo."""
    op.drop_table("a2a_push_configs")
