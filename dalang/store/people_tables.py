"""The tables of people: what they are asked, and the tokens they come with."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Index,
    Integer,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY

from dalang.statuses import TASK_ENDS, TaskStatus
from dalang.store.columns import json_column, metadata, moment, number, of_run, quoted, tenant

ENDED_TASK_STATUSES = tuple(status for status in TaskStatus if status in TASK_ENDS)
OPEN_TASK = text("completed_at IS NULL")
"""Of partial indexes: a human task is open as long as this holds."""
ROLES = ("viewer", "operator", "approver", "admin", "agent")

human_tasks = Table(
    "human_tasks",
    metadata,
    tenant(),
    Column("task_id", Uuid, nullable=False),
    Column("run_id", Uuid, nullable=False),
    Column("node_id", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("title", Text, nullable=False),
    Column("description", Text),
    number("priority"),
    Column("assigned_to", Text),
    Column("candidate_group", Text),
    number("quorum", default=1),
    Column("four_eyes", Boolean, nullable=False, server_default=text("false")),
    Column("digest", Text, nullable=False, server_default=text("''")),
    json_column("actions", "[]"),
    json_column("form"),
    json_column("context"),
    json_column("error"),
    json_column("candidates"),
    json_column("excluded", "[]"),
    json_column("votes", "[]"),
    json_column("decision"),
    Column("notes", Text),
    Column("decision_id", Text),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("updated_at", DateTime(timezone=True), nullable=False),
    moment("due_at"),
    moment("remind_at"),
    moment("reminded_at"),
    moment("escalate_at"),
    moment("escalated_at"),
    moment("completed_at"),
    Column("completed_by", Text),
    Column("revision_epoch", Integer, nullable=False),
    Column("revision", BigInteger, nullable=False),
    PrimaryKeyConstraint("tenant_id", "task_id"),
    of_run(cascade=True),
    CheckConstraint(f"status IN ({quoted(TaskStatus)})", "status"),
    CheckConstraint(
        f"(completed_at IS NOT NULL) = (status IN ({quoted(ENDED_TASK_STATUSES)}))", "completed_when_ended"
    ),
    CheckConstraint("quorum > 0", "quorum"),
    Index(
        "ix_human_tasks_inbox", "tenant_id", text("priority DESC"), "created_at", "task_id", postgresql_where=OPEN_TASK
    ),
    Index("ix_human_tasks_urgent", "tenant_id", text("priority DESC"), "created_at", "task_id"),
    Index("ix_human_tasks_due", "tenant_id", "due_at", postgresql_where=OPEN_TASK),
    Index(None, "tenant_id", "assigned_to", "created_at"),
    Index(None, "tenant_id", "status", "candidate_group"),
    Index(None, "tenant_id", "created_at", "task_id"),
    Index(None, "tenant_id", "run_id", "created_at"),
    comment="What people are asked, have decided or missed: one row per task, as its newest event left it. Times are "
    "the workflow's. Goes with its run.",
)

api_tokens = Table(
    "api_tokens",
    metadata,
    Column("token_hash", Text, primary_key=True),
    Column("token_id", Uuid, nullable=False),
    tenant(),
    Column("subject", Text, nullable=False),
    Column("name", Text, nullable=False, server_default=text("''")),
    Column("roles", ARRAY(Text), nullable=False),
    Column("groups", ARRAY(Text), nullable=False, server_default=text("'{}'::text[]")),
    moment("created_at", default=True),
    moment("expires_at"),
    moment("revoked_at"),
    moment("last_used_at"),
    UniqueConstraint("tenant_id", "token_id"),
    CheckConstraint("token_hash ~ '^[0-9a-f]{64}$'", "token_hash"),
    CheckConstraint(f"roles <@ ARRAY[{quoted(ROLES)}]::text[]", "roles"),
    comment="API tokens; only the SHA-256 of a token is stored.",
)
