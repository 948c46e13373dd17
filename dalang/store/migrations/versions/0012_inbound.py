"""What comes from outside for waiting nodes: events without a run, who waits for which, callbacks."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), nullable=False)


def _now(name: str) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=False, server_default=sa.text("now()"))


def _when(name: str) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True))


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
        "external_events",
        *(_text(name) for name in ("tenant_id", "event_id", "name", "correlation_key")),
        sa.Column("payload", postgresql.JSONB(), nullable=False),
        _text("digest"),
        _text("created_by"),
        _now("created_at"),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("position", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "event_id", name="pk_external_events"),
        sa.CheckConstraint("digest ~ '^[0-9a-f]{64}$'", name=op.f("ck_external_events_digest")),
        comment="Events that were sent to whoever waits for them: delivered to every run that waits before they "
        "expire.",
    )
    op.create_index(
        "ix_external_events_tenant_id_name_correlation_key",
        "external_events",
        ["tenant_id", "name", "correlation_key"],
    )
    op.create_index("ix_external_events_expires_at", "external_events", ["expires_at"])
    op.create_table(
        "event_waits",
        _text("tenant_id"),
        sa.Column("run_id", sa.Uuid(), nullable=False),
        *(_text(name) for name in ("node_id", "name", "correlation_key")),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "run_id", "node_id", name="pk_event_waits"),
        _of_run("event_waits"),
        comment="Read model: which node began to wait for which event, with which of its events. It waits as long as "
        "that is the newest event of the node.",
    )
    op.create_index(
        "ix_event_waits_tenant_id_name_correlation_key", "event_waits", ["tenant_id", "name", "correlation_key"]
    )
    op.create_table(
        "event_deliveries",
        _text("tenant_id"),
        _text("event_id"),
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        _now("created_at"),
        _when("delivered_at"),
        sa.PrimaryKeyConstraint("tenant_id", "event_id", "run_id", "epoch", name="pk_event_deliveries"),
        sa.ForeignKeyConstraint(
            ["tenant_id", "event_id"],
            ["external_events.tenant_id", "external_events.event_id"],
            name="fk_event_deliveries_external_events",
            ondelete="CASCADE",
        ),
        _of_run("event_deliveries"),
        comment="Which event goes to which run (once in each epoch of it); sent again until Temporal has taken it.",
    )
    is_open = sa.text("delivered_at IS NULL")
    op.create_index("ix_event_deliveries_open", "event_deliveries", ["position"], postgresql_where=is_open)
    op.create_table(
        "callbacks",
        _text("token_hash"),
        sa.Column("callback_id", sa.Uuid(), nullable=False),
        _text("tenant_id"),
        sa.Column("run_id", sa.Uuid(), nullable=False),
        _text("node_id"),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        _now("created_at"),
        _when("closed_at"),
        _when("called_at"),
        sa.Column("answer", postgresql.JSONB()),
        _when("delivered_at"),
        sa.PrimaryKeyConstraint("token_hash", name="pk_callbacks"),
        sa.UniqueConstraint("callback_id", name="uq_callbacks_callback_id"),
        _of_run("callbacks"),
        sa.CheckConstraint("token_hash ~ '^[0-9a-f]{64}$'", name=op.f("ck_callbacks_token_hash")),
        sa.CheckConstraint("generation >= 0 AND attempt > 0", name=op.f("ck_callbacks_numbers")),
        sa.CheckConstraint(
            "called_at IS NULL OR (answer IS NOT NULL AND closed_at IS NOT NULL)", name=op.f("ck_callbacks_called")
        ),
        comment="Addresses that services call back, one per attempt of a node; only the SHA-256 of a token is stored. "
        "One call closes all of its node's generation that there are by then.",
    )
    op.create_index(
        "ix_callbacks_tenant_id_run_id_node_id_generation",
        "callbacks",
        ["tenant_id", "run_id", "node_id", "generation"],
    )
    undelivered = sa.text("called_at IS NOT NULL AND delivered_at IS NULL")
    op.create_index("ix_callbacks_undelivered", "callbacks", ["called_at"], postgresql_where=undelivered)


def downgrade() -> None:
    """Undo."""
    for table in ("callbacks", "event_deliveries", "event_waits", "external_events"):
        op.drop_table(table)
