"""What /metrics tells of what nodes wait for and use: gauges of the token's tenant, in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from dalang.breaker import BreakerState
from dalang.store.admission_tables import SHARED
from dalang.store.breakers import count_by_state
from dalang.store.pools import Pool, list_pools
from dalang.store.usage import COLUMNS, get_budget, used_on
from dalang.store.utilization import Use, pool_uses, queue_statistics

Sample = tuple[Mapping[str, str], float]


async def limit_gauges(conn: AsyncConnection, tenant_id: str) -> list[str]:
    """Return the lines."""
    pools = await list_pools(conn, tenant_id)
    uses = await pool_uses(conn, tenant_id)
    queue = await queue_statistics(conn, tenant_id)
    age = 0.0 if queue.oldest is None else max((datetime.now(UTC) - queue.oldest).total_seconds(), 0.0)
    sizes = [(_labels(pool), pool.size) for pool in pools if pool.size is not None]
    return [
        *gauge("dalang_pool_size", "Size of a pool; of one with keys, of each key.", sizes),
        *gauge("dalang_pool_used", "Held of a pool, of all its keys.", _sums(pools, uses, "held")),
        *gauge("dalang_pool_waiting", "Nodes that wait and ask for a pool.", _sums(pools, uses, "waiting")),
        *gauge("dalang_queue_size", "Nodes that wait for a lease.", [({}, queue.size)]),
        *gauge("dalang_queue_oldest_seconds", "How long the first of them has waited.", [({}, round(age, 3))]),
        *gauge("dalang_leases", "Nodes that hold a lease.", [({}, queue.active)]),
    ]


async def breaker_gauges(conn: AsyncConnection, tenant_id: str) -> list[str]:
    """Return the lines of circuit breakers."""
    counts = await count_by_state(conn, tenant_id)
    samples: list[Sample] = [({"state": str(state)}, counts.get(state, 0)) for state in BreakerState]
    return list(gauge("dalang_circuit_breakers", "Circuit breakers that ever counted a failure.", samples))


async def budget_gauges(conn: AsyncConnection, tenant_id: str) -> list[str]:
    """Return the lines of what the tenant has used today, and may use on a day."""
    used = await used_on(conn, tenant_id, datetime.now(UTC).date())
    budget = await get_budget(conn, tenant_id)
    measures = [({"measure": measure}, column) for measure, column in COLUMNS.items()]
    spent: list[Sample] = [(labels, getattr(used, column)) for labels, column in measures]
    limits: list[Sample] = [
        (labels, limit) for labels, column in measures if (limit := getattr(budget, column, None)) is not None
    ]
    return [
        *gauge("dalang_usage_today", "What the tenant's nodes used today (UTC); wallTime in milliseconds.", spent),
        *gauge("dalang_budget", "What they may use on a day; a measure without a limit is absent.", limits),
    ]


def gauge(name: str, about: str, samples: Iterable[Sample]) -> Iterator[str]:
    """Return a gauge's lines."""
    yield f"# HELP {name} {about}"
    yield f"# TYPE {name} gauge"
    for labels, value in samples:
        inner = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
        yield f"{name}{{{inner}}} {value:g}" if inner else f"{name} {value:g}"


def _labels(pool: Pool) -> dict[str, str]:
    return {"pool": pool.name, "shared": str(pool.tenant_id == SHARED).lower()}


def _sums(pools: Iterable[Pool], uses: Iterable[Use], what: str) -> list[Sample]:
    sums: dict[tuple[str, str], float] = {}
    for use in uses:
        place = (use.tenant_id, use.name)
        sums[place] = sums.get(place, 0) + getattr(use, what)
    return [(_labels(pool), sums.get((pool.tenant_id, pool.name), 0)) for pool in pools]


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
