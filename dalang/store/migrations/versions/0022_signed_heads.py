"""Heads of runs are signed, so that whoever can rewrite the database is found."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.add_column("execution_runs", sa.Column("head_signature", sa.Text()))


def downgrade() -> None:
    """Undo."""
    op.drop_column("execution_runs", "head_signature")
