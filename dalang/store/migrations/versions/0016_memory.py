"""Episodes, and sessions in which nodes work apart."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from dalang.store.columns import TransactionId

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), nullable=False)


def _when(name: str, nullable: bool = True) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def _of_run(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["tenant_id", "run_id"],
        ["execution_runs.tenant_id", "execution_runs.run_id"],
        name=f"fk_{table}_execution_runs",
        ondelete="CASCADE",
    )


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "episodes",
        _text("tenant_id"),
        sa.Column("run_id", sa.Uuid(), nullable=False),
        *(_text(name) for name in ("node_id", "name", "type", "plan_name", "outcome")),
        _when("started_at"),
        _when("ended_at", nullable=False),
        sa.Column("search", postgresql.TSVECTOR(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", "node_id", name="pk_episodes"),
        _of_run("episodes"),
        sa.CheckConstraint("outcome IN ('SUCCESS', 'ERROR', 'FAILED')", name=op.f("ck_episodes_outcome")),
        comment="Past executions of nodes as they are looked up by name, outcome and inputs; made from events of the "
        "run when somebody of the tenant asks. What went in and out is read from the events.",
    )
    op.create_index("ix_episodes_search", "episodes", ["search"], postgresql_using="gin")
    op.create_index("ix_episodes_tenant_id_ended_at", "episodes", ["tenant_id", "ended_at"])
    op.create_table(
        "episode_cursors",
        _text("tenant_id"),
        sa.Column("transaction_id", TransactionId(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", name="pk_episode_cursors"),
        comment="Up to which event the executions of a tenant are remembered; no row: nobody has asked yet.",
    )
    op.create_table(
        "memory_sessions",
        sa.Column("session_id", sa.Uuid(), nullable=False),
        _text("tenant_id"),
        sa.Column("run_id", sa.Uuid(), nullable=False),
        *(_text(name) for name in ("node_id", "key", "kind")),
        sa.Column("state", sa.Text(), nullable=False, server_default=sa.text("'OPEN'")),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("claims", sa.Integer(), nullable=False, server_default=sa.text("0")),
        sa.Column("place", postgresql.JSONB(), nullable=False, server_default=sa.text("'{}'::jsonb")),
        sa.Column("outputs", postgresql.JSONB()),
        sa.Column("report", postgresql.JSONB()),
        sa.Column("opened_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("now()")),
        _when("ended_at"),
        _when("closed_at"),
        sa.PrimaryKeyConstraint("session_id", name="pk_memory_sessions"),
        _of_run("memory_sessions"),
        sa.CheckConstraint("kind IN ('git', 'cortex')", name=op.f("ck_memory_sessions_kind")),
        sa.CheckConstraint("state IN ('OPEN', 'MERGING', 'MERGED', 'CLOSED')", name=op.f("ck_memory_sessions_state")),
        sa.CheckConstraint(
            "(state IN ('OPEN', 'MERGING')) = (ended_at IS NULL)", name=op.f("ck_memory_sessions_ended")
        ),
        sa.CheckConstraint("closed_at IS NULL OR ended_at IS NOT NULL", name=op.f("ck_memory_sessions_closed")),
        comment="Where nodes work apart: worktrees and sessions of a Cortex. `place` is where it is, `outputs` are the "
        "node's from the moment its changes are merged, so that a merge is never followed by the same work again.",
    )
    op.create_index("ix_memory_sessions_tenant_id_key", "memory_sessions", ["tenant_id", "key"])
    op.create_index(
        "ix_memory_sessions_not_closed",
        "memory_sessions",
        ["opened_at"],
        postgresql_where=sa.text("closed_at IS NULL"),
    )


def downgrade() -> None:
    """Undo."""
    op.drop_table("memory_sessions")
    op.drop_table("episode_cursors")
    op.drop_table("episodes")
