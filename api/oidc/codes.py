"""Signing in to the pages with an identity provider: the authorization code flow with PKCE, state and nonce.

Nothing is stored while somebody is away at his provider: his browser keeps one secret in a cookie, and what goes out -
state, nonce and the PKCE verifier - is derived from it, one way. So an answer counts only in the browser that asked.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote, urlencode

from dalang.api.oidc import TokenRefused
from dalang.api.oidc.issuer import Issuer
from dalang.api.oidc.verifying import verify
from dalang.errors import Unavailable
from dalang.identity_providers import ENV, FILE, ClaimsRefused, Client, Identity
from dalang.settings import environment_variable

MAX_COOKIE_LENGTH = 4_000


@dataclass(frozen=True)
class Attempt:
    """One way to a provider and back: whose it is, where it goes on afterwards, and the secret of the browser."""

    provider: str
    next: str
    secret: str

    @classmethod
    def begin(cls, provider: str, next_: str) -> Self:
        """Return a new one."""
        return cls(provider, next_, secrets.token_urlsafe(32))

    @classmethod
    def read(cls, cookie: str | None) -> Self | None:
        """Return the attempt that a cookie holds, if it does."""
        if not cookie or len(cookie) > MAX_COOKIE_LENGTH:
            return None
        try:
            read = json.loads(base64.urlsafe_b64decode(cookie))
        except (ValueError, binascii.Error, RecursionError):
            return None
        if not isinstance(read, list) or len(read) != 3 or not all(isinstance(one, str) for one in read):
            return None
        return cls(*read)

    def cookie(self) -> str:
        """Return the content of its cookie."""
        return base64.urlsafe_b64encode(json.dumps([self.provider, self.next, self.secret]).encode()).decode()

    def derived(self, purpose: str) -> str:
        """Return what goes out for a purpose; it tells nothing of the secret."""
        made = hmac.digest(self.secret.encode("utf-8", "surrogatepass"), f"dalang {purpose}".encode(), "sha256")
        return base64.urlsafe_b64encode(made).decode().rstrip("=")


async def address(issuer: Issuer, attempt: Attempt, redirect_uri: str) -> str:
    """Return the address of the provider where the browser goes.

    Raises:
        Unavailable: the provider does not answer, or signs nobody in.
    """
    client = _client(issuer)
    endpoint = (await issuer.endpoints()).authorization
    if endpoint is None:
        raise Unavailable(f"The identity provider {issuer.provider.name} signs nobody in.")
    challenge = hashlib.sha256(attempt.derived("verifier").encode()).digest()
    query = {
        "response_type": "code",
        "client_id": client.id,
        "redirect_uri": redirect_uri,
        "scope": " ".join(client.scopes),
        "state": attempt.derived("state"),
        "nonce": attempt.derived("nonce"),
        "code_challenge": base64.urlsafe_b64encode(challenge).decode().rstrip("="),
        "code_challenge_method": "S256",
    }
    return f"{endpoint}?{urlencode(query)}"


async def identity(issuer: Issuer, attempt: Attempt, answer: Mapping[str, str], redirect_uri: str) -> Identity:
    """Return who the provider says has signed in, by what the browser brought back from there.

    Raises:
        TokenRefused: it is no answer to this attempt; the person, or the provider, refused; the tokens are not good.
        Unavailable: the provider does not answer.
    """
    provider, client = issuer.provider, _client(issuer)
    if not hmac.compare_digest(answer.get("state", "").encode(), attempt.derived("state").encode()):
        raise TokenRefused("This is no answer to what was asked; sign in again.")
    if answer.get("iss", provider.issuer) != provider.issuer:
        raise TokenRefused("This is the answer of another identity provider; sign in again.")
    if "code" not in answer:
        raise TokenRefused("The identity provider refused; sign in again, or ask its administrator.")
    tokens = await _exchange(issuer, client, answer["code"], attempt, redirect_uri)
    claims = await verify(issuer, _text(tokens, "id_token"), [client.id])
    audience = claims["aud"]
    # Of several audiences one has asked for it, and that has to be us.
    if claims.get("azp", client.id if audience in (client.id, [client.id]) else None) != client.id:
        raise TokenRefused("The token was made for somebody else.")
    if not hmac.compare_digest(str(claims.get("nonce")).encode(), attempt.derived("nonce").encode()):
        raise TokenRefused("The token is no answer to what was asked; sign in again.")
    if client.claims == "accessToken":
        subject = claims["sub"]
        claims = await verify(issuer, _text(tokens, "access_token"), provider.audience)
        if claims["sub"] != subject:
            raise TokenRefused("The tokens are of two people.")
    try:
        return provider.identity(claims)
    except ClaimsRefused as error:
        raise TokenRefused(str(error)) from None


async def _exchange(
    issuer: Issuer, client: Client, code: str, attempt: Attempt, redirect_uri: str
) -> Mapping[str, Any]:
    endpoints = await issuer.endpoints()
    if endpoints.token is None:
        raise Unavailable(f"The identity provider {issuer.provider.name} signs nobody in.")
    form = {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": redirect_uri,
        "code_verifier": attempt.derived("verifier"),
    }
    secret = _secret(client)
    if secret is None:
        return await issuer.fetch(endpoints.token, data={**form, "client_id": client.id})
    if "client_secret_basic" not in endpoints.authentication:
        return await issuer.fetch(endpoints.token, data={**form, "client_id": client.id, "client_secret": secret})
    # RFC 6749, 2.3.1: both are encoded like a form before they are put together.
    return await issuer.fetch(endpoints.token, data=form, auth=(quote(client.id, safe=""), quote(secret, safe="")))


def _secret(client: Client) -> str | None:
    if client.secret is None:
        return None
    if client.secret.startswith(ENV):
        found = environment_variable(client.secret.removeprefix(ENV))
    else:
        try:
            found = Path(client.secret.removeprefix(FILE)).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeError):
            found = None
    if not found:
        raise Unavailable("The server lacks the secret of its identity provider.")
    return found


def _client(issuer: Issuer) -> Client:
    client = issuer.provider.client
    assert client is not None
    return client


def _text(tokens: Mapping[str, Any], name: str) -> str:
    token = tokens.get(name)
    if not isinstance(token, str):
        raise TokenRefused(f"The identity provider sent no {name}.")
    return token
