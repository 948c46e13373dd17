"""Admission: pools, quotas, agents, leases."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "resource_pools",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("size", sa.Float()),
        sa.Column("rate", sa.Float()),
        sa.Column("burst", sa.Float()),
        sa.Column("description", sa.Text(), nullable=False, server_default=sa.text("''")),
        sa.Column("updated_by", sa.Text(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("now()")),
        sa.PrimaryKeyConstraint("tenant_id", "name", name="pk_resource_pools"),
        sa.CheckConstraint("size >= 0 AND rate > 0 AND burst > 0", name=op.f("ck_resource_pools_amounts")),
        sa.CheckConstraint(
            "(size IS NOT NULL OR rate IS NOT NULL) AND (rate IS NULL) = (burst IS NULL)",
            name=op.f("ck_resource_pools_limits"),
        ),
        comment="What is limited: so much at once (size), so much a second (rate, at most burst at once), or both. A "
        "pool with a key in its demand is one such pool for each key. The tenant '' is everybody.",
    )
    op.create_table(
        "pool_buckets",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("tokens", sa.Float(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "name", "key", name="pk_pool_buckets"),
        comment="The token buckets of pools with a rate: what was left at that time.",
    )
    op.create_table(
        "tenant_quotas",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("max_nodes", sa.Integer()),
        sa.Column("cpu_cores", sa.Float()),
        sa.Column("memory_mb", sa.Float()),
        sa.Column("weight", sa.Float(), nullable=False, server_default=sa.text("1")),
        sa.Column("updated_by", sa.Text(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("now()")),
        sa.PrimaryKeyConstraint("tenant_id", name="pk_tenant_quotas"),
        sa.CheckConstraint(
            "max_nodes >= 0 AND cpu_cores >= 0 AND memory_mb >= 0 AND weight > 0", name=op.f("ck_tenant_quotas_amounts")
        ),
        comment="What a tenant may use at once, and how large its share is where tenants compete.",
    )
    op.create_table(
        "agents",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("agent_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("capabilities", postgresql.JSONB(), nullable=False, server_default=sa.text("'{}'::jsonb")),
        sa.Column("max_concurrent_tasks", sa.Integer(), nullable=False, server_default=sa.text("1")),
        sa.Column("labels", postgresql.JSONB(), nullable=False, server_default=sa.text("'{}'::jsonb")),
        sa.Column("endpoint", postgresql.JSONB(), nullable=False, server_default=sa.text("'{}'::jsonb")),
        sa.Column("draining", sa.Boolean(), nullable=False, server_default=sa.text("false")),
        sa.Column("heartbeat_seconds", sa.Integer()),
        sa.Column("heartbeat_at", sa.DateTime(timezone=True)),
        sa.Column("registered_by", sa.Text(), nullable=False),
        sa.Column("registered_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("now()")),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("now()")),
        sa.PrimaryKeyConstraint("tenant_id", "agent_id", name="pk_agents"),
        sa.CheckConstraint("kind IN ('local', 'taskQueue', 'poll', 'a2a')", name=op.f("ck_agents_kind")),
        sa.CheckConstraint("max_concurrent_tasks >= 0 AND heartbeat_seconds > 0", name=op.f("ck_agents_numbers")),
        comment="Who works: capabilities with proficiency, places, and the last sign of life. "
        "The tenant '' is everybody.",
    )
    op.create_table(
        "leases",
        sa.Column("lease_id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("workflow_id", sa.Text(), nullable=False),
        sa.Column("node_id", sa.Text(), nullable=False),
        sa.Column("ask", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False, server_default=sa.text("'WAITING'")),
        sa.Column("priority", sa.Integer(), nullable=False, server_default=sa.text("0")),
        sa.Column("rank", sa.BigInteger(), nullable=False, server_default=sa.text("0")),
        sa.Column("amounts", postgresql.JSONB(), nullable=False, server_default=sa.text("'{}'::jsonb")),
        sa.Column("capabilities", postgresql.JSONB(), nullable=False, server_default=sa.text("'[]'::jsonb")),
        sa.Column("agent_id", sa.Text()),
        sa.Column("sticky", sa.Boolean(), nullable=False, server_default=sa.text("false")),
        sa.Column("lasts_ms", sa.BigInteger(), nullable=False),
        sa.Column("short", postgresql.ARRAY(sa.Text()), nullable=False, server_default=sa.text("'{}'")),
        sa.Column("reason", sa.Text()),
        sa.Column("asked_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("now()")),
        sa.Column("granted_at", sa.DateTime(timezone=True)),
        sa.Column("ended_at", sa.DateTime(timezone=True)),
        sa.Column("told_at", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("lease_id", name="pk_leases"),
        sa.CheckConstraint("(state IN ('WAITING', 'GRANTED')) = (ended_at IS NULL)", name=op.f("ck_leases_ended")),
        sa.CheckConstraint(
            "state IN ('WAITING', 'GRANTED', 'RELEASED', 'WITHDRAWN', 'REFUSED')", name=op.f("ck_leases_state")
        ),
        comment="Who holds or waits for what; what is in use is the sum over the granted ones and stands nowhere else.",
    )
    op.create_index("ix_leases_ended", "leases", ["ended_at"], postgresql_where=sa.text("ended_at IS NOT NULL"))
    op.create_index("ix_leases_granted", "leases", ["tenant_id"], postgresql_where=sa.text("state = 'GRANTED'"))
    op.create_index("ix_leases_run_id", "leases", ["run_id"])
    op.create_index(
        "ix_leases_untold",
        "leases",
        ["granted_at"],
        postgresql_where=sa.text("told_at IS NULL AND state IN ('GRANTED', 'REFUSED')"),
    )
    op.create_index(
        "ix_leases_waiting", "leases", ["tenant_id", "asked_at"], postgresql_where=sa.text("state = 'WAITING'")
    )


def downgrade() -> None:
    """Undo."""
    for table in ("leases", "agents", "tenant_quotas", "pool_buckets", "resource_pools"):
        op.drop_table(table)
