"""Schedules, and finding the runs that one of them started."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "schedules",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("schedule_id", sa.Text(), nullable=False),
        sa.Column("key", sa.Uuid(), nullable=False),
        sa.Column("plan_id", sa.Uuid(), nullable=False),
        sa.Column("plan_version", sa.Text()),
        sa.Column("inputs", postgresql.JSONB(), nullable=False, server_default=sa.text("'{}'::jsonb")),
        sa.Column("metadata", postgresql.JSONB(), nullable=False, server_default=sa.text("'{}'::jsonb")),
        sa.Column("priority", sa.Integer()),
        sa.Column("timing", postgresql.JSONB(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False, server_default=sa.text("''")),
        sa.Column("paused", sa.Boolean(), nullable=False, server_default=sa.text("false")),
        sa.Column("revision", sa.Integer(), nullable=False, server_default=sa.text("1")),
        sa.Column("last_error", postgresql.JSONB()),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("now()")),
        sa.Column("updated_by", sa.Text(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("now()")),
        sa.PrimaryKeyConstraint("tenant_id", "schedule_id", name="pk_schedules"),
        sa.UniqueConstraint("key", name="uq_schedules_key"),
        sa.CheckConstraint("revision > 0", name=op.f("ck_schedules_revision")),
        comment="What schedules start, and when; Temporal's schedule of the same key is made from it and keeps the "
        "time.",
    )
    op.create_index(
        "ix_execution_runs_tenant_id_created_by_created_at",
        "execution_runs",
        ["tenant_id", "created_by", "created_at"],
    )


def downgrade() -> None:
    """Undo."""
    op.drop_index("ix_execution_runs_tenant_id_created_by_created_at", "execution_runs")
    op.drop_table("schedules")
