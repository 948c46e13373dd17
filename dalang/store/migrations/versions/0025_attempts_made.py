"""What made a failed attempt: the worker's build, the code, the model; of successes the events tell."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    column = sa.Column("made", JSONB(), nullable=False, server_default=sa.text("'{}'::jsonb"))
    op.add_column("node_attempts", column)


def downgrade() -> None:
    """Undo."""
    op.drop_column("node_attempts", "made")
