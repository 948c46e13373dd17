"""The first tables."""
# ruff: noqa: E501 - written by Alembic from tables.py

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from dalang.store.columns import TransactionId

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "api_tokens",
        sa.Column("token_hash", sa.Text(), nullable=False),
        sa.Column("token_id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("roles", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "roles <@ ARRAY['viewer', 'operator', 'approver', 'admin']::text[]", name=op.f("ck_api_tokens_roles")
        ),
        sa.CheckConstraint("token_hash ~ '^[0-9a-f]{64}$'", name=op.f("ck_api_tokens_token_hash")),
        sa.PrimaryKeyConstraint("token_hash", name=op.f("pk_api_tokens")),
        sa.UniqueConstraint("tenant_id", "token_id", name=op.f("uq_api_tokens_tenant_id_token_id")),
        comment="API tokens; only the SHA-256 of a token is stored.",
    )
    op.create_table(
        "bodies",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("touched_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("digest ~ '^[0-9a-f]{64}$' AND size >= 0", name=op.f("ck_bodies_digest")),
        sa.PrimaryKeyConstraint("tenant_id", "digest", name=op.f("pk_bodies")),
        comment="Large inputs and outputs by content, to which events refer by digest; JSON exactly as it was hashed.",
    )
    op.create_index(op.f("ix_bodies_touched_at"), "bodies", ["touched_at"], unique=False)
    op.create_table(
        "execution_runs",
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("plan_id", sa.Uuid(), nullable=False),
        sa.Column("plan_name", sa.Text(), nullable=False),
        sa.Column("plan_version", sa.Text(), nullable=False),
        sa.Column("plan_digest", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), server_default=sa.text("'PENDING'"), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("completed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column(
            "metadata",
            postgresql.JSONB(none_as_null=True, astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column("priority", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("retry_count", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("error", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("inputs", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column("outputs", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column("total_nodes", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column(
            "node_status_counts",
            postgresql.JSONB(none_as_null=True, astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column("idempotency_key", sa.Text(), nullable=True),
        sa.Column("request_digest", sa.Text(), nullable=True),
        sa.Column("workflow_id", sa.Text(), nullable=True),
        sa.Column("temporal_run_id", sa.Text(), nullable=True),
        sa.Column("temporal_namespace", sa.Text(), nullable=True),
        sa.Column("temporal_cluster_id", sa.Text(), nullable=True),
        sa.Column("head_epoch", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("head_seq", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("head_hash", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("last_event_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(completed_at IS NOT NULL) = (status IN ('COMPLETED', 'FAILED', 'CANCELLED'))",
            name=op.f("ck_execution_runs_completed_when_finished"),
        ),
        sa.CheckConstraint(
            "head_epoch >= 0 AND head_seq >= 0 AND (head_seq = 0) = (head_hash = '')",
            name=op.f("ck_execution_runs_head"),
        ),
        sa.CheckConstraint(
            "status IN ('PENDING', 'VALIDATED', 'RUNNING', 'PAUSED', 'AWAITING_HITL', 'REPLANNING', 'COMPENSATING', 'COMPLETED', 'FAILED', 'CANCELLED')",
            name=op.f("ck_execution_runs_status"),
        ),
        sa.CheckConstraint(
            "(idempotency_key IS NULL) OR (request_digest IS NOT NULL)", name=op.f("ck_execution_runs_key_has_digest")
        ),
        sa.CheckConstraint("retry_count >= 0 AND total_nodes >= 0", name=op.f("ck_execution_runs_counts")),
        sa.PrimaryKeyConstraint("run_id", name=op.f("pk_execution_runs")),
        sa.UniqueConstraint("tenant_id", "idempotency_key", name=op.f("uq_execution_runs_tenant_id_idempotency_key")),
        sa.UniqueConstraint("tenant_id", "run_id", name=op.f("uq_execution_runs_tenant_id_run_id")),
        comment="One row per run: what was asked for, the state after its last stored event, the head of its chain.",
    )
    op.create_index(
        "ix_execution_runs_active",
        "execution_runs",
        ["tenant_id", "started_at"],
        unique=False,
        postgresql_where=sa.text("completed_at IS NULL"),
    )
    op.create_index(
        "ix_execution_runs_finished",
        "execution_runs",
        ["completed_at"],
        unique=False,
        postgresql_where=sa.text("completed_at IS NOT NULL"),
    )
    op.create_index(
        "ix_execution_runs_not_started",
        "execution_runs",
        ["created_at"],
        unique=False,
        postgresql_where=sa.text("completed_at IS NULL AND temporal_run_id IS NULL"),
    )
    op.create_index(
        op.f("ix_execution_runs_tenant_id_created_at_run_id"),
        "execution_runs",
        ["tenant_id", "created_at", "run_id"],
        unique=False,
    )
    op.create_index(
        op.f("ix_execution_runs_tenant_id_plan_id_created_at"),
        "execution_runs",
        ["tenant_id", "plan_id", "created_at"],
        unique=False,
    )
    op.create_index(
        op.f("ix_execution_runs_tenant_id_status_created_at"),
        "execution_runs",
        ["tenant_id", "status", "created_at"],
        unique=False,
    )
    op.create_table(
        "payload_blobs",
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.Column("compressed", sa.Boolean(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("touched_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("digest ~ '^[0-9a-f]{64}$' AND size >= 0", name=op.f("ck_payload_blobs_digest")),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_payload_blobs")),
        comment="Large Temporal payloads by content. Histories refer to them, so they outlive Temporal's retention.",
    )
    op.create_index(op.f("ix_payload_blobs_touched_at"), "payload_blobs", ["touched_at"], unique=False)
    op.create_table(
        "plan_documents",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("document", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("node_count", sa.Integer(), nullable=False),
        sa.Column("edge_count", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("digest ~ '^[0-9a-f]{64}$'", name=op.f("ck_plan_documents_digest")),
        sa.PrimaryKeyConstraint("tenant_id", "digest", name=op.f("pk_plan_documents")),
        comment="Plans by the SHA-256 of their canonical JSON; versions with the same content share one row.",
    )
    op.create_table(
        "retired_runs",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("plan_name", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("completed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("head_epoch", sa.Integer(), nullable=False),
        sa.Column("head_seq", sa.BigInteger(), nullable=False),
        sa.Column("head_hash", sa.Text(), nullable=False),
        sa.Column("retired_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "run_id", name=op.f("pk_retired_runs")),
        comment="What is left of a deleted run: that it was there, how it ended, and the head of its chain.",
    )
    op.create_table(
        "body_references",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant_id", "run_id"],
            ["execution_runs.tenant_id", "execution_runs.run_id"],
            name=op.f("fk_body_references_execution_runs"),
        ),
        sa.PrimaryKeyConstraint("tenant_id", "digest", "run_id", name=op.f("pk_body_references")),
        comment="Which runs refer to which bodies; a body nobody refers to is deleted some time after its last use.",
    )
    op.create_index(op.f("ix_body_references_run_id"), "body_references", ["run_id"], unique=False)
    op.create_table(
        "node_attempts",
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("node_id", sa.Text(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("error", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("worker", sa.Text(), nullable=False),
        sa.CheckConstraint("generation >= 0 AND attempt > 0", name=op.f("ck_node_attempts_numbers")),
        sa.ForeignKeyConstraint(
            ["tenant_id", "run_id"],
            ["execution_runs.tenant_id", "execution_runs.run_id"],
            name=op.f("fk_node_attempts_execution_runs"),
        ),
        sa.PrimaryKeyConstraint("run_id", "node_id", "generation", "attempt", name=op.f("pk_node_attempts")),
        comment="Failed attempts, which Temporal repeats without telling the workflow; reported by the worker itself.",
    )
    op.create_table(
        "node_executions",
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("node_id", sa.Text(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("max_attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("generation", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("skip_reason", sa.Text(), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("completed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("revision_epoch", sa.Integer(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("input_epoch", sa.Integer(), nullable=True),
        sa.Column("input_seq", sa.BigInteger(), nullable=True),
        sa.Column("output_epoch", sa.Integer(), nullable=True),
        sa.Column("output_seq", sa.BigInteger(), nullable=True),
        sa.Column("error_epoch", sa.Integer(), nullable=True),
        sa.Column("error_seq", sa.BigInteger(), nullable=True),
        sa.Column(
            "metadata",
            postgresql.JSONB(none_as_null=True, astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.CheckConstraint(
            "status IN ('PENDING', 'QUEUED', 'RUNNING', 'RETRYING', 'AWAITING_HITL', 'SUCCESS', 'ERROR', 'FAILED', 'SKIPPED', 'CANCELLED', 'COMPENSATING', 'COMPENSATED', 'COMPENSATION_FAILED')",
            name=op.f("ck_node_executions_status"),
        ),
        sa.CheckConstraint(
            "attempt >= 0 AND max_attempts >= 0 AND generation >= 0", name=op.f("ck_node_executions_counts")
        ),
        sa.ForeignKeyConstraint(
            ["tenant_id", "run_id"],
            ["execution_runs.tenant_id", "execution_runs.run_id"],
            name=op.f("fk_node_executions_execution_runs"),
        ),
        sa.PrimaryKeyConstraint("run_id", "node_id", name=op.f("pk_node_executions")),
        comment="The nodes something has happened to; a node without a row is PENDING. Times are the workflow's.",
    )
    op.create_index(op.f("ix_node_executions_run_id_status"), "node_executions", ["run_id", "status"], unique=False)
    op.create_table(
        "plans",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("plan_id", sa.Uuid(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("version_order", sa.Text(collation="C"), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant_id", "digest"],
            ["plan_documents.tenant_id", "plan_documents.digest"],
            name=op.f("fk_plans_plan_documents"),
        ),
        sa.PrimaryKeyConstraint("tenant_id", "plan_id", "version", name=op.f("pk_plans")),
        comment="Versions of plans; a version never changes. version_order sorts as semantic versions do.",
    )
    op.create_index(op.f("ix_plans_tenant_id_name"), "plans", ["tenant_id", "name"], unique=False)
    op.create_index(
        op.f("ix_plans_tenant_id_plan_id_version_order"),
        "plans",
        ["tenant_id", "plan_id", "version_order"],
        unique=False,
    )
    op.create_table(
        "run_events",
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("node_id", sa.Text(), nullable=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("data", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("body_digest", sa.Text(), nullable=True),
        sa.Column("fact_digest", sa.Text(), nullable=False),
        sa.Column("previous_hash", sa.Text(), nullable=False),
        sa.Column("hash", sa.Text(), nullable=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("superseded", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("position", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("transaction_id", TransactionId(), server_default=sa.text("pg_current_xact_id()"), nullable=False),
        sa.CheckConstraint(
            "hash ~ '^[0-9a-f]{64}$' AND previous_hash ~ '^([0-9a-f]{64})?$'", name=op.f("ck_run_events_hashes")
        ),
        sa.CheckConstraint("epoch >= 0 AND seq > 0", name=op.f("ck_run_events_numbers")),
        sa.ForeignKeyConstraint(
            ["tenant_id", "run_id"],
            ["execution_runs.tenant_id", "execution_runs.run_id"],
            name=op.f("fk_run_events_execution_runs"),
        ),
        sa.PrimaryKeyConstraint("run_id", "epoch", "seq", name=op.f("pk_run_events")),
        comment="Append-only: event stream, outbox and audit trail. A feed across runs reads in the order (transaction_id, position) below pg_snapshot_xmin(pg_current_snapshot()), or it misses rows that commit late.",
    )
    op.create_index(
        op.f("ix_run_events_transaction_id_position"), "run_events", ["transaction_id", "position"], unique=True
    )
    op.create_table(
        "event_bodies",
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("salt", sa.LargeBinary(), nullable=False),
        sa.Column("body", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.ForeignKeyConstraint(
            ["run_id", "epoch", "seq"],
            ["run_events.run_id", "run_events.epoch", "run_events.seq"],
            name=op.f("fk_event_bodies_run_events"),
        ),
        sa.PrimaryKeyConstraint("run_id", "epoch", "seq", name=op.f("pk_event_bodies")),
        comment="What users put into events. Erased without breaking the chain: run_events holds a salted digest only.",
    )


def downgrade() -> None:
    """Undo."""
    op.drop_table("event_bodies")
    op.drop_table("run_events")
    op.drop_table("plans")
    op.drop_table("node_executions")
    op.drop_table("node_attempts")
    op.drop_table("body_references")
    op.drop_table("retired_runs")
    op.drop_table("plan_documents")
    op.drop_table("payload_blobs")
    op.drop_table("execution_runs")
    op.drop_table("bodies")
    op.drop_table("api_tokens")
