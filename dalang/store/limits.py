"""What is limited, as one grant pass sees it: pools, rates, quotas and agents, in terms of ``dalang.admission``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from dalang.admission import Admission, Agent, Demand, Lease
from dalang.needs import CPU, MEMORY
from dalang.store.admission_tables import SHARED, agents, pool_buckets, resource_pools, tenant_quotas
from dalang.store.agents import is_there

_QUOTAS = (("nodes", "max_nodes"), (CPU, "cpu_cores"), (MEMORY, "memory_mb"))


@dataclass(frozen=True)
class PoolRow:
    """A pool as it is configured."""

    tenant_id: str
    name: str
    size: float | None
    rate: float | None
    burst: float | None


@dataclass(frozen=True)
class AgentRow:
    """An agent as it stands now; ``takes`` says that it is there and takes new work."""

    tenant_id: str
    agent_id: str
    capabilities: Mapping[str, float]
    places: int
    takes: bool


class Limits:
    """The admission of one pass, and how the demands of tenants are put in its terms.

    A pool of the admission is one configured pool (of the tenant, else of all) with one key, or one line of a tenant's
    quota. A rate is a pool whose size is what its bucket holds now; what is taken of it does not come back.
    """

    def __init__(
        self,
        now: datetime,
        pools: Iterable[PoolRow],
        buckets: Mapping[tuple[str, str, str], tuple[float, datetime]],
        quotas: Mapping[str, Mapping[str, float]],
        weights: Mapping[str, float],
        workers: Sequence[AgentRow],
    ) -> None:
        self.now = now
        self._pools = {(pool.tenant_id, pool.name): pool for pool in pools}
        self._buckets = dict(buckets)
        self._quotas = quotas
        self._workers = list(workers)
        self._rates: dict[str, tuple[PoolRow, str]] = {}
        self._labels: dict[str, str] = {}
        sizes = {}
        for tenant, lines in quotas.items():
            for line, amount in lines.items():
                sizes[_quota(tenant, line)] = amount
                self._labels[_quota(tenant, line)] = f"quota {line}"
        numbered = [Agent(f"{row.tenant_id}\n{row.agent_id}", row.places) for row in self._workers]
        self.admission = Admission(sizes, numbered, weights, quotas=sizes)
        self._numbers = {(row.tenant_id, row.agent_id): at for at, row in enumerate(self._workers)}
        self._demands: dict[tuple[object, ...], Demand] = {}

    def demand(
        self,
        tenant: str,
        amounts: Mapping[str, float],
        capabilities: Sequence[str],
        stays_with: str | None = None,
        failed: str | None = None,
    ) -> Demand:
        """Return what a node of ``tenant`` needs of what is limited; empty when that is nothing.

        It goes to the agent that it ``stays_with`` if that one is there, and not to the one that ``failed`` if another
        has a place.
        """
        key = (tenant, tuple(sorted(amounts.items())), tuple(capabilities), stays_with, failed)
        if key not in self._demands:
            needed, able = self._able(tenant, capabilities, stays_with, failed)
            self._demands[key] = Demand(tuple(self._amounts(tenant, amounts).items()), able, needed)
        return self._demands[key]

    def hold(self, tenant: str, amounts: Mapping[str, float], agent_id: str | None, times: int) -> None:
        """Take note of leases that are held; of rates they hold nothing."""
        held = {name: amount * times for name, amount in self._amounts(tenant, amounts).items() if _is_size(name)}
        agent = None if agent_id is None else self._number(tenant, agent_id)
        self.admission.hold(Lease(Demand(tuple(held.items())), None, tenant))
        self.admission.held[tenant] += times - 1
        if agent is not None:
            self.admission.busy[agent] += times

    def never(self, demand: Demand) -> str | None:
        """Return why it can never be granted, as things are configured, or None."""
        for name, amount in demand.pools:
            pool = self._rates[name][0] if name in self._rates else None
            most = self.admission.pools[name] if pool is None else float(pool.burst or 0)
            if amount > most + 1e-9:
                return f"it needs {amount:g} of {self._labels[name]}, which has {most:g} in all"
        return None

    def short(self, demand: Demand) -> tuple[str, ...]:
        """Return, in words, what a demand that was not granted waits for."""
        found = [self._labels[name] for name, amount in demand.pools if self._is_short(name, amount)]
        if demand.needs_agent and all(
            self.admission.busy[at] >= self.admission.agents[at].capacity for at in demand.agents
        ):
            found.append("an agent" if demand.agents else "an agent that is there")
        return tuple(found) or ("its turn",)

    def again_at(self, waiting: Iterable[Demand]) -> datetime | None:
        """Return when the first bucket holds enough for one of those that wait, or None."""
        times = []
        for demand in waiting:
            for name, amount in demand.pools:
                if name in self._rates and self._is_short(name, amount):
                    left = self.admission.pools[name] - self.admission.used[name]
                    rate = self._rates[name][0].rate or 1
                    times.append(self.now + timedelta(seconds=(amount - left) / rate))
        return min(times, default=None)

    def agent_id(self, number: int | None) -> str | None:
        """Return the id of an agent of the admission."""
        return None if number is None else self._workers[number].agent_id

    def buckets(self) -> list[dict[str, object]]:
        """Return the buckets that something was taken from, as rows."""
        return [
            {
                "tenant_id": pool.tenant_id,
                "name": pool.name,
                "key": key,
                "tokens": self.admission.pools[name] - self.admission.used[name],
                "at": self.now,
            }
            for name, (pool, key) in self._rates.items()
            if self.admission.used[name] > 0
        ]

    def _is_short(self, name: str, amount: float) -> bool:
        return self.admission.used[name] + amount > self.admission.pools[name] + 1e-9

    def _amounts(self, tenant: str, amounts: Mapping[str, float]) -> dict[str, float]:
        """Return the pools of the admission that these amounts come from; they are made when first named."""
        found: dict[str, float] = {}
        for line in self._quotas.get(tenant, ()):
            found[_quota(tenant, line)] = 1 if line == "nodes" else amounts.get(line, 0)
        for full_name, amount in amounts.items():
            name, _, key = full_name.partition("/")
            pool = self._pools.get((tenant, name)) or self._pools.get((SHARED, name))
            if pool is None or amount <= 0:
                continue
            place = f"{pool.tenant_id}\n{full_name}"
            if pool.size is not None:
                self._add("size\n" + place, pool.size, f"pool {full_name}")
                found["size\n" + place] = amount
            if pool.rate is not None:
                bucket = "rate\n" + place
                self._add(bucket, self._tokens(pool, key), f"rate of {full_name}")
                self._rates.setdefault(bucket, (pool, key))
                found[bucket] = amount
        return {name: amount for name, amount in found.items() if amount > 0}

    def _add(self, name: str, size: float, label: str) -> None:
        if name not in self.admission.pools:
            self.admission.pools[name] = size
            self.admission.used[name] = 0.0
            self._labels[name] = label

    def _tokens(self, pool: PoolRow, key: str) -> float:
        burst, rate = pool.burst or 0.0, pool.rate or 0.0
        known = self._buckets.get((pool.tenant_id, pool.name, key))
        if known is None:
            return burst
        tokens, at = known
        return min(burst, tokens + rate * max((self.now - at).total_seconds(), 0))

    def _able(
        self, tenant: str, capabilities: Sequence[str], stays_with: str | None, failed: str | None
    ) -> tuple[bool, tuple[int, ...]]:
        """Return whether an agent is needed, and which could take it, the most proficient first."""
        own = {row.agent_id for row in self._workers if row.tenant_id == tenant}
        seen = [
            (at, row)
            for at, row in enumerate(self._workers)
            if row.tenant_id == tenant or (row.tenant_id == SHARED and row.agent_id not in own)
        ]
        offered = {name for _, row in seen for name in (row.agent_id, *row.capabilities)}
        needed = [name for name in capabilities if name in offered]
        if not needed:
            return False, ()
        fit = [(at, row) for at, row in seen if row.takes and set(needed) <= {row.agent_id, *row.capabilities}]
        stuck = [(at, row) for at, row in fit if row.agent_id == stays_with]
        if failed is not None and not stuck:
            busy = self.admission.busy
            fit = [(at, row) for at, row in fit if row.agent_id != failed and busy[at] < row.places] or fit
        fit = stuck or fit
        fit.sort(key=lambda one: (-sum(one[1].capabilities.get(name, 0) for name in needed), one[1].agent_id))
        return True, tuple(at for at, _ in fit)

    def _number(self, tenant: str, agent_id: str) -> int | None:
        return self._numbers.get((tenant, agent_id), self._numbers.get((SHARED, agent_id)))


def _quota(tenant: str, line: str) -> str:
    return f"quota\n{tenant}\n{line}"


def _is_size(name: str) -> bool:
    return not name.startswith("rate\n")


async def load_limits(conn: AsyncConnection) -> Limits:
    """Read what is limited now."""
    now = (await conn.execute(select(func.clock_timestamp()))).scalar_one()
    pool = resource_pools.c
    pools = [
        PoolRow(*row) for row in await conn.execute(select(pool.tenant_id, pool.name, pool.size, pool.rate, pool.burst))
    ]
    bucket = pool_buckets.c
    buckets = (
        {
            (row.tenant_id, row.name, row.key): (row.tokens, row.at)
            for row in await conn.execute(select(bucket.tenant_id, bucket.name, bucket.key, bucket.tokens, bucket.at))
        }
        if any(one.rate is not None for one in pools)
        else {}
    )
    quotas: dict[str, dict[str, float]] = {}
    weights: dict[str, float] = {}
    for row in (await conn.execute(select(tenant_quotas))).mappings():
        lines = {line: float(row[column]) for line, column in _QUOTAS if row[column] is not None}
        quotas[row["tenant_id"]], weights[row["tenant_id"]] = lines, row["weight"]
    return Limits(now, pools, buckets, quotas, weights, await _load_agents(conn))


async def _load_agents(conn: AsyncConnection) -> list[AgentRow]:
    agent = agents.c
    rows = await conn.execute(
        select(
            agent.tenant_id,
            agent.agent_id,
            agent.capabilities,
            agent.max_concurrent_tasks,
            (~agent.draining & is_there()).label("takes"),
        ).order_by(agent.tenant_id, agent.agent_id)
    )
    return [
        AgentRow(row.tenant_id, row.agent_id, row.capabilities, row.max_concurrent_tasks, row.takes) for row in rows
    ]


async def save_buckets(conn: AsyncConnection, limits: Limits) -> None:
    """Write what the buckets hold after a pass."""
    for row in limits.buckets():
        statement = insert(pool_buckets).values(row)
        await conn.execute(
            statement.on_conflict_do_update(
                index_elements=["tenant_id", "name", "key"], set_={"tokens": row["tokens"], "at": row["at"]}
            )
        )
