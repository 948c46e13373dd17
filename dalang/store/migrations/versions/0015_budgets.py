"""Budgets of tenants, and what they use."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "tenant_budgets",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("tokens", sa.BigInteger()),
        sa.Column("cost", sa.Float()),
        sa.Column("nodes", sa.BigInteger()),
        sa.Column("work_ms", sa.BigInteger()),
        sa.Column("updated_by", sa.Text(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("now()")),
        sa.PrimaryKeyConstraint("tenant_id", name="pk_tenant_budgets"),
        sa.CheckConstraint(
            "tokens >= 0 AND cost >= 0 AND nodes >= 0 AND work_ms >= 0", name=op.f("ck_tenant_budgets_amounts")
        ),
        comment="What a tenant may use on one day (UTC) before its runs are paused; work_ms is time of nodes at work.",
    )
    op.create_table(
        "tenant_usage",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("part", sa.SmallInteger(), nullable=False),
        sa.Column("tokens", sa.BigInteger(), nullable=False, server_default=sa.text("0")),
        sa.Column("cost", sa.Float(), nullable=False, server_default=sa.text("0")),
        sa.Column("nodes", sa.BigInteger(), nullable=False, server_default=sa.text("0")),
        sa.Column("work_ms", sa.BigInteger(), nullable=False, server_default=sa.text("0")),
        sa.PrimaryKeyConstraint("tenant_id", "day", "part", name="pk_tenant_usage"),
        comment="What a tenant has used on a day (UTC), by events. In parts, by run, so that its runs do not wait for "
        "each other to be stored.",
    )


def downgrade() -> None:
    """Undo."""
    for table in ("tenant_usage", "tenant_budgets"):
        op.drop_table(table)
