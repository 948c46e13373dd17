"""Human tasks: the inbox, what happened to each task, and groups of the people whom tokens belong to."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_OPEN = sa.text("completed_at IS NULL")


def upgrade() -> None:
    """Apply."""
    nothing, empty = sa.text("''"), sa.text("'[]'::jsonb")
    op.create_table(
        "human_tasks",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("task_id", sa.Uuid(), nullable=False),
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("node_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("description", sa.Text()),
        sa.Column("priority", sa.Integer(), nullable=False, server_default=sa.text("0")),
        sa.Column("assigned_to", sa.Text()),
        sa.Column("candidate_group", sa.Text()),
        sa.Column("quorum", sa.Integer(), nullable=False, server_default=sa.text("1")),
        sa.Column("four_eyes", sa.Boolean(), nullable=False, server_default=sa.text("false")),
        sa.Column("digest", sa.Text(), nullable=False, server_default=nothing),
        sa.Column("actions", postgresql.JSONB(), nullable=False, server_default=empty),
        sa.Column("form", postgresql.JSONB()),
        sa.Column("context", postgresql.JSONB()),
        sa.Column("error", postgresql.JSONB()),
        sa.Column("candidates", postgresql.JSONB()),
        sa.Column("excluded", postgresql.JSONB(), nullable=False, server_default=empty),
        sa.Column("votes", postgresql.JSONB(), nullable=False, server_default=empty),
        sa.Column("decision", postgresql.JSONB()),
        sa.Column("notes", sa.Text()),
        sa.Column("decision_id", sa.Text()),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True)),
        sa.Column("remind_at", sa.DateTime(timezone=True)),
        sa.Column("reminded_at", sa.DateTime(timezone=True)),
        sa.Column("escalate_at", sa.DateTime(timezone=True)),
        sa.Column("escalated_at", sa.DateTime(timezone=True)),
        sa.Column("completed_at", sa.DateTime(timezone=True)),
        sa.Column("completed_by", sa.Text()),
        sa.Column("revision_epoch", sa.Integer(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "task_id", name="pk_human_tasks"),
        sa.ForeignKeyConstraint(
            ["tenant_id", "run_id"],
            ["execution_runs.tenant_id", "execution_runs.run_id"],
            name="fk_human_tasks_execution_runs",
            ondelete="CASCADE",
        ),
        sa.CheckConstraint(
            "status IN ('PENDING', 'IN_PROGRESS', 'COMPLETED', 'CANCELLED', 'EXPIRED')",
            name=op.f("ck_human_tasks_status"),
        ),
        sa.CheckConstraint(
            "(completed_at IS NOT NULL) = (status IN ('COMPLETED', 'CANCELLED', 'EXPIRED'))",
            name=op.f("ck_human_tasks_completed_when_ended"),
        ),
        sa.CheckConstraint("quorum > 0", name=op.f("ck_human_tasks_quorum")),
        comment="What people are asked, have decided or missed: one row per task, as its newest event left it. Times "
        "are the workflow's. Goes with its run.",
    )
    inbox: list[str | sa.TextClause] = ["tenant_id", sa.text("priority DESC"), "created_at", "task_id"]
    op.create_index("ix_human_tasks_inbox", "human_tasks", inbox, postgresql_where=_OPEN)
    op.create_index("ix_human_tasks_due", "human_tasks", ["tenant_id", "due_at"], postgresql_where=_OPEN)
    for columns in (
        ["tenant_id", "assigned_to", "created_at"],
        ["tenant_id", "status", "candidate_group"],
        ["tenant_id", "created_at", "task_id"],
        ["tenant_id", "run_id", "created_at"],
    ):
        op.create_index("ix_human_tasks_" + "_".join(columns), "human_tasks", columns)
    task = sa.text("(data ->> 'task')")
    is_of_task = sa.text("(data ->> 'task') IS NOT NULL")
    op.create_index("ix_run_events_of_task", "run_events", ["run_id", task], postgresql_where=is_of_task)
    texts = postgresql.ARRAY(sa.Text())
    op.add_column("api_tokens", sa.Column("groups", texts, nullable=False, server_default=sa.text("'{}'::text[]")))


def downgrade() -> None:
    """Undo."""
    op.drop_column("api_tokens", "groups")
    op.drop_index("ix_run_events_of_task", "run_events")
    op.drop_table("human_tasks")
