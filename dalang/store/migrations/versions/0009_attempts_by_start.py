"""Attempts of a node that starts again as the same work: an interrupt, an operator's retry; they count from 1 anew."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_KEY, _CHECK = "pk_node_attempts", "ck_node_attempts_numbers"


def upgrade() -> None:
    """Apply."""
    op.add_column("node_attempts", sa.Column("starts", sa.Integer(), nullable=False, server_default=sa.text("0")))
    op.drop_constraint(op.f(_KEY), "node_attempts", type_="primary")
    op.create_primary_key(op.f(_KEY), "node_attempts", ["run_id", "node_id", "generation", "starts", "attempt"])
    op.drop_constraint(op.f(_CHECK), "node_attempts", type_="check")
    op.create_check_constraint(op.f(_CHECK), "node_attempts", "generation >= 0 AND starts >= 0 AND attempt > 0")


def downgrade() -> None:
    """Undo; of attempts with one number the first start's stay."""
    op.execute("DELETE FROM node_attempts WHERE starts > 0")
    op.drop_constraint(op.f(_CHECK), "node_attempts", type_="check")
    op.create_check_constraint(op.f(_CHECK), "node_attempts", "generation >= 0 AND attempt > 0")
    op.drop_constraint(op.f(_KEY), "node_attempts", type_="primary")
    op.drop_column("node_attempts", "starts")
    op.create_primary_key(op.f(_KEY), "node_attempts", ["run_id", "node_id", "generation", "attempt"])
