"""Browser sessions: the cookie of the pages, and what keeps other sites from using it.

Theory of operation
    The cookie is a random secret that the database knows by its SHA-256. So signing out, and revoking the token that a
    session goes back to, hold at once in every API server. The cookie alone is good for reading. Whatever changes
    something needs the session's CSRF value in a header too, which only a page of ours can read, and must not come from
    a page of another origin: browsers say so themselves, in ``Sec-Fetch-Site`` or ``Origin``. The CSRF value is derived
    from the cookie, one way, so there is nothing to store.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from datetime import datetime, timedelta

from fastapi import Request, Response
from sqlalchemy.ext.asyncio import AsyncEngine

from dalang.api.problems import Forbidden
from dalang.api.rates import Rates
from dalang.settings import Settings
from dalang.store.browser_sessions import (
    SignedIn,
    end_session,
    find_session,
    make_ticket,
    start_session,
    use_ticket,
)
from dalang.store.engine import system_transaction, transaction

COOKIE = "dalang_session"
CSRF_HEADER = "X-Dalang-CSRF"
TICKET_SECONDS = 120
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
MAX_SECRET_LENGTH = 256
DATABASE_SECONDS = 5.0


class Sessions:
    """Begins, finds and ends sessions."""

    def __init__(self, engine: AsyncEngine, settings: Settings, rates: Rates | None = None) -> None:
        self._engine = engine
        self._longest = timedelta(seconds=settings.session_seconds)
        self._idle = timedelta(seconds=settings.session_idle_seconds)
        self._rates = rates or Rates(0)

    async def find(self, cookie: str) -> SignedIn | None:
        """Return who has this cookie, or None when there is no such session, or it is over.

        Raises:
            TooManyRequests: it asks too often.
        """
        if len(cookie) > MAX_SECRET_LENGTH:
            return None
        self._rates.take(csrf_of(cookie))
        async with asyncio.timeout(DATABASE_SECONDS), system_transaction(self._engine) as conn:
            return await find_session(conn, cookie, self._idle)

    async def start(self, who: SignedIn) -> str:
        """Begin a session; return its cookie."""
        async with asyncio.timeout(DATABASE_SECONDS), transaction(self._engine, who.tenant_id) as conn:
            return await start_session(conn, who, self._longest)

    async def end(self, cookie: str) -> None:
        """Sign out."""
        async with asyncio.timeout(DATABASE_SECONDS), system_transaction(self._engine) as conn:
            await end_session(conn, cookie)

    async def ticket(self, who: SignedIn) -> tuple[str, datetime]:
        """Make a ticket that begins one session of ``who``; return it and until when it holds."""
        async with asyncio.timeout(DATABASE_SECONDS), transaction(self._engine, who.tenant_id) as conn:
            return await make_ticket(conn, who, timedelta(seconds=TICKET_SECONDS))

    async def use(self, ticket: str) -> SignedIn | None:
        """Use a ticket up; None when it was used before, or is too old."""
        if len(ticket) > MAX_SECRET_LENGTH:
            return None
        async with asyncio.timeout(DATABASE_SECONDS), system_transaction(self._engine) as conn:
            return await use_ticket(conn, ticket)


def csrf_of(cookie: str) -> str:
    """Return the CSRF value of a session, for its pages to carry in ``<meta name="csrf">``."""
    return hashlib.sha256(b"dalang csrf\0" + cookie.encode("utf-8", "surrogatepass")).hexdigest()


def check_not_forged(request: Request, cookie: str, given: str) -> None:
    """Refuse what a page of others made a browser send.

    Raises:
        Forbidden: ``given`` is not the session's CSRF value, or the request comes from another origin.
    """
    if not hmac.compare_digest(csrf_of(cookie).encode(), given.encode("utf-8", "surrogatepass")):
        raise Forbidden(f"With a session cookie this needs the header {CSRF_HEADER} with the page's value.")
    check_origin(request)


def check_origin(request: Request) -> None:
    """Refuse requests of pages that are not ours; programs, which say nothing of a page, may pass.

    Raises:
        Forbidden: the browser says that the request comes from another origin.
    """
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site is not None:
        ours = site == "same-origin"
    elif origin is not None:
        public: str = request.app.state.services.settings.public_url
        ours = origin.partition("://")[2] in {request.headers.get("host"), public.partition("://")[2]} - {""}
    else:
        ours = True
    if not ours:
        raise Forbidden("Pages of another origin may not ask here.")


def set_cookie(request: Request, response: Response, cookie: str) -> None:
    """Let the browser keep the session until it is closed, out of the reach of scripts and of other sites."""
    response.set_cookie(COOKIE, cookie, httponly=True, samesite="lax", secure=is_over_https(request), path="/")


def forget_cookie(request: Request, response: Response) -> None:
    """Let the browser forget the session."""
    response.delete_cookie(COOKIE, httponly=True, samesite="lax", secure=is_over_https(request), path="/")


def is_over_https(request: Request) -> bool:
    """Tell whether the browser speaks TLS, to us or to the proxy before us."""
    public: str = request.app.state.services.settings.public_url
    return request.url.scheme == "https" or public.startswith("https://")
