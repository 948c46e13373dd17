"""Browser sessions, and the tickets that begin them."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None

_TEXTS = postgresql.ARRAY(sa.Text())
_ROLES = "roles <@ ARRAY['viewer', 'operator', 'approver', 'admin', 'agent']::text[]"


def _table(name: str, secret: str, *own: sa.Column[Any], comment: str) -> None:
    op.create_table(
        name,
        sa.Column(secret, sa.Text(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("roles", _TEXTS, nullable=False),
        sa.Column("groups", _TEXTS, server_default=sa.text("'{}'::text[]"), nullable=False),
        sa.Column("token_id", sa.Uuid()),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        *own,
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint(secret, name=f"pk_{name}"),
        sa.ForeignKeyConstraint(
            ["tenant_id", "token_id"],
            ["api_tokens.tenant_id", "api_tokens.token_id"],
            name=f"fk_{name}_api_tokens",
        ),
        sa.CheckConstraint(f"{secret} ~ '^[0-9a-f]{{64}}$'", name=secret),
        sa.CheckConstraint(_ROLES, name="roles"),
        comment=comment,
    )
    op.create_index(f"ix_{name}_tenant_id_expires_at", name, ["tenant_id", "expires_at"])


def upgrade() -> None:
    """Apply."""
    _table(
        "browser_sessions",
        "session_hash",
        sa.Column("seen_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        comment="Who is signed in with a browser: only the SHA-256 of the cookie is stored. A session that a token "
        "made holds as long as the token does. Signing out removes the row.",
    )
    _table(
        "sign_in_tickets",
        "ticket_hash",
        sa.Column("session_expires_at", sa.DateTime(timezone=True)),
        comment="Links that sign a browser in, once and for minutes: only the SHA-256 of the ticket is stored. Use "
        "removes the row.",
    )


def downgrade() -> None:
    """Undo."""
    op.drop_table("sign_in_tickets")
    op.drop_table("browser_sessions")
