"""Signatures of webhooks, by the conventions of Standard Webhooks (symmetric, ``v1``).

A request carries ``webhook-id``, ``webhook-timestamp`` (seconds since 1970) and ``webhook-signature``: for each secret
that is valid ``v1,`` and the Base64 of HMAC-SHA-256 over ``id.timestamp.body``, separated by spaces, so that a receiver
who knows one of them is content while secrets change. A secret is written ``whsec_`` and the Base64 of its bytes.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Iterable, Mapping

PREFIX = "whsec_"
VERSION = "v1"
NEW_BYTES, MIN_BYTES, MAX_BYTES = 32, 24, 64
TOLERANCE_SECONDS = 300
"""How far the time of a request may be from the receiver's, lest an old one is sent again by somebody else."""


class BadSignature(Exception):
    """The request was not signed by who knows the secret, or too long ago."""


def new_secret() -> str:
    """Return a new secret."""
    return PREFIX + base64.b64encode(secrets.token_bytes(NEW_BYTES)).decode()


def secret_key(secret: str) -> bytes:
    """Return the bytes of a secret.

    Raises:
        ValueError: it is none.
    """
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except binascii.Error:
        key = b""
    if not secret.startswith(PREFIX) or not MIN_BYTES <= len(key) <= MAX_BYTES:
        raise ValueError(f"a secret is {PREFIX} and the Base64 of {MIN_BYTES} to {MAX_BYTES} bytes")
    return key


def signature(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """Return one signature, with its version."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    digest = hmac.new(secret_key(secret), signed, hashlib.sha256).digest()
    return f"{VERSION},{base64.b64encode(digest).decode()}"


def signed_headers(valid: Iterable[str], message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Return the headers of a request, signed with every secret that is valid."""
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(signature(one, message_id, timestamp, body) for one in valid),
    }


def verify(secret: str, headers: Mapping[str, str], body: bytes, now: float) -> str:
    """Return the id of a request with these headers (names in lower case).

    Raises:
        BadSignature: it is not to be trusted.
    """
    message_id, sent_at = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not message_id or not (sent_at.isascii() and sent_at.isdigit() and len(sent_at) < 16):
        raise BadSignature("webhook-id or webhook-timestamp is missing")
    if abs(now - int(sent_at)) > TOLERANCE_SECONDS:
        raise BadSignature("the request is too old, or the clocks differ")
    expected = signature(secret, message_id, int(sent_at), body).encode()
    given = headers.get("webhook-signature", "").split()[:16]
    if not any([hmac.compare_digest(expected, one.encode("ascii", "replace")) for one in given]):
        raise BadSignature("no signature matches")
    return message_id
