"""Circuit breakers."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def _when(name: str) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True))


def _count(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.Integer(), nullable=False, server_default=sa.text("0"))


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "circuit_breakers",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("breaker_id", sa.Uuid(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False, server_default=sa.text("'CLOSED'")),
        _count("failures"),
        _count("successes"),
        _when("until"),
        sa.Column("trials", postgresql.JSONB(), nullable=False, server_default=sa.text("'[]'::jsonb")),
        _when("opened_at"),
        _count("openings"),
        _when("last_failure_at"),
        sa.Column("last_failure", sa.Text()),
        sa.Column("operator", sa.Text()),
        sa.Column("reason", sa.Text()),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("now()")),
        sa.Column("revision", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "key", name="pk_circuit_breakers"),
        sa.UniqueConstraint("breaker_id", name="uq_circuit_breakers_breaker_id"),
        sa.CheckConstraint("state IN ('CLOSED', 'OPEN', 'HALF_OPEN')", name=op.f("ck_circuit_breakers_state")),
        sa.CheckConstraint(
            "failures >= 0 AND successes >= 0 AND openings >= 0", name=op.f("ck_circuit_breakers_counts")
        ),
        sa.CheckConstraint("(state = 'OPEN') = (until IS NOT NULL)", name=op.f("ck_circuit_breakers_until")),
        sa.CheckConstraint(
            "state = 'HALF_OPEN' OR (trials = '[]'::jsonb AND successes = 0)", name=op.f("ck_circuit_breakers_trials")
        ),
        comment="Whether somebody may be called. One row per tenant and key that has failed at least once; of two "
        "readings the one with the larger revision is newer.",
    )
    op.create_index(
        "ix_circuit_breakers_troubled",
        "circuit_breakers",
        ["tenant_id"],
        postgresql_where=sa.text("state <> 'CLOSED' OR failures > 0"),
    )


def downgrade() -> None:
    """Undo."""
    op.drop_table("circuit_breakers")
