"""The tables of admission: what is limited, who works, and who holds or waits for what (``leases.py``)."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Float,
    Index,
    Integer,
    PrimaryKeyConstraint,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from dalang.store.columns import metadata, moment

LEASE_STATES = ("WAITING", "GRANTED", "RELEASED", "WITHDRAWN", "REFUSED")
SHARED = ""
"""The tenant of a pool or an agent that all tenants share."""


resource_pools = Table(
    "resource_pools",
    metadata,
    Column("tenant_id", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("size", Float),
    Column("rate", Float),
    Column("burst", Float),
    Column("description", Text, nullable=False, server_default=text("''")),
    Column("updated_by", Text, nullable=False),
    moment("updated_at", default=True),
    PrimaryKeyConstraint("tenant_id", "name"),
    CheckConstraint("size >= 0 AND rate > 0 AND burst > 0", "amounts"),
    CheckConstraint("(size IS NOT NULL OR rate IS NOT NULL) AND (rate IS NULL) = (burst IS NULL)", "limits"),
    comment="What is limited: so much at once (size), so much a second (rate, at most burst at once), or both. A pool "
    "with a key in its demand is one such pool for each key. The tenant '' is everybody.",
)

pool_buckets = Table(
    "pool_buckets",
    metadata,
    Column("tenant_id", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("tokens", Float, nullable=False),
    Column("at", DateTime(timezone=True), nullable=False),
    PrimaryKeyConstraint("tenant_id", "name", "key"),
    comment="The token buckets of pools with a rate: what was left at that time.",
)

tenant_quotas = Table(
    "tenant_quotas",
    metadata,
    Column("tenant_id", Text, nullable=False),
    Column("max_nodes", Integer),
    Column("cpu_cores", Float),
    Column("memory_mb", Float),
    Column("weight", Float, nullable=False, server_default=text("1")),
    Column("updated_by", Text, nullable=False),
    moment("updated_at", default=True),
    PrimaryKeyConstraint("tenant_id"),
    CheckConstraint("max_nodes >= 0 AND cpu_cores >= 0 AND memory_mb >= 0 AND weight > 0", "amounts"),
    comment="What a tenant may use at once, and how large its share is where tenants compete.",
)

agents = Table(
    "agents",
    metadata,
    Column("tenant_id", Text, nullable=False),
    Column("agent_id", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("capabilities", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    Column("max_concurrent_tasks", Integer, nullable=False, server_default=text("1")),
    Column("labels", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    Column("endpoint", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    Column("draining", Boolean, nullable=False, server_default=text("false")),
    Column("heartbeat_seconds", Integer),
    moment("heartbeat_at"),
    Column("registered_by", Text, nullable=False),
    moment("registered_at", default=True),
    moment("updated_at", default=True),
    PrimaryKeyConstraint("tenant_id", "agent_id"),
    CheckConstraint("kind IN ('local', 'taskQueue', 'poll', 'a2a')", "kind"),
    CheckConstraint("max_concurrent_tasks >= 0 AND heartbeat_seconds > 0", "numbers"),
    comment="Who works: capabilities with proficiency, places, and the last sign of life. The tenant '' is everybody.",
)

leases = Table(
    "leases",
    metadata,
    Column("lease_id", Uuid, nullable=False),
    Column("tenant_id", Text, nullable=False),
    Column("run_id", Uuid, nullable=False),
    Column("workflow_id", Text, nullable=False),
    Column("node_id", Text, nullable=False),
    Column("ask", Integer, nullable=False),
    Column("state", Text, nullable=False, server_default=text("'WAITING'")),
    Column("priority", Integer, nullable=False, server_default=text("0")),
    Column("rank", BigInteger, nullable=False, server_default=text("0")),
    Column("amounts", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    Column("capabilities", JSONB, nullable=False, server_default=text("'[]'::jsonb")),
    Column("agent_id", Text),
    Column("sticky", Boolean, nullable=False, server_default=text("false")),
    Column("lasts_ms", BigInteger, nullable=False),
    Column("short", ARRAY(Text), nullable=False, server_default=text("'{}'")),
    Column("reason", Text),
    moment("asked_at", default=True),
    moment("granted_at"),
    moment("ended_at"),
    moment("told_at"),
    PrimaryKeyConstraint("lease_id"),
    CheckConstraint(f"state IN ({', '.join(repr(state) for state in LEASE_STATES)})", "state"),
    CheckConstraint("(state IN ('WAITING', 'GRANTED')) = (ended_at IS NULL)", "ended"),
    Index("ix_leases_waiting", "tenant_id", "asked_at", postgresql_where=text("state = 'WAITING'")),
    Index("ix_leases_granted", "tenant_id", postgresql_where=text("state = 'GRANTED'")),
    Index(
        "ix_leases_untold", "granted_at", postgresql_where=text("told_at IS NULL AND state IN ('GRANTED', 'REFUSED')")
    ),
    Index(None, "run_id"),
    Index("ix_leases_ended", "ended_at", postgresql_where=text("ended_at IS NOT NULL")),
    comment="Who holds or waits for what; what is in use is the sum over the granted ones and stands nowhere else.",
)
