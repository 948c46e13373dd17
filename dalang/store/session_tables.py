"""The tables of browser sessions: who is signed in to the pages, and the tickets that sign in once."""

from __future__ import annotations

from typing import Any

from sqlalchemy import CheckConstraint, Column, DateTime, ForeignKeyConstraint, Index, Table, Text, Uuid, text
from sqlalchemy.dialects.postgresql import ARRAY

from dalang.store.columns import metadata, moment, quoted, tenant
from dalang.store.people_tables import ROLES

_TOKEN = ["tenant_id", "token_id"]


def _of_token() -> ForeignKeyConstraint:
    return ForeignKeyConstraint(_TOKEN, [f"api_tokens.{name}" for name in _TOKEN])


def _signed_in() -> tuple[Column[Any], ...]:
    """The columns that say who somebody is."""
    return (
        tenant(),
        Column("subject", Text, nullable=False),
        Column("roles", ARRAY(Text), nullable=False),
        Column("groups", ARRAY(Text), nullable=False, server_default=text("'{}'::text[]")),
        Column("token_id", Uuid),
    )


browser_sessions = Table(
    "browser_sessions",
    metadata,
    Column("session_hash", Text, primary_key=True),
    *_signed_in(),
    moment("created_at", default=True),
    moment("seen_at", default=True),
    Column("expires_at", DateTime(timezone=True), nullable=False),
    _of_token(),
    CheckConstraint("session_hash ~ '^[0-9a-f]{64}$'", "session_hash"),
    CheckConstraint(f"roles <@ ARRAY[{quoted(ROLES)}]::text[]", "roles"),
    Index(None, "tenant_id", "expires_at"),
    comment="Who is signed in with a browser: only the SHA-256 of the cookie is stored. A session that a token made "
    "holds as long as the token does. Signing out removes the row.",
)

sign_in_tickets = Table(
    "sign_in_tickets",
    metadata,
    Column("ticket_hash", Text, primary_key=True),
    *_signed_in(),
    moment("session_expires_at"),
    moment("created_at", default=True),
    Column("expires_at", DateTime(timezone=True), nullable=False),
    _of_token(),
    CheckConstraint("ticket_hash ~ '^[0-9a-f]{64}$'", "ticket_hash"),
    CheckConstraint(f"roles <@ ARRAY[{quoted(ROLES)}]::text[]", "roles"),
    Index(None, "tenant_id", "expires_at"),
    comment="Links that sign a browser in, once and for minutes: only the SHA-256 of the ticket is stored. Use removes "
    "the row.",
)
