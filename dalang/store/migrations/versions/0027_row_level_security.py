"""Row level security: every table with a tenant shows only the rows of the transaction's (``row_security.py``)."""

from __future__ import annotations

from alembic import op

from dalang.store.row_security import enforce, relax

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply; what later migrations add gets its policies at their end."""
    enforce(op.get_bind())


def downgrade() -> None:
    """Undo."""
    relax(op.get_bind())
