"""What stands in the tables, counted: the gauges of ``/metrics``, of one tenant (API) or of all (workers).

Every one has the label ``tenant``; a pool of everybody is that of ``*``. Nothing here is labelled with a run or a node,
so there are as many series as there are tenants, pools and subscriptions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from dalang.breaker import BreakerState
from dalang.statuses import RunStatus
from dalang.store.engine import across_tenants
from dalang.store.tallies import count_by_status
from dalang.store.usage import COLUMNS

EVERYBODY = "*"
Rows = Sequence[Sequence[Any]]


@dataclass(frozen=True)
class Gauge:
    """A gauge with its samples."""

    name: str
    about: str
    labels: tuple[str, ...]
    samples: Sequence[tuple[tuple[str, ...], float]]


async def gauges(conn: AsyncConnection, tenant_id: str | None) -> list[Gauge]:
    """How much is there of everything that waits, runs, is used, or fails? None: of all tenants."""
    found = [
        *await _runs(conn, tenant_id),
        *await _queue(conn, tenant_id),
        *await _tasks(conn, tenant_id),
        *await _breakers(conn, tenant_id),
        *await _budgets(conn, tenant_id),
    ]
    async with across_tenants(conn):  # some pools and subscriptions are of all
        return [*found, *await _pools(conn, tenant_id), *await _subscriptions(conn, tenant_id)]


async def _rows(conn: AsyncConnection, query: str, tenant_id: str | None, **more: object) -> Rows:
    """Run a query whose ``{of_tenant}`` is the condition that a row is of the tenant."""
    condition = "TRUE" if tenant_id is None else "tenant_id = :tenant"
    arguments = more if tenant_id is None else {**more, "tenant": tenant_id}
    return (await conn.execute(text(query.replace("{of_tenant}", condition)), arguments)).all()


def _by_state(rows: Rows, states: Sequence[str], tenant_id: str | None) -> list[tuple[tuple[str, ...], float]]:
    """Return a sample for every state of every tenant that has any; zero where nothing is in it."""
    counts = {(str(row[0]), str(row[1])): float(row[2]) for row in rows}
    tenants = dict.fromkeys([*([tenant_id] if tenant_id else []), *(tenant for tenant, _ in counts)])
    return [((tenant, state), counts.get((tenant, state), 0)) for tenant in tenants for state in states]


def _columns(rows: Rows, labels: tuple[str, ...], told: Mapping[str, str]) -> Iterator[Gauge]:
    """Return a gauge for each column after the labels, named and explained by ``told``; NULL is no sample."""
    for at, (name, about) in enumerate(told.items(), len(labels)):
        samples = [(tuple(map(str, row[: len(labels)])), float(row[at])) for row in rows if row[at] is not None]
        yield Gauge(name, about, labels, samples)


async def _runs(conn: AsyncConnection, tenant_id: str | None) -> Iterator[Gauge]:
    rows = await count_by_status(conn, "run", tenant_id)
    found = _by_state(rows, [str(one) for one in RunStatus], tenant_id)
    return iter([Gauge("dalang_runs", "Runs, without those below nodes of others.", ("tenant", "status"), found)])


async def _queue(conn: AsyncConnection, tenant_id: str | None) -> Iterator[Gauge]:
    query = """
        SELECT tenant_id, count(*) FILTER (WHERE state = 'WAITING'), count(*) FILTER (WHERE state = 'GRANTED'),
               coalesce(extract(epoch FROM now() - min(asked_at) FILTER (WHERE state = 'WAITING')), 0)
        FROM leases WHERE ended_at IS NULL AND {of_tenant} GROUP BY 1
    """
    rows = await _rows(conn, query, tenant_id)
    told = {
        "dalang_queue_size": "Nodes that wait for a lease.",
        "dalang_leases": "Nodes that hold a lease.",
        "dalang_queue_oldest_seconds": "How long the first of those that wait has waited.",
    }
    found = list(_columns(rows, ("tenant",), told))
    if tenant_id is not None and not rows:
        found = [Gauge(one.name, one.about, one.labels, [((tenant_id,), 0)]) for one in found]
    return iter(found)


async def _pools(conn: AsyncConnection, tenant_id: str | None) -> Iterator[Gauge]:
    """Of each pool: how much there is, is held, is waited for. Those who have none of a name use everybody's."""
    of_tenant = "TRUE" if tenant_id is None else "p.tenant_id IN (:tenant, '')"
    query = f"""
        SELECT coalesce(nullif(p.tenant_id, ''), '{EVERYBODY}'), p.name, p.size, coalesce(u.held, 0),
               coalesce(u.waiting, 0), coalesce(u.oldest, 0)
        FROM resource_pools p LEFT JOIN (
          SELECT coalesce(own.tenant_id, '') AS owner, split_part(a.key, '/', 1) AS name,
                 sum(a.value::float) FILTER (WHERE l.state = 'GRANTED') AS held,
                 count(*) FILTER (WHERE l.state = 'WAITING') AS waiting,
                 extract(epoch FROM now() - min(l.asked_at) FILTER (WHERE l.state = 'WAITING')) AS oldest
          FROM leases l CROSS JOIN jsonb_each_text(l.amounts) a
          LEFT JOIN resource_pools own ON own.tenant_id = l.tenant_id AND own.name = split_part(a.key, '/', 1)
          WHERE l.ended_at IS NULL GROUP BY 1, 2
        ) u ON u.owner = p.tenant_id AND u.name = p.name
        WHERE {of_tenant} ORDER BY 1, 2
    """  # noqa: S608 - of constants
    told = {
        "dalang_pool_size": "Size of a pool; of one with keys, of each key.",
        "dalang_pool_used": "Held of a pool, of all its keys.",
        "dalang_pool_waiting": "Nodes that wait and ask for a pool.",
        "dalang_pool_oldest_seconds": "How long the first of these has waited.",
    }
    async with across_tenants(conn):  # of a pool of everybody, everybody's use is counted
        rows = await _rows(conn, query, tenant_id)
    return _columns(rows, ("tenant", "pool"), told)


async def _tasks(conn: AsyncConnection, tenant_id: str | None) -> Iterator[Gauge]:
    query = """
        SELECT tenant_id, count(*), count(*) FILTER (WHERE due_at < now()),
               extract(epoch FROM now() - min(created_at))
        FROM human_tasks WHERE completed_at IS NULL AND {of_tenant} GROUP BY 1
    """
    told = {
        "dalang_human_tasks_open": "Human tasks that nobody has decided.",
        "dalang_human_tasks_overdue": "Those of them that are overdue.",
        "dalang_human_tasks_oldest_seconds": "How long the first of them has been open.",
    }
    return _columns(await _rows(conn, query, tenant_id), ("tenant",), told)


async def _breakers(conn: AsyncConnection, tenant_id: str | None) -> Iterator[Gauge]:
    query = "SELECT tenant_id, state, count(*) FROM circuit_breakers WHERE {of_tenant} GROUP BY 1, 2"
    found = _by_state(await _rows(conn, query, tenant_id), [str(one) for one in BreakerState], tenant_id)
    about = "Circuit breakers that ever counted a failure."
    return iter([Gauge("dalang_circuit_breakers", about, ("tenant", "state"), found)])


async def _budgets(conn: AsyncConnection, tenant_id: str | None) -> Iterator[Gauge]:
    columns = list(COLUMNS.values())
    used = f"""
        SELECT tenant_id, {", ".join(f"sum({one})" for one in columns)} FROM tenant_usage
        WHERE day = :today AND {{of_tenant}} GROUP BY 1
    """  # noqa: S608 - of constants
    allowed = f"SELECT tenant_id, {', '.join(columns)} FROM tenant_budgets WHERE {{of_tenant}}"  # noqa: S608
    today = datetime.now(UTC).date()
    spent = _measures(await _rows(conn, used, tenant_id, today=today))
    if tenant_id is not None and not spent:
        spent = [((tenant_id, measure), 0.0) for measure in COLUMNS]
    labels = ("tenant", "measure")
    about = "What nodes used today (UTC); wallTime in milliseconds."
    limits = _measures(await _rows(conn, allowed, tenant_id))
    return iter(
        [
            Gauge("dalang_usage_today", about, labels, spent),
            Gauge("dalang_budget", "What they may use on a day; a measure without a limit is absent.", labels, limits),
        ]
    )


def _measures(rows: Rows) -> list[tuple[tuple[str, ...], float]]:
    return [
        ((str(row[0]), measure), float(row[at]))
        for row in rows
        for at, measure in enumerate(COLUMNS, 1)
        if row[at] is not None
    ]


async def _subscriptions(conn: AsyncConnection, tenant_id: str | None) -> Iterator[Gauge]:
    of_tenant = "TRUE" if tenant_id is None else "s.tenant_id = :tenant"
    query = f"""
        SELECT s.tenant_id, s.name, s.kind,
               coalesce(greatest(extract(epoch FROM now() - p.waiting_since), 0), 0), coalesce(p.waiting, 0),
               coalesce(p.failing, 0),
               (SELECT count(*) FROM event_dead_letters d WHERE d.subscription_id = s.subscription_id),
               (s.paused_at IS NOT NULL)::int, s.delivered, s.failures
        FROM event_subscriptions s LEFT JOIN (
          SELECT subscription_id, count(*) AS waiting, min(waiting_since) AS waiting_since,
                 count(*) FILTER (WHERE attempts > 0) AS failing
          FROM event_publications WHERE due_at IS NOT NULL GROUP BY 1
        ) p ON p.subscription_id = s.subscription_id
        WHERE {of_tenant} ORDER BY 1, 2
    """  # noqa: S608 - of constants
    told = {
        "dalang_subscription_lag_seconds": "How long the event has waited that waits longest.",
        "dalang_subscription_waiting_runs": "Runs of which something waits.",
        "dalang_subscription_failing_runs": "Runs held up by a failure.",
        "dalang_subscription_dead_letters": "Events that were given up.",
        "dalang_subscription_paused": "Whether it is paused.",
        "dalang_subscription_delivered": "Events delivered in all.",
        "dalang_subscription_failures": "Attempts that failed in all.",
    }
    return _columns(await _rows(conn, query, tenant_id), ("tenant", "subscription", "kind"), told)
