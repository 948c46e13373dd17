"""The tables of who is told of events, and how far they were told (``subscriptions.py``, ``publications.py``)."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKeyConstraint,
    Index,
    Integer,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from dalang.store.columns import TransactionId, json_column, metadata, moment, number, of_run, tenant


def _texts(name: str) -> Column[list[str]]:
    return Column(name, ARRAY(Text), nullable=False, server_default=text("'{}'::text[]"))


def _of_subscription() -> ForeignKeyConstraint:
    return ForeignKeyConstraint(["subscription_id"], ["event_subscriptions.subscription_id"], ondelete="CASCADE")


event_subscriptions = Table(
    "event_subscriptions",
    metadata,
    Column("subscription_id", Uuid, primary_key=True),
    tenant(),
    Column("name", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("all_tenants", Boolean, nullable=False, server_default=text("false")),
    Column("description", Text, nullable=False, server_default=text("''")),
    Column("target", JSONB, nullable=False),
    _texts("types"),
    _texts("plans"),
    Column("filter", Text),
    Column("payloads", Boolean, nullable=False, server_default=text("false")),
    Column("max_attempts", Integer, nullable=False),
    Column("initial_delay_ms", BigInteger, nullable=False),
    Column("max_delay_ms", BigInteger, nullable=False),
    Column("give_up_ms", BigInteger, nullable=False),
    moment("since", default=True),
    moment("active_since", default=True),
    moment("paused_at"),
    Column("paused_by", Text),
    Column("paused_reason", Text),
    json_column("secrets", "[]"),
    json_column("ping"),
    number("delivered", BigInteger),
    number("failures", BigInteger),
    moment("last_delivered_at"),
    moment("last_error_at"),
    Column("last_error", Text),
    Column("last_error_event", Text),
    Column("created_by", Text, nullable=False),
    moment("created_at", default=True),
    Column("updated_by", Text, nullable=False),
    moment("updated_at", default=True),
    UniqueConstraint("tenant_id", "name"),
    CheckConstraint("kind IN ('webhook', 'kafka', 'nats')", "kind"),
    CheckConstraint("NOT all_tenants OR kind <> 'webhook'", "all_tenants"),
    CheckConstraint("(paused_at IS NULL) = (paused_by IS NULL)", "paused"),
    CheckConstraint(
        "max_attempts > 0 AND initial_delay_ms > 0 AND max_delay_ms >= initial_delay_ms AND give_up_ms > 0", "retries"
    ),
    comment="Who is told of events of a tenant: where, of which events, and how it went. Empty types and plans mean "
    "all; what was recorded before since is not told.",
)

event_publications = Table(
    "event_publications",
    metadata,
    Column("subscription_id", Uuid, nullable=False),
    Column("run_id", Uuid, nullable=False),
    tenant(),
    number("sent_epoch"),
    number("sent_seq", BigInteger),
    moment("since"),
    moment("begun_at", default=True),
    number("marked", BigInteger),
    moment("due_at"),
    moment("waiting_since"),
    number("attempts"),
    moment("failing_since"),
    Column("claim", Uuid),
    moment("claimed_until"),
    PrimaryKeyConstraint("subscription_id", "run_id"),
    _of_subscription(),
    of_run(cascade=True),
    CheckConstraint("sent_epoch >= 0 AND sent_seq >= 0 AND attempts >= 0", "numbers"),
    CheckConstraint("(claim IS NULL) = (claimed_until IS NULL)", "claim"),
    Index("ix_event_publications_due", "subscription_id", "due_at", postgresql_where=text("due_at IS NOT NULL")),
    Index(None, "tenant_id", "run_id"),
    comment="How far a run's events were told to a subscription. Whoever tells it has the row claimed, and nobody else "
    "tells that subscription of that run meanwhile. marked counts how often there was something new.",
)

event_dead_letters = Table(
    "event_dead_letters",
    metadata,
    Column("subscription_id", Uuid, nullable=False),
    Column("run_id", Uuid, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("seq", BigInteger, nullable=False),
    tenant(),
    Column("type", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("error", Text, nullable=False),
    moment("dead_at", default=True),
    moment("redeliver_at"),
    PrimaryKeyConstraint("subscription_id", "run_id", "epoch", "seq"),
    _of_subscription(),
    of_run(cascade=True),
    Index(None, "subscription_id", "dead_at"),
    Index(None, "tenant_id", "run_id"),
    comment="Events that a subscription could not be told of. They are told when somebody asks for it (redeliver_at).",
)

event_feed = Table(
    "event_feed",
    metadata,
    Column("name", Text, primary_key=True),
    Column("transaction_id", TransactionId, nullable=False),
    Column("position", BigInteger, nullable=False),
    moment("moved_at", default=True),
    comment="How far the feed of run_events was read for subscriptions, of all tenants: one row.",
)
