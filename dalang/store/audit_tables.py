"""The tables of anchors: what all runs of a tenant had come to at some time, in one signed hash (``anchors.py``)."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKeyConstraint,
    Index,
    Integer,
    PrimaryKeyConstraint,
    Table,
    Text,
    Uuid,
)

from dalang.store.columns import metadata, tenant

audit_anchors = Table(
    "audit_anchors",
    metadata,
    tenant(),
    Column("number", BigInteger, nullable=False),
    Column("at", DateTime(timezone=True), nullable=False),
    Column("heads", Integer, nullable=False),
    Column("root", Text, nullable=False),
    Column("previous", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("signature", Text, nullable=False),
    PrimaryKeyConstraint("tenant_id", "number"),
    CheckConstraint("number > 0 AND heads > 0", "numbers"),
    comment="Append-only, a chain by previous: the Merkle root over the heads of runs that are new since the last one.",
)

audit_anchor_heads = Table(
    "audit_anchor_heads",
    metadata,
    tenant(),
    Column("number", BigInteger, nullable=False),
    Column("position", Integer, nullable=False),
    Column("run_id", Uuid, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("hash", Text, nullable=False),
    PrimaryKeyConstraint("tenant_id", "number", "position"),
    ForeignKeyConstraint(["tenant_id", "number"], ["audit_anchors.tenant_id", "audit_anchors.number"]),
    CheckConstraint("position >= 0", "position"),
    Index(None, "tenant_id", "run_id", "hash"),
    comment="The heads in an anchor, in the order of its tree. They stay when their runs are deleted.",
)
