"""The table of tallies: how many runs and human tasks ended how, without counting them."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, DateTime, Identity, Index, PrimaryKeyConstraint, Table, Text, text

from dalang.store.columns import metadata, number, tenant

tallies = Table(
    "tallies",
    metadata,
    tenant(),
    Column("number", BigInteger, Identity(always=True), nullable=False),
    Column("what", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("hour", DateTime(timezone=True)),
    number("count", BigInteger),
    number("milliseconds", BigInteger),
    number("nodes", BigInteger),
    number("retries", BigInteger),
    Column("folded", Boolean, nullable=False, server_default=text("false")),
    PrimaryKeyConstraint("number"),
    Index(
        "ix_tallies_folded",
        "tenant_id",
        "what",
        "status",
        "hour",
        unique=True,
        postgresql_where=text("folded"),
        postgresql_nulls_not_distinct=True,
    ),
    Index("ix_tallies_totals", "tenant_id", "what", postgresql_where=text("folded AND hour IS NULL")),
    Index("ix_tallies_new", "tenant_id", "number", postgresql_where=text("NOT folded")),
    comment="What ended, counted: by tenant, what (run, child, task), status, and hour of the end. Triggers add a "
    "row for what changes; a job adds these to that of their hour, and to that of all time, whose hour is null.",
)
