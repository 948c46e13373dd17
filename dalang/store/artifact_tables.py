"""The table of artifacts (``artifacts.py``)."""

from __future__ import annotations

from sqlalchemy import BigInteger, CheckConstraint, Column, Index, PrimaryKeyConstraint, Table, Text, Uuid

from dalang.store.columns import metadata, moment, tenant

artifacts = Table(
    "artifacts",
    metadata,
    tenant(),
    Column("digest", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("media_type", Text, nullable=False),
    Column("name", Text),
    Column("created_by", Text, nullable=False),
    Column("run_id", Uuid),
    Column("node_id", Text),
    moment("created_at", default=True),
    moment("used_at", default=True),
    PrimaryKeyConstraint("tenant_id", "digest"),
    CheckConstraint("digest ~ '^[0-9a-f]{64}$'", "digest"),
    CheckConstraint("size >= 0", "size"),
    CheckConstraint("(run_id IS NULL) = (node_id IS NULL)", "node"),
    Index("ix_artifacts_tenant_id_run_id", "tenant_id", "run_id"),
    Index("ix_artifacts_tenant_id_created_at", "tenant_id", "created_at"),
    comment="Files that inputs and outputs refer to; their bytes are elsewhere. Who brought one first, and the node it "
    "came from; used_at is when it was brought or opened last.",
)
