"""Large plans in pieces beside their document. Plans that are there get theirs when somebody first looks at them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0037"
down_revision = "0036"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "plan_graphs",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("nodes", sa.Text(), nullable=False),
        sa.Column("lines", sa.Text(), nullable=False),
        sa.Column("numbers", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "digest", name="pk_plan_graphs"),
        sa.ForeignKeyConstraint(
            ["tenant_id", "digest"],
            ["plan_documents.tenant_id", "plan_documents.digest"],
            name="fk_plan_graphs_plan_documents",
        ),
        comment="Of large plans: JSON of ids, names and types of all nodes, and the graph as PlanGraph packs it.",
    )
    # All of it is read at once, often, and hardly gets smaller.
    op.execute("ALTER TABLE plan_graphs ALTER COLUMN numbers SET STORAGE EXTERNAL")
    op.create_table(
        "plan_pieces",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "digest", "kind", "number", name="pk_plan_pieces"),
        sa.ForeignKeyConstraint(
            ["tenant_id", "digest"],
            ["plan_documents.tenant_id", "plan_documents.digest"],
            name="fk_plan_pieces_plan_documents",
        ),
        sa.CheckConstraint("kind IN ('nodes', 'edges')", name=op.f("ck_plan_pieces_kind")),
        comment="Of large plans: the documents of some nodes in plan order, or of some edges by target, "
        "as a JSON list.",
    )


def downgrade() -> None:
    """Undo."""
    op.drop_table("plan_pieces")
    op.drop_table("plan_graphs")
