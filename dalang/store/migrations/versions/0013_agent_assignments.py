"""What agents that ask for work were given, and the role of their tokens."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_ROLES = "roles <@ ARRAY['viewer', 'operator', 'approver', 'admin'{}]::text[]"


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), nullable=False)


def _when(name: str) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True))


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "agent_assignments",
        sa.Column("assignment_id", sa.Uuid(), nullable=False),
        _text("tenant_id"),
        sa.Column("run_id", sa.Uuid(), nullable=False),
        *(_text(name) for name in ("node_id", "key", "agent_tenant", "agent_id")),
        sa.Column("state", sa.Text(), nullable=False, server_default=sa.text("'PENDING'")),
        sa.Column("task", postgresql.JSONB()),
        sa.Column("token_hash", sa.Text()),
        sa.Column("alive_seconds", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("now()")),
        *(_when(name) for name in ("taken_at", "alive_at")),
        sa.Column("progress", postgresql.JSONB()),
        sa.Column("outcome", postgresql.JSONB()),
        sa.Column("reason", sa.Text()),
        *(_when(name) for name in ("ended_at", "delivered_at")),
        sa.PrimaryKeyConstraint("assignment_id", name="pk_agent_assignments"),
        sa.UniqueConstraint("token_hash", name="uq_agent_assignments_token_hash"),
        sa.ForeignKeyConstraint(
            ["tenant_id", "run_id"],
            ["execution_runs.tenant_id", "execution_runs.run_id"],
            name="fk_agent_assignments_execution_runs",
            ondelete="CASCADE",
        ),
        sa.CheckConstraint(
            "state IN ('PENDING', 'TAKEN', 'COMPLETED', 'FAILED', 'WITHDRAWN')",
            name=op.f("ck_agent_assignments_state"),
        ),
        sa.CheckConstraint("alive_seconds > 0", name=op.f("ck_agent_assignments_numbers")),
        sa.CheckConstraint(
            "(state IN ('PENDING', 'TAKEN')) = (ended_at IS NULL)", name=op.f("ck_agent_assignments_ended")
        ),
        sa.CheckConstraint(
            "state <> 'TAKEN' OR (taken_at IS NOT NULL AND alive_at IS NOT NULL)",
            name=op.f("ck_agent_assignments_taken"),
        ),
        comment="What agents that ask for work were given: one open row for each idempotency key. Task and outcome "
        "are kept until the node has the outcome; of the token only its SHA-256.",
    )
    is_open = sa.text("state IN ('PENDING', 'TAKEN')")
    op.create_index(
        "ix_agent_assignments_open", "agent_assignments", ["tenant_id", "key"], unique=True, postgresql_where=is_open
    )
    op.create_index(
        "ix_agent_assignments_pending",
        "agent_assignments",
        ["agent_tenant", "agent_id", "created_at"],
        postgresql_where=sa.text("state = 'PENDING'"),
    )
    op.create_index("ix_agent_assignments_tenant_id_run_id_key", "agent_assignments", ["tenant_id", "run_id", "key"])
    op.drop_constraint(op.f("ck_api_tokens_roles"), "api_tokens")
    op.create_check_constraint(op.f("ck_api_tokens_roles"), "api_tokens", _ROLES.format(", 'agent'"))


def downgrade() -> None:
    """Undo."""
    op.execute("UPDATE api_tokens SET roles = array_remove(roles, 'agent')")
    op.drop_constraint(op.f("ck_api_tokens_roles"), "api_tokens")
    op.create_check_constraint(op.f("ck_api_tokens_roles"), "api_tokens", _ROLES.format(""))
    op.drop_table("agent_assignments")
