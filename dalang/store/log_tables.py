"""The table of what handlers logged."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, DateTime, Identity, Index, Integer, PrimaryKeyConstraint, Table, Text, Uuid

from dalang.store.columns import metadata, of_run, tenant

node_logs = Table(
    "node_logs",
    metadata,
    Column("run_id", Uuid, nullable=False),
    Column("position", BigInteger, Identity(always=True), nullable=False),
    tenant(),
    Column("node_id", Text, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("at", DateTime(timezone=True), nullable=False),
    Column("level", Text, nullable=False),
    Column("logger", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("error", Text),
    PrimaryKeyConstraint("run_id", "position"),
    of_run(cascade=True),
    Index(None, "run_id", "node_id", "position"),
    comment="What handlers logged, a row for each line, in the order in which the lines of a run came here.",
)
