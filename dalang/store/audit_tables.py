"""The tables of anchors: what all runs of a tenant had come to at some time, in one signed hash (``anchors.py``); and
of the second chain of a tenant: what happened at the API and belongs to no run (``system_events.py``)."""

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
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from dalang.store.columns import json_column, metadata, moment, tenant

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

system_events = Table(
    "system_events",
    metadata,
    tenant(),
    Column("seq", BigInteger, nullable=False),
    Column("type", Text, nullable=False),
    Column("at", DateTime(timezone=True), nullable=False),
    Column("level", Text, nullable=False),
    json_column("actor", "{}"),
    json_column("data", "{}"),
    Column("previous_hash", Text, nullable=False),
    Column("hash", Text, nullable=False),
    PrimaryKeyConstraint("tenant_id", "seq"),
    CheckConstraint("seq > 0", "seq"),
    CheckConstraint("level IN ('INFO', 'WARN', 'ERROR', 'CRITICAL')", "level"),
    comment="Append-only, a chain by previous_hash: refusals at the API, and acts of administration.",
)

system_heads = Table(
    "system_heads",
    metadata,
    tenant(),
    Column("seq", BigInteger, nullable=False, server_default=text("0")),
    Column("hash", Text, nullable=False, server_default=text("''")),
    Column("signature", Text),
    PrimaryKeyConstraint("tenant_id"),
    CheckConstraint("seq >= 0 AND (seq = 0) = (hash = '')", "head"),
    comment="The last event of each chain of system_events, and its signature.",
)

tenant_erasures = Table(
    "tenant_erasures",
    metadata,
    tenant(),
    Column("number", Integer, nullable=False),
    Column("certificate", JSONB, nullable=False),
    Column("signature", Text, nullable=False),
    moment("at", default=True),
    PrimaryKeyConstraint("tenant_id", "number"),
    CheckConstraint("number > 0", "number"),
    comment="Append-only: that a tenant was erased, of what there was how much, and the signature that proves it.",
)
