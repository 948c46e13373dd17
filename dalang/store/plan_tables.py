"""Large plans in pieces: what is beside the one document of a plan, so that nobody reads it for a few nodes' sake."""

from __future__ import annotations

from sqlalchemy import (
    CheckConstraint,
    Column,
    ForeignKeyConstraint,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    Table,
    Text,
)

from dalang.store.columns import metadata, tenant

_OF_PLAN = (["tenant_id", "digest"], ["plan_documents.tenant_id", "plan_documents.digest"])

plan_graphs = Table(
    "plan_graphs",
    metadata,
    tenant(),
    Column("digest", Text, nullable=False),
    Column("nodes", Text, nullable=False),
    Column("lines", Text, nullable=False),
    Column("numbers", LargeBinary, nullable=False),
    PrimaryKeyConstraint("tenant_id", "digest"),
    ForeignKeyConstraint(*_OF_PLAN),
    comment="Of large plans: JSON of ids, names and types of all nodes, and the graph as PlanGraph packs it.",
)

plan_pieces = Table(
    "plan_pieces",
    metadata,
    tenant(),
    Column("digest", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("number", Integer, nullable=False),
    Column("content", Text, nullable=False),
    PrimaryKeyConstraint("tenant_id", "digest", "kind", "number"),
    ForeignKeyConstraint(*_OF_PLAN),
    CheckConstraint("kind IN ('nodes', 'edges')", "kind"),
    comment="Of large plans: the documents of some nodes in plan order, or of some edges by target, as a JSON list.",
)
