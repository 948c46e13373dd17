"""The tables of the A2A agent: what a run does not know of the task that it is to an A2A client (``a2a.py``)."""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    Identity,
    Index,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
)
from sqlalchemy import text as sql
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import BigInteger

from dalang.store.columns import metadata, moment, number, of_run, tenant

a2a_tasks = Table(
    "a2a_tasks",
    metadata,
    tenant(),
    Column("run_id", Uuid, nullable=False),
    Column("context_id", Text, nullable=False),
    Column("request_digest", Text, nullable=False),
    Column("answered", Boolean, nullable=False, server_default=sql("false")),
    moment("created_at", default=True),
    PrimaryKeyConstraint("tenant_id", "run_id"),
    of_run(cascade=True),
    Index(None, "tenant_id", "context_id", "created_at"),
    Index(None, "tenant_id", "request_digest"),
    comment="Runs that A2A messages started. request_digest is that of sender and message: while the sender has not "
    "acted on the task (answered), the same message again is the same task. Goes with its run.",
)

a2a_messages = Table(
    "a2a_messages",
    metadata,
    tenant(),
    Column("run_id", Uuid, nullable=False),
    Column("position", BigInteger, Identity(always=True), nullable=False),
    Column("message_id", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("message", JSONB, nullable=False),
    moment("created_at", default=True),
    PrimaryKeyConstraint("tenant_id", "run_id", "position"),
    UniqueConstraint("tenant_id", "run_id", "role", "message_id"),
    of_run(cascade=True),
    CheckConstraint("role IN ('user', 'agent')", "role"),
    comment="What A2A clients and the agent said to each other about a run, in order. Goes with its run.",
)

a2a_push_configs = Table(
    "a2a_push_configs",
    metadata,
    tenant(),
    Column("run_id", Uuid, nullable=False),
    Column("config_id", Text, nullable=False),
    Column("url", Text, nullable=False),
    Column("token", Text),
    Column("scheme", Text),
    Column("credentials", Text),
    Column("created_by", Text, nullable=False),
    moment("created_at", default=True),
    number("sent_epoch"),
    number("sent_seq", BigInteger),
    number("attempts"),
    Column("last_error", Text),
    moment("due_at"),
    PrimaryKeyConstraint("tenant_id", "run_id", "config_id"),
    of_run(cascade=True),
    Index("ix_a2a_push_configs_due", "due_at", postgresql_where=sql("due_at IS NOT NULL")),
    comment="Where A2A clients want to be told of a task, and how far they were. Whoever tells one moves due_at ahead "
    "meanwhile; null: its run has ended, or it was tried too often.",
)
