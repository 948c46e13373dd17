"""The table of circuit breakers (``breakers.py``)."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Identity,
    Index,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)

from dalang.store.columns import json_column, metadata, moment, number, tenant

circuit_breakers = Table(
    "circuit_breakers",
    metadata,
    tenant(),
    Column("key", Text, nullable=False),
    Column("breaker_id", Uuid, nullable=False),
    Column("state", Text, nullable=False, server_default=text("'CLOSED'")),
    number("failures"),
    number("successes"),
    moment("until"),
    json_column("trials", "[]"),
    moment("opened_at"),
    number("openings"),
    moment("last_failure_at"),
    Column("last_failure", Text),
    Column("operator", Text),
    Column("reason", Text),
    moment("changed_at", default=True),
    Column("revision", BigInteger, Identity(always=True), nullable=False),
    PrimaryKeyConstraint("tenant_id", "key"),
    UniqueConstraint("breaker_id"),
    CheckConstraint("state IN ('CLOSED', 'OPEN', 'HALF_OPEN')", "state"),
    CheckConstraint("failures >= 0 AND successes >= 0 AND openings >= 0", "counts"),
    CheckConstraint("(state = 'OPEN') = (until IS NOT NULL)", "until"),
    CheckConstraint("state = 'HALF_OPEN' OR (trials = '[]'::jsonb AND successes = 0)", "trials"),
    Index("ix_circuit_breakers_troubled", "tenant_id", postgresql_where=text("state <> 'CLOSED' OR failures > 0")),
    comment="Whether somebody may be called. One row per tenant and key that has failed at least once; of two readings "
    "the one with the larger revision is newer.",
)
