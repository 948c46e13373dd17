"""The tables of budgets: what a tenant may use on a day, and what it has used (``usage.py``)."""

from __future__ import annotations

from sqlalchemy import BigInteger, CheckConstraint, Column, Date, Float, PrimaryKeyConstraint, SmallInteger, Table, Text
from sqlalchemy import text as sql

from dalang.store.columns import metadata, moment

tenant_budgets = Table(
    "tenant_budgets",
    metadata,
    Column("tenant_id", Text, nullable=False),
    Column("tokens", BigInteger),
    Column("cost", Float),
    Column("nodes", BigInteger),
    Column("work_ms", BigInteger),
    Column("updated_by", Text, nullable=False),
    moment("updated_at", default=True),
    PrimaryKeyConstraint("tenant_id"),
    CheckConstraint("tokens >= 0 AND cost >= 0 AND nodes >= 0 AND work_ms >= 0", "amounts"),
    comment="What a tenant may use on one day (UTC) before its runs are paused; work_ms is time of nodes at work.",
)

tenant_usage = Table(
    "tenant_usage",
    metadata,
    Column("tenant_id", Text, nullable=False),
    Column("day", Date, nullable=False),
    Column("part", SmallInteger, nullable=False),
    Column("tokens", BigInteger, nullable=False, server_default=sql("0")),
    Column("cost", Float, nullable=False, server_default=sql("0")),
    Column("nodes", BigInteger, nullable=False, server_default=sql("0")),
    Column("work_ms", BigInteger, nullable=False, server_default=sql("0")),
    PrimaryKeyConstraint("tenant_id", "day", "part"),
    comment="What a tenant has used on a day (UTC), by events. In parts, by run, so that its runs do not wait for each "
    "other to be stored.",
)
