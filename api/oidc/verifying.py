"""Checks a JSON Web Token: signature, issuer, audience, times. What is wrong with it is said in a sentence."""

from __future__ import annotations

import base64
import json
import math
import time
import warnings
from collections.abc import Callable, Collection
from typing import Any

from joserfc import jwt
from joserfc.errors import ExpiredTokenError, InvalidClaimError, JoseError, MissingClaimError

from dalang.api.oidc import TokenRefused
from dalang.api.oidc.issuer import Issuer, UnknownKey

MAX_LENGTH = 8_192
_TYPES = frozenset({"JWT", "AT+JWT", "APPLICATION/AT+JWT"})
"""Of the header: not those of logout tokens and other things that a provider signs."""
_BROKEN = (JoseError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError)


def issuer_of(token: str) -> str | None:
    """Return the ``iss`` of what looks like a JWT, which nobody has checked; None for anything else."""
    if len(token) > MAX_LENGTH or token.count(".") != 2 or not token.isascii():
        return None
    try:
        issuer = _part(token.split(".")[1]).get("iss")
    except _BROKEN:
        return None
    return issuer if isinstance(issuer, str) else None


async def verify(
    issuer: Issuer, token: str, audience: Collection[str], *, now: Callable[[], float] = time.time
) -> dict[str, Any]:
    """Return the claims of a token that ``issuer`` has signed for one of ``audience``, and that holds now.

    Raises:
        TokenRefused: it did not, or it does not.
        Unavailable: its keys are not known, and it does not answer.
    """
    provider = issuer.provider
    algorithm, key_id = _header(token)
    if algorithm not in provider.algorithms:
        raise TokenRefused("The token is signed in a way that is not allowed here.")
    try:
        key = await issuer.key(key_id, algorithm)
    except UnknownKey:
        raise TokenRefused("The token is signed with a key that its issuer does not have.") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of names of algorithms, which the operator has allowed
            claims = jwt.decode(token, key, algorithms=[algorithm]).claims
    except _BROKEN:
        raise TokenRefused("The token's signature is wrong.") from None
    registry = jwt.JWTClaimsRegistry(
        now=int(now()),
        leeway=provider.clock_skew_seconds,
        iss={"essential": True, "value": provider.issuer},
        aud={"essential": True, "values": list(audience)},
        exp={"essential": True},
        sub={"essential": True},
    )
    try:
        registry.validate(claims)
    except ExpiredTokenError:
        raise TokenRefused("The token is expired.") from None
    except (InvalidClaimError, MissingClaimError) as error:
        raise TokenRefused(f"The token's claim {error.claim!r} is missing, or not for this server now.") from None
    except _BROKEN:
        raise TokenRefused("The token's claims cannot be read.") from None
    if not math.isfinite(claims["exp"]):
        raise TokenRefused("The token's claims cannot be read.")
    return claims


def _header(token: str) -> tuple[str, str | None]:
    if len(token) > MAX_LENGTH:
        raise TokenRefused("The token is too long.")
    try:
        header = _part(token.split(".")[0])
    except _BROKEN:
        raise TokenRefused("The token is no JSON Web Token.") from None
    algorithm, key_id, kind = header.get("alg"), header.get("kid"), header.get("typ", "JWT")
    if not isinstance(algorithm, str) or not (key_id is None or isinstance(key_id, str)):
        raise TokenRefused("The token is no JSON Web Token.")
    if not isinstance(kind, str) or kind.upper() not in _TYPES:
        raise TokenRefused("The token is none for access.")
    return algorithm, key_id


def _part(text: str) -> dict[str, Any]:
    read = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    if not isinstance(read, dict):
        raise ValueError("not an object")
    return read
