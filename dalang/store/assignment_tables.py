"""The table of what agents without Temporal work at (``assignments.py``)."""

from __future__ import annotations

from sqlalchemy import (
    CheckConstraint,
    Column,
    Index,
    Integer,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)

from dalang.store.columns import json_column, metadata, moment, of_run, quoted, tenant

OPEN_STATES = ("PENDING", "TAKEN")
ASSIGNMENT_STATES = (*OPEN_STATES, "COMPLETED", "FAILED", "WITHDRAWN")


agent_assignments = Table(
    "agent_assignments",
    metadata,
    Column("assignment_id", Uuid, nullable=False),
    tenant(),
    Column("run_id", Uuid, nullable=False),
    Column("node_id", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("agent_tenant", Text, nullable=False),
    Column("agent_id", Text, nullable=False),
    Column("state", Text, nullable=False, server_default=text("'PENDING'")),
    json_column("task"),
    Column("token_hash", Text),
    Column("alive_seconds", Integer, nullable=False),
    moment("created_at", default=True),
    moment("taken_at"),
    moment("alive_at"),
    json_column("progress"),
    json_column("outcome"),
    Column("reason", Text),
    moment("ended_at"),
    moment("delivered_at"),
    PrimaryKeyConstraint("assignment_id"),
    UniqueConstraint("token_hash"),
    of_run(cascade=True),
    CheckConstraint(f"state IN ({quoted(ASSIGNMENT_STATES)})", "state"),
    CheckConstraint("alive_seconds > 0", "numbers"),
    CheckConstraint(f"(state IN ({quoted(OPEN_STATES)})) = (ended_at IS NULL)", "ended"),
    CheckConstraint("state <> 'TAKEN' OR (taken_at IS NOT NULL AND alive_at IS NOT NULL)", "taken"),
    Index(
        "ix_agent_assignments_open",
        "tenant_id",
        "key",
        unique=True,
        postgresql_where=text(f"state IN ({quoted(OPEN_STATES)})"),
    ),
    Index(
        "ix_agent_assignments_pending",
        "agent_tenant",
        "agent_id",
        "created_at",
        postgresql_where=text("state = 'PENDING'"),
    ),
    Index(None, "tenant_id", "run_id", "key"),
    comment="What agents that ask for work were given: one open row for each idempotency key. Task and outcome are "
    "kept until the node has the outcome; of the token only its SHA-256.",
)
