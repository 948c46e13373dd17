"""How long a failed attempt is waited for: one formula for Temporal, the state machine and rehearsals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any

MAX_ASKED_MS = 3_600_000
"""Nobody is left alone for longer because he asks for it."""


def delay_ms(retry: Mapping[str, Any], attempt: int) -> float:
    """Return the delay after ``attempt`` (from 1) without jitter, by a retry policy in a program's form."""
    factors = {"FIXED": 1.0, "LINEAR": float(attempt)}
    factor = factors.get(retry["strategy"])
    if factor is None:
        exponent = min(attempt - 1, 1_000)
        # Past the longest delay it does not matter how far.
        factor = retry["multiplier"] ** exponent if retry["multiplier"] <= 1 or exponent < 64 else float("inf")
    return min(retry["delay"] * factor, max(retry["maxDelay"], retry["delay"])) if retry["delay"] else 0.0


def retry_delay_ms(retry: Mapping[str, Any], attempt: int, key: str) -> int:
    """Return the delay after ``attempt``; jitter, between half and all of it, is drawn from ``key`` and the attempt.

    A state machine has no random source of its own: the same run draws the same delays wherever it is replayed.
    """
    whole = delay_ms(retry, attempt)
    if retry["jitter"]:
        drawn = int.from_bytes(sha256(f"{key}:{attempt}".encode()).digest()[:8], "big") / 2**64
        whole *= 0.5 + drawn / 2
    return round(whole)


def asked_delay_ms(error: Mapping[str, Any]) -> int:
    """Return for how long an ErrorPayload says that whoever was called wants to be left alone."""
    asked = error.get("retryAfterMs")
    return min(max(asked, 0), MAX_ASKED_MS) if type(asked) is int else 0


def told_delay_ms(retry: Mapping[str, Any], attempt: int, draw: Callable[[float, float], float]) -> float | None:
    """Return the delay after ``attempt`` that its worker asks Temporal for, or None where that computes it by itself.

    LINEAR and jitter are not Temporal's to compute. ``draw`` returns a random number between two others.
    """
    if retry["strategy"] != "LINEAR" and not retry["jitter"]:
        return None
    return delay_ms(retry, attempt) * (draw(0.5, 1.0) if retry["jitter"] else 1.0)


def server_delay_ms(retry: Mapping[str, Any], attempt: int) -> float:
    """Return the delay after ``attempt`` by the policy that Temporal is given, as after a worker that was killed."""
    known = {**retry, "strategy": "FIXED"} if retry["strategy"] == "LINEAR" else retry
    return max(delay_ms(known, attempt), 1.0)
