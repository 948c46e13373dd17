"""API tokens: the database knows their SHA-256 only, the plain text is shown once."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, fields
from datetime import datetime
from uuid import UUID, uuid4

from sqlalchemy import ColumnElement, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from dalang.store.paging import Page, after, read_cursor, write_cursor
from dalang.store.people_tables import ROLES, api_tokens

PREFIX = "dalang_"
"""Every token begins with it, so that scanners find leaked ones."""
_tokens = api_tokens.c


@dataclass(frozen=True)
class Token:
    """What is known of a token, which is everything but the token."""

    token_id: UUID
    tenant_id: str
    subject: str
    name: str
    roles: tuple[str, ...]
    groups: tuple[str, ...]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None

    def __post_init__(self) -> None:
        object.__setattr__(self, "roles", tuple(self.roles))
        object.__setattr__(self, "groups", tuple(self.groups))


_COLUMNS = [_tokens[one.name] for one in fields(Token)]


async def create_token(
    conn: AsyncConnection,
    tenant_id: str,
    subject: str,
    roles: Iterable[str],
    *,
    name: str = "",
    groups: Iterable[str] = (),
    expires_at: datetime | None = None,
) -> tuple[str, Token]:
    """Make a token; return its plain text, which nobody can ask for again, and what is known of it.

    ``groups`` are those whose human tasks its owner may decide. Raises ValueError for a role that there is not.
    """
    plain = PREFIX + secrets.token_urlsafe(32)
    await ensure_token(conn, plain, tenant_id, subject, roles, name=name, groups=groups, expires_at=expires_at)
    made = await conn.execute(select(*_COLUMNS).where(_tokens.token_hash == _hash(plain)))
    return plain, Token(*made.one())


async def ensure_token(
    conn: AsyncConnection,
    token: str,
    tenant_id: str,
    subject: str,
    roles: Iterable[str],
    *,
    name: str = "",
    groups: Iterable[str] = (),
    expires_at: datetime | None = None,
) -> None:
    """Let this token be valid for exactly this; changes nothing when it is. For tokens made elsewhere (``dalang up``).

    A token that was revoked stays so.
    """
    given = sorted(set(roles))
    if not set(given) <= set(ROLES):
        raise ValueError(f"roles are {', '.join(ROLES)}, not {', '.join(given)}")
    if len(token) < 20:
        raise ValueError("a token has at least 20 characters")
    granted = {"tenant_id": tenant_id, "subject": subject, "roles": given, "name": name, "expires_at": expires_at}
    granted["groups"] = sorted(set(groups))
    statement = insert(api_tokens).values(token_hash=_hash(token), token_id=uuid4(), **granted)
    await conn.execute(statement.on_conflict_do_update(index_elements=["token_hash"], set_=granted))


async def verify_token(conn: AsyncConnection, token: str) -> Token | None:
    """Whose token is this? None when it is unknown, expired or revoked. The tenant is the answer, not a question."""
    row = (await conn.execute(select(*_COLUMNS).where(_tokens.token_hash == _hash(token), _valid()))).first()
    if row is None:
        return None
    found = Token(*row)
    minute_ago = func.now() - func.make_interval(0, 0, 0, 0, 0, 1, 0)
    stale = or_(_tokens.last_used_at.is_(None), _tokens.last_used_at < minute_ago)
    # At most one write a minute and token, or every request of one client would wait for the same row.
    used = update(api_tokens).where(_tokens.tenant_id == found.tenant_id, _tokens.token_id == found.token_id, stale)
    await conn.execute(used.values(last_used_at=func.now()))
    return found


async def list_tokens(
    conn: AsyncConnection, tenant_id: str, *, active: bool = False, limit: int = 1_000, cursor: str | None = None
) -> Page[Token]:
    """Which tokens were made, the newest first, the revoked and expired too unless only the ``active`` are asked for?

    Raises:
        InvalidCursor: ``cursor`` is none of this list.
    """
    query = select(*_COLUMNS).where(_tokens.tenant_id == tenant_id)
    if active:
        query = query.where(_valid())
    if cursor is not None:
        at, token_id = read_cursor(cursor, datetime, UUID)
        query = query.where(after((_tokens.created_at, at), (_tokens.token_id, token_id), descending=True))
    query = query.order_by(_tokens.created_at.desc(), _tokens.token_id.desc()).limit(limit + 1)
    found = [Token(*row) for row in await conn.execute(query)]
    more = write_cursor(found[limit - 1].created_at, found[limit - 1].token_id) if len(found) > limit else None
    return Page(found[:limit], more)


async def get_token(conn: AsyncConnection, tenant_id: str, token_id: UUID) -> Token | None:
    """What is known of this token of the tenant?"""
    query = select(*_COLUMNS).where(_tokens.tenant_id == tenant_id, _tokens.token_id == token_id)
    row = (await conn.execute(query)).first()
    return None if row is None else Token(*row)


async def revoke_token(conn: AsyncConnection, tenant_id: str, token_id: UUID) -> bool:
    """End a token now; False when there is no such token, or it was revoked before."""
    valid = _tokens.revoked_at.is_(None) & (_tokens.token_id == token_id) & (_tokens.tenant_id == tenant_id)
    done = await conn.execute(update(api_tokens).where(valid).values(revoked_at=func.now()))
    return bool(done.rowcount)


def _valid() -> ColumnElement[bool]:
    return _tokens.revoked_at.is_(None) & or_(_tokens.expires_at.is_(None), _tokens.expires_at > func.now())


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
