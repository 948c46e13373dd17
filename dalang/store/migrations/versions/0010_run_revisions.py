"""Revisions of the plans of runs that went on with another one."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "run_revisions",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("plan_digest", sa.Text(), nullable=False),
        sa.Column("operator", sa.Text()),
        sa.Column("reason", sa.Text()),
        sa.Column("changes", postgresql.JSONB(), nullable=False, server_default=sa.text("'{}'::jsonb")),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("epoch", sa.Integer()),
        sa.Column("seq", sa.BigInteger()),
        sa.PrimaryKeyConstraint("tenant_id", "run_id", "revision", name="pk_run_revisions"),
        sa.ForeignKeyConstraint(
            ["tenant_id", "run_id"],
            ["execution_runs.tenant_id", "execution_runs.run_id"],
            name="fk_run_revisions_execution_runs",
            ondelete="CASCADE",
        ),
        sa.CheckConstraint("revision > 0", name=op.f("ck_run_revisions_revision")),
        sa.CheckConstraint(
            "(revision = 1) = (seq IS NULL) AND (seq IS NULL) = (epoch IS NULL)", name=op.f("ck_run_revisions_event")
        ),
        comment="The plans of a run whose plan changed while it went on, the first one included: what the events "
        "PLAN_REVISED say. Goes with its run.",
    )


def downgrade() -> None:
    """Undo."""
    op.drop_table("run_revisions")
