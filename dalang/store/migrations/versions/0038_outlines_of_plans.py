"""What is drawn of large plans."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0038"
down_revision = "0037"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "plan_outlines",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("form", sa.Integer(), nullable=False),
        sa.Column("nodes", sa.LargeBinary(), nullable=False),
        sa.Column("edges", sa.LargeBinary(), nullable=False),
        sa.Column("picture", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "digest", "form", name="pk_plan_outlines"),
        sa.ForeignKeyConstraint(
            ["tenant_id", "digest"],
            ["plan_documents.tenant_id", "plan_documents.digest"],
            name="fk_plan_outlines_plan_documents",
            ondelete="CASCADE",
        ),
        comment="Nodes, edges and picture of large plans, in columns that pages read; if lost they are made anew.",
    )


def downgrade() -> None:
    """Undo."""
    op.drop_table("plan_outlines")
