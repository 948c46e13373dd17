"""The tables of what comes from outside for waiting nodes: events without a run, who waits for which, callbacks."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from dalang.store.columns import metadata, moment, of_run

external_events = Table(
    "external_events",
    metadata,
    Column("tenant_id", Text, nullable=False),
    Column("event_id", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("correlation_key", Text, nullable=False),
    Column("payload", JSONB(none_as_null=True), nullable=False),
    Column("digest", Text, nullable=False),
    Column("created_by", Text, nullable=False),
    moment("created_at", default=True),
    Column("expires_at", DateTime(timezone=True), nullable=False),
    Column("position", BigInteger, Identity(always=True), nullable=False),
    PrimaryKeyConstraint("tenant_id", "event_id"),
    CheckConstraint("digest ~ '^[0-9a-f]{64}$'", "digest"),
    Index(None, "tenant_id", "name", "correlation_key"),
    Index(None, "expires_at"),
    comment="Events that were sent to whoever waits for them: delivered to every run that waits before they expire.",
)

event_waits = Table(
    "event_waits",
    metadata,
    Column("tenant_id", Text, nullable=False),
    Column("run_id", Uuid, nullable=False),
    Column("node_id", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("correlation_key", Text, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("since", DateTime(timezone=True), nullable=False),
    PrimaryKeyConstraint("tenant_id", "run_id", "node_id"),
    of_run(cascade=True),
    Index(None, "tenant_id", "name", "correlation_key"),
    comment="Read model: which node began to wait for which event, with which of its events. It waits as long as that "
    "is the newest event of the node.",
)

event_deliveries = Table(
    "event_deliveries",
    metadata,
    Column("tenant_id", Text, nullable=False),
    Column("event_id", Text, nullable=False),
    Column("run_id", Uuid, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("position", BigInteger, nullable=False),
    moment("created_at", default=True),
    moment("delivered_at"),
    PrimaryKeyConstraint("tenant_id", "event_id", "run_id", "epoch"),
    ForeignKeyConstraint(
        ["tenant_id", "event_id"], ["external_events.tenant_id", "external_events.event_id"], ondelete="CASCADE"
    ),
    of_run(cascade=True),
    Index("ix_event_deliveries_open", "position", postgresql_where=text("delivered_at IS NULL")),
    comment="Which event goes to which run (once in each epoch of it); sent again until Temporal has taken it.",
)

callbacks = Table(
    "callbacks",
    metadata,
    Column("token_hash", Text, primary_key=True),
    Column("callback_id", Uuid, nullable=False),
    Column("tenant_id", Text, nullable=False),
    Column("run_id", Uuid, nullable=False),
    Column("node_id", Text, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    moment("created_at", default=True),
    moment("closed_at"),
    moment("called_at"),
    Column("answer", JSONB(none_as_null=True)),
    moment("delivered_at"),
    UniqueConstraint("callback_id"),
    of_run(cascade=True),
    CheckConstraint("token_hash ~ '^[0-9a-f]{64}$'", "token_hash"),
    CheckConstraint("generation >= 0 AND attempt > 0", "numbers"),
    CheckConstraint("called_at IS NULL OR (answer IS NOT NULL AND closed_at IS NOT NULL)", "called"),
    Index(None, "tenant_id", "run_id", "node_id", "generation"),
    Index(
        "ix_callbacks_undelivered", "called_at", postgresql_where=text("called_at IS NOT NULL AND delivered_at IS NULL")
    ),
    comment="Addresses that services call back, one per attempt of a node; only the SHA-256 of a token is stored. One "
    "call closes all of its node's generation that there are by then.",
)
