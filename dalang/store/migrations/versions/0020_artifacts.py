"""Artifacts: files that inputs and outputs refer to."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def _now(name: str) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=False, server_default=sa.text("now()"))


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "artifacts",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("media_type", sa.Text(), nullable=False),
        sa.Column("name", sa.Text()),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Uuid()),
        sa.Column("node_id", sa.Text()),
        _now("created_at"),
        _now("used_at"),
        sa.PrimaryKeyConstraint("tenant_id", "digest", name="pk_artifacts"),
        sa.CheckConstraint("digest ~ '^[0-9a-f]{64}$'", name=op.f("ck_artifacts_digest")),
        sa.CheckConstraint("size >= 0", name=op.f("ck_artifacts_size")),
        sa.CheckConstraint("(run_id IS NULL) = (node_id IS NULL)", name=op.f("ck_artifacts_node")),
        comment="Files that inputs and outputs refer to; their bytes are elsewhere. Who brought one first, and the "
        "node it came from; used_at is when it was brought or opened last.",
    )
    op.create_index("ix_artifacts_tenant_id_run_id", "artifacts", ["tenant_id", "run_id"])
    op.create_index("ix_artifacts_tenant_id_created_at", "artifacts", ["tenant_id", "created_at"])


def downgrade() -> None:
    """Undo."""
    op.drop_table("artifacts")
