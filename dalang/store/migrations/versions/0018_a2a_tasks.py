"""Tasks of the A2A agent: contexts, messages, and which request made which run."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def _of_run(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["tenant_id", "run_id"],
        ["execution_runs.tenant_id", "execution_runs.run_id"],
        name=f"fk_{table}_execution_runs",
        ondelete="CASCADE",
    )


def _now() -> sa.Column[object]:
    return sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("now()"))


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "a2a_tasks",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("context_id", sa.Text(), nullable=False),
        sa.Column("request_digest", sa.Text(), nullable=False),
        sa.Column("answered", sa.Boolean(), nullable=False, server_default=sa.text("false")),
        _now(),
        sa.PrimaryKeyConstraint("tenant_id", "run_id", name="pk_a2a_tasks"),
        _of_run("a2a_tasks"),
        comment="Runs that A2A messages started. request_digest is that of sender and message: while the sender has "
        "not acted on the task (answered), the same message again is the same task. Goes with its run.",
    )
    op.create_index(
        "ix_a2a_tasks_tenant_id_context_id_created_at", "a2a_tasks", ["tenant_id", "context_id", "created_at"]
    )
    op.create_index("ix_a2a_tasks_tenant_id_request_digest", "a2a_tasks", ["tenant_id", "request_digest"])
    op.create_table(
        "a2a_messages",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("position", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("message_id", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("message", postgresql.JSONB(), nullable=False),
        _now(),
        sa.PrimaryKeyConstraint("tenant_id", "run_id", "position", name="pk_a2a_messages"),
        sa.UniqueConstraint(
            "tenant_id", "run_id", "role", "message_id", name="uq_a2a_messages_tenant_id_run_id_role_message_id"
        ),
        _of_run("a2a_messages"),
        sa.CheckConstraint("role IN ('user', 'agent')", name=op.f("ck_a2a_messages_role")),
        comment="What A2A clients and the agent said to each other about a run, in order. Goes with its run.",
    )


def downgrade() -> None:
    """Undo."""
    for table in ("a2a_messages", "a2a_tasks"):
        op.drop_table(table)
