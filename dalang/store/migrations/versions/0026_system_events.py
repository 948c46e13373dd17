"""A second chain of events per tenant: refusals at the API, and acts of administration."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    json = postgresql.JSONB()
    op.create_table(
        "system_events",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("level", sa.Text(), nullable=False),
        sa.Column("actor", json, server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("data", json, server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("previous_hash", sa.Text(), nullable=False),
        sa.Column("hash", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "seq", name="pk_system_events"),
        sa.CheckConstraint("seq > 0", name="seq"),
        sa.CheckConstraint("level IN ('INFO', 'WARN', 'ERROR', 'CRITICAL')", name="level"),
        comment="Append-only, a chain by previous_hash: refusals at the API, and acts of administration.",
    )
    op.create_table(
        "system_heads",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("seq", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("hash", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("signature", sa.Text()),
        sa.PrimaryKeyConstraint("tenant_id", name="pk_system_heads"),
        sa.CheckConstraint("seq >= 0 AND (seq = 0) = (hash = '')", name="head"),
        comment="The last event of each chain of system_events, and its signature.",
    )


def downgrade() -> None:
    """Undo."""
    op.drop_table("system_heads")
    op.drop_table("system_events")
