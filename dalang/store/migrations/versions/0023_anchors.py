"""Anchors: what all runs of a tenant had come to, in one signed hash."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "audit_anchors",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("heads", sa.Integer(), nullable=False),
        sa.Column("root", sa.Text(), nullable=False),
        sa.Column("previous", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("signature", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "number", name="pk_audit_anchors"),
        sa.CheckConstraint("number > 0 AND heads > 0", name="numbers"),
        comment="Append-only, a chain by previous: the Merkle root over the heads of runs that are new since the last "
        "one.",
    )
    op.create_table(
        "audit_anchor_heads",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("hash", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "number", "position", name="pk_audit_anchor_heads"),
        sa.ForeignKeyConstraint(
            ["tenant_id", "number"],
            ["audit_anchors.tenant_id", "audit_anchors.number"],
            name="fk_audit_anchor_heads_audit_anchors",
        ),
        sa.CheckConstraint("position >= 0", name="position"),
        comment="The heads in an anchor, in the order of its tree. They stay when their runs are deleted.",
    )
    op.create_index(
        "ix_audit_anchor_heads_tenant_id_run_id_hash", "audit_anchor_heads", ["tenant_id", "run_id", "hash"]
    )


def downgrade() -> None:
    """Undo."""
    op.drop_table("audit_anchor_heads")
    op.drop_table("audit_anchors")
