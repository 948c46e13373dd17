"""What /metrics tells of subscriptions: whether those who are told of events keep up, as gauges of the tenant."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from dalang.api.gauges import Sample, gauge
from dalang.store.subscriptions import Progress, Subscription, list_subscriptions, progress_of


async def subscription_gauges(conn: AsyncConnection, tenant_id: str) -> list[str]:
    """Return the lines."""
    found = await list_subscriptions(conn, tenant_id)
    progress = await progress_of(conn, [one.subscription_id for one in found]) if found else {}
    now = datetime.now(UTC)

    def samples(value: Callable[[Subscription, Progress], float]) -> list[Sample]:
        return [({"subscription": one.name}, value(one, progress[one.subscription_id])) for one in found]

    def lag(_one: Subscription, it: Progress) -> float:
        return 0.0 if it.waiting_since is None else round(max((now - it.waiting_since).total_seconds(), 0.0), 3)

    name = "dalang_subscription"
    return [
        *gauge(f"{name}_lag_seconds", "How long the event has waited that waits longest.", samples(lag)),
        *gauge(f"{name}_waiting_runs", "Runs of which something waits.", samples(lambda _, it: it.waiting_runs)),
        *gauge(f"{name}_failing_runs", "Runs held up by a failure.", samples(lambda _, it: it.failing_runs)),
        *gauge(f"{name}_dead_letters", "Events that were given up.", samples(lambda _, it: it.dead_letters)),
        *gauge(f"{name}_paused", "Whether it is paused.", samples(lambda one, _: one.paused_at is not None)),
        *gauge(f"{name}_delivered", "Events delivered in all.", samples(lambda one, _: one.delivered)),
        *gauge(f"{name}_failures", "Attempts that failed in all.", samples(lambda one, _: one.failures)),
    ]
