"""The tables, as the migrations make them (``tests/store/test_migrations.py`` holds both equal).

Three groups: what is asked for (plans, runs, tokens), what happened (``run_events`` and its bodies: append-only,
chained by hashes), and the read model that is derived from what happened (``execution_runs``, ``node_executions``,
``human_tasks``).
Every row belongs to a tenant, except payload blobs, which Temporal addresses by content only. Rows of a run refer
to it by (tenant_id, run_id), so that nothing of a run can belong to another tenant than the run.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.dialects.postgresql.base import ischema_names
from sqlalchemy.types import UserDefinedType

from dalang.statuses import RUN_ENDS, TASK_ENDS, NodeStatus, RunStatus, TaskStatus

FINISHED_RUN_STATUSES = tuple(status for status in RunStatus if status in RUN_ENDS)
ENDED_TASK_STATUSES = tuple(status for status in TaskStatus if status in TASK_ENDS)
OPEN_TASK = text("completed_at IS NULL")
"""Of partial indexes: a human task is open as long as this holds."""
ROLES = ("viewer", "operator", "approver", "admin")


class TransactionId(UserDefinedType[Any]):
    """PostgreSQL's ``xid8``: the transaction that wrote a row; never wraps around, unlike ``xmin``."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        """Return the type's name in SQL."""
        return "XID8"


ischema_names.setdefault("xid8", TransactionId)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _quoted(values: Iterable[str]) -> str:
    return ", ".join(f"'{value}'" for value in values)


def _tenant() -> Column[Any]:
    return Column("tenant_id", Text, nullable=False)


def _json(name: str, default: str | None = None) -> Column[Any]:
    if default is None:
        return Column(name, JSONB(none_as_null=True))
    return Column(name, JSONB(none_as_null=True), nullable=False, server_default=text(f"'{default}'::jsonb"))


def _time(name: str, *, default: bool = False) -> Column[Any]:
    if default:
        return Column(name, DateTime(timezone=True), nullable=False, server_default=text("now()"))
    return Column(name, DateTime(timezone=True))


def _number(name: str, kind: type[Integer] = Integer, default: int = 0) -> Column[Any]:
    return Column(name, kind, nullable=False, server_default=text(str(default)))


def _of_run() -> ForeignKeyConstraint:
    return ForeignKeyConstraint(["tenant_id", "run_id"], ["execution_runs.tenant_id", "execution_runs.run_id"])


plan_documents = Table(
    "plan_documents",
    metadata,
    _tenant(),
    Column("digest", Text, nullable=False),
    Column("document", JSONB, nullable=False),
    Column("node_count", Integer, nullable=False),
    Column("edge_count", Integer, nullable=False),
    _time("created_at", default=True),
    PrimaryKeyConstraint("tenant_id", "digest"),
    CheckConstraint("digest ~ '^[0-9a-f]{64}$'", "digest"),
    comment="Plans by the SHA-256 of their canonical JSON; versions with the same content share one row.",
)

plans = Table(
    "plans",
    metadata,
    _tenant(),
    Column("plan_id", Uuid, nullable=False),
    Column("version", Text, nullable=False),
    Column("version_order", Text(collation="C"), nullable=False),
    Column("name", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("created_by", Text, nullable=False),
    _time("created_at", default=True),
    PrimaryKeyConstraint("tenant_id", "plan_id", "version"),
    ForeignKeyConstraint(["tenant_id", "digest"], ["plan_documents.tenant_id", "plan_documents.digest"]),
    Index(None, "tenant_id", "plan_id", "version_order"),
    Index(None, "tenant_id", "name"),
    comment="Versions of plans; a version never changes. version_order sorts as semantic versions do.",
)

execution_runs = Table(
    "execution_runs",
    metadata,
    Column("run_id", Uuid, primary_key=True),
    _tenant(),
    Column("plan_id", Uuid, nullable=False),
    Column("plan_name", Text, nullable=False),
    Column("plan_version", Text, nullable=False),
    Column("plan_digest", Text, nullable=False),
    Column("status", Text, nullable=False, server_default=text("'PENDING'")),
    Column("created_by", Text, nullable=False),
    _time("created_at", default=True),
    _time("started_at"),
    _time("completed_at"),
    _time("last_updated_at", default=True),
    _json("metadata", "{}"),
    _number("priority"),
    _number("retry_count"),
    Column("reason", Text),
    _json("error"),
    Column("error_message", Text),
    _json("inputs"),
    _json("outputs"),
    _number("total_nodes"),
    _json("node_status_counts", "{}"),
    Column("idempotency_key", Text),
    Column("request_digest", Text),
    Column("workflow_id", Text),
    Column("temporal_run_id", Text),
    Column("temporal_namespace", Text),
    Column("temporal_cluster_id", Text),
    _number("head_epoch"),
    _number("head_seq", BigInteger),
    Column("head_hash", Text, nullable=False, server_default=text("''")),
    _time("last_event_at"),
    Column("root_run_id", Uuid),
    Column("redrive_of", Uuid),
    Column("undo_of", Uuid),
    _json("origin"),
    Column("parent_run_id", Uuid),
    Column("parent_node_id", Text),
    Column("top_run_id", Uuid),
    Column("iteration", Integer),
    Column("elements", Integer),
    Column("key_root", Text),
    UniqueConstraint("tenant_id", "run_id"),
    UniqueConstraint("tenant_id", "idempotency_key"),
    UniqueConstraint("tenant_id", "redrive_of"),
    UniqueConstraint("tenant_id", "undo_of"),
    CheckConstraint(f"status IN ({_quoted(RunStatus)})", "status"),
    CheckConstraint(
        f"(completed_at IS NOT NULL) = (status IN ({_quoted(FINISHED_RUN_STATUSES)}))", "completed_when_finished"
    ),
    CheckConstraint("head_epoch >= 0 AND head_seq >= 0 AND (head_seq = 0) = (head_hash = '')", "head"),
    CheckConstraint("(idempotency_key IS NULL) OR (request_digest IS NOT NULL)", "key_has_digest"),
    CheckConstraint("retry_count >= 0 AND total_nodes >= 0", "counts"),
    CheckConstraint(
        "(parent_run_id IS NULL) = (parent_node_id IS NULL) AND (parent_run_id IS NULL) = (top_run_id IS NULL)",
        "child_is_linked",
    ),
    Index(None, "tenant_id", "status", "created_at"),
    Index(None, "tenant_id", "plan_id", "created_at"),
    Index(None, "tenant_id", "created_at", "run_id"),
    Index(None, "tenant_id", "created_by", "created_at"),
    Index("ix_execution_runs_children", "tenant_id", "parent_run_id", "parent_node_id"),
    Index(
        "ix_execution_runs_roots", "tenant_id", "created_at", "run_id", postgresql_where=text("parent_run_id IS NULL")
    ),
    Index("ix_execution_runs_active", "tenant_id", "started_at", postgresql_where=text("completed_at IS NULL")),
    Index(
        "ix_execution_runs_not_started",
        "created_at",
        postgresql_where=text("completed_at IS NULL AND temporal_run_id IS NULL"),
    ),
    Index("ix_execution_runs_finished", "completed_at", postgresql_where=text("completed_at IS NOT NULL")),
    comment="One row per run: what was asked for, the state after its last stored event, the head of its chain.",
)

node_executions = Table(
    "node_executions",
    metadata,
    Column("run_id", Uuid, nullable=False),
    Column("node_id", Text, nullable=False),
    _tenant(),
    Column("status", Text, nullable=False),
    _number("attempt"),
    _number("max_attempts"),
    _number("generation"),
    Column("skip_reason", Text),
    _time("started_at"),
    _time("completed_at"),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("updated_at", DateTime(timezone=True), nullable=False),
    Column("revision_epoch", Integer, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("input_epoch", Integer),
    Column("input_seq", BigInteger),
    Column("output_epoch", Integer),
    Column("output_seq", BigInteger),
    Column("error_epoch", Integer),
    Column("error_seq", BigInteger),
    _json("metadata", "{}"),
    PrimaryKeyConstraint("run_id", "node_id"),
    _of_run(),
    CheckConstraint(f"status IN ({_quoted(NodeStatus)})", "status"),
    CheckConstraint("attempt >= 0 AND max_attempts >= 0 AND generation >= 0", "counts"),
    Index(None, "run_id", "status"),
    comment="The nodes something has happened to; a node without a row is PENDING. Times are the workflow's.",
)

human_tasks = Table(
    "human_tasks",
    metadata,
    _tenant(),
    Column("task_id", Uuid, nullable=False),
    Column("run_id", Uuid, nullable=False),
    Column("node_id", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("title", Text, nullable=False),
    Column("description", Text),
    _number("priority"),
    Column("assigned_to", Text),
    Column("candidate_group", Text),
    _number("quorum", default=1),
    Column("four_eyes", Boolean, nullable=False, server_default=text("false")),
    Column("digest", Text, nullable=False, server_default=text("''")),
    _json("actions", "[]"),
    _json("form"),
    _json("context"),
    _json("error"),
    _json("candidates"),
    _json("excluded", "[]"),
    _json("votes", "[]"),
    _json("decision"),
    Column("notes", Text),
    Column("decision_id", Text),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("updated_at", DateTime(timezone=True), nullable=False),
    _time("due_at"),
    _time("remind_at"),
    _time("reminded_at"),
    _time("escalate_at"),
    _time("escalated_at"),
    _time("completed_at"),
    Column("completed_by", Text),
    Column("revision_epoch", Integer, nullable=False),
    Column("revision", BigInteger, nullable=False),
    PrimaryKeyConstraint("tenant_id", "task_id"),
    ForeignKeyConstraint(
        ["tenant_id", "run_id"], ["execution_runs.tenant_id", "execution_runs.run_id"], ondelete="CASCADE"
    ),
    CheckConstraint(f"status IN ({_quoted(TaskStatus)})", "status"),
    CheckConstraint(
        f"(completed_at IS NOT NULL) = (status IN ({_quoted(ENDED_TASK_STATUSES)}))", "completed_when_ended"
    ),
    CheckConstraint("quorum > 0", "quorum"),
    Index(
        "ix_human_tasks_inbox", "tenant_id", text("priority DESC"), "created_at", "task_id", postgresql_where=OPEN_TASK
    ),
    Index("ix_human_tasks_due", "tenant_id", "due_at", postgresql_where=OPEN_TASK),
    Index(None, "tenant_id", "assigned_to", "created_at"),
    Index(None, "tenant_id", "status", "candidate_group"),
    Index(None, "tenant_id", "created_at", "task_id"),
    Index(None, "tenant_id", "run_id", "created_at"),
    comment="What people are asked, have decided or missed: one row per task, as its newest event left it. Times are "
    "the workflow's. Goes with its run.",
)

run_revisions = Table(
    "run_revisions",
    metadata,
    _tenant(),
    Column("run_id", Uuid, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("plan_digest", Text, nullable=False),
    Column("operator", Text),
    Column("reason", Text),
    _json("changes", "{}"),
    Column("at", DateTime(timezone=True), nullable=False),
    Column("epoch", Integer),
    Column("seq", BigInteger),
    PrimaryKeyConstraint("tenant_id", "run_id", "revision"),
    ForeignKeyConstraint(
        ["tenant_id", "run_id"], ["execution_runs.tenant_id", "execution_runs.run_id"], ondelete="CASCADE"
    ),
    CheckConstraint("revision > 0", "revision"),
    CheckConstraint("(revision = 1) = (seq IS NULL) AND (seq IS NULL) = (epoch IS NULL)", "event"),
    comment="The plans of a run whose plan changed while it went on, the first one included: what the events "
    "PLAN_REVISED say. Goes with its run.",
)

run_events = Table(
    "run_events",
    metadata,
    Column("run_id", Uuid, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("seq", BigInteger, nullable=False),
    _tenant(),
    Column("type", Text, nullable=False),
    Column("node_id", Text),
    Column("at", DateTime(timezone=True), nullable=False),
    Column("data", JSONB, nullable=False),
    Column("body_digest", Text),
    Column("fact_digest", Text, nullable=False),
    Column("previous_hash", Text, nullable=False),
    Column("hash", Text, nullable=False),
    _time("recorded_at", default=True),
    Column("superseded", Boolean, nullable=False, server_default=text("false")),
    Column("position", BigInteger, Identity(always=True), nullable=False),
    Column("transaction_id", TransactionId, nullable=False, server_default=text("pg_current_xact_id()")),
    PrimaryKeyConstraint("run_id", "epoch", "seq"),
    _of_run(),
    CheckConstraint("epoch >= 0 AND seq > 0", "numbers"),
    CheckConstraint("hash ~ '^[0-9a-f]{64}$' AND previous_hash ~ '^([0-9a-f]{64})?$'", "hashes"),
    Index(None, "transaction_id", "position", unique=True),
    Index(
        "ix_run_events_of_task",
        "run_id",
        text("(data ->> 'task')"),
        postgresql_where=text("(data ->> 'task') IS NOT NULL"),
    ),
    comment="Append-only: event stream, outbox and audit trail. A feed across runs reads in the order (transaction_id, "
    "position) below pg_snapshot_xmin(pg_current_snapshot()), or it misses rows that commit late.",
)

event_bodies = Table(
    "event_bodies",
    metadata,
    Column("run_id", Uuid, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("seq", BigInteger, nullable=False),
    _tenant(),
    Column("salt", LargeBinary, nullable=False),
    Column("body", JSONB, nullable=False),
    PrimaryKeyConstraint("run_id", "epoch", "seq"),
    ForeignKeyConstraint(["run_id", "epoch", "seq"], ["run_events.run_id", "run_events.epoch", "run_events.seq"]),
    comment="What users put into events. Erased without breaking the chain: run_events holds a salted digest only.",
)

bodies = Table(
    "bodies",
    metadata,
    _tenant(),
    Column("digest", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    _time("created_at", default=True),
    _time("touched_at", default=True),
    PrimaryKeyConstraint("tenant_id", "digest"),
    CheckConstraint("digest ~ '^[0-9a-f]{64}$' AND size >= 0", "digest"),
    Index(None, "touched_at"),
    comment="Large inputs and outputs by content, to which events refer by digest; JSON exactly as it was hashed.",
)

body_references = Table(
    "body_references",
    metadata,
    _tenant(),
    Column("digest", Text, nullable=False),
    Column("run_id", Uuid, nullable=False),
    PrimaryKeyConstraint("tenant_id", "digest", "run_id"),
    _of_run(),
    Index(None, "run_id"),
    comment="Which runs refer to which bodies; a body nobody refers to is deleted some time after its last use.",
)

node_attempts = Table(
    "node_attempts",
    metadata,
    Column("run_id", Uuid, nullable=False),
    Column("node_id", Text, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    _tenant(),
    Column("error", JSONB, nullable=False),
    _time("started_at"),
    Column("ended_at", DateTime(timezone=True), nullable=False),
    Column("worker", Text, nullable=False),
    _number("starts"),
    PrimaryKeyConstraint("run_id", "node_id", "generation", "starts", "attempt"),
    _of_run(),
    CheckConstraint("generation >= 0 AND starts >= 0 AND attempt > 0", "numbers"),
    comment="Failed attempts, which Temporal repeats without telling the workflow; reported by the worker itself.",
)

node_checkpoints = Table(
    "node_checkpoints",
    metadata,
    Column("run_id", Uuid, nullable=False),
    Column("node_id", Text, nullable=False),
    Column("iteration", Integer, nullable=False),
    Column("generation", Integer, nullable=False),
    _tenant(),
    Column("begun", DateTime(timezone=True), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("saved_at", DateTime(timezone=True), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("state", Text, nullable=False),
    PrimaryKeyConstraint("run_id", "node_id", "iteration", "generation"),
    ForeignKeyConstraint(
        ["tenant_id", "run_id"], ["execution_runs.tenant_id", "execution_runs.run_id"], ondelete="CASCADE"
    ),
    CheckConstraint("iteration >= 0 AND generation >= 0 AND attempt > 0 AND number > 0 AND size >= 0", "numbers"),
    comment="The last state that a node's handler left, by what it works on; (begun, number) says which is newer.",
)

run_checkpoints = Table(
    "run_checkpoints",
    metadata,
    Column("run_id", Uuid, nullable=False),
    Column("name", Text, nullable=False),
    _tenant(),
    Column("epoch", Integer, nullable=False),
    Column("seq", BigInteger, nullable=False),
    _json("node_status_counts", "{}"),
    Column("note", Text, nullable=False, server_default=text("''")),
    Column("created_by", Text, nullable=False),
    _time("created_at", default=True),
    PrimaryKeyConstraint("run_id", "name"),
    ForeignKeyConstraint(
        ["tenant_id", "run_id"], ["execution_runs.tenant_id", "execution_runs.run_id"], ondelete="CASCADE"
    ),
    CheckConstraint("epoch >= 0 AND seq >= 0", "numbers"),
    comment="Named points in the chains of runs, from which a redrive can start: a point is all, as events do not "
    "change.",
)

payload_blobs = Table(
    "payload_blobs",
    metadata,
    Column("digest", Text, primary_key=True),
    Column("data", LargeBinary, nullable=False),
    Column("compressed", Boolean, nullable=False),
    Column("size", BigInteger, nullable=False),
    _time("created_at", default=True),
    _time("touched_at", default=True),
    CheckConstraint("digest ~ '^[0-9a-f]{64}$' AND size >= 0", "digest"),
    Index(None, "touched_at"),
    comment="Large Temporal payloads by content. Histories refer to them, so they outlive Temporal's retention.",
)

api_tokens = Table(
    "api_tokens",
    metadata,
    Column("token_hash", Text, primary_key=True),
    Column("token_id", Uuid, nullable=False),
    _tenant(),
    Column("subject", Text, nullable=False),
    Column("name", Text, nullable=False, server_default=text("''")),
    Column("roles", ARRAY(Text), nullable=False),
    Column("groups", ARRAY(Text), nullable=False, server_default=text("'{}'::text[]")),
    _time("created_at", default=True),
    _time("expires_at"),
    _time("revoked_at"),
    _time("last_used_at"),
    UniqueConstraint("tenant_id", "token_id"),
    CheckConstraint("token_hash ~ '^[0-9a-f]{64}$'", "token_hash"),
    CheckConstraint(f"roles <@ ARRAY[{_quoted(ROLES)}]::text[]", "roles"),
    comment="API tokens; only the SHA-256 of a token is stored.",
)

retired_runs = Table(
    "retired_runs",
    metadata,
    _tenant(),
    Column("run_id", Uuid, nullable=False),
    Column("plan_name", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("completed_at", DateTime(timezone=True), nullable=False),
    Column("head_epoch", Integer, nullable=False),
    Column("head_seq", BigInteger, nullable=False),
    Column("head_hash", Text, nullable=False),
    _time("retired_at", default=True),
    PrimaryKeyConstraint("tenant_id", "run_id"),
    comment="What is left of a deleted run: that it was there, how it ended, and the head of its chain.",
)

schedules = Table(
    "schedules",
    metadata,
    _tenant(),
    Column("schedule_id", Text, nullable=False),
    Column("key", Uuid, nullable=False),
    Column("plan_id", Uuid, nullable=False),
    Column("plan_version", Text),
    _json("inputs", "{}"),
    _json("metadata", "{}"),
    Column("priority", Integer),
    Column("timing", JSONB, nullable=False),
    Column("note", Text, nullable=False, server_default=text("''")),
    Column("paused", Boolean, nullable=False, server_default=text("false")),
    Column("revision", Integer, nullable=False, server_default=text("1")),
    _json("last_error"),
    Column("created_by", Text, nullable=False),
    _time("created_at", default=True),
    Column("updated_by", Text, nullable=False),
    _time("updated_at", default=True),
    PrimaryKeyConstraint("tenant_id", "schedule_id"),
    UniqueConstraint("key"),
    CheckConstraint("revision > 0", "revision"),
    comment="What schedules start, and when; Temporal's schedule of the same key is made from it and keeps the time.",
)
