"""Who asks: ``Authorization: Bearer <token>``, looked up by its SHA-256; nothing but health and the docs is open.

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
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy.ext.asyncio import AsyncEngine

from dalang.api.problems import Forbidden, Unauthenticated
from dalang.api.rates import Rates
from dalang.store.engine import transaction
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


@dataclass(frozen=True)
class Principal:
    """Who asks."""

    tenant_id: str
    subject: str
    roles: frozenset[str]
    groups: tuple[str, ...] = ()


class Tokens:
    """Looks tokens up, remembering for a few seconds what was found, also that nothing was."""

    def __init__(self, engine: AsyncEngine, seconds: float = CACHE_SECONDS, rates: Rates | None = None) -> None:
        self._engine = engine
        self._rates = rates or Rates(0)
        self.seconds = seconds
        self._seen: OrderedDict[str, tuple[Token | None, float]] = OrderedDict()

    async def principal(self, plain: str) -> Principal | None:
        """Return whose token this is, or None when it is unknown, expired or revoked.

        Raises:
            TooManyRequests: it asks too often.
        """
        key = hashlib.sha256(plain.encode("utf-8", "surrogatepass")).hexdigest()
        self._rates.take(key)
        token, at = self._seen.get(key, (None, -self.seconds))
        if time.monotonic() - at >= self.seconds:
            async with asyncio.timeout(DATABASE_SECONDS), transaction(self._engine, None) as conn:
                token = await verify_token(conn, plain)
            self._seen[key] = token, time.monotonic()
            self._seen.move_to_end(key)
            while len(self._seen) > CACHED_TOKENS:
                self._seen.popitem(last=False)
        if token is None or (token.expires_at is not None and token.expires_at <= datetime.now(UTC)):
            return None
        return Principal(token.tenant_id, token.subject, frozenset(token.roles), token.groups)


def requires(roles: frozenset[str]) -> Callable[..., Awaitable[Principal]]:
    """Return the dependency that lets in whoever has one of ``roles`` and says who it is."""

    async def authenticate(
        request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]
    ) -> Principal:
        if credentials is None or not credentials.credentials:
            raise Unauthenticated("The request needs a token: Authorization: Bearer <token>.", presented=False)
        tokens: Tokens = request.app.state.services.tokens
        plain = credentials.credentials
        principal = await tokens.principal(plain) if len(plain) <= MAX_TOKEN_LENGTH else None
        if principal is None:
            raise Unauthenticated("The token is unknown, expired or revoked.", presented=True)
        if not principal.roles & roles:
            raise Forbidden(f"This needs one of the roles {', '.join(sorted(roles))}.")
        return principal

    return authenticate


Reader = Annotated[Principal, Depends(requires(READERS))]
Operator = Annotated[Principal, Depends(requires(OPERATORS))]
Worker = Annotated[Principal, Depends(requires(WORKERS))]
Decider = Annotated[Principal, Depends(requires(DECIDERS))]
Admin = Annotated[Principal, Depends(requires(ADMINS))]
