"""Browser sessions and the tickets that begin them; like tokens, the database knows their SHA-256 only."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import and_, delete, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from dalang.store.people_tables import api_tokens
from dalang.store.session_tables import browser_sessions, sign_in_tickets

_sessions, _tickets, _tokens = browser_sessions.c, sign_in_tickets.c, api_tokens.c


@dataclass(frozen=True)
class SignedIn:
    """Who somebody is, as a session or a ticket remembers it.

    ``token_id`` is the API token that it goes back to, ``expires_at`` the end that its origin sets, if there is one.
    """

    tenant_id: str
    subject: str
    roles: tuple[str, ...]
    groups: tuple[str, ...] = ()
    token_id: UUID | None = None
    expires_at: datetime | None = None


@dataclass(frozen=True)
class OpenSession:
    """A session as an administrator sees it."""

    subject: str
    roles: tuple[str, ...]
    groups: tuple[str, ...]
    by_token: bool
    created_at: datetime
    seen_at: datetime
    expires_at: datetime


async def start_session(conn: AsyncConnection, who: SignedIn, longest: timedelta) -> str:
    """Begin a session of at most ``longest``; return its secret, which goes into the cookie.

    Sessions of the tenant that are over are swept out.
    """
    swept = and_(_sessions.tenant_id == who.tenant_id, _sessions.expires_at < func.now())
    await conn.execute(delete(browser_sessions).where(swept))
    # LEAST leaves NULL out: no end of its own is no limit.
    expires_at = func.least(func.now() + longest, who.expires_at)
    plain = secrets.token_urlsafe(32)
    values = {**_identity(who), "session_hash": _hash(plain), "expires_at": expires_at}
    await conn.execute(insert(browser_sessions).values(values))
    return plain


async def find_session(conn: AsyncConnection, plain: str, idle: timedelta) -> SignedIn | None:
    """Whose session is this? None when it has ended, nobody used it for ``idle``, or its token holds no more."""
    token = and_(_tokens.tenant_id == _sessions.tenant_id, _tokens.token_id == _sessions.token_id)
    lasts = or_(_tokens.expires_at.is_(None), _tokens.expires_at > func.now())
    columns = (_sessions.tenant_id, _sessions.subject, _sessions.roles, _sessions.groups, _sessions.token_id)
    # As with tokens: at most one write a minute, or the requests of a page would wait for each other.
    stale = _sessions.seen_at < func.now() - timedelta(minutes=1)
    query = (
        select(*columns, _sessions.expires_at, stale)
        .select_from(browser_sessions.outerjoin(api_tokens, token))
        .where(_sessions.session_hash == _hash(plain))
        .where(_sessions.expires_at > func.now(), _sessions.seen_at > func.now() - idle)
        .where(or_(_sessions.token_id.is_(None), and_(_tokens.revoked_at.is_(None), lasts)))
    )
    row = (await conn.execute(query)).first()
    if row is None:
        return None
    *who, is_stale = row
    if is_stale:
        seen = update(browser_sessions).where(_sessions.session_hash == _hash(plain), stale)
        await conn.execute(seen.values(seen_at=func.now()))
    return _signed_in(who)


async def end_session(conn: AsyncConnection, plain: str) -> None:
    """Sign out: nothing is left of the session."""
    await conn.execute(delete(browser_sessions).where(_sessions.session_hash == _hash(plain)))


async def list_sessions(
    conn: AsyncConnection, tenant_id: str, subject: str | None = None, limit: int = 1_000
) -> list[OpenSession]:
    """Who of the tenant is signed in, the newest first? Sessions that nobody used for long may be among them."""
    columns = (_sessions.subject, _sessions.roles, _sessions.groups, _sessions.token_id.is_not(None))
    times = (_sessions.created_at, _sessions.seen_at, _sessions.expires_at)
    query = select(*columns, *times).where(_sessions.tenant_id == tenant_id, _sessions.expires_at > func.now())
    if subject is not None:
        query = query.where(_sessions.subject == subject)
    found = await conn.execute(query.order_by(_sessions.created_at.desc(), _sessions.session_hash).limit(limit))
    return [OpenSession(name, tuple(roles), tuple(groups), *rest) for name, roles, groups, *rest in found]


async def end_sessions_of(conn: AsyncConnection, tenant_id: str, subject: str) -> int:
    """Sign somebody out everywhere, tickets that wait for him included; return how many sessions there were."""
    theirs = and_(_tickets.tenant_id == tenant_id, _tickets.subject == subject)
    await conn.execute(delete(sign_in_tickets).where(theirs))
    his = and_(_sessions.tenant_id == tenant_id, _sessions.subject == subject)
    return (await conn.execute(delete(browser_sessions).where(his))).rowcount


async def make_ticket(conn: AsyncConnection, who: SignedIn, lasting: timedelta) -> tuple[str, datetime]:
    """Make a ticket that begins one session of ``who`` within ``lasting``; return it and until when it holds."""
    swept = and_(_tickets.tenant_id == who.tenant_id, _tickets.expires_at < func.now())
    await conn.execute(delete(sign_in_tickets).where(swept))
    plain = secrets.token_urlsafe(32)
    values = {**_identity(who), "ticket_hash": _hash(plain), "session_expires_at": who.expires_at}
    made = insert(sign_in_tickets).values({**values, "expires_at": func.now() + lasting})
    return plain, (await conn.execute(made.returning(_tickets.expires_at))).scalar_one()


async def use_ticket(conn: AsyncConnection, plain: str) -> SignedIn | None:
    """Whose ticket is this? It is used up by asking; None when it was before, or is too old."""
    used = delete(sign_in_tickets).where(_tickets.ticket_hash == _hash(plain), _tickets.expires_at > func.now())
    columns = (_tickets.tenant_id, _tickets.subject, _tickets.roles, _tickets.groups, _tickets.token_id)
    row = (await conn.execute(used.returning(*columns, _tickets.session_expires_at))).first()
    return None if row is None else _signed_in(row)


def _signed_in(row: Sequence[Any]) -> SignedIn:
    tenant_id, subject, roles, groups, token_id, expires_at = row
    return SignedIn(tenant_id, subject, tuple(roles), tuple(groups), token_id, expires_at)


def _identity(who: SignedIn) -> dict[str, Any]:
    granted = {"roles": sorted(who.roles), "groups": sorted(who.groups)}
    return {"tenant_id": who.tenant_id, "subject": who.subject, "token_id": who.token_id, **granted}


def _hash(plain: str) -> str:
    return hashlib.sha256(plain.encode("utf-8", "surrogatepass")).hexdigest()
