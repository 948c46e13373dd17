"""Who asks: ``Authorization: Bearer <token>``, looked up by its SHA-256, or the session cookie of a browser.

Nothing but health, the docs and the sign-in page is open.

What a token may do is a matter of its roles: ``viewer`` reads, ``approver`` also decides human tasks, ``operator`` does
that and runs and controls, ``agent`` registers an agent and does its work, ``admin`` may do everything. Which tasks are
his to decide is a matter of his name and of the token's groups. The tenant of a request is the token's, whatever a body
says.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Self
from uuid import UUID

from fastapi import Depends, Request
from fastapi.security import APIKeyCookie, HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy.ext.asyncio import AsyncEngine

from dalang.api.observing import is_by
from dalang.api.oidc import TokenRefused
from dalang.api.oidc.trusted import Trusted
from dalang.api.problems import Forbidden, Unauthenticated
from dalang.api.rates import Rates
from dalang.api.sessions import COOKIE, CSRF_HEADER, SAFE_METHODS, Sessions, check_not_forged, csrf_of
from dalang.identity_providers import Provider
from dalang.store.browser_sessions import SignedIn
from dalang.store.engine import system_transaction
from dalang.store.tokens import Token, verify_token

CACHE_SECONDS = 5.0
"""So long a revoked token may still be let in by a process that has just seen it."""
DATABASE_SECONDS = 5.0
CACHED_TOKENS = 10_000
MAX_TOKEN_LENGTH = 4_096

READERS = frozenset({"viewer", "operator", "approver", "admin"})
OPERATORS = frozenset({"operator", "admin"})
WORKERS = frozenset({"agent", "operator", "admin"})
DECIDERS = frozenset({"approver", "operator", "admin"})
ADMINS = frozenset({"admin"})

bearer = HTTPBearer(auto_error=False, description="A token made by `dalang token create`, or `<home>/token`.")
session_cookie = APIKeyCookie(
    name=COOKIE,
    auto_error=False,
    description=f"A browser that is signed in; what changes something needs the header `{CSRF_HEADER}` too.",
)


@dataclass(frozen=True)
class Principal:
    """Who asks. ``token_id`` is the API token that this goes back to, ``expires_at`` when it ends."""

    tenant_id: str
    subject: str
    roles: frozenset[str]
    groups: tuple[str, ...] = ()
    token_id: UUID | None = None
    expires_at: datetime | None = None

    @classmethod
    def of(cls, who: Token | SignedIn) -> Self:
        """Return who a token, or a session, stands for."""
        return cls(who.tenant_id, who.subject, frozenset(who.roles), who.groups, who.token_id, who.expires_at)

    def signed_in(self) -> SignedIn:
        """Return what a session remembers of him."""
        roles = tuple(sorted(self.roles))
        return SignedIn(self.tenant_id, self.subject, roles, self.groups, self.token_id, self.expires_at)


class Tokens:
    """Looks tokens up, remembering for a few seconds what was found, also that nothing was."""

    def __init__(
        self,
        engine: AsyncEngine,
        seconds: float = CACHE_SECONDS,
        rates: Rates | None = None,
        trusted: Trusted | None = None,
    ) -> None:
        self._engine = engine
        self._trusted = trusted or Trusted(None)
        self._rates = rates or Rates(0)
        self.seconds = seconds
        self._seen: OrderedDict[str, tuple[Token | None, float]] = OrderedDict()

    def forget(self, token_id: UUID) -> None:
        """Look a token up anew when it comes next: it was revoked."""
        known = [key for key, (token, _) in self._seen.items() if token is not None and token.token_id == token_id]
        for key in known:
            del self._seen[key]

    async def principal(self, plain: str) -> Principal | None:
        """Return whose token this is, or None when it is unknown, expired or revoked.

        Raises:
            TooManyRequests: it asks too often.
            Unauthenticated: a token of an identity provider is refused; the text says why.
        """
        provider = self._trusted.provider_of(plain)
        if provider is not None:
            return await self._of_provider(provider, plain)
        if len(plain) > MAX_TOKEN_LENGTH:
            return None
        key = hashlib.sha256(plain.encode("utf-8", "surrogatepass")).hexdigest()
        self._rates.take(key)
        token, at = self._seen.get(key, (None, -self.seconds))
        if time.monotonic() - at >= self.seconds:
            async with asyncio.timeout(DATABASE_SECONDS), system_transaction(self._engine) as conn:
                token = await verify_token(conn, plain)
            self._seen[key] = token, time.monotonic()
            self._seen.move_to_end(key)
            while len(self._seen) > CACHED_TOKENS:
                self._seen.popitem(last=False)
        if token is None or (token.expires_at is not None and token.expires_at <= datetime.now(UTC)):
            return None
        return Principal.of(token)

    async def _of_provider(self, provider: Provider, plain: str) -> Principal:
        try:
            found = await self._trusted.bearer(provider, plain)
        except TokenRefused as error:
            raise Unauthenticated(str(error), presented=True) from None
        who = found.identity
        self._rates.take(f"{provider.issuer} {who.tenant_id} {who.subject}")
        return Principal(who.tenant_id, who.subject, frozenset(who.roles), who.groups, expires_at=found.expires_at)


def requires(roles: frozenset[str]) -> Callable[..., Awaitable[Principal]]:
    """Return the dependency that lets in whoever has one of ``roles`` and says who it is."""

    async def authenticate(
        request: Request,
        credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)],
        cookie: Annotated[str | None, Depends(session_cookie)],
    ) -> Principal:
        if credentials is not None and credentials.credentials:
            principal = await _of_token(request, credentials.credentials)
        elif cookie:
            principal = await _of_session(request, cookie)
        else:
            raise Unauthenticated("The request needs a token: Authorization: Bearer <token>.", presented=False)
        request.state.who = principal
        is_by(principal.tenant_id, request.path_params)
        require(principal, roles)
        return principal

    return authenticate


def require(who: Principal, roles: frozenset[str]) -> None:
    """Refuse who has none of ``roles``.

    Raises:
        Forbidden: he has none.
    """
    if not who.roles & roles:
        raise Forbidden(f"This needs one of the roles {', '.join(sorted(roles))}.")


async def _of_token(request: Request, plain: str) -> Principal:
    tokens: Tokens = request.app.state.services.tokens
    principal = await tokens.principal(plain)
    if principal is None:
        raise Unauthenticated("The token is unknown, expired or revoked.", presented=True)
    return principal


async def _of_session(request: Request, cookie: str) -> Principal:
    sessions: Sessions = request.app.state.services.sessions
    found = await sessions.find(cookie)
    if found is None:
        raise Unauthenticated("The session has ended; sign in again.", presented=True)
    if request.method not in SAFE_METHODS:
        check_not_forged(request, cookie, request.headers.get(CSRF_HEADER, ""))
    request.state.csrf = csrf_of(cookie)  # for pages to carry
    return Principal.of(found)


Reader = Annotated[Principal, Depends(requires(READERS))]
Operator = Annotated[Principal, Depends(requires(OPERATORS))]
Worker = Annotated[Principal, Depends(requires(WORKERS))]
Decider = Annotated[Principal, Depends(requires(DECIDERS))]
Admin = Annotated[Principal, Depends(requires(ADMINS))]
