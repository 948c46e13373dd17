"""What a publisher asks of a kind of target, and how sending can end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from dalang.cloud_events import CloudEvent
from dalang.store.subscriptions import Subscription

MAX_SEND_SECONDS = 20.0
"""No call of :meth:`Target.send` takes longer."""


@dataclass(frozen=True)
class Failure:
    """Why an event was not taken.

    ``away``: the other side could not be reached at all, which says nothing against the event: it is never given up for
    that. ``refused``: trying again is in vain. ``gone``: the other side wants nothing more, ever.
    """

    reason: str
    away: bool = False
    refused: bool = False
    gone: bool = False
    retry_after: float | None = None


@dataclass(frozen=True)
class Sent:
    """How many events were taken, from the first on, and why the next one was not."""

    count: int
    failure: Failure | None = None


class Target(Protocol):
    """A kind of target."""

    @property
    def at_once(self) -> int:
        """Events of one run that are sent in one call."""

    async def send(self, subscription: Subscription, events: Sequence[CloudEvent]) -> Sent:
        """Send events of one run, in order, each one only when those before it were taken."""

    async def close(self) -> None:
        """Close what is open."""


class MissingTarget:
    """Stands for a kind that this process cannot serve; what is for it waits."""

    at_once = 1

    def __init__(self, reason: str) -> None:
        self._reason = reason

    async def send(self, subscription: Subscription, events: Sequence[CloudEvent]) -> Sent:
        """Send nothing."""
        return Sent(0, Failure(self._reason, away=True))

    async def close(self) -> None:
        """Nothing is open."""
