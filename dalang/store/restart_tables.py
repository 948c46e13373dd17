"""The tables of points to go on from: what handlers left of their work, and named points of runs."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    Integer,
    PrimaryKeyConstraint,
    Table,
    Text,
    Uuid,
    text,
)

from dalang.store.columns import json_column, metadata, moment, of_run, tenant

node_checkpoints = Table(
    "node_checkpoints",
    metadata,
    Column("run_id", Uuid, nullable=False),
    Column("node_id", Text, nullable=False),
    Column("iteration", Integer, nullable=False),
    Column("generation", Integer, nullable=False),
    tenant(),
    Column("begun", DateTime(timezone=True), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("saved_at", DateTime(timezone=True), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("state", Text, nullable=False),
    PrimaryKeyConstraint("run_id", "node_id", "iteration", "generation"),
    of_run(cascade=True),
    CheckConstraint("iteration >= 0 AND generation >= 0 AND attempt > 0 AND number > 0 AND size >= 0", "numbers"),
    comment="The last state that a node's handler left, by what it works on; (begun, number) says which is newer.",
)

run_checkpoints = Table(
    "run_checkpoints",
    metadata,
    Column("run_id", Uuid, nullable=False),
    Column("name", Text, nullable=False),
    tenant(),
    Column("epoch", Integer, nullable=False),
    Column("seq", BigInteger, nullable=False),
    json_column("node_status_counts", "{}"),
    Column("note", Text, nullable=False, server_default=text("''")),
    Column("created_by", Text, nullable=False),
    moment("created_at", default=True),
    PrimaryKeyConstraint("run_id", "name"),
    of_run(cascade=True),
    CheckConstraint("epoch >= 0 AND seq >= 0", "numbers"),
    comment="Named points in the chains of runs, from which a redrive can start: a point is all, as events do not "
    "change.",
)
