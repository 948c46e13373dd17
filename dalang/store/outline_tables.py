"""The table of what is drawn of large plans."""

from __future__ import annotations

from sqlalchemy import Column, ForeignKeyConstraint, Integer, LargeBinary, PrimaryKeyConstraint, Table, Text

from dalang.store.columns import metadata, tenant

plan_outlines = Table(
    "plan_outlines",
    metadata,
    tenant(),
    Column("digest", Text, nullable=False),
    Column("form", Integer, nullable=False),
    Column("nodes", LargeBinary, nullable=False),
    Column("edges", LargeBinary, nullable=False),
    Column("picture", LargeBinary, nullable=False),
    PrimaryKeyConstraint("tenant_id", "digest", "form"),
    ForeignKeyConstraint(
        ["tenant_id", "digest"], ["plan_documents.tenant_id", "plan_documents.digest"], ondelete="CASCADE"
    ),
    comment="Nodes, edges and picture of large plans, in columns that pages read; if lost they are made anew.",
)
