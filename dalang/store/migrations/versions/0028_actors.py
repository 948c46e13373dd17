"""Who did what an event tells, and how grave it is; older events have none and keep their hashes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.add_column("run_events", sa.Column("audit", postgresql.JSONB()))


def downgrade() -> None:
    """Undo."""
    op.drop_column("run_events", "audit")
