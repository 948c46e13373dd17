"""Who is told of events."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from dalang.store.columns import TransactionId

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), nullable=False)


def _texts(name: str) -> sa.Column[list[str]]:
    return sa.Column(name, postgresql.ARRAY(sa.Text()), nullable=False, server_default=sa.text("'{}'::text[]"))


def _when(name: str) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True))


def _now(name: str) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=False, server_default=sa.text("now()"))


def _yes(name: str) -> sa.Column[bool]:
    return sa.Column(name, sa.Boolean(), nullable=False, server_default=sa.text("false"))


def _large(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), nullable=False)


def _count(name: str, kind: type[sa.Integer] = sa.Integer) -> sa.Column[int]:
    return sa.Column(name, kind(), nullable=False, server_default=sa.text("0"))


def _keys(table: str) -> tuple[sa.ForeignKeyConstraint, sa.ForeignKeyConstraint]:
    return (
        sa.ForeignKeyConstraint(
            ["subscription_id"],
            ["event_subscriptions.subscription_id"],
            name=f"fk_{table}_event_subscriptions",
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["tenant_id", "run_id"],
            ["execution_runs.tenant_id", "execution_runs.run_id"],
            name=f"fk_{table}_execution_runs",
            ondelete="CASCADE",
        ),
    )


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "event_subscriptions",
        sa.Column("subscription_id", sa.Uuid(), nullable=False),
        *(_text(name) for name in ("tenant_id", "name", "kind")),
        _yes("all_tenants"),
        sa.Column("description", sa.Text(), nullable=False, server_default=sa.text("''")),
        sa.Column("target", postgresql.JSONB(), nullable=False),
        *(_texts(name) for name in ("types", "plans")),
        sa.Column("filter", sa.Text()),
        _yes("payloads"),
        sa.Column("max_attempts", sa.Integer(), nullable=False),
        *(_large(name) for name in ("initial_delay_ms", "max_delay_ms", "give_up_ms")),
        *(_now(name) for name in ("since", "active_since")),
        _when("paused_at"),
        *(sa.Column(name, sa.Text()) for name in ("paused_by", "paused_reason")),
        sa.Column("secrets", postgresql.JSONB(), nullable=False, server_default=sa.text("'[]'::jsonb")),
        sa.Column("ping", postgresql.JSONB()),
        *(_count(name, sa.BigInteger) for name in ("delivered", "failures")),
        *(_when(name) for name in ("last_delivered_at", "last_error_at")),
        *(sa.Column(name, sa.Text()) for name in ("last_error", "last_error_event")),
        _text("created_by"),
        _now("created_at"),
        _text("updated_by"),
        _now("updated_at"),
        sa.PrimaryKeyConstraint("subscription_id", name="pk_event_subscriptions"),
        sa.UniqueConstraint("tenant_id", "name", name="uq_event_subscriptions_tenant_id_name"),
        sa.CheckConstraint("kind IN ('webhook', 'kafka', 'nats')", name=op.f("ck_event_subscriptions_kind")),
        sa.CheckConstraint("NOT all_tenants OR kind <> 'webhook'", name=op.f("ck_event_subscriptions_all_tenants")),
        sa.CheckConstraint("(paused_at IS NULL) = (paused_by IS NULL)", name=op.f("ck_event_subscriptions_paused")),
        sa.CheckConstraint(
            "max_attempts > 0 AND initial_delay_ms > 0 AND max_delay_ms >= initial_delay_ms AND give_up_ms > 0",
            name=op.f("ck_event_subscriptions_retries"),
        ),
        comment="Who is told of events of a tenant: where, of which events, and how it went. Empty types and plans "
        "mean all; what was recorded before since is not told.",
    )
    op.create_table(
        "event_publications",
        sa.Column("subscription_id", sa.Uuid(), nullable=False),
        sa.Column("run_id", sa.Uuid(), nullable=False),
        _text("tenant_id"),
        _count("sent_epoch"),
        _count("sent_seq", sa.BigInteger),
        _when("since"),
        _now("begun_at"),
        _count("marked", sa.BigInteger),
        *(_when(name) for name in ("due_at", "waiting_since")),
        _count("attempts"),
        _when("failing_since"),
        sa.Column("claim", sa.Uuid()),
        _when("claimed_until"),
        sa.PrimaryKeyConstraint("subscription_id", "run_id", name="pk_event_publications"),
        *_keys("event_publications"),
        sa.CheckConstraint(
            "sent_epoch >= 0 AND sent_seq >= 0 AND attempts >= 0", name=op.f("ck_event_publications_numbers")
        ),
        sa.CheckConstraint("(claim IS NULL) = (claimed_until IS NULL)", name=op.f("ck_event_publications_claim")),
        comment="How far a run's events were told to a subscription. Whoever tells it has the row claimed, and nobody "
        "else tells that subscription of that run meanwhile. marked counts how often there was something new.",
    )
    op.create_index(
        "ix_event_publications_due",
        "event_publications",
        ["subscription_id", "due_at"],
        postgresql_where=sa.text("due_at IS NOT NULL"),
    )
    op.create_index(op.f("ix_event_publications_tenant_id_run_id"), "event_publications", ["tenant_id", "run_id"])
    op.create_table(
        "event_dead_letters",
        sa.Column("subscription_id", sa.Uuid(), nullable=False),
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        _large("seq"),
        *(_text(name) for name in ("tenant_id", "type")),
        sa.Column("attempts", sa.Integer(), nullable=False),
        _text("error"),
        _now("dead_at"),
        _when("redeliver_at"),
        sa.PrimaryKeyConstraint("subscription_id", "run_id", "epoch", "seq", name="pk_event_dead_letters"),
        *_keys("event_dead_letters"),
        comment="Events that a subscription could not be told of. They are told when somebody asks for it "
        "(redeliver_at).",
    )
    op.create_index(
        op.f("ix_event_dead_letters_subscription_id_dead_at"), "event_dead_letters", ["subscription_id", "dead_at"]
    )
    op.create_index(op.f("ix_event_dead_letters_tenant_id_run_id"), "event_dead_letters", ["tenant_id", "run_id"])
    feed = op.create_table(
        "event_feed",
        _text("name"),
        sa.Column("transaction_id", TransactionId(), nullable=False),
        _large("position"),
        _now("moved_at"),
        sa.PrimaryKeyConstraint("name", name="pk_event_feed"),
        comment="How far the feed of run_events was read for subscriptions, of all tenants: one row.",
    )
    op.execute(feed.insert().values(name="runs", transaction_id=sa.func.pg_current_xact_id(), position=0))


def downgrade() -> None:
    """Undo."""
    for table in ("event_feed", "event_dead_letters", "event_publications", "event_subscriptions"):
        op.drop_table(table)
