"""The tables of what is remembered (``episodes.py``), and of where nodes work apart (``sessions.py``)."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    Index,
    Integer,
    PrimaryKeyConstraint,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import TSVECTOR

from dalang.store.columns import TransactionId, json_column, metadata, moment, number, of_run, quoted, tenant

EPISODE_OUTCOMES = ("SUCCESS", "ERROR", "FAILED")
SESSION_STATES = ("OPEN", "MERGING", "MERGED", "CLOSED")

episodes = Table(
    "episodes",
    metadata,
    tenant(),
    Column("run_id", Uuid, nullable=False),
    Column("node_id", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("plan_name", Text, nullable=False),
    Column("outcome", Text, nullable=False),
    moment("started_at"),
    Column("ended_at", DateTime(timezone=True), nullable=False),
    Column("search", TSVECTOR, nullable=False),
    PrimaryKeyConstraint("run_id", "node_id"),
    of_run(cascade=True),
    CheckConstraint(f"outcome IN ({quoted(EPISODE_OUTCOMES)})", "outcome"),
    Index(None, "search", postgresql_using="gin"),
    Index(None, "tenant_id", "ended_at"),
    comment="Past executions of nodes as they are looked up by name, outcome and inputs; made from events of the run "
    "when somebody of the tenant asks. What went in and out is read from the events.",
)

episode_cursors = Table(
    "episode_cursors",
    metadata,
    tenant(),
    Column("transaction_id", TransactionId, nullable=False),
    Column("position", BigInteger, nullable=False),
    PrimaryKeyConstraint("tenant_id"),
    comment="Up to which event the executions of a tenant are remembered; no row: nobody has asked yet.",
)

memory_sessions = Table(
    "memory_sessions",
    metadata,
    Column("session_id", Uuid, nullable=False),
    tenant(),
    Column("run_id", Uuid, nullable=False),
    Column("node_id", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("state", Text, nullable=False, server_default=text("'OPEN'")),
    Column("attempt", Integer, nullable=False),
    number("claims"),
    json_column("place", "{}"),
    json_column("outputs"),
    json_column("report"),
    moment("opened_at", default=True),
    moment("ended_at"),
    moment("closed_at"),
    PrimaryKeyConstraint("session_id"),
    of_run(cascade=True),
    CheckConstraint("kind IN ('git', 'cortex')", "kind"),
    CheckConstraint(f"state IN ({quoted(SESSION_STATES)})", "state"),
    CheckConstraint("(state IN ('OPEN', 'MERGING')) = (ended_at IS NULL)", "ended"),
    CheckConstraint("closed_at IS NULL OR ended_at IS NOT NULL", "closed"),
    Index(None, "tenant_id", "key"),
    Index("ix_memory_sessions_not_closed", "opened_at", postgresql_where=text("closed_at IS NULL")),
    comment="Where nodes work apart: worktrees and sessions of a Cortex. `place` is where it is, `outputs` are the "
    "node's from the moment its changes are merged, so that a merge is never followed by the same work again.",
)
